"""What a function computes, told apart by its compiled code and by the values that it closes over.

Two functions with the same parts compute the same; a sweep that goes on compares them and names the part that differs.
Code of installed packages counts by its name alone: their versions are recorded beside. Compiled code is compared, not
the source: it has no comments and no layout, and it is what runs, even if the file has changed meanwhile.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

_SHORT = 40
"""Longest value that is shown as it is; longer ones by their digest."""
_FOLLOWED = (
    bool, int, float, complex, str, tuple, list, dict, set, frozenset, np.ndarray, np.generic, jax.Array,
    types.FunctionType, types.ModuleType, type, functools.partial,
)  # fmt: skip
"""What is followed among the attributes of a class or a module."""
_PLAIN = (bool, int, float, complex, str, bytes, type(None), enum.Enum, np.dtype, type(...))


def parts_of(function: object, name: str | None = None) -> dict[str, str]:
    """The parts that decide what a function, or another value of this name, computes: name -> digest or value.

    Followed are: values that a function closes over and global names that it uses, defaults, other functions, classes
    and modules that are not of an installed package, and so on.

    Source: beyond the paper.

    Example:
        >>> parts_of(functools.partial(np.linalg.norm, axis=1))["partial.axis"]
        '1'
    """
    if name is None:
        named = inspect.unwrap(function) if callable(function) else function
        name = getattr(named, "__name__", type(function).__name__)
    found: dict[str, str] = {}
    seen: dict[int, object] = {}
    waiting: list[tuple[str, object]] = [(name, function)]
    while waiting:
        place, value = waiting.pop(0)
        if not isinstance(value, _PLAIN):
            if id(value) in seen:
                continue
            seen[id(value)] = value  # kept, so that no other object can have its id
        text, inside = _described(value)
        while place in found:
            place += "'"
        found[place] = text
        waiting += [(f"{place}.{part}", entry) for part, entry in inside]
    return found


def _described(value: Any) -> tuple[str, list[tuple[str, object]]]:
    """A value in a few letters, and what it is made of."""
    if isinstance(value, _PLAIN):
        return _short(repr(value)), []
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return _array(value), []
    if isinstance(value, types.ModuleType):
        return _module(value)
    if isinstance(value, functools.partial):
        return "partial", [("func", value.func), *_entries(value.args), *value.keywords.items()]
    if isinstance(value, types.MethodType):
        return "method", [("func", value.__func__), ("self", value.__self__)]
    if isinstance(value, (types.FunctionType, type)):
        return _code(value)
    if callable(inner := getattr(value, "__wrapped__", None)):  # jax.jit and similar; rules of custom derivatives
        rules = [(key, one) for key, one in _attributes(value) if isinstance(one, types.FunctionType)]
        return type(value).__name__, [("wrapped", inner), *rules]
    if isinstance(value, Mapping):
        return type(value).__name__, [(str(key), entry) for key, entry in value.items()]
    if isinstance(value, (set, frozenset)):
        return type(value).__name__, [*_entries(sorted(value, key=repr))]
    if isinstance(value, (list, tuple)):
        names = getattr(value, "_fields", range(len(value)))
        kind = [] if type(value) in (list, tuple) else [("type", type(value))]
        return type(value).__name__, [*kind, *((str(name), entry) for name, entry in zip(names, value, strict=True))]
    if isinstance(value, types.BuiltinFunctionType) or not hasattr(value, "__dict__"):
        return _pickled(value), []
    return type(value).__name__, [("type", type(value)), *vars(value).items()]


def _code(value: Any) -> tuple[str, list[tuple[str, object]]]:
    """A function or a class: its code, and what it takes from outside; of an installed package, its name."""
    inside: list[tuple[str, object]] = []
    if isinstance(value, types.FunctionType):
        inside += _closed_over(value)
    if _installed(value):
        return f"{value.__module__}.{value.__qualname__}", inside
    if isinstance(value, types.FunctionType):
        inside += [*_globals(value.__code__, value.__globals__), *_defaults(value)]
        return _digest(_compiled(value.__code__)), inside
    inside += [(base.__name__, base) for base in value.__bases__ if base is not object]
    for name, entry in _attributes(value):
        plain = next((found for part in _BEHIND if (found := getattr(entry, part, None)) is not None), entry)
        if isinstance(plain, _FOLLOWED) or callable(getattr(plain, "__wrapped__", None)):
            inside.append((name, plain))
    return f"class {value.__qualname__}", inside


_BEHIND = ("fget", "func", "__func__", "method")
"""Where properties, cached ones, static methods and those of equinox keep their function."""


def _attributes(value: Any) -> list[tuple[str, object]]:
    try:
        return [(name, one) for name, one in vars(value).items() if not name.startswith("__") or callable(one)]
    except TypeError:
        return []


def _closed_over(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def _globals(code: types.CodeType, known: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Global names that some code uses, functions inside it included."""
    for name in code.co_names:
        if name in known:
            yield name, known[name]
        elif name in sys.modules and not _installed(sys.modules[name]):  # imported inside
            yield name, sys.modules[name]
    for entry in code.co_consts:
        if isinstance(entry, types.CodeType):
            yield from _globals(entry, known)


def _defaults(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is not parameter.empty:
            yield name, parameter.default


def _entries(values: Any) -> Iterator[tuple[str, object]]:
    return ((str(place), value) for place, value in enumerate(values))


def _compiled(code: types.CodeType) -> bytes:
    """What a compiled function does, with the constants and functions in it."""

    def entry(one: object) -> bytes:
        if isinstance(one, types.CodeType):
            return _compiled(one)
        return repr(sorted(one, key=repr) if isinstance(one, frozenset) else one).encode()

    described = code.co_consts[0] if code.co_consts and isinstance(code.co_consts[0], str) else None  # the docstring
    constants = code.co_consts if described is None else code.co_consts[1:]
    names = (code.co_names, code.co_varnames, code.co_freevars)
    return b" ".join([code.co_code, *map(entry, constants), repr(names).encode()])


def _array(value: Any) -> str:
    if isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    plain = np.asarray(value)
    return f"{plain.dtype}{list(plain.shape)} {_digest(np.ascontiguousarray(plain).tobytes())}"


def _module(value: types.ModuleType) -> tuple[str, list[tuple[str, object]]]:
    """A module of one's own by what is in it, any other by its name."""
    if _installed(value):
        return value.__name__, []
    inside = [(name, one) for name, one in _attributes(value) if isinstance(one, _FOLLOWED) and name[:2] != "__"]
    return f"module {value.__name__}", [*inside]


@functools.cache
def _library_folders() -> tuple[Path, ...]:
    return tuple({Path(path).resolve() for name, path in sysconfig.get_paths().items() if name in _LIBRARIES})


_LIBRARIES = ("stdlib", "platstdlib", "purelib", "platlib")


def _installed(value: Any) -> bool:
    """Whether a module, function or class belongs to Python, to an installed package, or to this one."""
    name = value.__name__ if isinstance(value, types.ModuleType) else value.__module__ or ""
    if (top := name.partition(".")[0]) in (*sys.stdlib_module_names, __name__.partition(".")[0]) and top != "__main__":
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return isinstance(value, types.ModuleType) and name != "__main__"
    return any(Path(file).resolve().is_relative_to(folder) for folder in _library_folders())


def _pickled(value: object) -> str:
    import cloudpickle

    try:
        return _digest(cloudpickle.dumps(value))
    except Exception:  # whatever pickling raises: it cannot be told apart from others of its type
        return f"{type(value).__module__}.{type(value).__qualname__}"


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _short(text: str) -> str:
    return text if len(text) <= _SHORT else _digest(text.encode())
