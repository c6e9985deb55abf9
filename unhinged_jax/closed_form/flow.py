"""The modes of a flow at one moment, p(x) = e^{x zeta - x^2 q}, with q = 0 for plain gradients."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float, Shaped

from unhinged_jax.closed_form.modes import Coefficients, exponents, flow_coefficients
from unhinged_jax.linear.rates import Rates
from unhinged_jax.special import phi1


class Moment(NamedTuple):
    """How far a flow is: p(x) = e^{x zeta - x^2 q}.

    Attributes:
        zeta: The integral of its rate, ().
        damped: q, () (see `paced`); None for 0.
    """

    zeta: Float[jax.Array, "*T"]
    damped: Float[jax.Array, "*T"] | None = None

    def log_power(self, x: jax.Array) -> jax.Array:
        """log p(x)."""
        return x * self.zeta if self.damped is None else x * (self.zeta - x * self.damped)


def coefficients_at(
    g: Float[jax.Array, "k"],
    rates: Rates,
    moment: Moment,
    present: Shaped[jax.Array, "k"],
    least: ArrayLike = -jnp.inf,
    sums: bool = False,
) -> tuple[Coefficients, Float[jax.Array, ""]]:
    """Coefficients of a flow at a moment, divided by a common e^log that is at least `least`, and that logarithm.

    With K^2 = K tr K - det K, p(K) = e^{K zeta - K^2 q} is e^{det(K) q} e^{K (zeta - tr(K) q)}: the modes of plain flow
    at a later time. Only p(-r1 l1), which the features' own decay brings in, is another one. `F_from_F` is given if
    `sums` is True.
    """
    log_scale, by_mode = exponents(g, rates, moment.log_power, present)
    log_scale, by_mode = (jnp.maximum(log, least) for log in (log_scale, by_mode))
    own = jnp.exp(moment.log_power(-rates.a) - log_scale)
    if moment.damped is None:
        found = flow_coefficients(g, rates, moment.zeta, by_mode)
    else:
        q, coupling = moment.damped, rates.r1 * rates.r2 * g
        later = moment.zeta + (rates.a + rates.c) * q
        found = flow_coefficients(g, rates, later, by_mode - (rates.a * rates.c - coupling) * q)
        lost = q * phi1(coupling * q) * jnp.exp(moment.log_power(-rates.a) - by_mode)
        found = dataclasses.replace(found, H_from_F=found.H_from_F - rates.r1 * rates.r2 * lost)
    return dataclasses.replace(found, H_from_H=own, F_from_F=found.F_from_F if sums else None), log_scale
