"""What is asked about a dynamics of any kind, and whether its numbers are allowed."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from unhinged_jax import _check
from unhinged_jax.dynamics.damping import check_damping
from unhinged_jax.dynamics.diffusion import Diffusion
from unhinged_jax.dynamics.memories import MEMORIES, check_memory
from unhinged_jax.dynamics.plain import Descent, Flow, check_momentum
from unhinged_jax.dynamics.rates import RATES, PartRates, is_number, rate_at
from unhinged_jax.schedules.elapsed import check_rates, must_be_schedule

Dynamics = Flow | Descent | Diffusion
Noisy = Descent | Diffusion


def clock_of(dynamics: Dynamics) -> str:
    """What the times of a dynamics count, as in `Trajectory.clock`."""
    return "updates" if isinstance(dynamics, Descent) else "time"


def step_of(dynamics: Dynamics) -> float | None:
    """The time between two steps on a fixed grid: 1, an update, or the step of a diffusion; None for a flow."""
    return None if isinstance(dynamics, Flow) else dynamics.step if isinstance(dynamics, Diffusion) else 1


def carried_by(dynamics: Dynamics) -> str:
    """What runs of a dynamics carry in addition to the state: `Trajectory.carries`, but "memory" for any memory."""
    if dynamics.memory is not None:
        return "memory"
    if isinstance(dynamics, Flow) and dynamics.damping is not None:
        return "velocity"
    if not isinstance(dynamics, Descent):
        return ""
    return "optimizer" if dynamics.optimizer is not None else "momentum" if dynamics.momentum is not None else ""


def carries_of(dynamics: Dynamics) -> str:
    """The same, but a memory has its name, as in `Trajectory.carries`: no other one can go on with its slots."""
    return type(dynamics.memory).__name__ if dynamics.memory is not None else carried_by(dynamics)


def without_idle(dynamics: Dynamics) -> Dynamics:
    """The dynamics without a radius that is known to be 0, so that it is the plain one, number by number."""
    if not isinstance(dynamics, (Flow, Descent)):
        return dynamics
    radius: Any = dynamics.sam_radius
    if not is_number(radius) or not _check.concrete(radius) or np.ndim(radius) or float(radius) != 0:
        return dynamics
    return dataclasses.replace(dynamics, sam_radius=None)


def check_dynamics(
    dynamics: Dynamics,
    first: float | np.ndarray | jax.Array,
    last: float | np.ndarray | jax.Array,
    integrated: bool = False,
    compiled: bool = False,
) -> None:
    """Raise unless every number of the dynamics is allowed, and no rate becomes negative during the run.

    Rates that are functions are called from `first` to `last`, unless these times or the functions' numbers are traced.

    Args:
        dynamics: A flow, a descent or a diffusion.
        first, last: The time at which the run starts, and the last requested time.
        integrated: Whether the integral of the schedule is computed and checked elsewhere.
        compiled: Whether it is computed inside a compiled program, where its error cannot be seen.

    Raises:
        ValueError: naming the value, and for a function also the time.
    """
    must_be_schedule(dynamics.schedule)
    given = {name: getattr(dynamics, name) for name in RATES if name != "rate_b" or dynamics.rate_b is not None}
    for name, rate in given.items():
        if not callable(rate):
            _check.positive(name, rate)
    if isinstance(dynamics, Diffusion) and not dynamics.stochastic:
        raise ValueError("a Diffusion needs noise: give `batch` or `fresh_labels`, or use Flow.")
    if not isinstance(dynamics, Flow) and dynamics.batch is not None:
        _check.positive("batch", dynamics.batch)
    if dynamics.sam_radius is not None:
        _check.non_negative("sam_radius", dynamics.sam_radius)
    if dynamics.clip_norm is not None:
        _check.positive("clip_norm", dynamics.clip_norm)
    if isinstance(dynamics, Descent) and dynamics.momentum is not None:
        check_momentum(dynamics.momentum)
    if dynamics.memory is not None:
        check_memory(dynamics.memory, MEMORIES, type(dynamics).__name__)
        _check.kind("memory", dynamics.memory, *MEMORIES)
        dynamics.memory.check()
    if isinstance(dynamics, Flow) and dynamics.damping is not None:
        check_damping(dynamics.damping)
    if not _check.concrete((first, last)):
        return
    rates = [rate for rate in given.values() if callable(rate)]
    for schedule in rates if integrated else (dynamics.schedule, *rates):
        check_rates(schedule, float(first), float(last), step_of(dynamics), compiled)


def rates_at(dynamics: Dynamics, time: ArrayLike, dtype: DTypeLike) -> PartRates:
    """The rates of H, W and b at a time, with the schedule multiplied in."""
    eta = jnp.asarray(dynamics.schedule(time), dtype)
    rates = [eta * jnp.asarray(rate_at(rate, time), dtype) for rate in (dynamics.rate_H, dynamics.rate_W)]
    own = rates[1] if dynamics.rate_b is None else eta * jnp.asarray(rate_at(dynamics.rate_b, time), dtype)
    return PartRates(rates[0], rates[1], own)


def bare_rates(flow: Flow, dtype: DTypeLike) -> PartRates:
    """The rates of H, W and b with 1 in place of every schedule."""
    return PartRates(*(jnp.asarray(1.0 if callable(rate) else rate, dtype) for rate in flow.rates))


def rates_of_step(dynamics: Noisy, k: ArrayLike, dtype: DTypeLike) -> PartRates:
    """What multiplies the velocity of H, W and b in step k: a step of a diffusion takes the rates times its length."""
    if isinstance(dynamics, Descent):
        return rates_at(dynamics, jnp.asarray(k, dtype), dtype)
    step = jnp.asarray(dynamics.step, dtype)
    return PartRates(*(step * rate for rate in rates_at(dynamics, jnp.asarray(k, dtype) * step, dtype)))
