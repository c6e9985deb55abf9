"""The integral of a schedule over all time."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from unhinged_jax.schedules.elapsed import elapsed, integrated_outside, values_at
from unhinged_jax.schedules.schedule import Schedule
from unhinged_jax.schedules.shapes import (
    Constant,
    Cosine,
    Exponential,
    Joined,
    Piecewise,
    Polynomial,
    Warmup,
    WarmupStableDecay,
)

_DECADES = np.arange(-3, 16)
"""Powers of ten of the times at which a function is evaluated; over the last nine it must fall like a power."""


def remaining(schedule: Schedule, first: float | Array) -> Any:
    """The integral of a schedule from `first` to infinity, which may be infinite.

    A function counts as having a finite integral if it falls faster than 1/t, like a power of time or faster, from time
    10^6 to 10^15. The integral of a function that cannot be called now, because it is traced, counts as infinite.

    Example:
        >>> from unhinged_jax.schedules import constant, cosine, numeric
        >>> falling = numeric(lambda t: (1 + t) ** -3.0)
        >>> [round(float(remaining(s, 0.0)), 6) for s in (constant(1.0), cosine(1.0, 10.0), falling)]
        [inf, 5.0, 0.5]
    """
    if integrated_outside(schedule):
        return _of_function(schedule, float(first))
    return jnp.maximum(_total(schedule) - schedule.integral(first), 0.0)


def _total(schedule: Schedule) -> Any:
    if isinstance(schedule, Warmup):
        return schedule.integral(schedule.length) + _total(schedule.schedule)
    if isinstance(schedule, WarmupStableDecay):
        return _total(schedule.joined)
    if isinstance(schedule, Joined):
        before = schedule.integral(schedule.boundaries[-1]) if len(schedule.boundaries) else 0.0
        return before + _total(schedule.schedules[-1])
    if isinstance(schedule, Exponential):
        falls = jnp.asarray(schedule.rate) > 0
        whole = schedule.initial / jnp.where(falls, schedule.rate, 1.0)
        return jnp.where(jnp.equal(schedule.initial, 0), 0.0, jnp.where(falls, whole, jnp.inf))
    last: Any
    end: Any
    if isinstance(schedule, Constant):
        last, end = schedule.value, 0.0
    elif isinstance(schedule, Cosine):
        last, end = schedule.floor, schedule.horizon
    elif isinstance(schedule, Polynomial):
        last, end = schedule.final, schedule.horizon
    elif isinstance(schedule, Piecewise):
        last, end = jnp.asarray(schedule.values)[-1], jnp.append(jnp.zeros(1), jnp.asarray(schedule.boundaries))[-1]
    else:
        return jnp.asarray(jnp.inf)
    return jnp.where(jnp.asarray(last) > 0, jnp.inf, schedule.integral(end))


def _of_function(schedule: Schedule, first: float) -> float:
    times = first + 10.0**_DECADES
    late = times[-10:]
    mass = values_at(schedule, late) * (late - first)  # of a factor e in time
    falls = (mass[1:] <= 0.95 * mass[:-1]) | (mass[1:] == 0)
    if not np.all(falls):
        return np.inf
    parts = np.diff(elapsed(schedule, first, times), prepend=0.0)
    ratio = parts[-1] / parts[-2] if parts[-2] > 0 else 0.0
    return float(np.sum(parts) + parts[-1] * ratio / (1 - ratio))
