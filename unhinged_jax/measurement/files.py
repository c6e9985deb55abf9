"""The arrays that `measure` takes, from the files that networks are saved to. No file can run code."""

from __future__ import annotations

import importlib
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unhinged_jax import _check

NAMES = {
    "features": ("features", "H"),
    "labels": ("labels", "y", "label", "targets"),
    "prototypes": ("prototypes", "W", "weight"),
    "bias": ("bias", "b"),
    "ood": ("ood",),
}
"""What is looked for under which names, the first one found."""


class Arrays(NamedTuple):
    """The arguments of `measure`, as a file holds them."""

    features: Any
    labels: Any
    prototypes: Any = None
    bias: Any = None
    ood: Any = None


def read(path: Path, named: Mapping[str, str | None]) -> Arrays:
    """The arrays of an .npz, .pt, .pth or .csv file.

    Args:
        path: The file.
        named: "features", "labels", "prototypes", "bias", "ood" -> the name in this file, or None for those of `NAMES`.

    Raises:
        ValueError: for a file of another kind or that is damaged, and for names that are not in it.
        OSError: if it cannot be opened.
    """
    readers = {".npz": _read_npz, ".pt": _read_torch, ".pth": _read_torch}
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _read_csv(path, named)
    if suffix not in readers:
        raise ValueError(f"{path} must end in .npz, .pt, .pth or .csv, so that one knows how to read it.")
    held = readers[suffix](path)
    keys = {part: _key(path, part, named.get(part), held) for part in NAMES}
    try:
        return Arrays(**{part: None if key is None else held[key] for part, key in keys.items()})
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged, or holds objects instead of numbers: {error}.") from error


def _key(path: Path, part: str, name: str | None, held: Mapping[str, Any]) -> str | None:
    """The name of one array in the file; None for one that may be left out and is."""
    wanted = NAMES[part] if name is None else (name,)
    for each in wanted:
        if each in held:
            return each
    if name is None and part in ("prototypes", "bias", "ood"):
        return None
    raise ValueError(
        f"{path} holds no {part} under the name {' or '.join(wanted)}; it has {', '.join(held) or 'nothing'}; say "
        f"which with --{part} NAME."
    )


def _read_npz(path: Path) -> Mapping[str, Any]:
    with path.open("rb"):
        pass  # errors of the system, such as a missing file, are told as they are
    try:
        held = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):
        held = None
    if not isinstance(held, np.lib.npyio.NpzFile):
        raise ValueError(f"{path} is not an .npz file, or it is damaged; write it with numpy.savez.")
    return held


def _read_torch(path: Path) -> Mapping[str, Any]:
    with path.open("rb"):
        pass
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        raise ValueError(
            f"{path} is a file of PyTorch, which is not installed here; install torch, or write the arrays to an .npz "
            "file with numpy.savez where it is."
        ) from None
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged, or holds more than tensors, which is not opened because it could run code; write it "
            "with torch.save({'features': ..., 'labels': ..., 'prototypes': ..., 'bias': ...}, FILE)."
        ) from error
    if not isinstance(held, Mapping):
        raise ValueError(f"{path} must hold a dictionary of tensors, but holds {_check.given(held)}.")
    return dict(_flat(held))


def _flat(held: Mapping[Any, Any], before: str = "") -> list[tuple[str, Any]]:
    """Tensors of nested dictionaries, under the names of all of them joined by dots."""
    found: list[tuple[str, Any]] = []
    for name, value in held.items():
        found += _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else [(f"{before}{name}", value)]
    return found


def _read_csv(path: Path, named: Mapping[str, str | None]) -> Arrays:
    """A column with the class of each sample, by number or by name, and a column per feature."""
    import pandas

    given = [part for part in ("features", "prototypes", "bias", "ood") if named.get(part) is not None]
    if given:
        raise ValueError(f"--{given[0]} names an array of an .npz or .pt file; in {path} every column is a feature.")
    try:
        table = pandas.read_csv(path)
    except (ValueError, pandas.errors.ParserError) as error:
        raise ValueError(f"{path} is not a CSV file with a line of names: {' '.join(str(error).split())}.") from error
    label = _key(path, "labels", named.get("labels"), dict.fromkeys(table.columns))
    assert label is not None
    classes, rest = table[label], table.drop(columns=label)
    if classes.isna().any() or pandas.api.types.is_float_dtype(classes):
        raise ValueError(
            f"{path}: column {label} must hold a class for every sample, by number or by name; fill its gaps, and "
            "write whole numbers."
        )
    odd = [name for name in rest if not pandas.api.types.is_numeric_dtype(rest[name])]
    if odd:
        raise ValueError(
            f"{path}: column {odd[0]} holds text, but every column beside {label} is a feature; remove it, or name the "
            "column of the classes with --labels NAME."
        )
    return Arrays(rest.to_numpy(np.float64), np.unique(classes.to_numpy(), return_inverse=True)[1])
