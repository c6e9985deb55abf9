"""Norms and angles of class means or prototypes: NC2 and related metrics."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from unhinged_jax import _check
from unhinged_jax.collapse.frame import Frame, Prepared, frame_of, squared_chords
from unhinged_jax.collapse.numerics import pair_mean, ratio, std
from unhinged_jax.collapse.statistics import ClassStatistics
from unhinged_jax.precision import follows_arrays
from unhinged_jax.special import safe_sqrt


@follows_arrays
def nc0(vectors: ClassStatistics | ArrayLike | Prepared | Frame) -> jax.Array:
    """Zero sum, NC0: ‖Σ_c w_c‖ / Σ_c ‖w_c‖.

    Ideal value 0, which collapse requires; at most 1, where all vectors have one direction. All
    vectors zero: inf.

    Args:
        vectors: (C, p) prototypes, or class statistics, for the centred class means.

    Returns:
        Scalar.

    Source: Zhao et al., ICLR 2026; here relative to the norms, so that scale does not matter.
        Beyond the paper.

    Example:
        >>> print(round(float(nc0(jnp.array([[3.0, 0.0], [0.0, 4.0]]))), 6))  # 5/7
        0.714286
    """
    frame = frame_of(vectors)
    total = jnp.sum(frame.norms[:, None] * frame.unit, axis=0)
    return ratio(safe_sqrt(jnp.sum(total**2)), jnp.sum(frame.norms))


@follows_arrays
def nc2_equinorm(vectors: ClassStatistics | ArrayLike | Prepared | Frame) -> jax.Array:
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
    norms = frame_of(vectors).norms
    return ratio(std(norms), jnp.mean(norms))


@follows_arrays
def nc2_equiangularity(vectors: ClassStatistics | ArrayLike | Prepared | Frame) -> jax.Array:
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
    cosines = frame_of(vectors).cosines
    return pair_mean(jnp.abs(cosines + 1 / (cosines.shape[0] - 1)))


@follows_arrays
def etf_distance(vectors: ClassStatistics | ArrayLike | Prepared | Frame) -> jax.Array:
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
    frame = frame_of(vectors)
    C = frame.norms.size
    return gram_distance(frame, (jnp.eye(C, dtype=frame.norms.dtype) - 1 / C) / math.sqrt(C - 1))


def gram_distance(frame: Frame, other: jax.Array) -> jax.Array:
    """Frobenius distance of the Gram matrix over its norm from another (C, C) one of norm 1; √2 if it is zero."""
    gram = frame.norms[:, None] * frame.norms[None, :] * frame.cosines
    size = safe_sqrt(jnp.sum(gram**2))
    distance = safe_sqrt(jnp.sum((gram / jnp.where(size <= 0, 1, size) - other) ** 2))
    return jnp.where(size <= 0, math.sqrt(2), distance)


@follows_arrays
def gnc2(
    vectors: ClassStatistics | ArrayLike | Prepared | Frame,
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
    if not isinstance(reduction, str) or reduction not in ("excess", "mean", "variation"):
        raise ValueError(f"Unknown reduction {reduction!r}; use 'excess', 'mean' or 'variation'.")
    squared = vectors.chords if isinstance(vectors, Prepared) else squared_chords(frame_of(vectors))
    C = squared.shape[0]
    apart = ~(squared <= 0)
    # Relative to the simplex before the logarithm, so that the excess does not cancel near 0.
    relative = jnp.where(apart, squared, 1) * ((C - 1) / (2 * C))
    excess_kernel = jnp.where(apart, -0.5 * jnp.log(relative), jnp.inf)
    excess = pair_mean(excess_kernel)
    if reduction == "excess":
        return excess
    mean = excess - 0.5 * math.log(2 * C / (C - 1))
    if reduction == "mean":
        return mean
    finite = jnp.isfinite(excess)
    deviation = jnp.where(finite, excess_kernel, 0) - jnp.where(finite, excess, 0)
    spread = safe_sqrt(pair_mean(deviation**2))
    return ratio(spread, jnp.where(finite, jnp.abs(mean), 0))


@follows_arrays
def minimal_angle(vectors: ClassStatistics | ArrayLike | Prepared | Frame) -> jax.Array:
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
    frame = frame_of(vectors)
    C = frame.norms.size
    nearest = jnp.argmax(jnp.where(jnp.eye(C, dtype=bool), -jnp.inf, frame.cosines))
    u, v = frame.unit[nearest // C], frame.unit[nearest % C]
    apart, together = safe_sqrt(jnp.sum((u - v) ** 2)), safe_sqrt(jnp.sum((u + v) ** 2))
    # Two zero vectors: atan2(0, 0) is 0, its derivative is not defined.
    return 2 * jnp.arctan2(apart, jnp.where(apart + together > 0, together, 1))


@follows_arrays
def riesz_energy(vectors: ClassStatistics | ArrayLike | Prepared | Frame, power: float = 1.0) -> jax.Array:
    """Riesz energy of the directions, over that of a simplex ETF.

    Mean over pairs of ‖v̂_c − v̂_c'‖^−s, v̂ unit vectors, over (2C/(C−1))^(−s/2). Ideal value 1, reached
    by the simplex only; for C > p+1 the minimum is larger. Two vectors of the same direction: inf.
    As s falls to 0, its logarithm over s becomes `gnc2`.

    Args:
        vectors: class statistics, for the centred class means, or (C, p) prototypes.
        power: s > 0; 1 is the energy of equal charges.

    Returns:
        Scalar.

    Raises:
        ValueError: a power that is not above 0.

    Source: Liu et al., NeurIPS 2018. Beyond the paper.

    Example:
        >>> print(round(float(riesz_energy(jnp.eye(3))), 6))  # √(3/2)
        1.224745
    """
    _check.positive("power", power)
    _check.shape("power", power, (), "one number; map over others with jax.vmap")
    squared = vectors.chords if isinstance(vectors, Prepared) else squared_chords(frame_of(vectors))
    C = squared.shape[0]
    apart = ~(squared <= 0)
    relative = jnp.where(apart, squared, 1) * ((C - 1) / (2 * C))
    return pair_mean(jnp.where(apart, relative ** (-power / 2), jnp.inf))
