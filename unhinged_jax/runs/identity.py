"""What two commands must share for one to go on where the other stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def flat(tree: object, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested tables by dotted key; lists are leaves, and so are empty tables."""
    if not isinstance(tree, Mapping) or not tree:
        return {prefix: tree}
    parts = [flat(value, f"{prefix}.{name}".lstrip(".")) for name, value in tree.items()]
    return {key: leaf for part in parts for key, leaf in part.items()}


def unrecorded(key: str, before: Mapping[str, Any]) -> bool:
    """Whether a key is the digest of a module that older versions did not take."""
    return key.startswith("inputs.") and key.endswith(".py") and key not in before


def refuse_other(stored: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> None:
    """Raise ValueError unless what is stored in a folder is what is asked for now, with the first key that differs."""
    before, now = flat(stored), flat(asked)
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key) and not unrecorded(key, before):
            raise ValueError(
                f"{folder} holds a run with {key} = {before.get(key)}, but now it is {now.get(key)}; --resume needs "
                "the same settings, and --force starts again."
            )
