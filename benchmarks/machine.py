"""What the figures were measured on. No host name and no path goes into a record."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jax

_PACKAGES = (
    "unhinged-jax", "jax", "jaxlib", "diffrax", "equinox", "optax", "numpy", "scipy", "torch", "torchdiffeq", "psutil",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """Device, processor, clocks where readable, versions, commit, precision of products."""
    device = jax.devices()[0]
    return {
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "accelerator": _accelerator(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "clock_mhz": _clock(),
        "cache": _caches(),
        "memory_bytes": _memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "compiler": _compiler(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "matmul_precision": "highest in unhinged_jax; JAX's default in the JAX peers; full float32 in the others",
    }


def precisions() -> dict[str, str | None]:
    """Precision -> why it is left out here, or None."""
    tpu = jax.default_backend() == "tpu"
    return {"float64": "TPUs have no float64 units" if tpu else None, "float32": None}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    root = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu() -> str | None:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def _clock() -> dict[str, float] | None:
    try:
        import psutil

        clock = psutil.cpu_freq()
    except (ImportError, NotImplementedError, OSError):
        return None
    if clock is None:
        return None
    return {name: getattr(clock, name) for name in ("current", "min", "max") if getattr(clock, name)}


def _caches() -> dict[str, str]:
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction":
            found[f"L{level}"] = size
    return found


def _memory() -> int | None:
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.virtual_memory().total)


def _compiler() -> str | None:
    from benchmarks.peers.by_c import compiler

    found = compiler()
    if found is None:
        return None
    done = subprocess.run([found, "--version"], capture_output=True, text=True)
    return done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout else None


def _accelerator() -> dict[str, str] | None:
    """Clocks and power limit of an NVIDIA GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None or jax.default_backend() != "gpu":
        return None
    fields = ("clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "driver_version")
    query = [tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True)
    if done.returncode or not done.stdout:
        return None
    return dict(zip(fields, (value.strip() for value in done.stdout.splitlines()[0].split(",")), strict=False))
