"""What every dynamics has: a schedule, and the rates of the three parts of a state."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _check
from unhinged_jax._values import Value
from unhinged_jax.schedules import Schedule, as_schedule

RATES = ("rate_H", "rate_W", "rate_b")


class PartRates(NamedTuple):
    """The rates of the three parts of a state."""

    H: Any
    W: Any
    b: Any


class Rated(Value):
    """What every dynamics has: a schedule, `rate_H`, `rate_W` and `rate_b`; and what a norm of its gradient decides."""

    schedule: Any
    rate_H: Any
    rate_W: Any
    rate_b: Any
    sam_radius: Any = None
    clip_norm: Any = None
    normalized: bool = False

    @property
    def rates(self) -> PartRates:
        """r_1, r_2 and the rate of the biases (r_2 unless they have their own), as numbers or schedules."""
        return PartRates(self.rate_H, self.rate_W, self.rate_W if self.rate_b is None else self.rate_b)

    @property
    def proportional(self) -> bool:
        """Whether r_1 / r_2 is constant, so that H and W of a linear flow have a closed form in zeta(t)."""
        return not (callable(self.rate_H) or callable(self.rate_W))

    @property
    def paced(self) -> bool:
        """Whether a step depends on the norm of the gradient (sharpness-aware, clipped or normalised)."""
        return self.sam_radius is not None or self.clip_norm is not None or self.normalized

    @property
    def stochastic(self) -> bool:
        """Whether a run depends on what is drawn."""
        return False


def settle(dynamics: Rated) -> None:
    """Turn numbers and callables into schedules; leave the placeholders alone that JAX puts into leaves."""
    if is_number(dynamics.schedule) or callable(dynamics.schedule):
        object.__setattr__(dynamics, "schedule", as_schedule(dynamics.schedule))
    for name in RATES:
        rate = getattr(dynamics, name)
        if callable(rate):
            object.__setattr__(dynamics, name, as_schedule(rate))
        elif is_number(rate):
            still = "`bias=False`" if name == "rate_b" else "`anchored` or `frozen`"
            _check.positive(name, rate, f"build the model with {still} for a part that stays")


def check_paces(dynamics: Rated) -> None:
    """Raise unless the radius, the bound on the norm and whether gradients are normalised fit together.

    What JAX and equinox may put in place of the numbers passes: None, truth values and pairs.
    """
    if is_number(dynamics.sam_radius):
        _check.non_negative("sam_radius", dynamics.sam_radius)
    if is_number(dynamics.clip_norm):
        _check.positive("clip_norm", dynamics.clip_norm, "leave it out for gradients that are not clipped")
    if _check.flag("normalized", dynamics.normalized) and dynamics.clip_norm is not None:
        raise ValueError("give clip_norm or normalized=True, not both: a gradient of norm 1 has nothing to clip.")


def check_draws(batch: object, replacement: object, fresh_labels: object) -> None:
    """Raise unless these describe batches of samples, and labels that are drawn again or not.

    What JAX and equinox may put in place of a batch passes: None, truth values and pairs. `check_dynamics` looks again.
    """
    if isinstance(batch, (str, list)):
        raise ValueError(f"batch must be a number of samples, but got {_check.given(batch)}.")
    if is_number(batch) and _check.concrete(batch):
        _check.positive("batch", batch)  # type: ignore[arg-type]
    if not isinstance(replacement, bool) and not (isinstance(replacement, str) and replacement == "epochs"):
        raise ValueError(f"replacement must be True, False or 'epochs', but got {_check.given(replacement)}.")
    _check.flag("fresh_labels", fresh_labels)


def why_too_large(batch: Any, replacement: object, samples: int) -> str | None:
    """Why a batch cannot be drawn from so many samples, in words, or None; traced sizes are not looked at."""
    if batch is None or replacement is True or not _check.concrete(batch) or np.max(batch) <= samples:
        return None
    return (
        f"a batch of {batch} cannot be drawn from {samples} samples without replacement; give a smaller one, or "
        "replacement=True."
    )


def is_number(value: object) -> bool:
    """Whether this is a number or an array, traced or not."""
    return isinstance(value, (int, float, np.ndarray, np.generic, jax.Array)) and not isinstance(value, bool)


def rate_at(rate: Schedule | ArrayLike, time: ArrayLike) -> Any:
    """A rate factor at a time: the number itself, or the value of a schedule."""
    return rate(time) if isinstance(rate, Schedule) else rate
