"""How far a state is from a fixed direction, without cancellation however near it is.

With the state sign e^log_amplitude d + e^log_rest X, d of norm 1, and phi the angle between it and d,

    | state / |state| - d | = 2 sin(phi / 2),     tan(phi) = |X across d| / (amplitude + X along d),

a ratio of two computed numbers and never a difference of nearly equal ones.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from unhinged_jax._platform import on_accelerator
from unhinged_jax.special import over_all, safe_log, safe_norm

Orthonormal = list[Float[jax.Array, "..."]]
"""A state, or some of its arrays, in orthonormal coordinates, so that its squared norm is the sum of all squares.

A state is [H in the coordinates of `RowSpace.metric` (rows, p), norm of the residual (), W (C, p)].
"""

_FEW = 2**13  # numbers; copies of more of them cost more than a second copy of the code


class Split(NamedTuple):
    """A state as amplitude times a fixed unit direction plus a remainder, for the distance between directions.

    `direction` and `rest` are lists of arrays with equal shapes, in orthonormal coordinates. The state is
    sign e^log_amplitude direction + e^log_rest rest; `whole` is the same state, over any scale, for where the sum
    cancels.
    """

    direction: Orthonormal
    rest: Orthonormal
    log_amplitude: Float[jax.Array, ""]
    sign: Float[jax.Array, ""]
    log_rest: Float[jax.Array, ""]
    whole: Orthonormal


class Reference(NamedTuple):
    """What a continued run refers to: the leading part at the start of the first run, seen from this one.

    `turn` is -1 if the leading part has changed its sign since then, else 1. The leading part of the first start is
    e^log_start (direction + beside), with the direction of this run after that turn.
    """

    turn: Float[jax.Array, ""]
    log_start: Float[jax.Array, ""]
    beside: Orthonormal


def reference(direction: Orthonormal, origin: Orthonormal, log_scale: Float[jax.Array, ""]) -> Reference:
    """The reference of a run with a unit direction, whose first start has the leading part e^log_scale origin."""
    size = safe_norm(*origin)
    unit = [part / jnp.where(size > 0, size, 1.0) for part in origin]
    along = sum((jnp.sum(d * x) for d, x in zip(direction, unit, strict=True)), jnp.zeros(()))
    # The same dynamics keeps the direction up to its sign; a different dynamics has a different direction.
    turn = jax.lax.stop_gradient(jnp.where(along < -0.999, -1.0, 1.0)).astype(size.dtype)
    share = jnp.where(jnp.abs(along) > 0.5, turn * along, 1.0)
    share = jnp.where(share > 0, share, 1.0)
    beside = [x / share - turn * d for d, x in zip(direction, unit, strict=True)]
    return Reference(turn, safe_log(size) + jnp.log(share) + log_scale, beside)


def turned(split: Split, turn: Float[jax.Array, ""]) -> Split:
    """The same state, split along its direction times 1 or -1."""
    return split._replace(direction=[turn * part for part in split.direction], sign=turn * split.sign)


def split_part(split: Split, which: slice) -> Split:
    """The split of some of the arrays (features alone, say), with their direction normalised again."""
    direction = split.direction[which]
    size = safe_norm(*direction)
    safe = jnp.where(size > 0, size, 1.0)
    return split._replace(
        direction=[part / safe for part in direction],
        rest=split.rest[which],
        whole=split.whole[which],
        log_amplitude=split.log_amplitude + safe_log(size),
    )


def log_distance(split: Split) -> Float[jax.Array, ""]:
    """log of the distance between the unit vector of the state and the direction, exact however small it is.

    With phi the angle between them the distance is 2 sin(phi/2), and tan(phi) = |rest across| / (amplitude + rest
    along). If the last two nearly cancel, for example in a part that starts far smaller than the other, the whole state
    is compared. If the limit or the state has no direction, the distance is NaN.
    """
    few = sum(part.size for part in split.direction) <= _FEW
    if few:  # compiled once for both
        both = [jnp.stack(parts) for parts in zip(split.rest, split.whole, strict=True)]
        (along, ahead_whole), (across, aside_whole) = jax.vmap(partial(_components, split.direction))(both)
    else:
        along, across = _components(split.direction, split.rest)
    led = safe_norm(*split.direction) > 0
    common = jax.lax.stop_gradient(jnp.maximum(split.log_amplitude, split.log_rest))
    common = jnp.where(jnp.isfinite(common), common, 0.0)
    lead, shrink = split.sign * jnp.exp(split.log_amplitude - common), jnp.exp(split.log_rest - common)
    ahead = lead + along * shrink
    aside, log_aside = across * shrink, safe_log(across) + (split.log_rest - common)
    cancel = jnp.maximum(jnp.abs(ahead), aside) < jnp.abs(lead) / 8
    if not few:
        whole = partial(_components, split.direction, split.whole)  # passes over large arrays, which are hardly needed
        ahead_whole, aside_whole = whole() if on_accelerator() else jax.lax.cond(cancel, whole, lambda: (ahead, aside))
    ahead, aside = jnp.where(cancel, ahead_whole, ahead), jnp.where(cancel, aside_whole, aside)
    log_aside = jnp.where(cancel, safe_log(aside_whole), log_aside)
    there = (ahead != 0) | (aside != 0)
    angle = jnp.arctan2(aside, jnp.where(there, ahead, 1.0))
    small = (aside < 1e-3 * ahead) & (log_aside > -jnp.inf)
    log_tangent = log_aside - jnp.log(jnp.where(small, ahead, 1.0))
    # log(2 sin(phi/2)) = log(tan phi) - (3/8) tan^2 phi + O(tan^4 phi), sharp to 1e-13 below 1e-3
    square = jnp.exp(2 * jnp.where(small, log_tangent, 0.0))
    near = log_tangent - 3 / 8 * square + 11 / 64 * square**2
    far = safe_log(2 * jnp.abs(jnp.sin(jnp.where(small, 1.0, angle) / 2)))
    return jnp.where(led & there, jnp.where(small, near, far), jnp.nan)


def _components(direction: Orthonormal, parts: Orthonormal) -> tuple[Float[jax.Array, ""], Float[jax.Array, ""]]:
    """The component of a vector along a unit direction, and the length of what is left."""
    along = sum((over_all(jnp.sum, d * x) for d, x in zip(direction, parts, strict=True)), jnp.zeros(()))
    return along, safe_norm(*(x - along * d for d, x in zip(direction, parts, strict=True)))
