"""The force on the arrays of a linear run: H' = lift(W) - lambda_1 H, W' = gather(H) - lambda_2 W.

The arrays are class sums or features and prototypes; or, for balanced classes, what one class tells of all.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from unhinged_jax import _numbers
from unhinged_jax.linear.row_space import RowSpace
from unhinged_jax.model import LayerPeeled
from unhinged_jax.signal import ClassSignal


class Coupling(Protocol):
    """What the signal makes of H and W: a row space, or one class of it that tells of all."""

    def lift(self, carrier: jax.Array) -> jax.Array:
        """Theta M carrier."""
        ...

    def gather(self, H: jax.Array) -> jax.Array:
        """M^T H."""
        ...


class OneClass(NamedTuple):
    """One of balanced classes, all of which add up to so many times it: 0 in a difference, C in what all share.

    `mode` is the place of that in `BalancedSpectrum`.
    """

    space: RowSpace
    times: int
    mode: int

    def gather(self, H: jax.Array) -> jax.Array:
        signal = self.space.signal
        assert isinstance(signal, ClassSignal)
        gamma = _numbers.like(signal.gamma, H.dtype)
        return (1 + gamma) * H - gamma * (self.times * H)

    def lift(self, carrier: jax.Array) -> jax.Array:
        return self.space.divisor[0] * self.gather(carrier)


def force(model: LayerPeeled, coupling: Coupling, H: jax.Array, W: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(H', W') at unit rates, any number of columns; a part that stays has velocity 0."""
    pull_H, pull_W = coupling.lift(W), coupling.gather(H)
    move_H = pull_H - model.decay_H * H if model.moves.H else jnp.zeros_like(H)
    move_W = pull_W - model.decay_W * W if model.moves.W else jnp.zeros_like(W)
    return move_H, move_W
