"""The limit of a descent by an optimiser whose gradient is constant: where its decoupled decay stops it, if it has one.

With the update u that the optimiser tends to, W goes to -u / lambda, by the factor 1 - eta l lambda at each update; or,
without decay, along -u forever. So do H and W together under spectral descent from aligned starts.

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
from unhinged_jax.special import safe_norm


@compiled()
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
        return Factor(log_factor(-shrinks), angle, jnp.ones_like(angle))

    bias = bias_limit(state.b, -settled["b"], decay, found("b").log) if "b" in settled else state.b
    if model.moves.coupled:
        log_H, log_W = (jnp.where(decay > 0, found(name).log, 0.0) for name in ("H", "W"))
        H, W = (jnp.where(decay > 0, 1.0, rates[name][0]) * -settled[name] for name in ("H", "W"))
        return _together(State(H, W, bias), log_H, log_W, decay)
    moving = "H" if model.moves.H else "W"
    limit = towards(model, start.state, -settled[moving], decay, found(moving), bias)
    ending = jnp.where(limit.ending == LINE, ROOT, limit.ending) if fading(descent.optimizer) else limit.ending
    return dataclasses.replace(limit, ending=ending)


def _together(pull: State, log_H: jax.Array, log_W: jax.Array, decay: jax.Array) -> Limit:
    """The limit of both parts, which go to `pull` over the decay, by these logarithms at each update."""
    size = safe_norm(pull.H, pull.W)
    unit = 1 / jnp.where(size > 0, size, 1.0)
    none, zero = jnp.full_like(decay, jnp.inf), jnp.zeros_like(decay)
    slower = jnp.minimum(-log_H, -log_W)
    ending = jnp.where((decay == 0) & (size > 0), LINE, 0)
    direction = State(unit * pull.H, unit * pull.W, pull.b)
    return Limit(direction, slower, -log_H, -log_W, zero, none, none, zero, ending, moving="driven")


def rate_now(descent: Descent) -> jax.Array:
    """The rate of the next update of a descent, from its schedule and from that of its optimiser, ()."""
    rate = descent.schedule(0)
    if descent.optimizer is None:
        return rate
    inside = given_to(descent.optimizer, "learning_rate")
    return rate * (inside(0) if callable(inside) else inside)
