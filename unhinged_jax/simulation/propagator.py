"""How the remainder of a state, everything but its leading part, is carried: as the start itself, or as a matrix.

With S_c = sum_{i in c} q_i h_i an update treats every column (feature coordinate) of S and W in the same way. The state
is therefore the start times one matrix P, the propagator:

    [S; W] = P [S_0; W_0].

A run may carry S and W; or P, if it has fewer columns; or, for balanced classes, the two 2 x 2 matrices that determine
P: one for differences between classes and one for their common mean.
"""

from __future__ import annotations

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from unhinged_jax.linear.row_space import RowSpace
from unhinged_jax.linear.spectrum import without
from unhinged_jax.simulation.coupling import Coupling, OneClass
from unhinged_jax.simulation.system import Body


class Propagator(eqx.Module):
    """What a run carries, and how it acts on the columns of a start.

    Attributes:
        names: Pairs of names of the carried arrays, of H and of W. Each pair has a scale of its own.
    """

    names: ClassVar[tuple[tuple[str, str], ...]] = (("H", "W"),)

    @abc.abstractmethod
    def start_arrays(self, H: Float[jax.Array, "rows p"], W: Float[jax.Array, "C p"]) -> Body:
        """The arrays before the first update, for a start H (rows, p) and W (C, p)."""

    @abc.abstractmethod
    def apply(
        self, moved: list[Float[jax.Array, "..."]], start: Float[jax.Array, "both m"]
    ) -> Float[jax.Array, "rows m"]:
        """The present rows of H, or of W.

        Args:
            moved: The carried arrays of H, or those of W, one per pair.
            start: Columns [H_0; W_0] of a start, (rows + C, columns). `StartItself` does not read them.
        """

    def couplings(self, space: RowSpace) -> tuple[Coupling, ...]:
        """How the signal couples the two arrays of each pair."""
        return (space,)

    def clean(
        self, H: Float[jax.Array, "*rows m"], W: Float[jax.Array, "*C m"]
    ) -> tuple[Float[jax.Array, "*rows m"], Float[jax.Array, "*C m"]]:
        """A pair of arrays without what only rounding can have put there. By default they are returned unchanged."""
        return H, W

    def there(self, logs: Float[jax.Array, "pairs"]) -> Float[jax.Array, "pairs"]:
        """Logarithms of the scales of the pairs, (pairs,), with -inf for a pair that the start does not contain."""
        return logs


class StartItself(Propagator):
    """Carries H (rows, p) and W (C, p), one column per feature coordinate.

    Attributes:
        present: Whether the start has differences between classes, and whether it has a common mean, (2,); None if
            classes are not balanced.
    """

    present: Bool[jax.Array, "2"] | None

    def start_arrays(self, H: Float[jax.Array, "rows p"], W: Float[jax.Array, "C p"]) -> Body:
        return {"H": H, "W": W}

    def apply(
        self, moved: list[Float[jax.Array, "..."]], start: Float[jax.Array, "both m"]
    ) -> Float[jax.Array, "rows m"]:
        return moved[0]

    def clean(
        self, H: Float[jax.Array, "*rows m"], W: Float[jax.Array, "*C m"]
    ) -> tuple[Float[jax.Array, "*rows m"], Float[jax.Array, "*C m"]]:
        if self.present is None:
            return H, W
        return _present(self.present, H), _present(self.present, W)


class Identity(Propagator):
    """Carries the rows of P, H (rows, rows + C) and W (C, rows + C), for unequal classes in many dimensions."""

    def start_arrays(self, H: Float[jax.Array, "rows p"], W: Float[jax.Array, "C p"]) -> Body:
        rows, classes, dtype = H.shape[0], W.shape[0], W.dtype
        both = rows + classes
        return {"H": jnp.eye(rows, both, dtype=dtype), "W": jnp.eye(classes, both, k=rows, dtype=dtype)}

    def apply(
        self, moved: list[Float[jax.Array, "..."]], start: Float[jax.Array, "both m"]
    ) -> Float[jax.Array, "rows m"]:
        return moved[0] @ start


class BalancedPair(Propagator):
    """Carries two 2 x 2 matrices for balanced classes: each block of P is a (I - 11^T/C) + b 11^T/C with numbers a, b.

    Renaming the classes does not change the problem. Differences between classes therefore stay differences, and the
    common mean stays common. The arrays H and W, (2,) each, are the rows of the matrix of the differences: they
    multiply (H_0, W_0). mean_H and mean_W are those of the common mean. Each matrix has a scale of its own. If a start
    contains only one of the two, the other one, which may grow faster, then cannot drown it.

    Attributes:
        present: Whether the start has differences between classes, and whether it has a common mean, (2,).
    """

    names: ClassVar[tuple[tuple[str, str], ...]] = (("H", "W"), ("mean_H", "mean_W"))
    present: Bool[jax.Array, "2"]

    def start_arrays(self, H: Float[jax.Array, "rows p"], W: Float[jax.Array, "C p"]) -> Body:
        unit = jnp.eye(2, dtype=W.dtype)
        return {name: row for pair in self.names for name, row in zip(pair, unit, strict=True)}

    def couplings(self, space: RowSpace) -> tuple[Coupling, ...]:
        return OneClass(space, 0, 0), OneClass(space, space.model.classes, 1)

    def apply(
        self, moved: list[Float[jax.Array, "..."]], start: Float[jax.Array, "both m"]
    ) -> Float[jax.Array, "rows m"]:
        difference, shared = moved
        X, Y = jnp.split(start, 2)
        mean_X, mean_Y = jnp.mean(X, axis=0), jnp.mean(Y, axis=0)
        contrasts = difference[0] * (X - mean_X) + difference[1] * (Y - mean_Y)
        mean = shared[0] * mean_X + shared[1] * mean_Y
        return without(contrasts, self.present[0]) + without(mean, self.present[1])

    def there(self, logs: Float[jax.Array, "pairs"]) -> Float[jax.Array, "pairs"]:
        return jnp.where(self.present, logs, -jnp.inf)


def _present(present: Bool[jax.Array, "2"], X: Float[jax.Array, "C m"]) -> Float[jax.Array, "C m"]:
    """Rows of balanced classes, (C, columns), without their differences or their mean if the start has none."""
    mean = jnp.mean(X, axis=0)
    return without(X - mean, present[0]) + without(jnp.broadcast_to(mean, X.shape), present[1])
