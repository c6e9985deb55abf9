"""The limit of squared error with more than two factors, from a balanced spectral start without decay.

Every mode that the start has, with a part along a singular value sigma of the targets, ends where its share of the
logits is the whole of it, q a^L = sigma, however small it was. The distance falls like e^(-L x rho^(-beta) tau), with
the share rho = c/x that it had at the start, see `closed_form.deep_squared`. Modes without a target, or on the wrong
side of it, decay like a power of time.

Source: beyond the paper; the modes are those of Saxe, McClelland & Ganguli 2014.
"""

from __future__ import annotations

import jax.numpy as jnp

from unhinged_jax._request.compiling import compiled
from unhinged_jax.closed_form.deep import grown, start_of
from unhinged_jax.dynamics import Flow
from unhinged_jax.limits.deep import whole_direction
from unhinged_jax.limits.result import Limit
from unhinged_jax.model import LayerPeeled, State


@compiled()
def deep_squared(model: LayerPeeled, flow: Flow, state: State, known: bool) -> Limit:
    """The limit; the direction is that of all factors together."""
    start, dtype, depth = start_of(model, flow, state, known), state.W.dtype, model.depth
    assert start.squared is not None
    brake, drive, there = start.squared.log_brake, start.drive, start.there
    eps = float(jnp.finfo(dtype).eps)
    pulled = there & (start.sign > 0)
    log_drive = jnp.where(pulled, start.log_drive, 0.0)
    share = brake - log_drive
    target = jnp.where(pulled, depth / (2 * depth - 2) * brake - share, -jnp.inf)  # log sigma, but for a constant
    alive = pulled & (target >= jnp.max(target) + 0.75 * jnp.log(eps))
    some = jnp.any(alive)
    # If no mode has a target, those that nothing pulls last longest: a -> (c (2L-2) tau)^(-1/(2L-2)) of the start.
    free = there & (start.log_drive <= 0.75 * jnp.log(eps) + jnp.max(jnp.where(there, start.log_drive, -jnp.inf)))
    fading = -jnp.where(there & ~free & (start.sign != 0), start.log_drive, 0.0) / (depth - 2)
    fading = jnp.where(jnp.any(free), jnp.where(free, -brake / (2 * depth - 2), -jnp.inf), fading)
    log_growth = jnp.where(some, jnp.where(alive, -share / depth, -jnp.inf), fading)
    direction = whole_direction(
        grown(start, jnp.where(jnp.isfinite(log_growth), log_growth, -1e30), jnp.ones(()), state.b).state()
    )
    moves = alive & (jnp.abs(share) > eps**0.75)
    speeds = depth * jnp.exp(log_drive - (1 - 2 / depth) * share)
    rate = jnp.min(jnp.where(moves, speeds, jnp.inf))
    rate = jnp.where(jnp.any(there & ~alive), 0.0, rate)
    rates = jnp.sqrt(jnp.asarray(flow.rate_H * flow.rate_W, dtype))
    threshold = (jnp.maximum(jnp.max(jnp.where(there, drive, -jnp.inf)), 0.0) / rates) ** 2
    zero = jnp.zeros((), dtype)
    return Limit(direction, rate, rate, rate, zero, threshold, threshold, zero, zero)
