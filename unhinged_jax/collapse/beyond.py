"""Metrics that are no functions of a state of the model alone, or that no compiled program computes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _check, _numbers
from unhinged_jax.collapse.frame import Frame, Prepared, frame_of, plain, rows_frame
from unhinged_jax.collapse.statistics import PRECISION, ClassStatistics
from unhinged_jax.precision import follows_arrays


@follows_arrays
def nc5(stats: ClassStatistics | Prepared, ood: ArrayLike) -> jax.Array:
    """Orthogonality to samples from outside the training distribution, NC5: mean over classes of |cos(μ_c, μ_ood)|.

    μ_ood is the mean feature of the samples from outside. As in the paper, neither it nor the class
    means μ_c are centred, so this metric depends on the origin. Ideal value 0, at most 1; a mean that
    vanishes has cosine 0.

    Args:
        stats: class statistics.
        ood: (m, p) features of the samples from outside.

    Returns:
        Scalar in [0, 1].

    Raises:
        ValueError: features of another dimension, or none.

    Source: Ammar et al., ICLR 2024, Eq. 5. Beyond the paper.

    Example:
        >>> from unhinged_jax.collapse import class_statistics
        >>> stats = class_statistics(jnp.eye(2, 3), jnp.arange(2), 2)
        >>> print(float(nc5(stats, jnp.array([[0.0, 0.0, 3.0], [0.0, 8.0, 3.0]]))))  # (0 + 4/5)/2
        0.4000000059604645
    """
    means = plain(stats).means
    outside = _numbers.floats(ood, "ood")
    if outside.ndim != 2 or outside.shape[0] == 0 or outside.shape[1] != means.shape[1]:
        raise ValueError(
            f"Features from outside must have shape (m, {means.shape[1]}) with m ≥ 1, got {outside.shape}; give one "
            "row per sample."
        )
    directions = rows_frame(jnp.vstack([means, jnp.mean(outside, axis=0)])).unit
    return jnp.mean(jnp.abs(jnp.matmul(directions[:-1], directions[-1], precision=PRECISION)))


@follows_arrays
def one_vs_rest_distance(vectors: ClassStatistics | ArrayLike | Prepared | Frame) -> jax.Array:
    """Least distance of one direction from the convex hull of all others: what a softmax code maximises.

    min_c dist(v̂_c, conv{v̂_j : j ≠ c}), v̂ unit vectors. Ideal value C/(C−1), reached by the simplex
    only; for p+1 < C ≤ 2p the largest possible value is 1, and in the plane 1 − cos(2π/C). 0 if one
    direction lies among the others. The distances are exact, from a least-squares problem with
    non-negative unknowns for every class that may be the nearest, so the arrays must hold known numbers.

    Args:
        vectors: class statistics, for the centred class means, or (C, p) prototypes.

    Returns:
        Scalar in [0, 2].

    Raises:
        ValueError: traced arrays.

    Source: Jiang et al., ICML 2024, Section 2; the reduction to non-negative least squares is the least-distance
        programming of Lawson & Hanson (1974). Beyond the paper.

    Example:
        >>> print(round(float(one_vs_rest_distance(jnp.eye(3))), 6))  # √(3/2)
        1.224745
    """
    unit = frame_of(vectors).unit
    if not _check.concrete(unit):
        raise ValueError("the one-vs-rest distance needs known numbers; call it outside jax.jit and the like.")
    rows = np.asarray(unit, np.float64)
    if np.isnan(rows).any():
        return jnp.asarray(np.nan, unit.dtype)
    least, most = _bounds(rows @ rows.T)
    # Rotated into the span of the rows, which changes no distance.
    rows = np.asarray(np.linalg.qr(rows.T, mode="r")).T if rows.shape[1] > len(rows) else rows
    best = np.inf
    for place in np.argsort(least):
        if least[place] >= min(best, most) - 1e-12:  # apart by rounding at most
            break
        best = min(best, _from_hull(np.delete(rows, place, axis=0) - rows[place]))
    return jnp.asarray(min(best, most), unit.dtype)


def _bounds(cosines: np.ndarray) -> tuple[np.ndarray, float]:
    """Lower bounds (C,) of the distances from the hulls, and an upper bound of the least of them.

    Any point of a hull bounds the distance from above, and the direction towards it from below, by the nearest vertex
    along it. The points are weighted by a softmax that sharpens.
    """
    classes = len(cosines)
    others = ~np.eye(classes, dtype=bool)
    least, most = np.zeros(classes), np.inf
    combined = cosines
    size = np.ones(classes)
    for sharpness in (2, 4, 8, 16, 32, 64):
        along = combined / np.where(size > 0, size, 1)[:, None]
        nearest = np.max(along, axis=1, where=others, initial=-np.inf)
        least = np.maximum(least, np.diag(along) - nearest)
        weights = np.where(others, np.exp(sharpness * (along - nearest[:, None])), 0)
        offset = np.eye(classes) - weights / weights.sum(axis=1, keepdims=True)
        combined = offset @ cosines
        size = np.sqrt(np.maximum(np.sum(combined * offset, axis=1), 0))
        most = min(most, float(size.min()))
    return least, most


def _from_hull(corners: np.ndarray) -> float:
    """Distance of the origin from the convex hull of some points, (m, p)."""
    from scipy.optimize import nnls

    # Of t a with a in the simplex, min t²‖Σ a_j u_j‖² + (t−1)² has the same a as min ‖Σ a_j u_j‖.
    system = np.vstack([corners.T, np.ones(len(corners))])
    weights, _ = nnls(system, np.append(np.zeros(corners.shape[1]), 1.0), maxiter=30 * len(corners))
    return float(np.linalg.norm(weights @ corners) / weights.sum())
