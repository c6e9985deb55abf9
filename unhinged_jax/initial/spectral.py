"""Balanced spectral starts: every factor of a stack maps the singular vectors of a matrix on, one by one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from unhinged_jax import _check
from unhinged_jax.initial.draws import check_key, rows_of
from unhinged_jax.precision import traceable


def spectral_factors(
    key: jax.Array, matrix: ArrayLike, dim: int, depth: int, sizes: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Factors with the singular vectors of a matrix and singular values of one's own, the same in every factor.

    H = V a U_1ᵀ,  W_l = U_l a U_{l-1}ᵀ,  W = Q a U_{L-1}ᵀ  for M = V σ Qᵀ, with each U_l uniform, orthonormal columns.

    Args:
        key: JAX key.
        matrix: M, shape (n, C).
        dim: dimension p of the factors.
        depth: number L of factors, at least 2.
        sizes: a, at least 0, for all modes or one per mode, the largest σ first; there are
            min(n, C, p) modes, and those without a size have 0. May be traced.

    Returns:
        H of shape (n, p), W of shape (C, p) and the factors between them, shape (L - 2, p, p), in
        the default precision.

    Raises:
        TypeError: ``key`` is not a JAX key.
        ValueError: ``sizes`` is negative, not finite, or holds more sizes than there are modes.

    Source:
        Saxe, McClelland & Ganguli (2014), whose decoupled initial conditions these are.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> M = jnp.array([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
        >>> H, W, inner = spectral_factors(jax.random.key(0), M, dim=4, depth=3, sizes=[0.5, 2.0])
        >>> [[round(float(x), 3) + 0.0 for x in row] for row in H @ inner[0].T @ W.T]
        [[0.125, 0.0], [0.0, 8.0], [0.0, 0.0]]
    """
    check_key(key)
    dim, depth = _check.whole("dim", dim, least=1), _check.whole("depth", depth, least=2)
    M = rows_of("matrix", matrix)
    modes = min(*M.shape, dim)
    _check.non_negative("sizes", sizes, array=True)
    given = jnp.asarray(traceable(sizes), M.dtype)
    if given.ndim > 1 or (given.ndim and given.shape[0] > modes):
        raise ValueError(
            f"sizes must be one number, or up to {modes}, one per mode, but got shape {given.shape}; there are as many "
            "modes as the least of samples, classes and dimensions."
        )
    a = jnp.pad(given, (0, modes - given.shape[0])) if given.ndim else jnp.broadcast_to(given, (modes,))
    left, _, right = jnp.linalg.svd(M, full_matrices=False)
    frames = jax.random.orthogonal(key, modes, (depth - 1,), m=dim).astype(M.dtype)  # (L - 1, modes, p)
    with jax.default_matmul_precision("highest"):
        H, W = (left[:, :modes] * a) @ frames[0], (right[:modes].T * a) @ frames[-1]
        inner = jnp.einsum("lkp,k,lkq->lpq", frames[1:], a, frames[:-1])
    return H, W, inner
