"""Features as the simulators hold them: dense, as class sums plus a residual, or in the plane each sample moves in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from unhinged_jax.collapse import ClassStatistics, class_statistics, of_classes
from unhinged_jax.collapse.statistics import of_deviations
from unhinged_jax.special import drift, power_of_two, safe_norm, safe_sqrt, segment_sum

_BLOCK = 4_000_000  # largest number of logits held at once
_KEPT = 16_000_000  # largest number of products of residuals with prototypes kept beside a state


def _static(default: object) -> Any:
    return dataclasses.field(default=default, metadata={"static": True})


class Features:
    """What observables ask of features; each form computes it with the least work. All are pytrees."""

    def dense(self) -> Float[jax.Array, "n p"]:
        """H, shape (n, p)."""
        raise TypeError("Features is the base class")

    def products(self, V: Float[jax.Array, "rows p"]) -> Float[jax.Array, "n rows"]:
        """H V^T, shape (n, rows of V)."""
        raise TypeError("Features is the base class")

    def scores(self, W: Float[jax.Array, "C p"]) -> Float[jax.Array, "C n"]:
        """W H^T for the prototypes of the same moment, shape (C, n): later operations run along samples."""
        return self.products(W).T

    def rows(self, take: Callable[..., jax.Array]) -> Features:
        """The features of some samples: `take(array, axis=0)` applied to every array with one row per sample.

        If samples cycle through classes, the chosen samples begin with the first class.
        """
        raise TypeError("Features is the base class")

    def scaled(self, factor: Float[jax.Array, ""], factor_W: Float[jax.Array, ""]) -> Features:
        """The features times a factor, together with prototypes times another factor."""
        raise TypeError("Features is the base class")

    def row_norms(self) -> Float[jax.Array, "n"]:
        """||h_i||, shape (n,)."""
        return row_lengths(self.dense())[:, 0]

    def norm(self) -> Float[jax.Array, ""]:
        """Frobenius norm of H."""
        return safe_norm(self.dense())

    def statistics(self, labels: Int[jax.Array, "n"], classes: int) -> ClassStatistics:
        """Class means, variances and projections, for the metrics of neural collapse."""
        return class_statistics(self.dense(), labels, classes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DenseFeatures(Features):
    """H as an (n, p) array, times a factor."""

    H: Float[jax.Array, "n p"]
    factor: Float[jax.Array, ""] | None = None

    def dense(self) -> Float[jax.Array, "n p"]:
        return self.H if self.factor is None else self.factor * self.H

    def products(self, V: Float[jax.Array, "rows p"]) -> Float[jax.Array, "n rows"]:
        if self.factor is None:
            return self.H @ V.T
        # The factor multiplies the smaller arrays: its root before the product, which the whole might not survive.
        half = power_of_two(drift(jnp.abs(self.factor), beyond=0) // 2, self.H.dtype)
        return (self.H @ (half * V).T) * (self.factor / half)

    def scaled(self, factor: Float[jax.Array, ""], factor_W: Float[jax.Array, ""]) -> DenseFeatures:
        return dataclasses.replace(self, factor=factor if self.factor is None else factor * self.factor)

    def norm(self) -> Float[jax.Array, ""]:
        return safe_norm(self.H) * (1.0 if self.factor is None else self.factor)

    def rows(self, take: Callable[..., jax.Array]) -> DenseFeatures:
        return DenseFeatures(take(self.H), self.factor)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScoredFeatures(DenseFeatures):
    """Features with their products with the prototypes of the moment, W H^T (C, n), and their norm."""

    known_scores: Float[Any, "C n"] = None
    known_norm: Float[Any, ""] | None = None

    def scores(self, W: Float[jax.Array, "C p"]) -> Float[jax.Array, "C n"]:
        return self.known_scores

    def scaled(self, factor: Float[jax.Array, ""], factor_W: Float[jax.Array, ""]) -> ScoredFeatures:
        norm = None if self.known_norm is None else self.known_norm * factor
        scaled: Any = super().scaled(factor, factor_W)
        return dataclasses.replace(scaled, known_scores=self.known_scores * factor * factor_W, known_norm=norm)

    def norm(self) -> Float[jax.Array, ""]:
        return super().norm() if self.known_norm is None else self.known_norm

    def rows(self, take: Callable[..., jax.Array]) -> ScoredFeatures:
        return ScoredFeatures(take(self.H), self.factor, take(self.known_scores, 1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClassFeatures(Features):
    """h_i = q_i S_{y_i} / D_{y_i} + scale r_i, where S_c = sum q_i h_i, D_c = sum q_i^2 over class c.

    The residual r (n, p) has sum_{i in c} q_i r_i = 0, so S and the residual are orthogonal, and linear losses depend
    only on S. `with_prototypes` = W r^T and `with_sums` = S r^T, (C, n), may be given if a solver has them more cheaply
    than by a product, and `scatter` (C, m), m < n, with the Gram matrix of `with_sums`. `even`: weights and counts are
    equal in all classes; `cyclic`: in addition, sample i is of class i mod C.
    """

    index: Int[jax.Array, "n"]
    weights: Float[jax.Array, "n"]
    square_weights: Float[jax.Array, "C"]
    residual: Float[jax.Array, "n p"]
    sums: Float[jax.Array, "C p"]
    residual_scale: Float[jax.Array, ""]
    with_prototypes: Float[jax.Array, "C n"] | None = None
    with_sums: Float[jax.Array, "C n"] | None = None
    scatter: Float[jax.Array, "C m"] | None = None
    even: bool = _static(False)
    cyclic: bool = _static(False)

    def _centres(self) -> Float[jax.Array, "C p"]:
        return self.sums / self.square_weights[:, None]

    def dense(self) -> Float[jax.Array, "n p"]:
        return self.weights[:, None] * self._centres()[self.index] + self.residual_scale * self.residual

    def products(self, V: Float[jax.Array, "rows p"]) -> Float[jax.Array, "n rows"]:
        shared = (self._centres() @ V.T)[self.index]
        return self.weights[:, None] * shared + self.residual_scale * (self.residual @ V.T)

    def scores(self, W: Float[jax.Array, "C p"]) -> Float[jax.Array, "C n"]:
        if self.with_prototypes is None:
            return self.products(W).T
        shared = of_classes(W @ self._centres().T, self.index, self.cyclic)
        return self.weights * shared + self.residual_scale * self.with_prototypes

    def rows(self, take: Callable[..., jax.Array]) -> ClassFeatures:
        known = None if self.with_prototypes is None else take(self.with_prototypes, 1)
        index = take(self.index)
        return dataclasses.replace(
            self,
            index=index,
            weights=take(self.weights),
            residual=take(self.residual),
            with_prototypes=known,
            with_sums=None,
            scatter=None,
            even=False,
            cyclic=self.cyclic and index.shape[0] % self.sums.shape[0] == 0,
        )

    def scaled(self, factor: Float[jax.Array, ""], factor_W: Float[jax.Array, ""]) -> ClassFeatures:
        def times(array: jax.Array | None, by: jax.Array) -> jax.Array | None:
            return None if array is None else array * by

        return dataclasses.replace(
            self,
            sums=factor * self.sums,
            residual_scale=factor * self.residual_scale,
            with_prototypes=times(self.with_prototypes, factor_W),
            with_sums=times(self.with_sums, factor),
            scatter=times(self.scatter, factor),
        )

    def equal_within_classes(self) -> Bool[jax.Array, ""]:
        """Whether the weights of all samples of a class are equal, ()."""
        if self.even:
            return jnp.ones((), bool)
        return ~jnp.any(self._unlike(self._level()))

    def _level(self) -> Float[jax.Array, "C"]:
        """Mean weight of the samples of each class."""
        classes = self.square_weights.shape[0]
        count = jnp.bincount(self.index, length=classes)
        return segment_sum(self.weights, self.index, classes) / jnp.maximum(count, 1)

    def _unlike(self, level: Float[jax.Array, "C"]) -> Bool[jax.Array, "n"]:
        """Which samples have another weight than the mean of their class, or a mean of 0: then the residual of the
        class is not its deviation from its mean."""
        level = level[self.index]
        return ~(jnp.abs(self.weights - level) < 8 * jnp.finfo(level.dtype).eps * level)

    def norm(self) -> Float[jax.Array, ""]:
        centred = safe_norm(self.sums / jnp.sqrt(self.square_weights)[:, None])
        return safe_norm(jnp.stack([centred, self.residual_scale * safe_norm(self.residual)]))

    def statistics(self, labels: Int[jax.Array, "n"], classes: int) -> ClassStatistics:
        counts, level = jnp.bincount(self.index, length=classes), self._level()
        means = level[:, None] * self._centres()
        if not self.even:
            return self._uneven_statistics(counts, level, means)
        # Equal weights within a class: the residual is the deviation from the class mean.
        squares = jnp.sum(self.residual**2, axis=1)
        spread = segment_sum(squares, self.index, classes) / counts
        share = counts.astype(means.dtype) / self.index.shape[0]
        per_sum = (self.residual_scale * level / self.square_weights)[:, None]

        def projected(with_sums: jax.Array) -> jax.Array:
            towards = per_sum * with_sums
            return (towards - share @ towards).T

        return ClassStatistics(
            counts=counts,
            means=means,
            variances=self.residual_scale**2 * spread,
            projections=projected(self.sums @ self.residual.T if self.with_sums is None else self.with_sums),
            labels=self.index,
            scatter=None if self.scatter is None else projected(self.scatter),
            cyclic=self.cyclic,
        )

    def _uneven_statistics(self, counts: jax.Array, level: jax.Array, means: jax.Array) -> ClassStatistics:
        """The same of classes of any size and weights, where the residual is the deviation only in some of them."""
        unlike = self._unlike(level)
        tilted = jax.ops.segment_max(unlike, self.index, counts.size)[:, None]
        tilt = jnp.where(unlike, self.weights - level[self.index], 0.0)[:, None]
        shift = segment_sum(self.residual, self.index, counts.size) / jnp.maximum(counts, 1)[:, None]
        shift = self.residual_scale * jnp.where(tilted, shift, 0.0)
        around = self.residual_scale * self.residual - shift[self.index]
        deviations = tilt * self._centres()[self.index] + around
        return of_deviations(counts, self.index, means + shift, deviations, summed=jnp.any(tilted))


def row_lengths(X: Float[jax.Array, "rows m"]) -> Float[jax.Array, "rows 1"]:
    """Norms of the rows, shape (n, 1), with gradient 0 at a zero row."""
    return safe_sqrt(row_squares(X))


def row_squares(X: Float[jax.Array, "rows m"]) -> Float[jax.Array, "rows 1"]:
    """Squared norms of the rows, shape (n, 1)."""
    return jnp.sum(X * X, axis=1, keepdims=True)


def affordable(samples: int, classes: int) -> bool:
    """Whether an (n, C) array is small enough to be kept beside the state."""
    return samples * classes <= _KEPT


def map_samples(function: Callable[..., Any], features: Features, width: int, *rows: jax.Array) -> Any:
    """function(features, *rows) -> arrays with one entry per sample, over blocks of samples, so that no more than a few
    million numbers, `width` per sample, are held at once."""
    count = rows[0].shape[0]
    block = max(1, _BLOCK // width)
    block -= block % width if block > width else 0  # whole cycles of classes
    if count <= block:
        return function(features, *rows)
    blocks = -(-count // block)
    starts = jnp.minimum(jnp.arange(blocks) * block, count - block)

    def one(start: jax.Array) -> Any:
        def take(array: jax.Array, axis: int = 0) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(array, start, block, axis)

        return function(features.rows(take), *(take(row) for row in rows))

    parts = jax.lax.map(one, starts)
    # The last block overlaps the one before it, because blocks have one size.
    where = jnp.arange(count)
    owner = jnp.minimum(where // block, blocks - 1)
    return jax.tree.map(lambda part: part[owner, where - starts[owner]], parts)
