"""The signal matrix M = -dL/dS of a loss that is linear in the logits, without forming it.

With targets Y, weights q and trade-off gamma, M_ic = q_i ((1 + gamma) Y_ic - gamma). When the target of a sample
depends on its class alone, M = diag(q) Y R with a C x C matrix R, and every product with M is a class sum.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from unhinged_jax import _memory, _numbers
from unhinged_jax._values import in_a_line
from unhinged_jax.labels import Labels
from unhinged_jax.labels.balance import Known, known, register
from unhinged_jax.labels.sparse import SparseRows
from unhinged_jax.special import segment_sum


@dataclasses.dataclass(frozen=True, init=False)
class ClassSignal:
    """M = diag(q) Y R, R = (1 + gamma) T - gamma 11^T, with T the identity or a (C, C) table of targets.

    With gamma = 0, R is T, which then may be any table: row c holds minus the gradient of a linear loss in class c.

    `balanced` is computed from the fields; if they are traced, the constructor trusts the caller's value.
    """

    index: Any
    weights: Any
    gamma: Any
    table: Any = None
    classes: int = 2
    _known: ClassVar[Known]  # of each object; not a field

    def __init__(
        self,
        index: ArrayLike,
        weights: ArrayLike,
        gamma: ArrayLike,
        table: ArrayLike | None = None,
        classes: int = 2,
        balanced: bool = False,
    ) -> None:
        fields = {"index": index, "weights": weights, "gamma": gamma, "table": table, "classes": classes}
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_known", known(index, weights, classes, Known(balanced)))

    def __repr__(self) -> str:
        return in_a_line(self)

    @property
    def balanced(self) -> bool:
        """Whether targets are known to be one-hot, counts equal and weights 1/n."""
        return self.table is None and known(self.index, self.weights, self.classes, self._known).value

    def spread(self, W: jax.Array) -> jax.Array:
        """R W, shape (C, p)."""
        own = W if self.table is None else jnp.asarray(self.table, W.dtype) @ W
        gamma = _numbers.like(self.gamma, W.dtype)
        return (1 + gamma) * own - gamma * jnp.sum(W, axis=0)

    def gather(self, S: jax.Array) -> jax.Array:
        """R^T S, shape (C, p)."""
        own = S if self.table is None else jnp.asarray(self.table, S.dtype).T @ S
        gamma = _numbers.like(self.gamma, S.dtype)
        return (1 + gamma) * own - gamma * jnp.sum(S, axis=0)

    def class_sums(self, H: jax.Array) -> jax.Array:
        """Weighted class sums S_c = sum_{i in c} q_i h_i, shape (C, p)."""
        q = jnp.asarray(self.weights, H.dtype)
        return segment_sum(q[:, None] * H, jnp.asarray(self.index), self.classes)

    def square_weights(self, dtype: DTypeLike) -> jax.Array:
        """D_c = sum_{i in c} q_i^2, shape (C,)."""
        q = jnp.asarray(self.weights, dtype)
        return segment_sum(q * q, jnp.asarray(self.index), self.classes)

    def times(self, W: jax.Array) -> jax.Array:
        """M W, shape (n, p)."""
        q = jnp.asarray(self.weights, W.dtype)
        return q[:, None] * self.spread(W)[jnp.asarray(self.index)]

    def transpose_times(self, H: jax.Array) -> jax.Array:
        """M^T H, shape (C, p)."""
        return self.gather(self.class_sums(H))

    def column_sums(self, dtype: DTypeLike) -> jax.Array:
        """M^T 1, shape (C,); 0 where terms cancel up to rounding."""
        ones = jnp.ones((jnp.shape(self.weights)[0], 1), dtype)
        sums = self.class_sums(ones)
        own = sums if self.table is None else jnp.abs(jnp.asarray(self.table, dtype)).T @ sums
        return _without_rounding(self.gather(sums)[:, 0], 2 * own[:, 0], jnp.shape(self.weights)[0])

    def gram(self, dtype: DTypeLike) -> jax.Array:
        """M^T M = R^T D R, shape (C, C)."""
        identity = jnp.eye(self.classes, dtype=dtype)
        return self.gather(self.square_weights(dtype)[:, None] * self.spread(identity))

    def dense(self, dtype: DTypeLike) -> jax.Array:
        """M itself, shape (n, C): for tests and small problems."""
        return self.times(jnp.eye(self.classes, dtype=dtype))


register(ClassSignal, ("index", "weights", "gamma", "table"), ("classes",))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DenseSignal:
    """A signal matrix given as an (n, C) array."""

    matrix: Any

    def __repr__(self) -> str:
        return in_a_line(self)

    def times(self, W: jax.Array) -> jax.Array:
        """M W, shape (n, p)."""
        return jnp.asarray(self.matrix, W.dtype) @ W

    def transpose_times(self, H: jax.Array) -> jax.Array:
        """M^T H, shape (C, p)."""
        return jnp.asarray(self.matrix, H.dtype).T @ H

    def column_sums(self, dtype: DTypeLike) -> jax.Array:
        """M^T 1, shape (C,); 0 where terms cancel up to rounding."""
        matrix = jnp.asarray(self.matrix, dtype)
        return _without_rounding(jnp.sum(matrix, axis=0), jnp.sum(jnp.abs(matrix), axis=0), matrix.shape[0])

    def gram(self, dtype: DTypeLike) -> jax.Array:
        """M^T M, shape (C, C)."""
        matrix = jnp.asarray(self.matrix, dtype)
        return matrix.T @ matrix

    def dense(self, dtype: DTypeLike) -> jax.Array:
        """M itself, shape (n, C)."""
        return jnp.asarray(self.matrix, dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SparseSignal:
    """M = diag(q) ((1 + gamma) Y - gamma 11^T) with sparse rows Y: products take sums over their entries."""

    rows: SparseRows
    weights: Any
    gamma: Any

    def __repr__(self) -> str:
        return in_a_line(self)

    def _of(self, dtype: DTypeLike) -> tuple[jax.Array, jax.Array]:
        """q and gamma in a type."""
        return jnp.asarray(self.weights, dtype), _numbers.like(self.gamma, dtype)

    def times(self, W: jax.Array) -> jax.Array:
        """M W, shape (n, p)."""
        q, gamma = self._of(W.dtype)
        return q[:, None] * ((1 + gamma) * self.rows.times(W) - gamma * jnp.sum(W, axis=0))

    def transpose_times(self, H: jax.Array) -> jax.Array:
        """M^T H, shape (C, p)."""
        q, gamma = self._of(H.dtype)
        weighted = q[:, None] * H
        return (1 + gamma) * self.rows.transpose_times(weighted) - gamma * jnp.sum(weighted, axis=0)

    def column_sums(self, dtype: DTypeLike) -> jax.Array:
        """M^T 1, shape (C,); 0 where terms cancel up to rounding."""
        q, gamma = self._of(dtype)
        entries = dataclasses.replace(self.rows, values=jnp.abs(jnp.asarray(self.rows.values, dtype)))
        sizes = (1 + gamma) * entries.transpose_times(q[:, None])[:, 0] + gamma * jnp.sum(q)
        sums = self.transpose_times(jnp.ones((q.shape[0], 1), dtype))[:, 0]
        return _without_rounding(sums, sizes, q.shape[0])

    def gram(self, dtype: DTypeLike) -> jax.Array:
        """M^T M, shape (C, C)."""
        (q, gamma), rows, C = self._of(dtype), self.rows, self.rows.classes
        _memory.refuse(C * C * q.dtype.itemsize, f"the matrix M^T M of {C:,} outputs, which this decomposes,")
        columns, values = jnp.asarray(rows.columns), jnp.asarray(rows.values, dtype)
        pairs = (q * q)[:, None, None] * values[:, :, None] * values[:, None, :]
        own = jnp.zeros((C, C), dtype).at[columns[:, :, None], columns[:, None, :]].add(pairs)
        sums = rows.transpose_times((q * q)[:, None])
        mixed = gamma * (1 + gamma) * (sums + sums.T)
        return (1 + gamma) ** 2 * own - mixed + gamma**2 * jnp.sum(q * q)

    def dense(self, dtype: DTypeLike) -> jax.Array:
        """M itself, shape (n, C): for tests and small problems."""
        q, gamma = self._of(dtype)
        return q[:, None] * ((1 + gamma) * self.rows.dense().astype(dtype) - gamma)


def _without_rounding(sums: jax.Array, sizes: jax.Array, terms: int) -> jax.Array:
    """Sums of the given number of terms with the given absolute sums, set to 0 where only rounding remains; derivatives
    stay."""
    rounding = (8 + 2 * terms**0.5) * jnp.finfo(sums.dtype).eps * sizes
    return jnp.where(jnp.abs(sums) <= rounding, sums - jax.lax.stop_gradient(sums), sums)


Signal = ClassSignal | DenseSignal | SparseSignal


def unhinged_signal(labels: Labels, gamma: ArrayLike) -> Signal:
    """The signal matrix of the unhinged loss with these labels, in the cheapest form they allow.

    Source: Zhou et al. 2023, Eq. 3 for balanced one-hot labels; beyond the paper for the rest.

    Example:
        >>> from unhinged_jax.labels import balanced
        >>> unhinged_signal(balanced(classes=2, per_class=1), 1.0).dense("float32")
        Array([[ 0.5, -0.5],
               [-0.5,  0.5]], dtype=float32)
    """
    if isinstance(labels.targets, SparseRows):
        return SparseSignal(labels.targets, labels.weights, gamma)
    if labels.targets_of_classes() is None:
        targets = jnp.asarray(labels.targets, jnp.result_type(float))  # a narrower type must not narrow what it meets
        gamma = _numbers.like(gamma, targets.dtype)
        q = jnp.asarray(labels.weights, targets.dtype)
        return DenseSignal(q[:, None] * ((1 + gamma) * targets - gamma))
    table = labels.targets if labels.kind == "table" else None
    return ClassSignal(labels.index, labels.weights, gamma, table, labels.classes, labels.balanced)
