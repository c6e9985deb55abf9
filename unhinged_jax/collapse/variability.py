"""Within-class variability: NC1, the ratio of traces, class-distance normalised variance."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from unhinged_jax import _check
from unhinged_jax.collapse.frame import Prepared, in_scale, prepare
from unhinged_jax.collapse.numerics import pair_mean, pseudo_inverse, ratio
from unhinged_jax.collapse.statistics import PRECISION, ClassStatistics, class_weights
from unhinged_jax.precision import follows_arrays


@follows_arrays
def nc1(stats: ClassStatistics | Prepared, normalise: bool = True, rtol: float | None = None) -> jax.Array:
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
        >>> from unhinged_jax.collapse import class_statistics
        >>> H, y = jnp.array([[1.0], [3.0], [-1.0], [-3.0]]), jnp.array([0, 0, 1, 1])
        >>> print(round(float(nc1(class_statistics(H, y, 2))), 6))  # (1/4)/2
        0.125
    """
    if rtol is not None:
        _check.non_negative("rtol", rtol)
        _check.shape("rtol", rtol, (), "one number")
    prepared, normalise = prepare(stats), _check.flag("normalise", normalise)
    scatter = prepared.stats.projections if prepared.stats.scatter is None else prepared.stats.scatter
    return nc1_of_sum(prepared, within_sum(prepared, scatter, to_coordinates(prepared, rtol)), normalise)


def to_coordinates(prepared: Prepared, rtol: float | None = None) -> jax.Array:
    """(C, C) matrix from projections, in units of frame.scale², to coordinates in which Σ_B is the identity."""
    frame = prepared.frame
    # Σ_B = BᵀB with rows of B the weighted means; tr(Σ_W Σ_B⁺) = ‖(BBᵀ)⁺ B Δ‖²/n for deviations Δ.
    root_weight = jnp.sqrt(class_weights(prepared.stats.counts, frame.norms.dtype))
    weighted = root_weight * frame.norms
    gram = weighted[:, None] * weighted[None, :] * frame.cosines
    inverse = pseudo_inverse(gram, root_weight, frame.unit.shape[1] >= frame.norms.size - 1, rtol)
    return root_weight[:, None] * inverse


def within_sum(prepared: Prepared, projections: jax.Array, mapping: jax.Array) -> jax.Array:
    """n tr(Σ_W Σ_B⁺), or the part of it of some of the samples, by their projections (m, C) and `to_coordinates`."""
    return jnp.sum(jnp.matmul(in_scale(projections, prepared), mapping, precision=PRECISION) ** 2)


def within_sum_of_gram(prepared: Prepared, gram: jax.Array, mapping: jax.Array) -> jax.Array:
    """`within_sum` by the Gram matrix (C, C) of the projections."""
    scaled = in_scale(in_scale(gram, prepared), prepared)
    return jnp.maximum(jnp.sum(mapping * jnp.matmul(scaled, mapping, precision=PRECISION)), 0)


def nc1_of_sum(prepared: Prepared, total: jax.Array, normalise: bool = True) -> jax.Array:
    """`nc1` by the `within_sum` of all samples."""
    trace = total / jnp.sum(prepared.stats.counts)
    return jnp.where(prepared.frame.scale <= 0, jnp.inf, trace / prepared.frame.norms.size if normalise else trace)


@follows_arrays
def nc1_trace_ratio(stats: ClassStatistics | Prepared) -> jax.Array:
    """Within-class over between-class variance, tr Σ_W / tr Σ_B.

    Ideal value 0; no division by C. All means equal: inf.

    Args:
        stats: class statistics.

    Returns:
        Scalar.

    Source: Tirer, Huang & Niles-Weed, ICML 2023. Beyond the paper.

    Example:
        >>> from unhinged_jax.collapse import class_statistics
        >>> H, y = jnp.array([[1.0], [3.0], [-1.0], [-3.0]]), jnp.array([0, 0, 1, 1])
        >>> print(float(nc1_trace_ratio(class_statistics(H, y, 2))))
        0.25
    """
    prepared = prepare(stats)
    weights = class_weights(prepared.stats.counts, prepared.frame.norms.dtype)
    within = jnp.sum(weights * in_scale(prepared.stats.variances, prepared))
    return ratio(within, jnp.sum(weights * prepared.frame.norms**2))


@follows_arrays
def cdnv(stats: ClassStatistics | Prepared) -> jax.Array:
    """Class-distance normalised variance, mean over pairs of classes.

    V_cc' = (Var_c + Var_c') / (2‖μ_c − μ_c'‖²). Ideal value 0. inf as soon as two means coincide.

    Args:
        stats: class statistics.

    Returns:
        Scalar.

    Source: Galanti, György & Hutter, ICLR 2022. Beyond the paper.

    Example:
        >>> from unhinged_jax.collapse import class_statistics
        >>> H, y = jnp.array([[1.0], [3.0], [-1.0], [-3.0]]), jnp.array([0, 0, 1, 1])
        >>> print(float(cdnv(class_statistics(H, y, 2))))
        0.0625
    """
    prepared = prepare(stats)
    variances = in_scale(prepared.stats.variances, prepared)
    pairs = variances[:, None] + variances[None, :]
    return pair_mean(ratio(pairs, 2 * prepared.squared_distances))
