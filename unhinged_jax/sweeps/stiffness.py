"""Lanes sorted by expected stiffness, because an adaptive solve in lockstep costs every lane the steps of the
slowest."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax.config import Config
from unhinged_jax.dynamics import Flow, rate_at
from unhinged_jax.model.deep import Factors, velocity_of
from unhinged_jax.precision import scope
from unhinged_jax.sweeps.design import Dim
from unhinged_jax.sweeps.grouping import Grouping
from unhinged_jax.sweeps.groups import build_traced, dtype_of
from unhinged_jax.sweeps.plan import SweepPlan

_ITERATIONS, _BATCH = 8, 256


def by_stiffness(plan: SweepPlan, grouping: Grouping) -> tuple[SweepPlan, tuple[int, ...]]:
    """The plan with its random points sorted by stiffness, and the order in which blocks fill dimensions.

    Blocks extend along seeds first, then along dimensions whose points are about equally stiff.
    """
    last_first = tuple(reversed(range(len(plan.dims))))
    if plan.sweep.method == "exact" or plan.config.dynamics.kind != "flow":
        return plan, last_first
    dims, spread = list(plan.dims), [0.0] * len(plan.dims)
    for place, dim in enumerate(plan.dims):
        keys = grouping.traced[place]
        if dim.kind == "seed" or grouping.separate[place] or not keys:
            continue
        found = _along(plan, dim, keys)
        if dim.kind == "random":
            dims[place] = _sorted(dim, np.argsort(found, kind="stable"))
        positive = found[np.isfinite(found) & (found > 0)]
        spread[place] = float(np.log(positive.max() / positive.min())) if positive.size else 0.0
    order = sorted(last_first, key=lambda place: (plan.dims[place].kind != "seed", spread[place]))
    return dataclasses.replace(plan, dims=tuple(dims)), tuple(order)


def stiffness(config: Config, values: dict[str, Any]) -> jax.Array:
    """Largest |rate| of the linearised flow at its start times its duration, by power iteration: a scalar.

    An explicit solver needs a number of steps proportional to it once stability limits the step size.

    Source: beyond the paper.
    """
    problem = build_traced(config, values)
    model, flow, state = problem.model, problem.dynamics, problem.state
    assert isinstance(flow, Flow)
    times = jnp.asarray(problem.times, state.W.dtype)
    eta = flow.schedule(times)
    fastest = {name: jnp.max(eta * rate_at(rate, times)) for name, rate in flow.rates._asdict().items()}

    def field(z: Factors) -> Factors:
        return {name: fastest.get(name, fastest["W"]) * v for name, v in velocity_of(model, z).items()}

    def norm(z: Factors) -> jax.Array:
        return jnp.sqrt(sum(jnp.sum(part**2) for part in z.values()))

    def over(z: Factors, size: jax.Array) -> Factors:
        return {name: part / size for name, part in z.items()}

    def step(z: Factors, _: None) -> tuple[Any, jax.Array]:
        moved = jax.jvp(field, (start,), (z,))[1]
        size = norm(moved)
        return over(moved, jnp.where(size > 0, size, 1.0)), size

    start = jax.tree.map(jnp.asarray, state.factors())
    _, sizes = jax.lax.scan(step, over(start, norm(start)), None, length=_ITERATIONS)
    return sizes[-1] * (times[-1] - times[0])


def _along(plan: SweepPlan, dim: Dim, keys: tuple[str, ...]) -> np.ndarray:
    """Stiffness of the points along a dimension, at the first point of the others."""
    config, precision = plan.config_at({}), plan.config.run.precision
    values = {axis.key: np.asarray(axis.values, dtype_of(axis.key, precision)) for axis in dim.axes if axis.key in keys}
    with scope(precision):
        run = jax.jit(lambda given: jax.lax.map(lambda one: stiffness(config, one), given, batch_size=_BATCH))
        return np.asarray(run(values))


def _sorted(dim: Dim, order: np.ndarray) -> Dim:
    axes = tuple(dataclasses.replace(axis, values=tuple(axis.values[i] for i in order)) for axis in dim.axes)
    return dataclasses.replace(dim, axes=axes)
