"""How what is not leading is carried: as the start itself, or as what the updates make of columns that stand for it.

With S_c = sum_{i in c} q_i h_i an update treats every column (feature coordinate) of S and W alike, so the state is a
matrix P, the same for all of them, times the start:

    [S; W] = P [S_0; W_0].

A run may carry S and W, or P where it has fewer columns, or, for balanced classes, the two 2 x 2 matrices that P is
made of: one for differences of classes and one for what all of them share.
"""

from __future__ import annotations

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from unhinged_jax.linear.row_space import RowSpace
from unhinged_jax.linear.spectrum import without
from unhinged_jax.simulation.coupling import Coupling, OneClass
from unhinged_jax.simulation.system import Body


class Propagator(eqx.Module):
    """What a run carries of its start, and what that makes of any columns of a start.

    Attributes:
        names: The arrays it carries, of H and of W; each pair has a scale of its own.
    """

    names: ClassVar[tuple[tuple[str, str], ...]] = (("H", "W"),)

    @abc.abstractmethod
    def start_arrays(self, H: jax.Array, W: jax.Array) -> Body:
        """The arrays before the first update, for a start H (rows, p) and W (C, p)."""

    @abc.abstractmethod
    def apply(self, moved: list[jax.Array], start: jax.Array) -> jax.Array:
        """Rows of H or of W, from what is carried of them and columns [H_0; W_0] of a start."""

    def couplings(self, space: RowSpace) -> tuple[Coupling, ...]:
        """What the signal makes of each pair of arrays."""
        return (space,)

    def clean(self, H: jax.Array, W: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A pair of arrays, without what only rounding can have put there."""
        return H, W

    def there(self, logs: jax.Array) -> jax.Array:
        """Logarithms of the scales of the pairs, -inf for one that the start has nothing of."""
        return logs


class StartItself(Propagator):
    """H and W, one column per coordinate.

    `present`: of balanced classes, whether the start has differences between classes, and something that all share.
    """

    present: jax.Array | None

    def start_arrays(self, H: jax.Array, W: jax.Array) -> Body:
        return {"H": H, "W": W}

    def apply(self, moved: list[jax.Array], start: jax.Array) -> jax.Array:
        return moved[0]

    def clean(self, H: jax.Array, W: jax.Array) -> tuple[jax.Array, jax.Array]:
        if self.present is None:
            return H, W
        return _present(self.present, H), _present(self.present, W)


class Identity(Propagator):
    """P, one column per row of the start: for classes that differ, in many dimensions."""

    def start_arrays(self, H: jax.Array, W: jax.Array) -> Body:
        rows, classes, dtype = H.shape[0], W.shape[0], W.dtype
        both = rows + classes
        return {"H": jnp.eye(rows, both, dtype=dtype), "W": jnp.eye(classes, both, k=rows, dtype=dtype)}

    def apply(self, moved: list[jax.Array], start: jax.Array) -> jax.Array:
        return moved[0] @ start


class BalancedPair(Propagator):
    """Two 2 x 2 matrices for balanced classes, of which P = A (I - 11^T/C) + B 11^T/C is made, block by block.

    Classes can be renamed without changing the problem, so that a difference of two stays one, and what all share stays
    shared. Each has a scale of its own: where a start has only one of them (`present`), the other one, which may grow
    faster, is not there to drown it.
    """

    names: ClassVar[tuple[tuple[str, str], ...]] = (("H", "W"), ("mean_H", "mean_W"))
    present: jax.Array

    def start_arrays(self, H: jax.Array, W: jax.Array) -> Body:
        unit = jnp.eye(2, dtype=W.dtype)
        return {name: row for pair in self.names for name, row in zip(pair, unit, strict=True)}

    def couplings(self, space: RowSpace) -> tuple[Coupling, ...]:
        return OneClass(space, 0, 0), OneClass(space, space.model.classes, 1)

    def apply(self, moved: list[jax.Array], start: jax.Array) -> jax.Array:
        difference, shared = moved
        X, Y = jnp.split(start, 2)
        mean_X, mean_Y = jnp.mean(X, axis=0), jnp.mean(Y, axis=0)
        contrasts = difference[0] * (X - mean_X) + difference[1] * (Y - mean_Y)
        mean = shared[0] * mean_X + shared[1] * mean_Y
        return without(contrasts, self.present[0]) + without(mean, self.present[1])

    def there(self, logs: jax.Array) -> jax.Array:
        return jnp.where(self.present, logs, -jnp.inf)


def _present(present: jax.Array, X: jax.Array) -> jax.Array:
    """Rows of balanced classes, (C, columns), without differences or without what is shared, if the start has none."""
    mean = jnp.mean(X, axis=0)
    return without(X - mean, present[0]) + without(jnp.broadcast_to(mean, X.shape), present[1])
