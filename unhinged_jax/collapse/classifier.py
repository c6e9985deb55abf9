"""Prototypes and logits beside class means: NC3, NC4, UNC3, margins."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from unhinged_jax import _check
from unhinged_jax.collapse.frame import Frame, Prepared, checked_logits, in_scale, plain, prepare, prototype_frame
from unhinged_jax.collapse.numerics import ratio, std
from unhinged_jax.collapse.statistics import ClassStatistics, of_classes
from unhinged_jax.precision import follows_arrays
from unhinged_jax.special import first_largest, greatest, safe_sqrt


@follows_arrays
def nc3_self_duality(stats: ClassStatistics | Prepared, W: ArrayLike | Frame) -> jax.Array:
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
        >>> from unhinged_jax.collapse import class_statistics
        >>> M = jnp.eye(3) - 1 / 3
        >>> stats = class_statistics(jnp.repeat(M, 2, 0), jnp.repeat(jnp.arange(3), 2), 3)
        >>> print(round(float(nc3_self_duality(stats, -7 * M)), 6))
        2.0
    """
    prepared = prepare(stats)
    means, prototypes = prepared.frame, prototype_frame(prepared, W)

    def direction(frame: Frame) -> jax.Array:
        size = safe_sqrt(jnp.sum(frame.norms**2))
        return (frame.norms / jnp.where(size <= 0, 1, size))[:, None] * frame.unit

    distance = safe_sqrt(jnp.sum((direction(prototypes) - direction(means)) ** 2))
    return jnp.where((means.scale <= 0) | (prototypes.scale <= 0), math.sqrt(2), distance)


@follows_arrays
def unc3(stats: ClassStatistics | Prepared, W: ArrayLike | Frame, normalise: bool = True) -> jax.Array:
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
        >>> from unhinged_jax.collapse import class_statistics
        >>> stats = class_statistics(jnp.eye(2), jnp.arange(2), 2)
        >>> print(round(float(unc3(stats, jnp.array([[1.0, -1.0], [0.0, 1.0]]))), 5))
        0.17157
    """
    prepared = prepare(stats)
    prototypes = prototype_frame(prepared, W)
    cosines = jnp.sum(prepared.frame.unit * prototypes.unit, axis=1)
    return ratio(std(cosines), jnp.abs(jnp.mean(cosines))) if _check.flag("normalise", normalise) else std(cosines)


@follows_arrays
def nc4(stats: ClassStatistics | Prepared, logits: ArrayLike) -> jax.Array:
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
        >>> from unhinged_jax.collapse import class_statistics
        >>> H, y = jnp.array([[1.0], [3.0], [-1.0], [-3.0]]), jnp.array([0, 0, 1, 1])
        >>> print(float(nc4(class_statistics(H, y, 2), jnp.hstack([H - 3, -H]))))
        0.75
    """
    prepared = prepare(stats)
    return _share(predicted(prepared, logits) == nearest_class(prepared), prepared, logits, *_compared(prepared))


def predicted(stats: ClassStatistics | Prepared, logits: ArrayLike) -> jax.Array:
    """(n,) class with the largest logit of each sample; the lowest of equal ones."""
    return first_largest(checked_logits(prepare(stats).stats, logits).T)


def nearest_class(stats: ClassStatistics | Prepared) -> jax.Array:
    """(n,) class whose mean is nearest to each sample; the lowest of equally near ones."""
    prepared = prepare(stats)
    distances, projections = _compared(prepared)
    stats = prepared.stats
    # ‖h_i−μ_c‖², less what does not depend on c.
    return first_largest(2 * in_scale(projections, prepared).T - of_classes(distances, stats.labels, stats.cyclic))


def _compared(prepared: Prepared) -> tuple[jax.Array, jax.Array]:
    """What decides which class mean is nearest: squared distances of means, and projections of samples."""
    return prepared.squared_distances, prepared.stats.projections


def _share(hits: jax.Array, prepared: Prepared, *compared: ArrayLike) -> jax.Array:
    """The share of hits; NaN if what was compared for them holds NaN, because comparisons with it are false."""
    unknown = jnp.any(jnp.stack([jnp.any(jnp.isnan(jnp.asarray(part))) for part in compared]))
    return jnp.where(unknown, jnp.nan, jnp.mean(hits, dtype=prepared.frame.norms.dtype))


@follows_arrays
def ncc_accuracy(stats: ClassStatistics | Prepared) -> jax.Array:
    """Accuracy of the nearest-class-centre rule.

    Fraction of samples with y_i = argmin_c ‖h_i − μ_c‖. Ideal value 1. Ties go to the lowest class.
    Piecewise constant: its gradient is 0.

    Args:
        stats: class statistics.

    Returns:
        Scalar in [0, 1].

    Source: Galanti, György & Hutter, ICLR 2022. Beyond the paper.

    Example:
        >>> from unhinged_jax.collapse import class_statistics
        >>> H, y = jnp.array([[1.0], [3.0], [0.9], [-3.0]]), jnp.array([0, 0, 1, 1])
        >>> print(float(ncc_accuracy(class_statistics(H, y, 2))))
        0.75
    """
    prepared = prepare(stats)
    return _share(nearest_class(prepared) == prepared.stats.labels, prepared, *_compared(prepared))


@follows_arrays
def accuracy(stats: ClassStatistics | Prepared, logits: ArrayLike) -> jax.Array:
    """Accuracy of the classifier.

    Fraction of samples with y_i = argmax_c s_ic. Ideal value 1. Ties go to the lowest class.
    Piecewise constant: its gradient is 0.

    Args:
        stats: class statistics, for the labels.
        logits: (n, C) logits of the same samples.

    Returns:
        Scalar in [0, 1].

    Raises:
        ValueError: logits of another shape.

    Source: Papyan, Han & Donoho, PNAS 2020, who train until it is 1. Beyond the paper.

    Example:
        >>> from unhinged_jax.collapse import class_statistics
        >>> stats = class_statistics(jnp.eye(2), jnp.arange(2), 2)
        >>> print(float(accuracy(stats, jnp.array([[3.0, 1.0], [5.0, 0.0]]))))
        0.5
    """
    prepared = prepare(stats)
    return _share(predicted(prepared, logits) == prepared.stats.labels, prepared, logits)


@follows_arrays
def margins(stats: ClassStatistics | Prepared, logits: ArrayLike) -> jax.Array:
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
        >>> from unhinged_jax.collapse import class_statistics
        >>> stats = class_statistics(jnp.eye(2), jnp.arange(2), 2)
        >>> margins(stats, jnp.array([[3.0, 1.0], [0.0, 5.0]])).tolist()
        [2.0, 5.0]
    """
    stats = plain(stats)
    logits = checked_logits(stats, logits)
    own = jnp.arange(logits.shape[1]) == stats.labels[:, None]
    target = jnp.take_along_axis(logits, stats.labels[:, None], axis=1)[:, 0]
    return target - greatest(jnp.where(own, -jnp.inf, logits), 1)


@follows_arrays
def margin_min(stats: ClassStatistics | Prepared, logits: ArrayLike) -> jax.Array:
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
        >>> from unhinged_jax.collapse import class_statistics
        >>> stats = class_statistics(jnp.eye(2), jnp.arange(2), 2)
        >>> print(float(margin_min(stats, jnp.array([[3.0, 1.0], [0.0, 5.0]]))))
        2.0
    """
    return -greatest(-margins(stats, logits))


@follows_arrays
def margin_mean(stats: ClassStatistics | Prepared, logits: ArrayLike) -> jax.Array:
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
        >>> from unhinged_jax.collapse import class_statistics
        >>> stats = class_statistics(jnp.eye(2), jnp.arange(2), 2)
        >>> print(float(margin_mean(stats, jnp.array([[3.0, 1.0], [0.0, 5.0]]))))
        3.5
    """
    return jnp.mean(margins(stats, logits))
