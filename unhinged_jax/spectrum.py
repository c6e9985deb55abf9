"""The spectrum of G = M^T Theta M, and functions of G that stay differentiable where eigenvalues coincide."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from unhinged_jax.kernel import Kernel
from unhinged_jax.signal import ClassSignal, Signal


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BalancedSpectrum:
    """G = g_1 (I - 11^T/C) + g_2 11^T/C: class contrasts and the common mean, no factorisation needed.

    `values` is (g_1, g_2) = (sigma_1^2, sigma_2^2).

    Source: Zhou et al. 2023, Lemma 9.
    """

    values: jax.Array

    def apply(self, f: jax.Array, df: jax.Array, X: jax.Array) -> jax.Array:
        """f(G) X for values f, shape (2,), on X of shape (C, p). `df` is not needed here."""
        mean = jnp.mean(X, axis=0)
        return f[0] * (X - mean) + f[1] * mean

    def eigenvalues(self) -> jax.Array:
        """Distinct eigenvalues, differentiable."""
        return self.values


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GeneralSpectrum:
    """Eigenvalues and eigenvectors of any G. They are constants; derivatives flow through `gram`."""

    gram: jax.Array
    values: jax.Array
    vectors: jax.Array

    def apply(self, f: jax.Array, df: jax.Array, X: jax.Array) -> jax.Array:
        """f(G) X from the values f and slopes df of f at the eigenvalues, each (m,), on X with m entries or rows."""
        rows = X.reshape(self.values.shape[0], -1)
        return _apply(f, df, self.values, self.vectors, self.gram, rows).reshape(X.shape)

    def eigenvalues(self) -> jax.Array:
        """Eigenvalues, ascending; the mean over a degenerate group is differentiable."""
        drift = self.gram - jax.lax.stop_gradient(self.gram)
        return self.values + jnp.einsum("ik,ij,jk->k", self.vectors, drift, self.vectors)


Spectrum = BalancedSpectrum | GeneralSpectrum


def spectrum_of(signal: Signal, kernel: Kernel | None, samples: int, dim: int, dtype: Any) -> Spectrum:
    """The spectrum of M^T Theta M, C x C (C p x C p for a kernel between feature coordinates)."""
    if isinstance(signal, ClassSignal) and signal.balanced and kernel is None:
        classes, gamma = signal.classes, signal.gamma
        size = jnp.asarray(samples, dtype) * classes  # sigma = (...) / (C sqrt N), so sigma^2 = (...)^2 / (C n)
        contrast = jnp.asarray(1 + gamma, dtype)
        mean = jnp.asarray(1 + gamma - gamma * classes, dtype)
        return BalancedSpectrum(jnp.stack([contrast**2, mean**2]) / size)
    if kernel is None:
        gram = signal.gram(dtype)
    elif kernel.kind == "coordinates":
        classes = signal.column_sums(dtype).shape[0]
        basis = jnp.eye(classes * dim, dtype=dtype).reshape(-1, classes, dim)
        columns = jax.vmap(lambda X: signal.transpose_times(kernel.apply(signal.times(X))).reshape(-1))(basis)
        gram = columns.T
    else:
        classes = signal.column_sums(dtype).shape[0]
        gram = signal.transpose_times(kernel.apply(signal.times(jnp.eye(classes, dtype=dtype))))
    gram = (gram + gram.T) / 2
    values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(gram))
    return GeneralSpectrum(gram, jnp.maximum(values, 0), vectors)


@jax.custom_jvp
def _apply(f: Any, df: Any, values: Any, vectors: Any, gram: Any, X: Any) -> jax.Array:
    return vectors @ (f[:, None] * (vectors.T @ X))


@_apply.defjvp
def _apply_jvp(primals: Any, tangents: Any) -> Any:
    f, df, values, vectors, gram, X = primals
    f_dot, _, _, _, gram_dot, X_dot = tangents
    moved = _apply(f, df, values, vectors, gram, X_dot) + vectors @ (f_dot[:, None] * (vectors.T @ X))
    return _apply(*primals), moved + _first_variation(f, df, values, vectors, gram, gram_dot, X)


def _first_variation(f: Any, df: Any, values: Any, vectors: Any, gram: Any, gram_dot: Any, X: Any) -> jax.Array:
    """d f(G)[dG] X by the Daleckii-Krein theorem: divided differences of f, slopes where eigenvalues meet."""
    gap = values[:, None] - values[None, :]
    near = jnp.abs(gap) <= jnp.finfo(values.dtype).eps ** (1 / 3) * jnp.max(jnp.abs(values))
    quotient = (f[:, None] - f[None, :]) / jnp.where(near, 1.0, gap)
    table = jnp.where(near, (df[:, None] + df[None, :]) / 2, quotient)
    return vectors @ ((table * (vectors.T @ gram_dot @ vectors)) @ (vectors.T @ X))
