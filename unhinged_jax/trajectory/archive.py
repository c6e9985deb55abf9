"""Trees of arrays in one .npz file without pickles: the arrays, and a text that says how they make up the tree.

The arrays have names that a reader of the file recognises, and the text `tree` holds the structure in JSON. A node is
`{"kind": ...}` with its parts; arrays of types that NumPy does not know, such as bfloat16, are kept as their bits.
"""

from __future__ import annotations

import errno
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from unhinged_jax import _check, _memory
from unhinged_jax._files import placed
from unhinged_jax.model import State

TREE = "tree"
FORMAT = 1
UNREADABLE = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What reading a damaged file may raise, beside OSError."""
_PARTS = ("H", "W", "b", "log_scale")  # and "inner", of a deep model


class Leaves(dict[str, Any]):
    """The arrays of a tree by their path in it, without its structure."""

    @classmethod
    def of(cls, tree: PyTree) -> Leaves:
        """Those of a tree."""
        return cls({jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)})


def pack(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays that `numpy.savez` writes for some named trees; `unpack` gives these back.

    A tree is made of dictionaries, lists, tuples, states, `Leaves`, text, arrays, JAX keys and None.

    Raises:
        ValueError: naming what is none of these.
    """
    arrays: dict[str, np.ndarray] = {}
    tree = {name: _packed(tree, name, arrays) for name, tree in fields.items()}
    return {**arrays, TREE: np.array(json.dumps({"format": FORMAT, "fields": tree}))}


def _packed(tree: PyTree, name: str, arrays: dict[str, np.ndarray]) -> Any:
    if tree is None or type(tree) is str:
        return tree
    if isinstance(tree, State):
        # The names of the final state are short.
        stem = "" if name == "final" else f"{name}."
        parts = [_packed(getattr(tree, part), stem + part, arrays) for part in (*_PARTS, *tree.extra_names)]
        return {"kind": "State", "parts": parts}
    if type(tree) in (dict, Leaves):
        if not all(type(key) in (str, int) for key in tree):
            raise ValueError(f"{name} has a key that is neither text nor a whole number, which a file cannot hold.")
        parts = [[key, _packed(part, f"{name}.{key}", arrays)] for key, part in tree.items()]
        return {"kind": type(tree).__name__, "parts": parts}
    if type(tree) in (list, tuple):
        parts = [_packed(part, f"{name}.{place}", arrays) for place, part in enumerate(tree)]
        return {"kind": type(tree).__name__, "parts": parts}
    if not isinstance(tree, (jax.Array, np.ndarray, np.generic, bool, int, float, complex)):
        raise ValueError(
            f"{name} holds {_check.given(tree)}, which a file cannot hold; observe arrays, or dictionaries, lists or "
            "tuples of them."
        )
    return _packed_array(tree, name, arrays)


def _packed_array(value: Any, name: str, arrays: dict[str, np.ndarray]) -> dict[str, str]:
    node = {"kind": "array"}
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        node["key"] = str(jax.random.key_impl(value))
        value = jax.random.key_data(value)
    array = _memory.read(value)
    if array.dtype.isbuiltin == 2:  # a type of another package
        node["type"] = array.dtype.name
        array = array.view(f"u{array.dtype.itemsize}")
    elif array.dtype.kind not in "biufc":
        raise ValueError(f"{name} holds {_check.given(value)}, which is no array of numbers.")
    short = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[:100]
    while short in arrays or short in (TREE, "file"):
        short += "_"
    arrays[short] = array
    return {**node, "name": short}


def unpack(path: str | Path) -> dict[str, Any]:
    """The named trees in a file whose arrays came from `pack`, with NumPy arrays.

    Raises:
        ValueError: naming the file, if it is damaged or something else.
        OSError: if it cannot be read.
    """
    try:
        with placed(path), open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            arrays = {
                # Read as a whole, because its checksum is compared at its end.
                name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)
                for name in archive.namelist()
            }
        if TREE not in arrays:
            raise ValueError("its arrays do not belong to a run")
        tree = json.loads(str(arrays[TREE]))
        if tree["format"] > FORMAT:
            raise ValueError("a newer version wrote it")
        return {name: _unpacked(node, arrays.__getitem__) for name, node in tree["fields"].items()}
    except OSError as error:
        if error.errno != errno.EINVAL:  # a damaged number may point before the beginning of the file
            raise
        raise ValueError(_told(path, error)) from error
    except UNREADABLE as error:
        raise ValueError(_told(path, error)) from error


def _told(path: str | Path, error: BaseException) -> str:
    why = " ".join(str(error).split()).rstrip(".")
    return f"{path} is damaged or holds no saved run ({why or type(error).__name__})."


def _unpacked(node: Any, array_of: Callable[[str], np.ndarray]) -> Any:
    if node is None or isinstance(node, str):
        return node

    def pairs() -> Iterable[tuple[Any, Any]]:
        return ((key, _unpacked(part, array_of)) for key, part in node["parts"])

    def parts() -> Iterable[Any]:
        return (_unpacked(part, array_of) for part in node["parts"])

    match node["kind"]:
        case "State":
            return State(*parts())
        case "dict":
            return dict(pairs())
        case "Leaves":
            return Leaves(pairs())
        case "list":
            return list(parts())
        case "tuple":
            return tuple(parts())
        case "array":
            array = array_of(node["name"])
            array = array.view(jnp.dtype(node["type"])) if "type" in node else array
            return jax.random.wrap_key_data(jnp.asarray(array), impl=node["key"]) if "key" in node else array
    raise ValueError(f"a part of a kind that is not known: {node['kind']}")
