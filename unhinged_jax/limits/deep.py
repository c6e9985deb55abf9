"""The limit of a deep model from a balanced spectral start: which modes live, and when they are infinite.

In units of the start the modes follow g^(2-L) = 1 + (lambda - x) (e^y - 1)/lambda, y = (L-2) lambda tau, see
`closed_form.deep`. The mode with the largest drive x decides:

    x > lambda:  it is infinite at tau = -log(1 - lambda/x) / ((L-2) lambda), before all others;
    x = lambda:  it stays as it is, and all others decay;
    x < lambda:  every mode decays like e^(-lambda tau), a_0 (1 - x/lambda)^(-1/(L-2)) of it being left in the end.

So depth turns decay into a threshold of the start: a mode lives only if sigma a_0^(L-2) > lambda.

Source: beyond the paper; the modes are those of Saxe, McClelland & Ganguli 2014.
"""

from __future__ import annotations

import jax.numpy as jnp

from unhinged_jax._request.compiling import compiled
from unhinged_jax.closed_form.deep import bias_at, grown, start_of
from unhinged_jax.dynamics import Flow
from unhinged_jax.limits.linear import biases
from unhinged_jax.limits.result import Limit
from unhinged_jax.linear.rates import unit_rates
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.special import log1p_ratio, safe_log, safe_norm


@compiled()
def deep(model: LayerPeeled, flow: Flow, state: State, known: bool) -> Limit:
    """The limit; the direction is that of all factors together."""
    start, dtype, more = start_of(model, flow, state, known), state.W.dtype, model.depth - 2
    drive, decay, there = start.drive, start.decay, start.there
    top = jnp.max(jnp.where(there, drive, -jnp.inf))
    most = jnp.minimum(jnp.max(jnp.abs(jnp.where(there, drive, 0.0))), jnp.finfo(dtype).max)
    slack = jnp.finfo(dtype).eps ** 0.75 * jnp.maximum(decay, most)
    lag = decay - drive
    lives, stays = top - decay > slack, jnp.abs(top - decay) <= slack
    first = there & ((drive == top) | (top - drive <= slack))
    # A drive below the range, beside which there is no decay either, tells nothing.
    lost = ~lives & (decay == 0) & jnp.any(there & (drive == 0) & (start.sign > 0))
    safe = jnp.where(lives, top, 1.0)
    never = jnp.asarray(jnp.inf, dtype)
    # -log(1 - lambda/x) / lambda, which is 1/x without decay
    blow_up = jnp.where(lives, log1p_ratio(-jnp.where(lives, decay / safe, 0.0)) / (safe * more), never)
    alone, decays = ~jnp.any(there & ~first), decay > 0
    left = -safe_log(jnp.where(there & ~(lives | stays), lag, 1.0)) / more
    weight = jnp.where((lives | stays) & ~first, -jnp.inf, left)
    rate = jnp.where(stays, decay, more * decay)  # 0 without decay, where all that falls behind does so like a power
    rate = jnp.where(lost, jnp.nan, jnp.where(lives, 0.0, jnp.where(alone, never, rate)))
    exponent = jnp.where(lives, never, jnp.where(stays | ~decays, 0.0, -decay))
    b = biases(model, flow, unit_rates(model, flow, dtype), state)
    b = jnp.where(lives, bias_at(start, jnp.where(lives, blow_up, 0.0)), b)
    one = jnp.where(lost, jnp.nan, jnp.ones(()))
    direction = whole_direction(grown(start, jnp.where(jnp.isfinite(weight), weight, -1e30), one, b).state())
    rates = jnp.sqrt(jnp.asarray(flow.rate_H * flow.rate_W, dtype))
    threshold = (jnp.maximum(top, 0.0) / rates) ** 2
    excess = threshold - model.decay_H * model.decay_W
    zero = jnp.zeros((), dtype)
    return Limit(direction, rate, rate, rate, exponent, threshold, excess, zero, zero, blow_up=blow_up)


def whole_direction(state: State) -> State:
    """The direction of all factors of a deep model together, in the form of `Limit.direction`."""
    assert state.inner is not None
    size = safe_norm(state.H, state.W, state.inner)
    size = jnp.where(size > 0, size, 1.0)
    return State(state.H / size, state.W / size, state.b, inner=state.inner / size)
