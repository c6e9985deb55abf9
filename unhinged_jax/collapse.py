"""Neural-collapse metrics: NC1-NC4 and their kin, from class statistics alone.

Every metric takes `ClassStatistics` (with prototypes W or logits where it needs them) and never
forms an n x n or p x p array. `collapse_metrics` evaluates all of them and shares the work;
`METRICS` lists each with its paper and its ideal value.

Conventions, common to all:

- Class means are centred by the global mean Σ_c (n_c/n) μ_c = mean of all features; with balanced
  classes this is Papyan's mean of class means. Σ_W and Σ_B weigh classes by n_c/n as well, so that
  Σ_W + Σ_B is the total covariance. Prototypes are not centred.
- Values do not depend on the scale of the features or of the prototypes (margins scale with the
  logits). Statistics hold squares, so features beyond about 1e±150 (1e±18 in float32) should be
  normalised before the statistics are taken.
- A vector of norm zero has cosine 0 with every other vector and cosine 1 with another zero vector.
- A ratio whose denominator vanishes is `inf`, 0/0 included: all features on one point, or all means
  equal, give NC1 = CDNV = inf, minimal angle 0 and duality √2, never NaN.
- Gradients are finite wherever the value is; where a metric has a kink at its ideal value, or has
  become infinite, the gradient is 0.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax.special import first_largest

__all__ = [
    "METRICS",
    "ClassStatistics",
    "MetricInfo",
    "cdnv",
    "class_statistics",
    "collapse_metrics",
    "etf_distance",
    "gnc2",
    "margin_mean",
    "margin_min",
    "margins",
    "minimal_angle",
    "nc1",
    "nc1_trace_ratio",
    "nc2_equiangularity",
    "nc2_equinorm",
    "nc3_self_duality",
    "nc4",
    "unc3",
]

# Recent accelerators multiply float32 matrices with 10-bit mantissas unless told otherwise.
_PRECISION = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class ClassStatistics:
    """What the collapse metrics need to know about the features.

    Build it with `class_statistics` from a dense feature matrix, or directly where the class
    structure is known and gives the same numbers more cheaply.

    Args:
        counts: (C,) samples per class, n_c ≥ 1, summing to n.
        means: (C, p) class means μ_c, not centred.
        variances: (C,) mean of ‖h_i − μ_c‖² within class c.
        projections: (n, C) entries (h_i − μ_{y_i})·(μ_c − μ_G), μ_G the mean of all features.
        labels: (n,) integer class y_i of each sample.
        scatter: (m, C) rows with the Gram matrix of the projections, where fewer than n are known.
        cyclic: Whether sample i is of class i mod C, which saves a gather.

    Source: beyond the paper.

    Example:
        >>> M = jnp.eye(3) - 1 / 3
        >>> stats = class_statistics(jnp.repeat(M, 2, 0), jnp.repeat(jnp.arange(3), 2), 3)
        >>> stats.counts.tolist(), stats.variances.tolist()
        ([2, 2, 2], [0.0, 0.0, 0.0])
    """

    counts: jax.Array
    means: jax.Array
    variances: jax.Array
    projections: jax.Array
    labels: jax.Array
    scatter: jax.Array | None = None
    cyclic: bool = False


jax.tree_util.register_dataclass(
    ClassStatistics, [field.name for field in dataclasses.fields(ClassStatistics) if field.name != "cyclic"], ["cyclic"]
)


def of_classes(table: jax.Array, index: jax.Array, cyclic: bool) -> jax.Array:
    """table[:, index]; if sample i is of class i mod C these are copies side by side."""
    return jnp.tile(table, (1, index.shape[0] // table.shape[1])) if cyclic else table[:, index]


def _check_features(H: jax.Array, labels: jax.Array, classes: int) -> None:
    if H.ndim != 2 or labels.shape != H.shape[:1]:
        raise ValueError(
            f"Expected features (n, p) and labels (n,), got shapes {H.shape} and {labels.shape}; "
            "give one label for each row of features."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"Labels must be integers, got {labels.dtype}; pass class indices.")
    if classes < 2:
        raise ValueError(f"Collapse metrics need at least 2 classes, got classes={classes}.")
    if isinstance(labels, jax.core.Tracer):
        return
    # NumPy, because under `jit` even operations on constant labels are traced.
    present = np.unique(np.asarray(labels))
    if present.size and (present[0] < 0 or present[-1] >= classes):
        raise ValueError(
            f"Labels must lie in 0..{classes - 1}, got {present[0]}..{present[-1]}; "
            "renumber them or raise `classes`."
        )
    empty = classes - present.size
    if empty:
        raise ValueError(
            f"{empty} of {classes} classes have no sample, but every class needs one for its mean; "
            "drop the empty classes."
        )


def class_statistics(H: ArrayLike, labels: ArrayLike, classes: int) -> ClassStatistics:
    """Class statistics of a dense feature matrix.

    Each class is shifted by one of its own samples before averaging, so that a common offset costs
    no digits and a class of identical rows has deviation exactly zero.

    Args:
        H: (n, p) features.
        labels: (n,) integer classes in 0..classes-1, each present at least once. Under `jit`
            this is not checked, and the mean of an empty class is arbitrary.
        classes: number C ≥ 2 of classes, a Python integer (static).

    Returns:
        `ClassStatistics` in the dtype of H.

    Raises:
        ValueError: shapes that do not match, labels out of range, or an empty class.
        TypeError: labels that are not integers.

    Source: beyond the paper.

    Example:
        >>> class_statistics(jnp.array([[0.0], [2.0], [5.0]]), jnp.array([0, 0, 1]), 2).means
        Array([[1.],
               [5.]], dtype=float32)
    """
    H, labels = jnp.asarray(H), jnp.asarray(labels)
    if not jnp.issubdtype(H.dtype, jnp.floating):
        H = H.astype(float)
    _check_features(H, labels, classes)
    n = H.shape[0]
    counts = jax.ops.segment_sum(jnp.ones_like(labels), labels, classes)
    size = jnp.maximum(counts, 1).astype(H.dtype)
    first = jax.ops.segment_min(jnp.arange(n), labels, classes)
    anchor = H.at[first].get(mode="clip")
    shifted = H - anchor[labels]
    mean_shift = jax.ops.segment_sum(shifted, labels, classes) / size[:, None]
    means = anchor + mean_shift
    deviations = shifted - mean_shift[labels]
    variances = jax.ops.segment_sum(jnp.sum(deviations**2, axis=1), labels, classes) / size
    projections = jnp.matmul(deviations, _centred(means, counts).T, precision=_PRECISION)
    return ClassStatistics(counts, means, variances, projections, labels)


def _class_weights(counts: jax.Array, dtype: Any) -> jax.Array:
    counts = jnp.asarray(counts).astype(dtype)
    return counts / jnp.sum(counts)


def _centred(means: jax.Array, counts: jax.Array) -> jax.Array:
    """(C, p) class means minus the global mean, without the digits of a common offset."""
    shifted = means - means[0]
    weights = _class_weights(counts, means.dtype)
    return shifted - jnp.matmul(weights, shifted, precision=_PRECISION)


class _Frame(NamedTuple):
    """Geometry of C vectors: unit (C,p), norms (C,) in units of `scale`, cosines (C,C)."""

    unit: jax.Array
    norms: jax.Array
    scale: jax.Array
    cosines: jax.Array


class _Prepared(NamedTuple):
    """Statistics with the intermediates that several metrics share."""

    stats: ClassStatistics
    frame: _Frame
    chords: jax.Array  # squared distances between the directions of the class means
    squared_distances: jax.Array  # between class means, in units of frame.scale²


_Statistics: TypeAlias = ClassStatistics | _Prepared
_Vectors: TypeAlias = ClassStatistics | ArrayLike | _Prepared | _Frame


def _frame_of(vectors: jax.Array, floor: ArrayLike = 0.0) -> _Frame:
    """Geometry of the rows; all of them count as zero if no entry exceeds `floor`."""
    # Each vector is divided by its largest entry before squaring: nothing over- or underflows.
    # Every metric is invariant to these divisors, so they carry no derivative.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(vectors), axis=1))
    present = (largest > jnp.finfo(vectors.dtype).tiny) & (jnp.max(largest) > floor)
    scale = jnp.max(jnp.where(present, largest, 0))
    reduced = vectors * (1 / jnp.where(present, largest, 1))[:, None]
    length = jnp.sqrt(jnp.where(present, jnp.sum(reduced**2, axis=1), 1))
    unit = reduced * jnp.where(present, 1 / length, 0)[:, None]
    norms = jnp.where(present, length * (largest / jnp.where(scale > 0, scale, 1)), 0)
    cosines = jnp.matmul(unit, unit.T, precision=_PRECISION)
    cosines = jnp.where(present[:, None] | present[None, :], cosines, 1)
    return _Frame(unit, norms, scale, cosines)


def _mean_frame(stats: ClassStatistics) -> _Frame:
    # Means that differ by a few units in the last place differ by rounding only.
    floor = 8 * jnp.finfo(stats.means.dtype).eps * jnp.max(jnp.abs(stats.means))
    return _frame_of(_centred(stats.means, stats.counts), jax.lax.stop_gradient(floor))


def _prepare(stats: _Statistics) -> _Prepared:
    if isinstance(stats, _Prepared):
        return stats
    frame = _mean_frame(stats)
    chords = _squared_chords(frame)
    return _Prepared(stats, frame, chords, _squared_distances(frame, chords))


def _frame(vectors: _Vectors) -> _Frame:
    if isinstance(vectors, _Frame):
        return vectors
    if isinstance(vectors, _Prepared):
        return vectors.frame
    if isinstance(vectors, ClassStatistics):
        return _mean_frame(vectors)
    V = jnp.asarray(vectors)
    if V.ndim != 2 or V.shape[0] < 2:
        raise ValueError(
            f"Expected class statistics or prototypes (C, p) with C ≥ 2, got shape {V.shape}; "
            "pass one row per class."
        )
    return _frame_of(V if jnp.issubdtype(V.dtype, jnp.floating) else V.astype(float))


def _prototype_frame(prepared: _Prepared, W: ArrayLike | _Frame) -> _Frame:
    frame = _frame(W)
    if frame.unit.shape != prepared.frame.unit.shape:
        raise ValueError(
            f"Prototypes have shape {frame.unit.shape}, but the class means have shape "
            f"{prepared.frame.unit.shape}; pass W as (C, p)."
        )
    return frame


def _logits(stats: ClassStatistics, logits: ArrayLike) -> jax.Array:
    logits = jnp.asarray(logits)
    if logits.shape != stats.projections.shape:
        raise ValueError(
            f"Logits have shape {logits.shape}, but the statistics describe "
            f"{stats.projections.shape} (samples, classes); pass H Wᵀ + b of the same samples."
        )
    return logits


def _squared_chords(frame: _Frame) -> jax.Array:
    """(C, C) squared distances of the unit vectors, accurate for nearly parallel ones too."""
    chords = 2 - 2 * frame.cosines
    distinct = ~jnp.eye(frame.norms.size, dtype=bool)
    # 2 − 2cos cancels for small angles. Differences cost C times more, hence the condition;
    # the cosines keep supplying the derivative.
    close = distinct & (chords < 1e-3)
    rows = jax.lax.stop_gradient(frame.unit)

    def by_difference(rows: jax.Array) -> jax.Array:
        return jax.lax.map(lambda row: jnp.sum((rows - row) ** 2, axis=1), rows)

    def skip(rows: jax.Array) -> jax.Array:
        return jnp.zeros_like(frame.cosines)

    exact = jax.lax.cond(jnp.any(close), by_difference, skip, rows)
    correction = jnp.where(close, exact - jax.lax.stop_gradient(chords), 0)
    return jnp.where(distinct, chords + correction, 0)


def _squared_distances(frame: _Frame, chords: jax.Array) -> jax.Array:
    """(C, C) squared distances in units of scale²: radial and angular part, no cancellation."""
    norms = frame.norms
    return (norms[:, None] - norms[None, :]) ** 2 + norms[:, None] * norms[None, :] * chords


def _ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """numerator / denominator, inf (with gradient 0) wherever the denominator is not positive."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), jnp.inf)


def _root(x: jax.Array) -> jax.Array:
    """Square root whose gradient at 0 is 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def _std(x: jax.Array) -> jax.Array:
    return _root(jnp.mean((x - jnp.mean(x)) ** 2))


def _pair_mean(values: jax.Array) -> jax.Array:
    """Mean of a (C, C) array over its off-diagonal entries."""
    C = values.shape[0]
    return jnp.sum(jnp.where(jnp.eye(C, dtype=bool), 0, values)) / (C * (C - 1))


def _in_scale(values: jax.Array, prepared: _Prepared) -> jax.Array:
    """Squared quantities in units of frame.scale², divided twice lest scale² overflow."""
    scale = prepared.frame.scale
    inverse = jnp.where(scale > 0, 1 / jnp.where(scale > 0, scale, 1), 0)
    return values * inverse * inverse


def _inverse(gram: jax.Array) -> jax.Array:
    """Inverse of a positive definite matrix, NaN if it is not."""
    factor = jnp.linalg.cholesky(gram, symmetrize_input=False)
    root = _lower_inverse(factor, leaf=max(32, gram.shape[0] // 8))
    return jnp.matmul(root.T, root, precision=_PRECISION)


def _lower_inverse(L: jax.Array, leaf: int) -> jax.Array:
    """Inverse of a lower triangular matrix by halves.

    On CPUs a BLAS solves large triangles with threads of its own, which keep spinning beside those of XLA and slow
    down everything that follows; up to `leaf` rows it uses none.
    """
    size, half = L.shape[0], L.shape[0] // 2
    if size <= leaf:
        return jax.lax.linalg.triangular_solve(L, jnp.eye(size, dtype=L.dtype), left_side=True, lower=True)
    first, last = _lower_inverse(L[:half, :half], leaf), _lower_inverse(L[half:, half:], leaf)
    corner = -jnp.matmul(last, jnp.matmul(L[half:, :half], first, precision=_PRECISION), precision=_PRECISION)
    return jnp.block([[first, jnp.zeros((half, size - half), L.dtype)], [corner, last]])


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _pseudo_inverse(
    gram: jax.Array, null: jax.Array, full_rank: bool, rtol: float | None
) -> jax.Array:
    """Pseudo-inverse of a PSD (C, C) matrix that annihilates the unit vector `null`.

    Where nothing but `null` is annihilated (`full_rank` says that it may be so) an ordinary inverse
    serves, several times cheaper than eigenvalues.
    """

    def by_eigenvalues(gram: jax.Array) -> jax.Array:
        return jnp.linalg.pinv(gram, rtol=rtol, hermitian=True)

    if not full_rank:
        return by_eigenvalues(gram)
    fill = jnp.trace(gram) / gram.shape[0]
    projector = null[:, None] * null[None, :]
    filled = gram + fill * projector
    inverse = _inverse(filled)
    condition = jnp.linalg.norm(filled) * jnp.linalg.norm(inverse)  # NaN if singular
    limit = float(jnp.finfo(gram.dtype).eps) ** -0.5
    if rtol:
        limit = min(limit, 1 / rtol)
    return jax.lax.cond(
        condition < limit, lambda _: inverse - projector / fill, by_eigenvalues, gram
    )


@_pseudo_inverse.defjvp
def _pseudo_inverse_jvp(
    full_rank: bool, rtol: float | None, primals: Any, tangents: Any
) -> tuple[jax.Array, jax.Array]:
    # Golub & Pereyra 1973. Unlike eigenvectors this is smooth where eigenvalues coincide, as all
    # of them do at a simplex ETF.
    gram, null = primals
    change = tangents[0]
    inverse = _pseudo_inverse(gram, null, full_rank, rtol)

    def product(*factors: jax.Array) -> jax.Array:
        return functools.reduce(functools.partial(jnp.matmul, precision=_PRECISION), factors)

    outside = jnp.eye(gram.shape[0], dtype=gram.dtype) - product(gram, inverse)
    leak = product(inverse, inverse, change, outside)
    return inverse, leak + leak.T - product(inverse, change, inverse)


def nc1(
    stats: ClassStatistics | _Prepared, normalise: bool = True, rtol: float | None = None
) -> jax.Array:
    """Within-class variability collapse, NC1.

    tr(Σ_W Σ_B⁺)/C with Σ_W = (1/n) Σ_i (h_i−μ_{y_i})(h_i−μ_{y_i})ᵀ and
    Σ_B = Σ_c (n_c/n)(μ_c−μ_G)(μ_c−μ_G)ᵀ, computed from C x C matrices. Ideal value 0.
    All means equal: inf.

    Args:
        stats: class statistics.
        normalise: divide by C, as Papyan et al. do; False gives the bare trace.
        rtol: eigenvalues of Σ_B below rtol times the largest count as zero, so directions that
            collapsed (minority collapse) drop out. Default 10·C·eps.

    Returns:
        Scalar.

    Source: Papyan, Han & Donoho, PNAS 2020. Beyond the paper.

    Example:
        >>> H, y = jnp.array([[1.0], [3.0], [-1.0], [-3.0]]), jnp.array([0, 0, 1, 1])
        >>> print(round(float(nc1(class_statistics(H, y, 2))), 6))  # (1/4)/2
        0.125
    """
    prepared = _prepare(stats)
    stats, frame = prepared.stats, prepared.frame
    C = frame.norms.size
    # Σ_B = BᵀB with rows of B the weighted means; tr(Σ_W Σ_B⁺) = ‖(BBᵀ)⁺ B Δ‖²/n for deviations Δ.
    root_weight = jnp.sqrt(_class_weights(stats.counts, frame.norms.dtype))
    weighted = root_weight * frame.norms
    gram = weighted[:, None] * weighted[None, :] * frame.cosines
    inverse = _pseudo_inverse(gram, root_weight, frame.unit.shape[1] >= C - 1, rtol)
    scatter = stats.projections if stats.scatter is None else stats.scatter
    projected = _in_scale(scatter, prepared) * root_weight
    coordinates = jnp.matmul(projected, inverse, precision=_PRECISION)
    trace = jnp.sum(coordinates**2) / stats.labels.size
    return jnp.where(frame.scale > 0, trace / C if normalise else trace, jnp.inf)


def nc1_trace_ratio(stats: ClassStatistics | _Prepared) -> jax.Array:
    """Within-class over between-class variance, tr Σ_W / tr Σ_B.

    Ideal value 0; no division by C. All means equal: inf.

    Args:
        stats: class statistics.

    Returns:
        Scalar.

    Source: Tirer, Huang & Niles-Weed, ICML 2023. Beyond the paper.

    Example:
        >>> H, y = jnp.array([[1.0], [3.0], [-1.0], [-3.0]]), jnp.array([0, 0, 1, 1])
        >>> print(float(nc1_trace_ratio(class_statistics(H, y, 2))))
        0.25
    """
    prepared = _prepare(stats)
    weights = _class_weights(prepared.stats.counts, prepared.frame.norms.dtype)
    within = jnp.sum(weights * _in_scale(prepared.stats.variances, prepared))
    return _ratio(within, jnp.sum(weights * prepared.frame.norms**2))


def cdnv(stats: ClassStatistics | _Prepared) -> jax.Array:
    """Class-distance normalised variance, mean over pairs of classes.

    V_cc' = (Var_c + Var_c') / (2‖μ_c − μ_c'‖²). Ideal value 0. inf as soon as two means coincide.

    Args:
        stats: class statistics.

    Returns:
        Scalar.

    Source: Galanti, György & Hutter, ICLR 2022. Beyond the paper.

    Example:
        >>> H, y = jnp.array([[1.0], [3.0], [-1.0], [-3.0]]), jnp.array([0, 0, 1, 1])
        >>> print(float(cdnv(class_statistics(H, y, 2))))
        0.0625
    """
    prepared = _prepare(stats)
    variances = _in_scale(prepared.stats.variances, prepared)
    pairs = variances[:, None] + variances[None, :]
    return _pair_mean(_ratio(pairs, 2 * prepared.squared_distances))


def nc2_equinorm(vectors: ClassStatistics | ArrayLike | _Prepared | _Frame) -> jax.Array:
    """Equinorm part of NC2: standard deviation over mean of the norms.

    Ideal value 0, at most √(C−1). All vectors zero: inf.

    Args:
        vectors: class statistics, for the centred class means, or (C, p) prototypes.

    Returns:
        Scalar.

    Source: Papyan, Han & Donoho, PNAS 2020. Beyond the paper.

    Example:
        >>> print(round(float(nc2_equinorm(jnp.array([[1.0, 0.0], [0.0, 3.0]]))), 6))
        0.5
    """
    norms = _frame(vectors).norms
    return _ratio(_std(norms), jnp.mean(norms))


def nc2_equiangularity(vectors: ClassStatistics | ArrayLike | _Prepared | _Frame) -> jax.Array:
    """Maximal-angle equiangularity part of NC2: mean over pairs of |cos + 1/(C−1)|.

    Ideal value 0, at most C/(C−1), which is also the value where all vectors are zero.

    Args:
        vectors: class statistics, for the centred class means, or (C, p) prototypes.

    Returns:
        Scalar.

    Source: Papyan, Han & Donoho, PNAS 2020. Beyond the paper.

    Example:
        >>> print(float(nc2_equiangularity(jnp.eye(3))))
        0.5
    """
    cosines = _frame(vectors).cosines
    return _pair_mean(jnp.abs(cosines + 1 / (cosines.shape[0] - 1)))


def etf_distance(vectors: ClassStatistics | ArrayLike | _Prepared | _Frame) -> jax.Array:
    """Frobenius distance of the Gram matrix G = VVᵀ from that of a simplex ETF.

    ‖ G/‖G‖ − (I − 11ᵀ/C)/√(C−1) ‖. Ideal value 0, at most √2, which is also the value where all
    vectors are equal or zero.

    Args:
        vectors: class statistics, for the centred class means, or (C, p) prototypes.

    Returns:
        Scalar.

    Source: Zhu et al., NeurIPS 2021. Beyond the paper.

    Example:
        >>> print(round(float(etf_distance(jnp.ones((4, 2)))), 5))
        1.41421
    """
    frame = _frame(vectors)
    C = frame.norms.size
    gram = frame.norms[:, None] * frame.norms[None, :] * frame.cosines
    size = _root(jnp.sum(gram**2))
    simplex = (jnp.eye(C, dtype=gram.dtype) - 1 / C) / math.sqrt(C - 1)
    distance = _root(jnp.sum((gram / jnp.where(size > 0, size, 1) - simplex) ** 2))
    return jnp.where(size > 0, distance, math.sqrt(2))


def gnc2(
    vectors: ClassStatistics | ArrayLike | _Prepared | _Frame,
    reduction: Literal["excess", "mean", "variation"] = "excess",
) -> jax.Array:
    """Hyperspherical uniformity, generalised NC2, with the logarithmic kernel.

    Mean over pairs of log 1/‖v̂_c − v̂_c'‖, v̂ unit vectors, in excess of the simplex ETF's
    −½ log(2C/(C−1)). Ideal value 0, reached by the simplex only; for C > p+1 the minimum is
    positive. Two vectors of the same direction: inf.

    Args:
        vectors: class statistics, for the centred class means, or (C, p) prototypes.
        reduction: "excess"; "mean", the energy itself; or "variation", the coefficient of
            variation std/|mean| of the pairwise kernel (Wu & Papyan), ideal value 0.

    Returns:
        Scalar.

    Raises:
        ValueError: an unknown reduction.

    Source: Liu, Yu, Weller & Schölkopf, ICLR 2023; Wu & Papyan, NeurIPS 2024. Beyond the paper.

    Example:
        >>> print(round(float(gnc2(jnp.eye(3))), 6))  # ½ log(3/2)
        0.202733
    """
    if reduction not in ("excess", "mean", "variation"):
        raise ValueError(
            f"Unknown reduction {reduction!r}; use 'excess', 'mean' or 'variation'."
        )
    squared = vectors.chords if isinstance(vectors, _Prepared) else _squared_chords(_frame(vectors))
    C = squared.shape[0]
    apart = squared > 0
    # Relative to the simplex before the logarithm, so that the excess does not cancel near 0.
    relative = jnp.where(apart, squared, 1) * ((C - 1) / (2 * C))
    excess_kernel = jnp.where(apart, -0.5 * jnp.log(relative), jnp.inf)
    excess = _pair_mean(excess_kernel)
    if reduction == "excess":
        return excess
    mean = excess - 0.5 * math.log(2 * C / (C - 1))
    if reduction == "mean":
        return mean
    finite = jnp.isfinite(excess)
    deviation = jnp.where(finite, excess_kernel, 0) - jnp.where(finite, excess, 0)
    spread = _root(_pair_mean(deviation**2))
    return _ratio(spread, jnp.where(finite, jnp.abs(mean), 0))


def nc3_self_duality(
    stats: ClassStatistics | _Prepared, W: ArrayLike | _Frame
) -> jax.Array:
    """Self-duality NC3: ‖ W/‖W‖ − M/‖M‖ ‖, M the (C, p) centred class means.

    Frobenius norms. Ideal value 0, at most 2; √2 (as for orthogonal matrices) where all means are
    equal or W = 0.

    Args:
        stats: class statistics.
        W: (C, p) prototypes.

    Returns:
        Scalar.

    Raises:
        ValueError: W of another shape than the class means.

    Source: Papyan, Han & Donoho, PNAS 2020. Beyond the paper.

    Example:
        >>> M = jnp.eye(3) - 1 / 3
        >>> stats = class_statistics(jnp.repeat(M, 2, 0), jnp.repeat(jnp.arange(3), 2), 3)
        >>> print(round(float(nc3_self_duality(stats, -7 * M)), 6))
        2.0
    """
    prepared = _prepare(stats)
    means, prototypes = prepared.frame, _prototype_frame(prepared, W)

    def direction(frame: _Frame) -> jax.Array:
        size = _root(jnp.sum(frame.norms**2))
        return (frame.norms / jnp.where(size > 0, size, 1))[:, None] * frame.unit

    distance = _root(jnp.sum((direction(prototypes) - direction(means)) ** 2))
    return jnp.where((means.scale > 0) & (prototypes.scale > 0), distance, math.sqrt(2))


def unc3(
    stats: ClassStatistics | _Prepared, W: ArrayLike | _Frame, normalise: bool = True
) -> jax.Array:
    """Uniform duality UNC3: variation over classes of cos(w_c, μ_c − μ_G).

    Coefficient of variation std/|mean| of the C cosines. Ideal value 0: every prototype is aligned
    with its class mean to the same degree. inf where the mean cosine is 0.

    Args:
        stats: class statistics.
        W: (C, p) prototypes.
        normalise: False gives the standard deviation alone, between 0 and 1.

    Returns:
        Scalar.

    Raises:
        ValueError: W of another shape than the class means.

    Source: Wu & Papyan, Linguistic Collapse, NeurIPS 2024, Section 3.6. Beyond the paper.

    Example:
        >>> stats = class_statistics(jnp.eye(2), jnp.arange(2), 2)
        >>> print(round(float(unc3(stats, jnp.array([[1.0, -1.0], [0.0, 1.0]]))), 5))
        0.17157
    """
    prepared = _prepare(stats)
    prototypes = _prototype_frame(prepared, W)
    cosines = jnp.sum(prepared.frame.unit * prototypes.unit, axis=1)
    return _ratio(_std(cosines), jnp.abs(jnp.mean(cosines))) if normalise else _std(cosines)


def nc4(stats: ClassStatistics | _Prepared, logits: ArrayLike) -> jax.Array:
    """Agreement of the classifier with the nearest-class-centre rule, NC4.

    Fraction of samples with argmax_c s_ic = argmin_c ‖h_i − μ_c‖. Ideal value 1. Ties go to the
    lowest class on both sides. Piecewise constant: its gradient is 0.

    Args:
        stats: class statistics.
        logits: (n, C) logits of the same samples.

    Returns:
        Scalar in [0, 1].

    Raises:
        ValueError: logits of another shape.

    Source: Papyan, Han & Donoho, PNAS 2020. Beyond the paper.

    Example:
        >>> H, y = jnp.array([[1.0], [3.0], [-1.0], [-3.0]]), jnp.array([0, 0, 1, 1])
        >>> print(float(nc4(class_statistics(H, y, 2), jnp.hstack([H - 3, -H]))))
        0.75
    """
    prepared = _prepare(stats)
    stats = prepared.stats
    choice = first_largest(_logits(stats, logits).T)
    projections = _in_scale(stats.projections, prepared).T
    # ‖h_i−μ_c‖², less what does not depend on c.
    distances = of_classes(prepared.squared_distances, stats.labels, stats.cyclic) - 2 * projections
    return jnp.mean(choice == first_largest(-distances), dtype=projections.dtype)


def minimal_angle(vectors: ClassStatistics | ArrayLike | _Prepared | _Frame) -> jax.Array:
    """Smallest angle between two of the vectors, in radians.

    Accurate for small angles too (atan2 of |û−v̂| and |û+v̂|). Ideal value arccos(−1/(C−1)); 0 for
    two vectors of the same direction, or all zero.

    Args:
        vectors: class statistics, for the centred class means, or (C, p) prototypes.

    Returns:
        Scalar in [0, π].

    Source: Mettes, van der Pol & Snoek, NeurIPS 2019. Beyond the paper.

    Example:
        >>> print(round(float(minimal_angle(jnp.array([[1.0, 0.0], [1.0, 1e-4]]))), 8))
        0.0001
    """
    frame = _frame(vectors)
    C = frame.norms.size
    nearest = jnp.argmax(jnp.where(jnp.eye(C, dtype=bool), -jnp.inf, frame.cosines))
    u, v = frame.unit[nearest // C], frame.unit[nearest % C]
    apart, together = _root(jnp.sum((u - v) ** 2)), _root(jnp.sum((u + v) ** 2))
    # Two zero vectors: atan2(0, 0) is 0, its derivative is not defined.
    return 2 * jnp.arctan2(apart, jnp.where(apart + together > 0, together, 1))


def margins(stats: ClassStatistics | _Prepared, logits: ArrayLike) -> jax.Array:
    """Margin s_y − max_{j≠y} s_j of each sample.

    Positive where the sample is classified correctly; in the units of the logits.

    Args:
        stats: class statistics, for the labels.
        logits: (n, C) logits of the same samples.

    Returns:
        (n,) margins.

    Raises:
        ValueError: logits of another shape.

    Source: Zhou et al. 2023, the sample margin defined below Eq. 1.

    Example:
        >>> stats = class_statistics(jnp.eye(2), jnp.arange(2), 2)
        >>> margins(stats, jnp.array([[3.0, 1.0], [0.0, 5.0]])).tolist()
        [2.0, 5.0]
    """
    stats = stats.stats if isinstance(stats, _Prepared) else stats
    logits = _logits(stats, logits)
    own = jnp.arange(logits.shape[1]) == stats.labels[:, None]
    target = jnp.take_along_axis(logits, stats.labels[:, None], axis=1)[:, 0]
    return target - jnp.max(jnp.where(own, -jnp.inf, logits), axis=1)


def margin_min(stats: ClassStatistics | _Prepared, logits: ArrayLike) -> jax.Array:
    """Smallest margin over the samples; see `margins`.

    min_i (s_iy − max_{j≠y} s_ij). Ideal value: as large as the scale of the logits allows.

    Args:
        stats: class statistics, for the labels.
        logits: (n, C) logits of the same samples.

    Returns:
        Scalar.

    Raises:
        ValueError: logits of another shape.

    Source: Zhou et al. 2023, the sample margin defined below Eq. 1.

    Example:
        >>> stats = class_statistics(jnp.eye(2), jnp.arange(2), 2)
        >>> print(float(margin_min(stats, jnp.array([[3.0, 1.0], [0.0, 5.0]]))))
        2.0
    """
    return jnp.min(margins(stats, logits))


def margin_mean(stats: ClassStatistics | _Prepared, logits: ArrayLike) -> jax.Array:
    """Mean margin over the samples; see `margins`.

    (1/n) Σ_i (s_iy − max_{j≠y} s_ij). Ideal value: as large as the scale of the logits allows.

    Args:
        stats: class statistics, for the labels.
        logits: (n, C) logits of the same samples.

    Returns:
        Scalar.

    Raises:
        ValueError: logits of another shape.

    Source: Zhou et al. 2023, the sample margin defined below Eq. 1.

    Example:
        >>> stats = class_statistics(jnp.eye(2), jnp.arange(2), 2)
        >>> print(float(margin_mean(stats, jnp.array([[3.0, 1.0], [0.0, 5.0]]))))
        3.5
    """
    return jnp.mean(margins(stats, logits))


@dataclasses.dataclass(frozen=True)
class MetricInfo:
    """One row of `METRICS`.

    Args:
        name: key in `METRICS` and in the result of `collapse_metrics`.
        function: the public function, called as `function(*takes)`.
        takes: its positional arguments, of "stats", "W" and "logits".
        reference: the paper that introduced it.
        ideal: value at exact collapse, as a function of the number of classes C.

    Source: beyond the paper.

    Example:
        >>> METRICS["nc4"].ideal(10)
        1.0
    """

    name: str
    function: Callable[..., jax.Array]
    takes: tuple[str, ...]
    reference: str
    ideal: Callable[[int], float]


def _zero(classes: int) -> float:
    return 0.0


def _one(classes: int) -> float:
    return 1.0


def _unbounded(classes: int) -> float:
    return math.inf


def _simplex_angle(classes: int) -> float:
    return math.acos(-1 / (classes - 1))


_PAPYAN = "Papyan, Han & Donoho, PNAS 2020"
_ROWS: tuple[tuple[str, Callable[..., jax.Array], tuple[str, ...], str, Any], ...] = (
    ("nc1", nc1, ("stats",), _PAPYAN, _zero),
    ("nc1_trace_ratio", nc1_trace_ratio, ("stats",), "Tirer et al., ICML 2023", _zero),
    ("cdnv", cdnv, ("stats",), "Galanti, György & Hutter, ICLR 2022", _zero),
    ("nc2_equinorm_means", nc2_equinorm, ("stats",), _PAPYAN, _zero),
    ("nc2_equinorm_prototypes", nc2_equinorm, ("W",), _PAPYAN, _zero),
    ("nc2_equiangularity_means", nc2_equiangularity, ("stats",), _PAPYAN, _zero),
    ("nc2_equiangularity_prototypes", nc2_equiangularity, ("W",), _PAPYAN, _zero),
    ("etf_distance_means", etf_distance, ("stats",), "Zhu et al., NeurIPS 2021", _zero),
    ("etf_distance_prototypes", etf_distance, ("W",), "Zhu et al., NeurIPS 2021", _zero),
    ("gnc2", gnc2, ("stats",), "Liu et al., ICLR 2023", _zero),
    ("nc3_self_duality", nc3_self_duality, ("stats", "W"), _PAPYAN, _zero),
    ("unc3", unc3, ("stats", "W"), "Wu & Papyan, NeurIPS 2024", _zero),
    ("nc4", nc4, ("stats", "logits"), _PAPYAN, _one),
    ("minimal_angle_means", minimal_angle, ("stats",), "Mettes et al., NeurIPS 2019",
     _simplex_angle),
    ("minimal_angle_prototypes", minimal_angle, ("W",), "Mettes et al., NeurIPS 2019",
     _simplex_angle),
    ("margin_min", margin_min, ("stats", "logits"), "Zhou et al., JMLR 2023", _unbounded),
    ("margin_mean", margin_mean, ("stats", "logits"), "Zhou et al., JMLR 2023", _unbounded),
)

METRICS: dict[str, MetricInfo] = {row[0]: MetricInfo(*row) for row in _ROWS}


def collapse_metrics(
    stats: ClassStatistics, W: ArrayLike | None = None, logits: ArrayLike | None = None
) -> dict[str, jax.Array]:
    """Every metric of `METRICS` at once, sharing Gram matrices and distances.

    Each entry equals the public function of the same name, called with its default options.

    Args:
        stats: class statistics.
        W: (C, p) prototypes; without them the metrics that need them are left out.
        logits: (n, C) logits; without them the metrics that need them are left out.

    Returns:
        Dictionary from metric name to scalar, in the order of `METRICS`.

    Raises:
        ValueError: W or logits whose shape does not match the statistics.

    Source: beyond the paper.

    Example:
        >>> M = jnp.eye(3) - 1 / 3
        >>> stats = class_statistics(jnp.repeat(M, 2, 0), jnp.repeat(jnp.arange(3), 2), 3)
        >>> values = collapse_metrics(stats, W=M)
        >>> len(values), round(float(values["nc3_self_duality"]), 6)
        (14, 0.0)
    """
    prepared = _prepare(stats)
    shared: dict[str, Any] = {"stats": prepared}
    if W is not None:
        shared["W"] = _prototype_frame(prepared, W)
    if logits is not None:
        shared["logits"] = _logits(stats, logits)
    return {
        name: info.function(*(shared[argument] for argument in info.takes))
        for name, info in METRICS.items()
        if set(info.takes) <= shared.keys()
    }
