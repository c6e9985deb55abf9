"""The damping of a flow that has inertia."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from unhinged_jax import _check
from unhinged_jax._values import Value
from unhinged_jax.dynamics.rates import is_number


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Nesterov(Value):
    """The damping 3/t of Nesterov's flow, which `Flow(damping="nesterov")` has.

    Example:
        >>> import unhinged_jax as uj
        >>> uj.Flow(damping="nesterov").damping
        Nesterov()
    """


def as_damping(damping: Any) -> Any:
    """The damping of a flow: a number, `Nesterov()`, or None; placeholders that JAX puts into leaves are left alone."""
    if isinstance(damping, str):
        if damping != "nesterov":
            raise ValueError(f"damping must be a number or 'nesterov', but got {_check.given(damping)}.")
        return Nesterov()
    if callable(damping):
        raise ValueError("damping must be one number or 'nesterov', but got a function.")
    if is_number(damping):
        check_damping(damping)
    return damping


def check_damping(damping: Any) -> None:
    """Raise unless a damping is a number of at least 0, as far as it is known, or `Nesterov()`."""
    if not isinstance(damping, Nesterov):
        _check.non_negative("damping", damping)


def resistance(damping: Any, time: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What multiplies velocity and force in the acceleration at a time, (), ().

    At the time 0 of Nesterov's flow the velocity is 0, and 3/t times it has the limit 3 Z'', so that Z'' is a quarter
    of the force.
    """
    if not isinstance(damping, Nesterov):
        return jnp.asarray(damping, time.dtype), jnp.ones_like(time)
    begins = time <= 0
    return jnp.where(begins, 0.0, 3 / jnp.where(begins, 1.0, time)), jnp.where(begins, 0.25, 1.0)
