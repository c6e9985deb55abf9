"""The force on the arrays of a linear run: H' = lift(W) - lambda_1 H, W' = gather(H) - lambda_2 W; and on its biases.

H and W are usually arrays with one row per class or sample. For balanced classes a 2-vector stands for each of them,
because all classes behave in the same way.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from unhinged_jax import _numbers
from unhinged_jax.linear.row_space import RowSpace
from unhinged_jax.model import LayerPeeled
from unhinged_jax.signal import ClassSignal
from unhinged_jax.simulation.system import Body


class Coupling(Protocol):
    """How the signal couples H and W: a `RowSpace` for arrays with all rows, or `OneClass` for a single mode."""

    def lift(self, carrier: jax.Array) -> jax.Array:
        """Theta M `carrier`, the force of W = `carrier` on H: (C, columns) -> (rows, columns)."""
        ...

    def gather(self, H: jax.Array) -> jax.Array:
        """M^T H, the force of H on W: (rows, columns) -> (C, columns)."""
        ...


class OneClass(NamedTuple):
    """The coupling of one mode of balanced classes, for arrays that hold the coefficients of that mode alone.

    With `BalancedPair` H and W are 2-vectors: the coefficients of H_0 and of W_0 in the row of any class, either in a
    difference between classes or in the mean of all. The same numbers hold for every class, so no rows are needed.

    Attributes:
        space: The row space, of class sums.
        times: The sum over all classes divided by one of them: 0 for a difference, C for the common mean.
        mode: Index of the mode in `BalancedSpectrum.values`: 0 for a difference, 1 for the common mean; None for an
            entry of either.
    """

    space: RowSpace
    times: int | jax.Array
    mode: int | None

    def gather(self, H: jax.Array) -> jax.Array:
        signal = self.space.signal
        assert isinstance(signal, ClassSignal)
        gamma = _numbers.like(signal.gamma, H.dtype)
        return (1 + gamma) * H - gamma * (self.times * H)

    def lift(self, carrier: jax.Array) -> jax.Array:
        assert self.space.first_weight is not None
        return self.space.first_weight * self.gather(carrier)


def both_modes(space: RowSpace, dtype: DTypeLike) -> OneClass:
    """The coupling of arrays (2,) with a coefficient of either mode: that of a difference, and that of the mean."""
    return OneClass(space, jnp.asarray([0, space.model.classes], dtype), None)


def force(model: LayerPeeled, coupling: Coupling, H: jax.Array, W: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(H', W') at unit rates, of the shapes of H and W; an array that stays has velocity 0."""
    pull_H, pull_W = coupling.lift(W), coupling.gather(H)
    move_H = pull_H - model.decay_H * H if model.moves.H else jnp.zeros_like(H)
    move_W = pull_W - model.decay_W * W if model.moves.W else jnp.zeros_like(W)
    return move_H, move_W


class Bias(eqx.Module):
    """The biases of a linear run: b' = drift - decay b at unit rates, or b' = 0 if they do not move.

    Attributes:
        start: b_0, (C,).
        drift: M^T 1, the column sums of the signal, (C,).
        decay: Their decay, ().
        moves: Whether the biases move.
        carried: Whether they are one of the moving arrays, which biases that stay need not be.
    """

    start: Float[jax.Array, "C"]
    drift: Float[jax.Array, "C"]
    decay: Float[Any, ""]
    moves: bool = eqx.field(static=True)
    carried: bool = eqx.field(static=True)

    def arrays(self) -> Body:
        """The biases among the moving arrays, before the first update."""
        return {"b": self.start} if self.carried else {}

    def velocities(self, body: Body) -> Body:
        """b' at unit rates, (C,), among the velocities of the moving arrays."""
        if not self.carried:
            return {}
        return {"b": self.drift - self.decay * body["b"] if self.moves else jnp.zeros_like(body["b"])}

    def of(self, body: Body) -> Float[jax.Array, "C"]:
        """b, (C,), at a moment of the moving arrays."""
        return body["b"] if self.carried else self.start
