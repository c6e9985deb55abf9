"""Digests of everything in a store except its blocks: descriptions of arrays, coordinates, attributes.

All of it is written once, when the store is made, and checked whenever it is opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import zarr

UNREADABLE = (ValueError, RuntimeError, KeyError, TypeError, OSError)
"""The exceptions that a damaged Zarr file raises when it is read."""
ROOT, SEAL = "zarr.json", "seal"


def sealed(group: zarr.Group, place: Path, coordinates: Iterable[str], attrs: Mapping[str, Any]) -> str:
    """The attribute with which `broken` compares a store.

    Args:
        group: The new store.
        place: Its folder.
        coordinates: Names of arrays that are complete.
        attrs: All other attributes of the store.
    """
    described = sorted(path.relative_to(place).as_posix() for path in place.rglob(ROOT) if path.parent != place)
    files = {name: _of_json(json.loads((place / name).read_bytes())) for name in described}
    values = {_chunk(name): _of_values(group[name]) for name in coordinates}
    return _seal(attrs, {**files, **values})


def resealed(seal: str, attrs: Mapping[str, Any]) -> str:
    """A seal with other attributes."""
    return _seal(attrs, json.loads(seal)["files"])


def _seal(attrs: Mapping[str, Any], files: dict[str, str]) -> str:
    return json.dumps({"attributes": _of_json([dict(attrs), files]), "files": files})


def coordinates_of(seal: str) -> list[str]:
    """Names of the coordinates in a seal."""
    return [name.removesuffix(_chunk("")) for name in json.loads(seal)["files"] if not name.endswith(ROOT)]


def broken(group: zarr.Group, place: Path) -> list[str]:
    """Files of a store that are missing or altered, relative to its folder; none if it has no seal.

    Source: beyond the paper.
    """
    attrs = dict(group.attrs)
    if SEAL not in attrs:
        return []
    try:
        seal = json.loads(str(attrs.pop(SEAL)))
        if seal["attributes"] != _of_json([attrs, seal["files"]]):
            return [ROOT]
        for name, described in _consolidated(place).items():
            if seal["files"].get(f"{name}/{ROOT}") != _of_json(described):
                return [ROOT]
        return [name for name, digest in seal["files"].items() if _found(group, place, name) != digest]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [ROOT]


def _consolidated(place: Path) -> dict[str, Any]:
    """Descriptions of arrays that the root repeats, for other readers of Zarr."""
    repeated = "consolidated_metadata"
    found: Any = json.loads((place / ROOT).read_bytes()).get(repeated) or {}
    return {
        name: {key: value for key, value in described.items() if key != repeated}
        for name, described in found.get("metadata", {}).items()
    }


def _found(group: zarr.Group, place: Path, name: str) -> str:
    """Digest of a file as it is now; empty if it cannot be read."""
    try:
        if name.endswith(ROOT):
            return _of_json(json.loads((place / name).read_bytes()))
        return _of_values(group[name.removesuffix(_chunk(""))]) if (place / name).is_file() else ""
    except UNREADABLE:
        return ""


def _chunk(name: str) -> str:
    """The only chunk of a coordinate."""
    return f"{name}/c/0"


def _of_json(value: object) -> str:
    """Digest of the content of JSON, whatever its layout."""
    return _hex(json.dumps(value, sort_keys=True).encode())


def _of_values(array: Any) -> str:
    values = np.ascontiguousarray(array[...])
    return _hex(f"{values.dtype.str}{values.shape}".encode() + values.tobytes())


def _hex(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
