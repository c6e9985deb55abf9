"""A sweep over a function: its arguments, checked, and what two calls must share to fill one store."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unhinged_jax import _check
from unhinged_jax.sweeps.design import Axis, Dim
from unhinged_jax.sweeps.fingerprint import parts_of

STATIC = "static "
"""How the names of those parts begin that belong to static values."""


@dataclasses.dataclass(frozen=True, eq=False)
class FunctionPlan:
    """A sweep over a function. `sweep` makes it; see there.

    Attributes:
        function: What every point runs; None for a plan that was read from a store, which is data.
        dims: The dimensions of the result.
        static: Names of the axes that are structure: one program for each combination of their values.
        precision: "float32" or "float64".
        parts: What decides what the function computes, see `unhinged_jax.sweeps.fingerprint`.
        version: The user's word for what the function computes; it is then compared in place of the parts.
        own: Names of the axes of arrays that the function returns, by the name of the array.
        coords: Values along those axes.
        vmap: Whether many points are computed at a time, by one compiled program.
    """

    function: Callable[..., Any] | None
    dims: tuple[Dim, ...]
    static: tuple[str, ...] = ()
    precision: str = "float32"
    parts: dict[str, str] = dataclasses.field(default_factory=dict)
    version: str | None = None
    own: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    coords: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    vmap: bool = True

    @property
    def title(self) -> str:
        """The name of the function."""
        return next(iter(self.parts), "Sweep")

    @property
    def method(self) -> str:
        """What computes the points."""
        return "function"

    @property
    def points(self) -> int:
        """Number of points."""
        return math.prod(dim.size for dim in self.dims)

    def tables(self) -> dict[str, Any]:
        """What JSON can hold of it, and two calls must share to fill one store."""
        axes = {dim.name: {axis.name: axis.coordinate().tolist() for axis in dim.axes} for dim in self.dims}
        given = {"precision": self.precision, "static": [*self.static], "vmap": self.vmap, "version": self.version}
        coords = {name: values.tolist() for name, values in self.coords.items()}
        own = {name: [*dims] for name, dims in self.own.items()}
        given["order"] = [dim.name for dim in self.dims]
        return {"function": self.parts, "axes": axes, "options": {**given, "dims": own, "coords": coords}}

    @classmethod
    def of_tables(cls, tables: Mapping[str, Any]) -> FunctionPlan:
        """The plan that `tables` describes, without its function."""
        options = tables["options"]
        dims = []
        for name, axes in tables["axes"].items():
            made = []
            for key, values in axes.items():
                texts = tuple(values) if any(isinstance(value, str) for value in values) else None
                made.append(Axis(key, tuple(values), key, key, texts))
            dims.append(Dim(name, tuple(made), _kind(name, len(made))))
        return cls(None, tuple(dims), tuple(options["static"]), options["precision"], dict(tables["function"]))


def plan_of_function(
    function: Callable[..., Any],
    axes: Mapping[Any, Any],
    *,
    seeds: int | Sequence[int] | None = None,
    static: Mapping[str, Any] | None = None,
    precision: str = "float32",
    version: str | None = None,
    dims: Mapping[str, str | Sequence[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
    vmap: bool = True,
) -> FunctionPlan:
    """A plan from the arguments of `sweep`, checked.

    Raises:
        ValueError: for axes that are not allowed, or that the function does not take.
    """
    takes_key = takes(function)
    made = [
        *(_data_dim(names, values) for names, values in _mapping("axes", axes).items()),
        *(_static_dim(name, values) for name, values in _mapping("static", static or {}).items()),
    ]
    fixed = tuple(_mapping("static", static or {}))
    if takes_key is not None:
        made.append(_seed_dim(1 if seeds is None else seeds))
    elif seeds is not None:
        raise ValueError("seeds were given, but the function takes no `key` and no `seed`; add one to its arguments.")
    names = [name for dim in made for name in {dim.name, *(axis.name for axis in dim.axes)}]
    for name in names:
        if names.count(name) > 1 or name == "time":
            raise ValueError(f"two axes are called {name!r}, or one is called 'time'; rename it.")
    keys = [axis.key for dim in made for axis in dim.axes if dim.kind != "seed"]
    _refuse_unknown(function, [*keys, *([takes_key] if takes_key else [])])
    _check.choice("precision", precision, ("float32", "float64"))
    own = {name: (given,) if isinstance(given, str) else tuple(given) for name, given in (dims or {}).items()}
    values = {name: np.asarray(given) for name, given in (coords or {}).items()}
    if not made:
        raise ValueError("a sweep needs an axis: give `axes`, `static`, or `seeds` for a function that takes a key.")
    if clash := {*values} & {*names, "time"}:
        raise ValueError(f"coords are those of the arrays' own axes, but {min(clash)!r} is an axis of the sweep.")
    told = None if version is None else str(version)
    parts = parts_of(function)
    for dim in made:
        if (axis := dim.axes[0]).key in fixed:
            for label, value in zip(axis.coordinate().tolist(), axis.values, strict=True):
                parts |= parts_of(value, f"{STATIC}{axis.key} = {label}")
    _refuse_rounded(made, fixed, precision)
    return FunctionPlan(function, tuple(made), fixed, precision, parts, told, own, values, vmap)


def _refuse_rounded(dims: Sequence[Dim], fixed: tuple[str, ...], precision: str) -> None:
    """Raise ValueError for values of an axis that the number type of the function cannot tell apart or hold."""
    for axis in (axis for dim in dims for axis in dim.axes if axis.key not in fixed):
        whole = isinstance(axis.values[0], int)
        given = np.asarray(axis.values)
        with np.errstate(all="ignore"):
            held = given.astype(np.int32 if whole else precision)
        lost = ~np.isfinite(held) | ((held == 0) != (given == 0)) | (whole & (held != given))
        if np.any(lost) or len(np.unique(held)) < len(np.unique(given)):
            fit = "32-bit whole numbers" if whole else precision
            hint = "" if whole or precision == "float64" else "; give precision='float64'"
            raise ValueError(f"the values of axis {axis.key!r} do not fit {fit}, or fall together there{hint}.")


def _mapping(name: str, given: object) -> Mapping[Any, Any]:
    if not isinstance(given, Mapping):
        raise ValueError(f"{name} must be a dictionary from names to values, but got {_check.given(given)}.")
    return given


def _data_dim(names: object, values: Any) -> Dim:
    """A dimension of numbers: one name and its values, or several names that vary together and a row for each point."""
    array = _numbers(names, values)
    if isinstance(names, str):
        if array.ndim != 1:
            raise ValueError(f"axis {names!r} needs a list of numbers, but has the shape {array.shape}.")
        if len({*array.tolist()}) < array.size:
            raise ValueError(f"axis {names!r} holds a value twice.")
        return Dim(names, (_axis(names, array.tolist()),), "grid")
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"an axis is named by a string, or by a tuple of them, but got {_check.given(names)}.")
    if array.ndim != 2 or array.shape[1] != len(names):
        raise ValueError(
            f"axes {names} vary together and need a row of {len(names)} numbers for each point, but the shape is "
            f"{array.shape}."
        )
    name = "_".join(names)
    return Dim(name, tuple(_axis(key, column.tolist()) for key, column in zip(names, array.T, strict=True)), "zip")


def _numbers(names: object, values: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "iuf" or not array.size or not np.all(np.isfinite(array)):
        raise ValueError(
            f"axis {names!r} needs finite numbers, but got {_check.given(values)}; put anything else into `static`."
        )
    return array


def _axis(key: str, values: list[Any]) -> Axis:
    return Axis(key, tuple(values), key, key)


def _static_dim(name: str, values: Any) -> Dim:
    """A dimension of structure: a list, or labels and what they stand for."""
    entries = tuple(values.values() if isinstance(values, Mapping) else values)
    labels: tuple[str, ...] | None = None
    if isinstance(values, Mapping):
        labels = tuple(str(label) for label in values)
    elif not all(isinstance(entry, (int, float)) and not isinstance(entry, bool) for entry in entries):
        labels = tuple(str(getattr(entry, "__name__", entry)) for entry in entries)
    if not entries or (labels is not None and len({*labels}) < len(labels)):
        raise ValueError(f"static axis {name!r} needs values with different labels; give {{label: value, ...}}.")
    return Dim(name, (Axis(name, entries, name, name, labels),), "grid")


def _seed_dim(seeds: int | Sequence[int]) -> Dim:
    listed = range(_check.whole("seeds", seeds, 1)) if isinstance(seeds, (int, np.integer)) else seeds
    values = tuple(_check.seed("a seed", seed) for seed in listed)
    if not values or len({*values}) < len(values):
        raise ValueError(f"seeds must be different numbers from 0 to {_check.MAX_SEED}, but got {seeds!r:.80}.")
    return Dim("seed", (_axis("seed", list(values)),), "seed")


def _kind(name: str, axes: int) -> str:
    return "seed" if name == "seed" else "zip" if axes > 1 else "grid"


def takes(function: Callable[..., Any]) -> str | None:
    """Whether a function takes a `key` or a `seed`."""
    return next((name for name in ("key", "seed") if name in inspect.signature(function).parameters), None)


def _refuse_unknown(function: Callable[..., Any], keys: list[str]) -> None:
    try:
        inspect.signature(function).bind(**dict.fromkeys(keys))
    except TypeError as error:
        raise ValueError(
            f"the function takes {inspect.signature(function)}, but the axes are {', '.join(keys)}: {error}."
        ) from error
