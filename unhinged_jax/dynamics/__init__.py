"""How fast the model moves: gradient flow, gradient descent and diffusion. The model says what moves."""

from unhinged_jax.dynamics.checks import (
    Dynamics,
    Noisy,
    bare_rates,
    carried_by,
    carries_of,
    check_dynamics,
    clock_of,
    rates_at,
    rates_of_step,
    step_of,
    without_idle,
)
from unhinged_jax.dynamics.damping import Nesterov, resistance
from unhinged_jax.dynamics.diffusion import Diffusion
from unhinged_jax.dynamics.memories import (
    MEMORIES,
    AggregatedMomentum,
    Lookahead,
    MovingAverage,
    Optimistic,
    PolyakAverage,
    QuasiHyperbolic,
    ScheduleFree,
)
from unhinged_jax.dynamics.memory import Combination, Memory
from unhinged_jax.dynamics.plain import Descent, Flow, solves
from unhinged_jax.dynamics.rates import RATES, PartRates, rate_at, why_too_large

__all__ = [
    "MEMORIES",
    "RATES",
    "AggregatedMomentum",
    "Combination",
    "Descent",
    "Diffusion",
    "Dynamics",
    "Flow",
    "Lookahead",
    "Memory",
    "MovingAverage",
    "Nesterov",
    "Noisy",
    "Optimistic",
    "PartRates",
    "PolyakAverage",
    "QuasiHyperbolic",
    "ScheduleFree",
    "bare_rates",
    "carried_by",
    "carries_of",
    "check_dynamics",
    "clock_of",
    "rate_at",
    "rates_at",
    "rates_of_step",
    "resistance",
    "solves",
    "step_of",
    "why_too_large",
    "without_idle",
]
