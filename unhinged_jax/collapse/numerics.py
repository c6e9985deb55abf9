"""Ratios, roots and inverses that stay finite, with their derivatives, where a metric has a kink or a pole."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from unhinged_jax.collapse.statistics import PRECISION
from unhinged_jax.special import safe_sqrt


def ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """numerator / denominator, inf (with gradient 0) wherever the denominator is not positive; NaN stays NaN."""
    positive = ~(denominator <= 0)
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), jnp.inf)


def std(x: jax.Array) -> jax.Array:
    """Population standard deviation, with a derivative of 0 where all values are equal."""
    return safe_sqrt(jnp.mean((x - jnp.mean(x)) ** 2))


def pair_mean(values: jax.Array) -> jax.Array:
    """Mean of a (C, C) array over its off-diagonal entries."""
    C = values.shape[0]
    return jnp.sum(jnp.where(jnp.eye(C, dtype=bool), 0, values)) / (C * (C - 1))


def _inverse(gram: jax.Array) -> jax.Array:
    """Inverse of a positive definite matrix, NaN if it is not."""
    factor = jnp.linalg.cholesky(gram, symmetrize_input=False)
    root = _lower_inverse(factor, leaf=max(32, gram.shape[0] // 8))
    return jnp.matmul(root.T, root, precision=PRECISION)


def _lower_inverse(L: jax.Array, leaf: int) -> jax.Array:
    """Inverse of a lower triangular matrix by halves.

    On CPUs a BLAS solves large triangles with threads of its own, which keep spinning beside those of XLA and slow
    down everything that follows; up to `leaf` rows it uses none.
    """
    size, half = L.shape[0], L.shape[0] // 2
    if size <= leaf:
        return jax.lax.linalg.triangular_solve(L, jnp.eye(size, dtype=L.dtype), left_side=True, lower=True)
    first, last = _lower_inverse(L[:half, :half], leaf), _lower_inverse(L[half:, half:], leaf)
    corner = -jnp.matmul(last, jnp.matmul(L[half:, :half], first, precision=PRECISION), precision=PRECISION)
    return jnp.block([[first, jnp.zeros((half, size - half), L.dtype)], [corner, last]])


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def pseudo_inverse(gram: jax.Array, null: jax.Array, full_rank: bool, rtol: float | None) -> jax.Array:
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
    return jax.lax.cond(condition < limit, lambda _: inverse - projector / fill, by_eigenvalues, gram)


@pseudo_inverse.defjvp
def _pseudo_inverse_jvp(
    full_rank: bool, rtol: float | None, primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    # Golub & Pereyra 1973. Unlike eigenvectors this is smooth where eigenvalues coincide, as all
    # of them do at a simplex ETF.
    gram, null = primals
    change = tangents[0]
    inverse = pseudo_inverse(gram, null, full_rank, rtol)

    def product(*factors: jax.Array) -> jax.Array:
        return functools.reduce(functools.partial(jnp.matmul, precision=PRECISION), factors)

    outside = jnp.eye(gram.shape[0], dtype=gram.dtype) - product(gram, inverse)
    leak = product(inverse, inverse, change, outside)
    return inverse, leak + leak.T - product(inverse, change, inverse)
