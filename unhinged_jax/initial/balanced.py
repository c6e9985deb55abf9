"""Balanced starts: features and prototypes whose Gram matrices differ by a multiple of the identity."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _check
from unhinged_jax.initial.draws import check_key, rows_of
from unhinged_jax.precision import traceable


def balanced_partner(key: jax.Array, part: ArrayLike, rows: int, kappa: ArrayLike = 0.0) -> jax.Array:
    """A random matrix X with XᵀX = VᵀV + κI for a given V, otherwise uniform.

    X = O R,  with Oᵀ O = I drawn uniformly and RᵀR = VᵀV + κI.

    Args:
        key: JAX key.
        part: V, shape (m, p).
        rows: number of rows of X.
        kappa: κ, at least 0; default 0. A traced one must be above 0, and below 0 gives NaN.

    Returns:
        Array of shape (rows, p) in the default precision.

    Raises:
        TypeError: ``key`` is not a JAX key.
        ValueError: ``kappa`` is negative or not a scalar, or ``rows`` is below the rank of the
            right-hand side: p, or min(m, p) for κ = 0.

    Source:
        Beyond the paper; balanced starts as in Braun et al. (2022) and, with κ, in Dominé et al.
        (2025).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> V = jnp.array([[1.0, 0.0], [1.0, 2.0]])
        >>> X = balanced_partner(jax.random.key(0), V, rows=5, kappa=3.0)
        >>> [[round(float(x), 3) + 0.0 for x in row] for row in X.T @ X - V.T @ V]
        [[3.0, 0.0], [0.0, 3.0]]
    """
    check_key(key)
    _check.non_negative("kappa", kappa)
    _check.shape("kappa", kappa, (), "one number")
    V = rows_of("part", part)
    count, dim = V.shape
    even = _check.concrete(kappa) and float(np.asarray(kappa)) == 0
    rank = min(count, dim) if even else dim
    if _check.whole("rows", rows, least=1) < rank:
        raise ValueError(f"rows must be at least {rank}, the rank of VᵀV + κI, but got {rows}; lower the dimension.")
    if not even:
        V = jnp.concatenate([V, jnp.sqrt(traceable(kappa)) * jnp.eye(dim, dtype=V.dtype)])
    root = V if even and rows >= count else jnp.linalg.qr(V, mode="r")
    axes = jax.random.orthogonal(key, root.shape[0], m=rows).astype(V.dtype)
    return jnp.matmul(axes.T, root, precision=jax.lax.Precision.HIGHEST)
