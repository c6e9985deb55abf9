"""What a linear run finds once, at its start: how its leading part is watched, and the start as residuals see it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unhinged_jax.linear.leading_part import Leading
from unhinged_jax.linear.row_space import RowSpace
from unhinged_jax.linear.spectrum import without
from unhinged_jax.special import safe_norm


class Watch(NamedTuple):
    """How the leading part is watched: its unit direction (H, residual, W), the log of its norm, and one column of it.

    The column is along the longest row of the leading part, so that it is never nearly orthogonal to it; `unit_H` and
    `unit_W` are that column of the unit direction. `led`: whether there is a leading part at all.
    """

    direction: list[jax.Array]
    log_start: jax.Array
    probe: jax.Array
    unit_H: jax.Array
    unit_W: jax.Array
    led: jax.Array


def watched(space: RowSpace, leading: Leading, lead_H: jax.Array) -> Watch:
    """How the leading part of a start is watched."""
    H, W = space.metric(lead_H), leading.prototypes
    if leading.kind == "anchored":
        W = jnp.zeros_like(W)
    elif leading.kind == "frozen":
        H = jnp.zeros_like(H)
    size = safe_norm(H, W)
    led, size = size > 0, jnp.where(size > 0, size, 1.0)
    rows = jax.lax.stop_gradient(lead_H if leading.kind == "anchored" else leading.prototypes)
    largest = jnp.max(jnp.abs(rows))
    rows = rows / jnp.where(largest > 0, largest, 1.0)  # squares of rows may under- or overflow
    longest = rows[jnp.argmax(jnp.sum(rows**2, axis=1))]
    length = jnp.linalg.norm(longest)
    probe = (longest / jnp.where(length > 0, length, 1.0))[:, None]
    direction = [H / size, jnp.zeros((), W.dtype), W / size]
    return Watch(direction, jnp.log(size), probe, lead_H @ probe / size, leading.prototypes @ probe / size, led)


class Seen(NamedTuple):
    """The start as the residual r sees it, so that logits need no product over the feature dimension.

    `start` is [S_0; W_0] r^T, (2C, n); `leading` is the prototypes of the leading part times r^T, (C, n).
    """

    start: jax.Array
    leading: jax.Array | None


def seen_by_residuals(H: jax.Array, W: jax.Array, residual: jax.Array, leading: Leading | None) -> Seen:
    """The start (H, W) as the residual sees it."""
    lead = None if leading is None else (W if leading.kind == "anchored" else leading.prototypes) @ residual.T
    return Seen(jnp.concatenate([H, W]) @ residual.T, lead)


def of_present(present: jax.Array, X: jax.Array) -> jax.Array:
    """Rows of balanced classes, (C, columns), without differences or without what is shared, if the start has none."""
    mean = jnp.mean(X, axis=0)
    return without(X - mean, present[0]) + without(jnp.broadcast_to(mean, X.shape), present[1])
