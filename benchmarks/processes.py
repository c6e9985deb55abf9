"""Parts of a measurement that need a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """That of this process with the repository to import from, and without JAX's cache of compiled programs."""
    kept = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    paths = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), **(variables or {})}


def python(arguments: Sequence[str], variables: Mapping[str, str] | None = None, limit: float = 600) -> str | None:
    """What a Python process prints, or None if it fails or takes longer than `limit` seconds."""
    try:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env=environment(variables), capture_output=True, text=True,
            timeout=limit,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None
