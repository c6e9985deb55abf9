"""The limit of squared error from a balanced start: which singular values of the logits survive, and how fast.

A singular value s of the targets survives as that of H W^T if its eigenvalue mu+ is above 0, the start has a part
along it, and one of the p dimensions is left for it, after those of larger values. Without kappa it is then
mu+ = s - lambda / q, with lambda^2 = lambda_1 lambda_2 and q = 1/n: for one-hot targets

    max(0, sqrt(n_c) - n sqrt(lambda_1 lambda_2)),

which are those of the global minimiser, so classes die one by one as the decay grows, the smallest first.

Source: beyond the paper; for balanced classes Tirer & Bruna 2022.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from unhinged_jax._request.compiling import compiled
from unhinged_jax.closed_form.balance import Form
from unhinged_jax.closed_form.squared_error import Start, moment, start_of
from unhinged_jax.dynamics import Flow
from unhinged_jax.limits.result import Limit, Survivors
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.special import largest, safe_norm


@compiled()
def squared(model: LayerPeeled, flow: Flow, state: State, form: Form) -> Limit:
    """The limit, whose direction is known up to a rotation of the feature space."""
    start, dtype = start_of(model, flow, state, form), state.W.dtype
    size = largest(start.growth)
    never = 1 / (jnp.where(size > 0, size, 1.0) * jnp.finfo(dtype).eps ** 0.75 * start.speed)
    last = moment(start, jax.lax.stop_gradient(never)).state()
    length = safe_norm(last.H, last.W)
    length = jnp.where(length > 0, length, 1.0)
    count = start.angle.shape[0]
    up = jnp.arange(2 * count) < count
    alive = start.leads & up & (start.growth > 0)
    seen = jnp.max(jnp.abs(start.rows), axis=1, initial=0.0) > _noise(start)
    top = jnp.max(jnp.where(seen, start.growth, -jnp.inf))
    lags = _lags(start, alive, top)
    speed, zero = start.speed, jnp.zeros((), dtype)
    threshold = (speed * jnp.max(start.targets.values)) ** 2 / jnp.asarray(flow.rate_H * flow.rate_W, dtype)
    survive = jnp.where(alive, start.growth, 0.0)[:count] * jnp.sin(2 * start.angle)
    return Limit(
        State(last.H / length, last.W / length, state.b),
        rate=speed * jnp.min(jnp.stack(lags)),
        rate_H=speed * jnp.minimum(lags.both, lags.rest),
        rate_W=speed * jnp.minimum(lags.both, 2 * lags.rest),
        exponent=jnp.where(jnp.any(alive), zero, speed * top),
        threshold=threshold,
        excess=threshold - model.decay_H * model.decay_W,
        angle=zero,
        ending=zero,
        survivors=Survivors(survive, _possible(start, model.dim), form.one_hot),
    )


def _noise(start: Start) -> jax.Array:
    return jnp.finfo(start.rows.dtype).eps ** 0.75 * jnp.maximum(largest(start.rows), largest(start.rest))


class _Lags(NamedTuple):
    """How far what decays is behind what stays, in units of the speed, () each.

    Attributes:
        both: What delays H and W alike.
        rest: The rest, a part of H alone.
        beside: Rows of mu- in free dimensions. As an error of H or of W alone it is a rotation.
    """

    both: jax.Array
    rest: jax.Array
    beside: jax.Array


def _lags(start: Start, alive: jax.Array, top: jax.Array) -> _Lags:
    """The lags.

    An entry of a row decays like e^((mu - nu) T) in a dimension that a row with nu = mu+ has taken, and like e^(mu T)
    in one that is free, or that the rest takes with nu = kappa/2. What has taken a dimension gets there like
    e^(-2 nu T). If nothing stays, all is compared with the top row.
    """
    some, noise, mu = jnp.any(alive), _noise(start), start.growth
    taken = jnp.zeros(start.rows.shape[1], mu.dtype).at[start.reach - 1].max(jnp.where(alive, mu, 0.0))
    free = some & (taken == 0)
    taken = jnp.where(some, jnp.maximum(taken, jnp.maximum(start.growth_rest, 0.0)), top)
    slack = jnp.finfo(mu.dtype).eps ** 0.6 * largest(mu)

    def least(entries: jax.Array, mu: jax.Array, counts: ArrayLike) -> jax.Array:
        lag = taken - mu
        ended = (taken != 0) & (jnp.abs(lag) <= slack)
        return jnp.min(jnp.where((jnp.abs(entries) > noise) & counts & ~ended, lag, jnp.inf))

    own = jnp.min(jnp.where(some, jnp.where(alive, 2 * mu, jnp.inf), 2 * jnp.abs(top)))
    up = (jnp.arange(mu.shape[0]) < start.angle.shape[0])[:, None]
    others = least(start.rows, mu[:, None], ~alive[:, None] & (up | ~free))
    rest, beside = least(start.rest, start.growth_rest, True), least(start.rows, mu[:, None], ~up & free)
    return _Lags(jnp.minimum(own, others), rest, beside)


def _possible(start: Start, dim: int) -> jax.Array:
    """The singular values of the logits at the global minimum, each in the place of that of the targets, (k,)."""
    count = start.angle.shape[0]
    value = jnp.maximum(start.growth[:count], 0.0) * jnp.sin(2 * start.angle)
    place = jnp.argsort(jnp.argsort(-value))
    return jnp.where(place < dim, value, 0.0)
