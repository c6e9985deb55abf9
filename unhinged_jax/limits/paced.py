"""The limit of a run whose gradients are clipped or normalised: that of a plain run by another clock.

Such a run is where a plain one is, at another zeta. If something grows, gradients become long, so every step ends up
with the same length c (1 if normalised), in a descent, too, however large its first steps are: the winner is that of
the flow, with mu > 0, and since the gradient of a direction u at unit rates is mu u/r,

    ||Z|| = c t/||u/r||,    zeta = log(t)/mu,    error = t^(-rate/mu).

If nothing grows, gradients become short. A clipped run then becomes a plain one, and a normalised flow comes to its end
after a finite time; unless a bias without decay, or a part that is pulled without decay, keeps the gradient at a length
g, by which all rates are divided, or multiplied by c/g if it is above c. Steps of a descent that stay as long, or that
throw back what they should take away, end in oscillations about the minimum: at |z| < eta c/2 the update
z <- z - eta c sign(z) has the period 2 for any z, so that there is no limit.

Source: beyond the paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from unhinged_jax.dynamics import Descent, Flow
from unhinged_jax.labels.held_out import of_training
from unhinged_jax.limits.linear import features_of
from unhinged_jax.limits.result import ARRIVES, HOVERS, ONE_LENGTH, Limit
from unhinged_jax.linear.row_space import row_space
from unhinged_jax.model import LayerPeeled, State, multiplied
from unhinged_jax.special import safe_norm

Solver = Callable[[LayerPeeled, Any, State, str], Limit]


def paced(model: LayerPeeled, dynamics: Flow | Descent, state: State, target: str, solve: Solver) -> Limit:
    """The limit, from those of a plain flow and of plain steps, which `solve` finds."""
    dtype = state.W.dtype
    plain = dataclasses.replace(dynamics, clip_norm=None, normalized=False)
    flow = Flow(rate_H=dynamics.rate_H, rate_W=dynamics.rate_W, rate_b=dynamics.rate_b)
    left = _lasting(model, state)
    lasts = left > 0
    if dynamics.normalized:
        factor = jnp.where(lasts, 1 / jnp.where(lasts, left, 1.0), 1.0)
    else:
        most = jnp.asarray(dynamics.clip_norm, dtype)
        factor = jnp.where(left > most, most / jnp.where(lasts, left, 1.0), 1.0)
    short = ~lasts if dynamics.normalized else jnp.zeros((), bool)  # whether steps stay long as gradients vanish
    if isinstance(dynamics, Descent):
        slowed = dataclasses.replace(plain, schedule=dynamics.schedule(0) * factor)
        found = solve(model, slowed, state, target)
        # What stays at 0 is not thrown about.
        moving = safe_norm(state.H, state.W, *([state.b, _drift(model, dtype)] if model.moves.b else []))
        hovers = (short & (moving > 0)) | (found.exponent > 0)
        found = _hovering(model, found, hovers)
        unit = jnp.asarray(dynamics.schedule(0), dtype)
    else:
        found = solve(model, flow, state, target)
        found = _arriving(_faster(found, factor), short)
        unit = jnp.ones((), dtype)
    zero = jnp.zeros((), dtype)
    found = dataclasses.replace(found, speed=zero, power=zero)
    if not model.moves.coupled:
        return found
    top, grown = solve(model, flow, state, "top"), solve(model, flow, state, target)
    length = 1.0 if dynamics.normalized else jnp.asarray(dynamics.clip_norm, dtype)
    return _either(top.exponent > 0, _growing(model, dynamics, grown, top, unit * length), found)


def _lasting(model: LayerPeeled, state: State) -> Float[jax.Array, ""]:
    """The length of what stays of the gradient if nothing grows: of parts that are pulled without decay, ()."""
    dtype = state.W.dtype
    parts = []
    if not model.moves.coupled:
        H, W = multiplied(state)
        space = row_space(model, dtype)
        moving_W = model.moves.W
        pull = space.signal.transpose_times(H) if moving_W else of_training(model.labels, features_of(model, space, W))
        parts.append(jnp.where(jnp.asarray(model.decay_W if moving_W else model.decay_H) == 0, pull, 0.0))
    if model.moves.b:
        parts.append(jnp.where(jnp.asarray(model.decays.b) == 0, _drift(model, dtype), 0.0))
    return safe_norm(*parts) if parts else jnp.zeros((), dtype)


def _drift(model: LayerPeeled, dtype: DTypeLike) -> Float[jax.Array, "C"]:
    """What pulls the biases, M^T 1, without rounding of what cancels."""
    drift = model.signal().column_sums(dtype)
    return jnp.where(jnp.abs(drift) > 8 * jnp.finfo(dtype).eps, drift, 0.0)


def _faster(found: Limit, factor: jax.Array) -> Limit:
    """The limit of a flow whose gradients are multiplied by a factor in the end."""
    names = ("rate", "rate_H", "rate_W", "exponent")
    return dataclasses.replace(found, **{name: factor * getattr(found, name) for name in names})


def _arriving(found: Limit, short: jax.Array) -> Limit:
    """The limit of a flow that ends after a finite time if its gradients are `short`."""
    never = jnp.full_like(found.rate, jnp.inf)
    rates: dict[str, Any] = {
        name: jnp.where(short, never, getattr(found, name)) for name in ("rate", "rate_H", "rate_W")
    }
    exponent = jnp.where(short & (found.exponent < 0), -never, found.exponent)
    return dataclasses.replace(found, **rates, exponent=exponent, ending=jnp.where(short, ARRIVES, found.ending))


def _hovering(model: LayerPeeled, found: Limit, hovers: jax.Array) -> Limit:
    """The limit of a descent that ends in oscillations if it `hovers`."""

    def unknown(value: jax.Array, moves: bool) -> jax.Array:
        return jnp.where(hovers, jnp.nan, value) if moves else value

    d, moves = found.direction, model.moves
    direction = State(unknown(d.H, moves.H), unknown(d.W, moves.W), unknown(d.b, moves.b))
    none: dict[str, Any] = {
        name: jnp.where(hovers, 0.0, getattr(found, name)) for name in ("rate", "rate_H", "rate_W", "exponent")
    }
    ending, angle = jnp.where(hovers, HOVERS, found.ending), jnp.where(hovers, 0.0, found.angle)
    return dataclasses.replace(found, direction=direction, ending=ending, angle=angle, **none)


def _growing(model: LayerPeeled, dynamics: Flow | Descent, grown: Limit, top: Limit, length: jax.Array) -> Limit:
    """The limit of a run that grows, by steps of this length along the gradient."""
    grows = top.exponent > 0
    exponent = jnp.where(grows, top.exponent, 1.0)
    u, dtype = top.direction, top.rate.dtype
    rates = (jnp.asarray(rate, dtype) for rate in (dynamics.rate_H, dynamics.rate_W))
    steep = safe_norm(*(part / rate for part, rate in zip((of_training(model.labels, u.H), u.W), rates, strict=True)))
    zero = jnp.zeros((), dtype)
    nothing: dict[str, Any] = dict.fromkeys(("rate", "rate_H", "rate_W", "exponent", "angle"), zero)
    return dataclasses.replace(
        grown,
        **nothing,
        ending=jnp.full((), ONE_LENGTH),
        speed=jnp.where(grows, length / jnp.where(steep > 0, steep, 1.0), zero),
        power=jnp.where(grows, grown.rate / exponent, zero),
    )


def _either(first: jax.Array, one: Limit, other: Limit) -> Limit:
    chosen: Limit = jax.tree.map(lambda a, b: jnp.where(first, a, b), one, other)
    return chosen
