"""What the collapse metrics need to know about the features, class by class."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from unhinged_jax import _check, _memory, _numbers
from unhinged_jax.precision import follows_arrays
from unhinged_jax.special import drift, power_of_two, safe_norm, segment_sum

# Recent accelerators multiply float32 matrices with 10-bit mantissas unless told otherwise.
PRECISION = jax.lax.Precision.HIGHEST


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
        unit: Variances, projections and scatter are in units of its square. 1, unless they would leave the
            floating-point range.
        lost: () whether the means differ by no more than the rounding of sums over the samples; then what depends
            on their differences is NaN.

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
    unit: ArrayLike = 1.0
    lost: ArrayLike = False


jax.tree_util.register_dataclass(
    ClassStatistics, [field.name for field in dataclasses.fields(ClassStatistics) if field.name != "cyclic"], ["cyclic"]
)


def of_classes(table: jax.Array, index: jax.Array, cyclic: bool) -> jax.Array:
    """table[:, index]; if sample i is of class i mod C these are copies side by side."""
    return jnp.tile(table, (1, index.shape[0] // table.shape[1])) if cyclic else table[:, index]


def _check_features(H: jax.Array, labels: jax.Array | np.ndarray, classes: int) -> None:
    if H.ndim != 2 or labels.shape != H.shape[:1]:
        raise ValueError(
            f"Expected features (n, p) and labels (n,), got shapes {H.shape} and {labels.shape}; "
            "give one label for each row of features."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"Labels must be integers, got {labels.dtype}; pass class indices.")
    if _check.whole("classes", classes, 0) < 2:
        raise ValueError(f"Collapse metrics need at least 2 classes, got classes={classes}.")
    if isinstance(labels, jax.core.Tracer):
        return
    # NumPy, because under `jit` even operations on constant labels are traced.
    present = np.unique(np.asarray(labels))
    if present.size and (present[0] < 0 or present[-1] >= classes):
        raise ValueError(
            f"Labels must lie in 0..{classes - 1}, got {present[0]}..{present[-1]}; renumber them or raise `classes`."
        )
    empty = classes - present.size
    if empty:
        raise ValueError(
            f"{empty} of {classes} classes have no sample, but every class needs one for its mean; "
            "drop the empty classes."
        )


@follows_arrays
def class_statistics(H: ArrayLike, labels: ArrayLike, classes: int) -> ClassStatistics:
    """Class statistics of a dense feature matrix.

    Each class is shifted by one of its own samples before averaging, so that a common offset costs
    no digits and a class of identical rows has deviation exactly zero.

    Args:
        H: (n, p) features.
        labels: (n,) integer classes in 0..classes-1, of any integer type, each present at least once.
            Under `jit` this is not checked, and the mean of an empty class is arbitrary.
        classes: number C ≥ 2 of classes, a Python integer (static).

    Returns:
        `ClassStatistics` in float64 if H is, in float32 otherwise: also for features of 16 bits, whose
        sums over a class would be lost in their own type.

    Raises:
        ValueError: shapes that do not match, labels out of range, or an empty class.
        TypeError: labels that are not integers.

    Source: beyond the paper.

    Example:
        >>> class_statistics(jnp.array([[0.0], [2.0], [5.0]]), jnp.array([0, 0, 1]), 2).means
        Array([[1.],
               [5.]], dtype=float32)
    """
    H = _numbers.floats(H, "features")
    labels = labels if isinstance(labels, jax.Array) else _memory.read(labels)
    _check_features(H, labels, classes)
    labels = jnp.asarray(_numbers.whole("labels", labels))
    n = H.shape[0]
    counts = jax.ops.segment_sum(jnp.ones_like(labels), labels, classes)
    size = jnp.maximum(counts, 1).astype(H.dtype)
    first = jax.ops.segment_min(jnp.arange(n), labels, classes)
    anchor = H.at[first].get(mode="clip")
    shifted = H - anchor[labels]
    mean_shift = segment_sum(shifted, labels, classes) / size[:, None]
    means = anchor + mean_shift
    return of_deviations(counts, labels, means, shifted - mean_shift[labels], summed=True)


def of_deviations(
    counts: jax.Array, labels: jax.Array, means: jax.Array, deviations: jax.Array, summed: ArrayLike
) -> ClassStatistics:
    """Class statistics by class means (C, p) and the deviations from them (n, p).

    `summed`: whether means are sums over samples, and so contain rounding of the size of the deviations.
    """
    contrasts = centred(means, counts)
    spread, apart = safe_norm(deviations) / deviations.shape[0] ** 0.5, safe_norm(contrasts)
    lost = summed & (apart > 0) & (apart < 64 * jnp.finfo(means.dtype).eps * spread)
    # Squares are taken of features of ordinary size: those of 1e-150 have none.
    power = drift(jnp.maximum(spread, apart), beyond=30)
    shrink = power_of_two(-power, means.dtype)
    deviations, contrasts = shrink * deviations, shrink * contrasts
    variances = segment_sum(jnp.sum(deviations**2, axis=1), labels, counts.size) / jnp.maximum(counts, 1)
    projections = jnp.matmul(deviations, contrasts.T, precision=PRECISION)
    unit = power_of_two(power, means.dtype)
    return ClassStatistics(counts, means, variances, projections, labels, unit=unit, lost=lost)


def class_weights(counts: jax.Array, dtype: DTypeLike) -> jax.Array:
    """(C,) share of each class among the samples."""
    counts = jnp.asarray(counts).astype(dtype)
    return counts / jnp.sum(counts)


def centred(means: jax.Array, counts: jax.Array) -> jax.Array:
    """(C, p) class means minus the global mean, without the digits of a common offset."""
    shifted = means - means[0]
    weights = class_weights(counts, means.dtype)
    return shifted - jnp.matmul(weights, shifted, precision=PRECISION)
