"""The limit of a descent by an optimiser whose gradient is constant: where its decoupled decay stops it, if it has one.

With the update u that the optimiser tends to, W goes to -u / lambda, by the factor 1 - eta l lambda at each update; or,
without decay, along -u forever.

Source: beyond the paper.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from unhinged_jax._request.compiling import compiled
from unhinged_jax.closed_form.constant_gradient import rates_of, start_of
from unhinged_jax.closed_form.modes import log_factor
from unhinged_jax.closed_form.recognised import fading, given_to
from unhinged_jax.dynamics import Descent
from unhinged_jax.limits.factors import Factor
from unhinged_jax.limits.linear import bias_limit, towards
from unhinged_jax.limits.result import LINE, ROOT, Limit
from unhinged_jax.model import LayerPeeled, State


@compiled
def optimized(model: LayerPeeled, descent: Descent, state: State, target: str) -> Limit:
    """The limit of equal updates, as large as the first."""
    zero = jnp.zeros((), jnp.int32)
    start = start_of(model, descent, state, None, zero)
    rates, settled = rates_of(start, zero), start.rule.settled
    given = given_to(descent.optimizer, "weight_decay", 0.0)
    decay = jnp.asarray(given(zero) if callable(given) else given, state.W.dtype)

    def found(name: str) -> Factor:
        shrinks = rates[name][1]
        angle = jnp.where(shrinks > 1, jnp.pi, jnp.zeros_like(shrinks))
        return Factor(log_factor(-shrinks), angle, jnp.full_like(angle, -jnp.inf))

    moving = "H" if model.moves.H else "W"
    bias = bias_limit(state.b, -settled["b"], decay, found("b").log) if "b" in settled else state.b
    limit = towards(model, start.state, -settled[moving], decay, found(moving), bias)
    ending = jnp.where(limit.ending == LINE, ROOT, limit.ending) if fading(descent.optimizer) else limit.ending
    return dataclasses.replace(limit, ending=ending)


def rate_now(descent: Descent) -> jax.Array:
    """The rate of the next update of a descent, from its schedule and from that of its optimiser, ()."""
    rate = descent.schedule(0)
    if descent.optimizer is None:
        return rate
    inside = given_to(descent.optimizer, "learning_rate")
    return rate * (inside(0) if callable(inside) else inside)
