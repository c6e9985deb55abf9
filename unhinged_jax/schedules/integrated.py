"""Any callable as a schedule, integrated by quadrature."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from unhinged_jax import _check
from unhinged_jax.schedules.checks import checked_times
from unhinged_jax.schedules.quadrature import Number, pointwise, quadrature
from unhinged_jax.schedules.schedule import Schedule


class QuadratureWarning(UserWarning):
    """The integral of a `numeric` schedule did not reach the precision of its dtype."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Numeric(Schedule):
    """Any callable as a schedule, integrated by adaptive quadrature; see `numeric`."""

    function: Callable[[Any], Any]
    breaks: tuple[Number, ...] = ()

    def _rate(self, t: Array) -> Array:
        return pointwise(self.function)(t)

    def _integral(self, t: Array) -> Array:
        zeta, error, seen = quadrature(self.function, self.breaks, t)
        if _check.concrete(zeta):
            _judge(error, seen)
        return zeta

    def error(self, t: ArrayLike) -> Array:
        """Estimated relative error of `integral(t)`, an upper estimate; NaN if eta is not finite.

        Under `jit`, `vmap` and `grad` this replaces the warning that `integral` gives outside them.
        """
        return quadrature(self.function, self.breaks, checked_times(t))[1]


def _judge(error: Array, seen: Array) -> None:
    """Raise for a negative rate, warn for an imprecise integral; both are concrete."""
    largest, low = np.asarray(seen)
    if low < -1e-6 * largest:
        raise ValueError(
            f"The callable schedule must not be negative, but falls to {low:.3g}; clip it at 0 or "
            "ask for earlier times."
        )
    bound = max(1e-12, 84 * float(jnp.finfo(error.dtype).eps))
    worst = float(np.max(np.asarray(error), initial=0.0))
    if not worst <= bound:
        warnings.warn(
            f"The integral of the callable schedule has an estimated relative error "
            f"of {worst:.1e}, more than {bound:.0e}; state where it is not smooth as `breaks`.",
            QuadratureWarning,
            stacklevel=4,
        )
