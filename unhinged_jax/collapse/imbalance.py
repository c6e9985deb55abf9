"""Geometry of classes of different sizes: simplex-encoded-labels interpolation (SELI)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from unhinged_jax.collapse.directions import gram_distance
from unhinged_jax.collapse.frame import Frame, Prepared, mean_frame, prepare, prototype_frame
from unhinged_jax.collapse.statistics import PRECISION, ClassStatistics, class_weights
from unhinged_jax.precision import follows_arrays


@follows_arrays
def seli_distance_means(stats: ClassStatistics | Prepared) -> jax.Array:
    """Distance of the class means from the SELI geometry, which their numbers of samples determine.

    Frobenius distance of their Gram matrix from that of SELI, each over its norm. The means are
    centred by the mean of class means, where SELI has its origin. Ideal value 0, also of
    cross-entropy with imbalanced classes; at most √2, where all means are equal. Equals
    `etf_distance` for balanced classes.

    Args:
        stats: class statistics.

    Returns:
        Scalar.

    Source: Thrampoulidis et al., NeurIPS 2022. Beyond the paper.

    Example:
        >>> from unhinged_jax.collapse import class_statistics
        >>> stats = class_statistics(jnp.eye(3) - 1 / 3, jnp.arange(3), 3)
        >>> print(round(float(seli_distance_means(stats)), 6))
        0.0
    """
    stats = prepare(stats).stats
    return gram_distance(mean_frame(stats, equal=True), _grams(stats)[1])


@follows_arrays
def seli_distance_prototypes(stats: ClassStatistics | Prepared, W: ArrayLike | Frame) -> jax.Array:
    """Distance of the prototypes from the SELI geometry, which the numbers of samples determine.

    Frobenius distance of their Gram matrix from that of SELI, each over its norm. Ideal value 0,
    also of cross-entropy with imbalanced classes; at most √2, where all prototypes are zero or
    equal. Equals `etf_distance` for balanced classes.

    Args:
        stats: class statistics, for the numbers of samples.
        W: (C, p) prototypes.

    Returns:
        Scalar.

    Raises:
        ValueError: W of another shape than the class means.

    Source: Thrampoulidis et al., NeurIPS 2022. Beyond the paper.

    Example:
        >>> from unhinged_jax.collapse import class_statistics
        >>> stats = class_statistics(jnp.eye(3), jnp.arange(3), 3)
        >>> print(round(float(seli_distance_prototypes(stats, jnp.eye(3) - 1 / 3)), 6))
        0.0
    """
    prepared = prepare(stats)
    return gram_distance(prototype_frame(prepared, W), _grams(prepared.stats)[0])


def _grams(stats: ClassStatistics) -> tuple[jax.Array, jax.Array]:
    """(C, C) Gram matrices of norm 1 of the prototypes and of the class means in the SELI geometry.

    The labels less 1/C, (C, n), are U S Vᵀ; the prototypes have the Gram matrix U S Uᵀ and the features V S Vᵀ. Equal
    columns are taken together: those of class c are one column times √n_c.
    """
    share = jnp.sqrt(jax.lax.stop_gradient(class_weights(stats.counts, stats.means.dtype)))
    labels = (jnp.eye(share.size, dtype=share.dtype) - 1 / share.size) * share
    U, S, Vt = jnp.linalg.svd(labels)
    grams = (jnp.matmul(side * S, side.T, precision=PRECISION) for side in (U, Vt.T / share[:, None]))
    prototypes, means = (gram / jnp.linalg.norm(gram) for gram in grams)
    return prototypes, means
