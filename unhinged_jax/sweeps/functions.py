"""A sweep over a function: named numbers and a key go in, a trajectory or a dictionary of arrays comes out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.extend
import numpy as np
from jaxtyping import PyTree

from unhinged_jax import _check, precision
from unhinged_jax.observables import OBSERVABLES
from unhinged_jax.sweeps.function_plan import FunctionPlan, takes
from unhinged_jax.sweeps.grouping import Group, Grouping, Output
from unhinged_jax.trajectory import STEPS, Trajectory

_COPIES = 4
"""Copies of the largest intermediate array that a point is expected to hold."""
TIMES = "times"
_NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
_OWN = ("result", "elapsed", "steps", "execution")
"""Names of a store that no array of a function may have."""


def function_grouping(plan: FunctionPlan) -> Grouping:
    """The arrays that the function returns for each combination of its static values, found by tracing it.

    Raises:
        ValueError: if it returns anything else, needs the value of an axis while it is traced, or returns arrays of
            different shapes.
    """
    separate = tuple(dim.axes[0].key in plan.static for dim in plan.dims)
    traced = tuple(
        () if alone else tuple(axis.key for axis in dim.axes) for dim, alone in zip(plan.dims, separate, strict=True)
    )
    apart = [dim for dim, alone in zip(plan.dims, separate, strict=True) if alone]
    which, groups = {}, []
    for number, places in enumerate(np.ndindex(*(dim.size for dim in apart))):
        which[places] = number
        groups.append(_group(plan, dict(zip((dim.name for dim in apart), places, strict=True))))
    times = [group.coordinates.get("time", np.zeros(0)) for group in groups]
    if not all(np.array_equal(times[0], here) for here in times):
        raise ValueError("the points of a sweep share their times; make the times of all trajectories the same.")
    return Grouping(traced, separate, tuple(groups), which)


def dtypes_of(plan: FunctionPlan) -> dict[str, np.dtype]:
    """Number types of the values that vary inside a program."""
    return {
        axis.key: np.dtype(np.int32 if isinstance(axis.values[0], int) else plan.precision)
        for dim in plan.dims
        for axis in dim.axes
        if axis.key not in plan.static
    }


def call(plan: FunctionPlan, places: Mapping[str, int], values: Mapping[str, Any]) -> dict[str, Any]:
    """One point: its arrays, why and where it ended, and how many steps it took; see `_returned`."""
    return _kept(_returned(plan, places, values))


def _returned(plan: FunctionPlan, places: Mapping[str, int], values: Mapping[str, Any]) -> Any:
    """What the function returns for a point.

    Args:
        places: Index along each dimension of static values.
        values: The value at every other axis; the seed is a whole number.
    """
    assert plan.function is not None
    fixed = {dim.axes[0].key: dim.axes[0].values[places[dim.name]] for dim in plan.dims if dim.name in places}
    given = {**fixed, **values}
    if "seed" in given and takes(plan.function) == "key":
        given["key"] = jax.random.key(given.pop("seed"))
    return plan.function(**given)


def _kept(found: Any) -> dict[str, Any]:
    """What a sweep keeps of that which the function returned for a point."""
    if isinstance(found, Trajectory):
        if found.batch:
            raise ValueError("the function returned a batch of runs, not one; make an axis of what varies.")
        states = {} if found.states is None else found.states.factors()
        return {
            "observables": {**flat_arrays({**found.observables, **states}), TIMES: found.times}, "code": found.code,
            "elapsed": found.elapsed, "steps": found.steps, "reached": found.reached,
        }  # fmt: skip
    if not isinstance(found, Mapping):
        raise ValueError(
            "the function of a sweep returns a trajectory or a dictionary of arrays, but returned "
            f"{_check.given(found)}."
        )
    if TIMES in found:
        raise ValueError(f"{TIMES!r} is a name of trajectories; call that array something else.")
    ended = {"code": np.int32(0), "elapsed": np.float32(np.nan), "steps": np.int32(0), "reached": np.True_}
    return {"observables": flat_arrays(dict(found)), **ended}


def flat_arrays(tree: dict[str, PyTree]) -> dict[str, Any]:
    """Arrays by name; those inside a tree are called "name.key"."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = ".".join(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path)
        if getattr(leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype, "kind", "") not in tuple("biufc"):
            raise ValueError(f"{name!r} is {_check.given(leaf)}; a sweep keeps numbers and arrays of numbers.")
        if name in found:
            raise ValueError(f"two arrays are called {name!r}; rename one of them.")
        found[name] = leaf
    return found


def _group(plan: FunctionPlan, places: dict[str, int]) -> Group:
    """The group of one combination of static values."""
    types = dtypes_of(plan)
    ends = [
        {axis.key: types[axis.key].type(axis.values[at]) for dim in plan.dims for axis in dim.axes if axis.key in types}
        for at in (0, -1)
    ]
    with precision.scope(plan.precision):
        found, times, size, adaptive = (_traced if plan.vmap else _called)(plan, places, ends)
    arrays = found["observables"]
    if times is not None and np.array_equal(*times):
        arrays = {name: leaf for name, leaf in arrays.items() if name != TIMES}
    if unknown := {*plan.own} - {*arrays}:
        raise ValueError(f"dims names {min(unknown)!r}, which the function does not return.")
    outputs = {name: _output(plan, name, leaf, times is not None) for name, leaf in arrays.items()}
    if not outputs:
        raise ValueError("the function returns no array; a sweep needs at least one to keep.")
    least = sum(math.prod(output.shape) * np.dtype(output.dtype).itemsize for output in outputs.values())
    shared = {} if TIMES in outputs or times is None else {"time": times[0]}
    return Group(
        tuple(places.values()), outputs, {**plan.coords, **shared}, bytes=least + _COPIES * size, least=least,
        adaptive=adaptive,
    )  # fmt: skip


Found = tuple[dict[str, Any], tuple[np.ndarray, np.ndarray] | None, int, int | None]
"""Types of what a point computes, its times at the first and at the last point (None if it returns no trajectory), the
bytes of its largest array, and `adaptive` of its group."""


def _traced(plan: FunctionPlan, places: dict[str, int], ends: list[dict[str, Any]]) -> Found:
    given = {key: jax.ShapeDtypeStruct((), dtype) for key, dtype in dtypes_of(plan).items()}
    names: list[str] = []
    adaptive = None

    def lane(values: dict[str, Any]) -> dict[str, Any]:
        nonlocal adaptive
        run = _returned(plan, places, values)
        if (
            isinstance(run, Trajectory) and run.clock == "time" and str(run.form) and STEPS not in str(run.form)
        ):  # a simulated flow
            adaptive = run.final.H.size + run.final.W.size
        found = _kept(run)
        names[:] = found["observables"]  # in the order of the function; JAX sorts them
        return found

    try:
        program, found = jax.make_jaxpr(lane, return_shape=True)(given)
    except _NEEDS_VALUES as error:
        raise ValueError(
            "the function needs the value of an axis while it is traced, for a size, a branch or a NumPy function; "
            "move that axis to `static`, or give vmap=False to compute points one at a time."
        ) from error
    found = {**found, "observables": {name: found["observables"][name] for name in names}}
    if TIMES not in names:
        return found, None, _largest(program.jaxpr), adaptive
    tree = jax.tree.structure(found)

    @jax.jit
    def times(values: dict[str, Any]) -> Any:
        leaves = jax.extend.core.jaxpr_as_fun(program)(*jax.tree.leaves(values))
        return jax.tree.unflatten(tree, leaves)["observables"][TIMES]

    return found, (np.asarray(times(ends[0])), np.asarray(times(ends[1]))), _largest(program.jaxpr), adaptive


def _called(plan: FunctionPlan, places: dict[str, int], ends: list[dict[str, Any]]) -> Found:
    found = call(plan, places, {key: value.item() for key, value in ends[0].items()})
    times = found["observables"].get(TIMES)
    return found, None if times is None else (np.asarray(times), np.asarray(times)), 0, None


def _largest(jaxpr: Any) -> int:
    """Bytes of the largest array that a traced function computes."""
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [math.prod(out.aval.shape) * getattr(out.aval.dtype, "itemsize", 8) for out in equation.outvars]
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda value: hasattr(value, "eqns")):
            if (inside := getattr(inner, "jaxpr", inner)) is not None and hasattr(inside, "eqns"):
                sizes.append(_largest(inside))
    return max(sizes)


def _output(plan: FunctionPlan, name: str, leaf: Any, timed: bool) -> Output:
    """The description of one array; its axes have the names that the caller gave, or the array's own and a number."""
    shape = tuple(np.shape(leaf))
    first = ("time",) if timed and shape else ()
    rest = plan.own.get(name, tuple(f"{name}_{axis}" for axis in range(1, len(shape) - len(first) + 1)))
    dims = rest if len(rest) == len(shape) else (*first, *rest)
    if len(dims) != len(shape) or len({*dims}) < len(dims) or {*dims} & {dim.name for dim in plan.dims}:
        raise ValueError(
            f"{name!r} has the shape {shape} and needs {len(shape)} different names of its axes, none of them that of "
            f"an axis of the sweep, but has {dims}; see `dims`."
        )
    if 0 in shape:
        raise ValueError(f"{name!r} has the shape {shape} and holds nothing; leave it out.")
    for dim, length in zip(dims, shape, strict=True):
        if dim in plan.coords and plan.coords[dim].shape != (length,):
            raise ValueError(
                f"coords gives {plan.coords[dim].shape} values along {dim!r}, but {name!r} has {length} there."
            )
    if name in _OWN or name in {key for dim in plan.dims for key in (dim.name, *(axis.name for axis in dim.axes))}:
        raise ValueError(
            f"an array of the function is called {name!r}, like an axis or a result of the sweep; rename it."
        )
    known = OBSERVABLES.get(name)
    return Output(
        dims,
        shape,
        np.dtype(leaf.dtype if hasattr(leaf, "dtype") else type(leaf)).name,
        known.meaning if known else name,
    )
