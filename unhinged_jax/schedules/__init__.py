"""Learning-rate schedules eta(t) with their exact integral zeta(t) = int_0^t eta(s) ds.

Gradient flow depends on time only through zeta, so every schedule carries its integral beside
its value. Both act elementwise on arrays of times and are differentiable in the time and in the
schedule's parameters, which are the leaves of a frozen pytree: sweeping one never recompiles.

A schedule is also an optax schedule: called with an integer step count it gives the rate of that step. Use the
lower-case constructors; they check arguments that the classes accept unchecked.
"""

from unhinged_jax.schedules.constructors import (
    as_schedule,
    constant,
    cosine,
    exponential,
    numeric,
    piecewise,
    polynomial,
)
from unhinged_jax.schedules.integrated import Numeric, QuadratureWarning
from unhinged_jax.schedules.joining import join, warmup, warmup_stable_decay
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
from unhinged_jax.schedules.times import logspaced, steps

__all__ = [
    "Constant",
    "Cosine",
    "Exponential",
    "Joined",
    "Numeric",
    "Piecewise",
    "Polynomial",
    "QuadratureWarning",
    "Schedule",
    "Warmup",
    "WarmupStableDecay",
    "as_schedule",
    "constant",
    "cosine",
    "exponential",
    "join",
    "logspaced",
    "numeric",
    "piecewise",
    "polynomial",
    "steps",
    "warmup",
    "warmup_stable_decay",
]
