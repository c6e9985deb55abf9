"""Random starts from a JAX key, and the simplex frame."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _check, _numbers
from unhinged_jax.precision import traceable


def normal(key: jax.Array, shape: Sequence[int], scale: ArrayLike = 1.0) -> jax.Array:
    """Independent normal entries of mean zero.

    x ~ N(0, scale²), entry by entry.

    Args:
        key: JAX key.
        shape: shape of the result, positive integers.
        scale: standard deviation, a non-negative scalar; default 1. May be traced.

    Returns:
        Array of ``shape`` in the default precision.

    Raises:
        TypeError: ``key`` is not a JAX key, or ``shape`` is not a tuple.
        ValueError: ``shape`` does not hold positive integers, or ``scale`` is negative, not finite
            or not a scalar.

    Source:
        The start of the numerical experiments, Appendix C.1 ("randomly initialize").

    Example:
        >>> import jax
        >>> normal(jax.random.key(0), (3, 2)).shape
        (3, 2)
    """
    check_key(key)
    if np.ndim(scale) != 0:
        raise ValueError(f"scale must be a scalar, but got shape {np.shape(scale)}; multiply the result instead.")
    _check.non_negative("scale", scale)
    draw = jax.random.normal(key, _checked_shape(shape, least_axes=0))
    return draw * traceable(scale)


def kaiming_uniform(key: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Uniform entries with the variance 2/fan_in of He et al. (2015).

    x ~ U[−a, a),  a = √(6/fan_in),  fan_in = length of the last axis.

    Args:
        key: JAX key.
        shape: (..., fan_out, fan_in), positive integers; leading axes are independent copies.

    Returns:
        Array of ``shape`` in the default precision.

    Raises:
        TypeError: ``key`` is not a JAX key, or ``shape`` is not a tuple.
        ValueError: ``shape`` does not hold positive integers, or has fewer than two axes.

    Source:
        Beyond the paper's text, but the law of the initial prototypes it used.

    Example:
        >>> import jax
        >>> float(abs(kaiming_uniform(jax.random.key(0), (5, 6))).max()) <= 1.0
        True
    """
    return _kaiming(key, shape, "uniform")


def kaiming_normal(key: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Normal entries, not truncated, with the variance 2/fan_in of He et al. (2015).

    x ~ N(0, 2/fan_in),  fan_in = length of the last axis.

    Args:
        key: JAX key.
        shape: (..., fan_out, fan_in), positive integers; leading axes are independent copies.

    Returns:
        Array of ``shape`` in the default precision.

    Raises:
        TypeError: ``key`` is not a JAX key, or ``shape`` is not a tuple.
        ValueError: ``shape`` does not hold positive integers, or has fewer than two axes.

    Source:
        Beyond the paper.

    Example:
        >>> import jax
        >>> kaiming_normal(jax.random.key(0), (5, 6)).shape
        (5, 6)
    """
    return _kaiming(key, shape, "normal")


def simplex_etf(classes: int, dim: int, key: jax.Array | None = None) -> jax.Array:
    """Prototypes that form a simplex equiangular tight frame.

    W Wᵀ = (C I − 11ᵀ)/(C − 1): rows of unit norm, every pair at cosine −1/(C − 1), sum zero.

    Args:
        classes: number C of prototypes, at least 2.
        dim: dimension p of the features, at least C − 1.
        key: JAX key of a rotation drawn uniformly; default None places the frame in the first
            C − 1 coordinates, always in the same way.

    Returns:
        Array of shape (C, p) in the default precision.

    Raises:
        TypeError: ``key`` is not a JAX key.
        ValueError: ``classes`` or ``dim`` is not a whole number, ``classes`` < 2, or
            ``dim`` < ``classes`` − 1.

    Source:
        Zhou et al. (2023), Lemma 1 (the optimum) and Appendix D.1 (as initial prototypes).

    Example:
        >>> W = simplex_etf(3, 2)
        >>> [[round(float(x), 3) + 0.0 for x in row] for row in W @ W.T]
        [[1.0, -0.5, -0.5], [-0.5, 1.0, -0.5], [-0.5, -0.5, 1.0]]
    """
    classes = _check.whole("classes", classes, least=2)
    dim = _check.whole("dim", dim, least=1)
    if dim < classes - 1:
        raise ValueError(
            f"dim must be at least classes - 1 = {classes - 1} for a simplex ETF of {classes} "
            f"prototypes, but got {dim}; raise dim or use fewer classes."
        )
    frame = _minimal_frame(classes)
    if key is None:
        return jnp.pad(frame, ((0, 0), (0, dim - classes + 1)))
    check_key(key)
    axes = jax.random.orthogonal(key, classes - 1, m=dim)
    return jnp.matmul(frame, axes, precision=jax.lax.Precision.HIGHEST)


def _kaiming(key: jax.Array, shape: Sequence[int], distribution: str) -> jax.Array:
    check_key(key)
    shape = _checked_shape(shape, least_axes=2)
    draw = jax.nn.initializers.variance_scaling(
        2.0,
        "fan_in",
        distribution,  # type: ignore[arg-type]
        in_axis=-1,
        out_axis=-2,
        batch_axis=tuple(range(len(shape) - 2)),
    )
    return draw(key, shape)


def _minimal_frame(classes: int) -> jax.Array:
    """Simplex ETF of shape (C, C − 1): Householder columns orthogonal to the ones vector."""
    root = math.sqrt(classes)
    scale = math.sqrt(classes / (classes - 1))
    first = jnp.full((1, classes - 1), scale / root)
    shift = scale * (1.0 + 1.0 / root) / (classes - 1)
    return jnp.concatenate([first, scale * jnp.eye(classes - 1) - shift])


def check_key(key: object) -> None:
    """Raise TypeError unless this is a JAX key."""
    try:
        _check.key("key", key)
    except ValueError as error:
        raise TypeError(str(error)) from None


def rows_of(name: str, value: object) -> jax.Array:
    """The rows of a matrix in the default precision, or raise ValueError unless it is one of finite numbers."""
    rows = _numbers.array(name, value)
    if np.ndim(rows) != 2 or 0 in np.shape(rows):
        raise ValueError(f"{name} must be a matrix with rows and columns, but got shape {np.shape(rows)}.")
    _check.finite(name, rows, array=True)
    return jnp.asarray(rows, jnp.result_type(float))


def _checked_shape(shape: Sequence[int], least_axes: int) -> tuple[int, ...]:
    if not isinstance(shape, tuple | list):
        raise TypeError(f"shape must be a tuple of whole numbers, as (3, 2), but got {shape!r}.")
    if len(shape) < least_axes:
        raise ValueError(
            f"shape must have at least {least_axes} axes, but got {shape}; give the rows first and the features last."
        )
    return tuple(_check.whole("each length in shape", length, least=1) for length in shape)
