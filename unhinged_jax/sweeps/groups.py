"""Which settings of a plan are data of one compiled program, and which need a program of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax import _request
from unhinged_jax import config as _config
from unhinged_jax.closed_form.balance import explained
from unhinged_jax.closed_form.constant_gradient import why_not_beside
from unhinged_jax.closed_form.existence import NoClosedForm, why_no_closed_form
from unhinged_jax.closed_form.expected import known_of
from unhinged_jax.config import Config, ConfigError, Problem
from unhinged_jax.dynamics import Flow
from unhinged_jax.observables import OBSERVABLES
from unhinged_jax.precision import scope
from unhinged_jax.sweeps.design import Dim
from unhinged_jax.sweeps.grouping import Group, Grouping, Output
from unhinged_jax.sweeps.plan import SweepPlan

_HELD = 20_000
"""Largest array of a file that labels read which a store repeats."""


def grouping_of(plan: SweepPlan) -> Grouping:
    """Find out, by tracing, which numbers of a plan can vary inside one program, and form the groups.

    Raises:
        ConfigError: if points do not share their times, or a point has no closed form and the method is exact.
    """
    traced = tuple(
        tuple(axis.key for axis in dim.axes if axis.numeric and _traceable(plan, dim, axis.key)) for dim in plan.dims
    )
    separate = tuple(len(keys) < len(dim.axes) for keys, dim in zip(traced, plan.dims, strict=True))
    groups: list[Group] = []
    known: dict[str, int] = {}
    which = {}
    apart = [dim for dim, alone in zip(plan.dims, separate, strict=True) if alone]
    data = {key for keys in traced for key in keys}
    for places in np.ndindex(*(dim.size for dim in apart)):
        structure = repr(
            [axis.values[i] for dim, i in zip(apart, places, strict=True) for axis in dim.axes if axis.key not in data]
        )
        if structure not in known:
            known[structure] = len(groups)
            groups.append(_group(plan, {dim.name: i for dim, i in zip(apart, places, strict=True)}, traced))
        which[places] = known[structure]
    first = groups[0].coordinates["time"]
    for group in groups:
        if not np.array_equal(group.coordinates["time"], first):
            raise ConfigError(
                f"{plan.config.path}: [run]: the points of a sweep share their times, but flow and descent read these "
                "differently; give whole `times`."
            )
    return Grouping(traced, separate, tuple(groups), which)


def abstract(key: str, precision: str) -> jax.ShapeDtypeStruct:
    """The type of a traced value: seeds are whole numbers, everything else a number of the plan's precision."""
    return jax.ShapeDtypeStruct((), dtype_of(key, precision))


def dtype_of(key: str, precision: str) -> Any:
    """Number type of the values at a key."""
    return np.dtype(np.int32) if key.rpartition(".")[2] == "seed" else np.dtype(precision)


def build_traced(config: Config, values: Mapping[str, Any]) -> Problem:
    """Build a configuration whose numbers at some dotted keys are traced values."""
    for key, value in values.items():
        try:
            config = _put(config, key.split("."), value)
        except (AttributeError, LookupError, TypeError, ValueError):
            raise ValueError(f"{key!r} is not a key of the configuration.") from None
    return _config.build(config)


def _put(place: Any, way: list[str], value: object) -> Any:
    """A copy of nested dataclasses, tables and lists with one entry replaced."""
    if not way:
        return value
    head, rest = way[0], way[1:]
    if dataclasses.is_dataclass(place):
        return dataclasses.replace(place, **{head: _put(getattr(place, head), rest, value)})  # type: ignore[type-var]
    if isinstance(place, list):
        at = int(head)
        return [*place[:at], _put(place[at], rest, value), *place[at + 1 :]]
    return {**place, head: _put(place[head], rest, value)}


def _traceable(plan: SweepPlan, dim: Dim, key: str) -> bool:
    """Whether a program can take the value at a key as data. All its values have been built before."""
    if dim.size == 1 and dim.kind != "seed":
        return False
    if key == "dynamics.batch" and plan.method == "simulate":  # the length of what is drawn
        return False
    if key == "state.balanced" and min(min(axis.values) for axis in dim.axes if axis.key == key) <= 0:
        return False  # its sign says which part follows from the other
    config, precision = plan.config_at({}), plan.config.run.precision
    try:
        with scope(precision):
            jax.eval_shape(lambda value: _shapes(build_traced(config, {key: value})), abstract(key, precision))
    except (ValueError, TypeError):
        return False
    return True


def _shapes(problem: Problem) -> Any:
    return problem.state.H, problem.state.W


def _why_not_exact(config: Config, problem: Problem, traced: Mapping[str, Any]) -> str | None:
    """Why the points of a sweep have no closed form, in words, or None; their starts are traced."""
    why = why_no_closed_form(problem.model, problem.dynamics, True)

    def drawn(key: str) -> bool:
        return getattr(config.state, key) is not None or f"state.{key}" in traced

    if why is None and problem.model.depth > 2 and not drawn("spectral"):
        why = "a deep model has a closed form from balanced spectral starts only; give `spectral = 0.5` in [state]."
    deep_squared = problem.model.depth > 2 and not problem.model.loss.linear
    if why is None and deep_squared and isinstance(problem.dynamics, Flow) and any("decay" in key for key in traced):
        why = "a deep model under squared error has a closed form of flows without decay only; give kind = 'descent'."
    if why is None and not (problem.model.loss.linear or deep_squared or drawn("balanced")):
        why = explained("squared error has a closed form from balanced starts only; give `balanced = 0.0` in [state].")
    if why is None and getattr(problem.dynamics, "optimizer", None) is not None:
        why = why_not_beside(traced)
        if why is None and problem.model.moves.coupled and not drawn("spectral"):
            why = "spectral descent of both parts is solved from aligned starts; give `spectral = 1.0` in [state]."
    return why


def _group(plan: SweepPlan, places: dict[str, int], traced: tuple[tuple[str, ...], ...]) -> Group:
    config, run = plan.config_at(places), plan.config.run
    found: dict[str, Any] = {}

    def trace(values: dict[str, Any]) -> Any:
        problem = build_traced(config, values)
        if plan.sweep.method == "exact" and (why := _why_not_exact(config, problem, values)):
            raise NoClosedForm(f"there is no closed form: {why}")
        task = _request.prepare(
            problem.model, problem.dynamics, problem.state, problem.times, problem.observe, target=problem.target,
            precision=problem.precision, caller="sweep",
        )  # fmt: skip
        labels = problem.model.labels
        found.update(
            names=_names(plan, task), times=np.asarray(task.times), inputs=problem.inputs,
            rows=labels.samples + labels.classes, classes=labels.classes,
        )  # fmt: skip
        return jnp.zeros(())

    with _config.placed(f"{plan.config.path}: {_shown(plan, places)}".rstrip(": ")), scope(run.precision):
        jax.eval_shape(trace, {key: abstract(key, run.precision) for keys in traced for key in keys})
    times, names = found["times"], found["names"]
    # An exact run holds a few states and tables of logits, an adaptive solve its stages too.
    dim, copies = config.model.dim, 6 if plan.sweep.method == "exact" else 24
    states, results = found["rows"] * dim, len(times) * len(names)
    width = np.dtype(run.precision).itemsize
    return Group(
        tuple(places.values()),
        {name: Output(("time",), times.shape, run.precision, _meaning(name)) for name in names},
        {"time": times},
        bytes=width * (copies * found["rows"] * (dim + found["classes"]) + results + 64 * len(times)),
        least=width * (2 * states + results),
        adaptive=states if plan.sweep.method == "simulate" and config.dynamics.kind == "flow" else None,
        inputs=found["inputs"],
        arrays=_arrays(config) if found["inputs"] else {},
    )


def _names(plan: SweepPlan, task: _request.Task) -> tuple[str, ...]:
    """The observables of a plan that have a meaning for it; of expectations only those that are known."""
    if plan.sweep.method == "exact" and task.dynamics.stochastic:
        return known_of(task.plan)[0]
    return tuple(name for name, _ in task.plan)


def _meaning(name: str) -> str:
    return OBSERVABLES[name].meaning if name in OBSERVABLES else name


def _arrays(config: Config) -> dict[str, Any]:
    files = _config.Files(config.path.parent)
    _config.build_labels(config.labels, files)
    return {name: array.tolist() for name, array in files.arrays.items() if array.size <= _HELD}


def _shown(plan: SweepPlan, places: dict[str, int]) -> str:
    chosen = [(axis, places[dim.name]) for dim in plan.dims if dim.name in places for axis in dim.axes]
    return ", ".join(f"{axis.key} = {axis.values[place]!r}" for axis, place in chosen)
