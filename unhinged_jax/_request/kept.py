"""Programs that outlive a process as a whole: the next one loads them, without tracing, lowering or compiling.

JAX's own cache of compiled programs is looked up by what was lowered, so that a command that compiles nothing still
spends a second and a half on tracing and lowering. A program here is looked up by what its trace depends on: the
function, everything in its arguments but the values of arrays, the sources of this package, versions, devices, and the
settings of JAX.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import os
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.export
import numpy as np
from jaxtyping import PyTree

from unhinged_jax import _check
from unhinged_jax._files import whole

FOLDER = "UNHINGED_WHOLE_PROGRAMS"
"""The variable of the environment that names the folder of these programs. Without it there are none."""

_MOST_BYTES = 128 * 1024**2
_PACKAGES = ("jax", "jaxlib", "diffrax", "equinox", "lineax", "optimistix", "optax", "numpy")
_KNOWN = frozenset({"unhinged_jax", "jaxtyping", "ml_dtypes", *_PACKAGES})  # names of modules


@dataclasses.dataclass(frozen=True)
class _Array:
    """What a trace depends on of an array."""

    shape: tuple[int, ...]
    dtype: str
    weak: bool
    of_jax: bool


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where an array of the result is in the list that a program returns."""

    number: int


Program = Callable[[list[Any]], Any]
"""From the arrays in the arguments, in their order, to the result."""

_loaded: dict[str, Program] = {}


def kept(
    function: Callable[..., Any], options: dict[str, PyTree] | None, args: PyTree, kwargs: dict[str, PyTree]
) -> Callable[[], Any] | None:
    """The call as a program that outlives the process, loaded or compiled and kept; None if this one cannot be.

    Args:
        function: What is compiled; its module and name stand for it.
        options: Those of the compiler, or None.
        args, kwargs: Of the call.
    """
    folder = os.environ.get(FOLDER)
    if not folder or jax.default_backend() != "cpu" or os.environ.get("EQX_ON_ERROR") != "nan":
        return None  # a program that may raise a Python error holds an address of this process
    if "<locals>" in function.__qualname__:
        return None  # its name does not say what it is
    leaves, tree = jax.tree.flatten((args, kwargs))
    arrays = [leaf for leaf in leaves if _is_array(leaf)]
    if not (_check.untransformed() and _check.concrete(arrays)):
        return None
    parts = written((function.__module__, function.__qualname__, options, args, kwargs, _surroundings()))
    if parts is None:
        return None
    name = hashlib.sha256(parts).hexdigest()
    if name not in _loaded:
        path = Path(folder) / name
        found = _read(path, options) or _write(path, function, options, leaves, tree)
        if found is None:
            return None
        _loaded[name] = found
    return functools.partial(_loaded[name], arrays)


def written(tree: PyTree) -> bytes | None:
    """Everything in a tree but the values of arrays; None if it holds code of the user's own.

    Such code stands in it by its name only: what it does may change, and what it reads may be a traced number.
    """
    leaves, structure = jax.tree.flatten(tree)
    marks = [_mark(leaf) if _is_array(leaf) else None for leaf in leaves]
    buffer = io.BytesIO()
    try:
        bare = jax.tree.unflatten(structure, [None if _is_array(leaf) else leaf for leaf in leaves])
        _Writer(buffer).dump((bare, marks))
    except Exception:  # of what kind, objects decide themselves
        return None
    return buffer.getvalue()


class _Writer(pickle.Pickler):
    """Writes functions and classes by name, if they come with this package or with what it needs."""

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, type | types.FunctionType | types.BuiltinFunctionType):
            root = (obj.__module__ or "builtins").partition(".")[0]
            if root not in _KNOWN and root not in sys.stdlib_module_names:
                raise pickle.PicklingError(f"{obj!r} is code of the user's own")
        return NotImplemented


def _is_array(leaf: PyTree) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _mark(leaf: PyTree) -> _Array:
    return _Array(np.shape(leaf), str(leaf.dtype), bool(getattr(leaf, "weak_type", False)), isinstance(leaf, jax.Array))


def _surroundings() -> Any:
    """What a trace depends on besides the function and its arguments."""
    settings = {name: str(getattr(jax.config, name, value)) for name, value in jax.config.values.items()}
    return _sources(), sorted(settings.items()), jax.device_count(), os.environ.get("XLA_FLAGS")


@functools.cache
def _sources() -> Any:
    """Versions, and what is written in every file of this package, which may be a working copy."""
    root, state = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        state.update(f"{path} ".encode() + path.read_bytes())
    return sys.version, [importlib.metadata.version(package) for package in _PACKAGES], state.hexdigest()


def _program(content: bytes, options: dict[str, PyTree] | None) -> Program:
    """The program in the content of a file."""
    lowered, form = pickle.loads(content)
    if b"lapack_" in lowered:
        _load_lapack()
    exported = jax.export.deserialize(lowered)

    def run(*arrays: jax.Array) -> Any:
        return exported.call(*arrays)

    run.__name__ = exported.fun_name
    program = jax.jit(run, compiler_options=options)

    def call(arrays: list[Any]) -> Any:
        found = program(*arrays)
        return jax.tree.map(
            lambda leaf: found[leaf.number] if isinstance(leaf, _Place) else leaf,
            form,
            is_leaf=lambda leaf: isinstance(leaf, _Place),
        )

    return call


def _read(path: Path, options: dict[str, PyTree] | None) -> Program | None:
    """The program in a file; None if there is no such file, or none that can be used."""
    try:
        found = _program(path.read_bytes(), options)
        os.utime(path)  # those that go unused for the longest time are removed first
    except Exception:  # whatever is wrong with the file, the program can be traced
        return None
    return found


@functools.cache
def _load_lapack() -> None:
    """JAX loads LAPACK when it lowers a factorisation, and a program that was lowered elsewhere stops the process
    without it (jax-ml/jax#29610)."""
    jax.jit(jax.lax.linalg.cholesky).lower(jax.ShapeDtypeStruct((1, 1), np.float32))


def _write(
    path: Path, function: Callable[..., Any], options: dict[str, PyTree] | None, leaves: list[PyTree], tree: PyTree
) -> Program | None:
    """The program, lowered and kept; None if it cannot be kept."""
    form = []

    def flat(*arrays: jax.Array) -> list[jax.Array]:
        given = iter(arrays)
        args, kwargs = jax.tree.unflatten(tree, [next(given) if _is_array(leaf) else leaf for leaf in leaves])
        parts, shape = jax.tree.flatten(function(*args, **kwargs))
        traced = [part for part in parts if eqx.is_array(part)]
        places = iter(range(len(traced)))
        form.append(jax.tree.unflatten(shape, [_Place(next(places)) if eqx.is_array(part) else part for part in parts]))
        return traced

    flat.__name__ = function.__name__
    try:
        exported = jax.export.export(jax.jit(flat))(*(leaf for leaf in leaves if _is_array(leaf)))
        content = pickle.dumps((bytes(exported.serialize()), form[0]))
    except Exception:  # the usual call says what is wrong, or does what cannot be kept
        return None
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            part.write_bytes(content)
        _make_room(path.parent)
    return _program(content, options)  # as the next process finds it, so that its results are named alike in both


def _make_room(folder: Path) -> None:
    """Remove the files that have gone unused for the longest time, if all together are too large."""
    files = sorted(((path.stat().st_mtime, path.stat().st_size, path) for path in folder.iterdir()), reverse=True)
    total = 0
    for _, size, path in files:
        total += size
        if total > _MOST_BYTES:
            path.unlink(missing_ok=True)
