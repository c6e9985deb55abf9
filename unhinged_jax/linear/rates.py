"""The rates r_1, r_2 of a proportional dynamics, its decay rates a = r_1 lambda_1 and c = r_2 lambda_2, and those of b.

Time is measured by zeta, the integral of the schedule, so that the rates are constant. A part that stays has rate 0.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from unhinged_jax.dynamics import Dynamics
from unhinged_jax.model import LayerPeeled


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rates:
    """Rates per unit of zeta, each ().

    Attributes:
        a: The decay rate r_1 lambda_1 of H.
        c: The decay rate r_2 lambda_2 of W.
        r1, r2: The rates of H and of W at a schedule of 1.
    """

    a: Float[jax.Array, ""]
    c: Float[jax.Array, ""]
    r1: Float[jax.Array, ""]
    r2: Float[jax.Array, ""]


def unit_rates(model: LayerPeeled, dynamics: Dynamics, dtype: DTypeLike) -> Rates:
    """The rates of a proportional dynamics at a schedule of 1."""
    r1 = jnp.asarray(dynamics.rate_H if model.moves.H else 0.0, dtype)
    r2 = jnp.asarray(dynamics.rate_W if model.moves.W else 0.0, dtype)
    return Rates(r1 * model.decay_H, r2 * model.decay_W, r1, r2)


class BiasRates(NamedTuple):
    """Rates of the biases per unit of zeta, b' = rate M^T 1 - decay b, each ()."""

    decay: Float[jax.Array, ""]
    rate: Float[jax.Array, ""]


def bias_rates(model: LayerPeeled, dynamics: Dynamics, rates: Rates) -> BiasRates:
    """The rates of the biases beside those of H and W: those of W, unless biases move and have their own."""
    if not model.moves.b or (model.decay_b is None and dynamics.rate_b is None):
        return BiasRates(rates.c, rates.r2)
    rate = jnp.asarray(dynamics.rates.b, rates.r2.dtype)
    return BiasRates(rate * model.decays.b, rate)
