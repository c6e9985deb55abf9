"""The spectrum of G = M^T Theta M = V diag(g) V^T, and functions of G that can be differentiated everywhere.

    f(G) = V diag(f(g)) V^T,    d f(G) = V (f[g_i, g_j] (V^T dG V)_ij) V^T

with divided differences f[., .], which stay smooth where eigenvalues coincide (theorem of Daleckii and Krein).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Shaped

from unhinged_jax.kernel import Kernel
from unhinged_jax.signal import ClassSignal, Signal


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BalancedSpectrum:
    """G = g_1 (I - 11^T/C) + g_2 11^T/C, with class contrasts and the common mean; it needs no factorisation.

    Attributes:
        values: (g_1, g_2) = (sigma_1^2, sigma_2^2), (2,).
        present: 0 for a mode that the arrays contain only through rounding, else 1, (2,). None: all are present.
            `apply` leaves out an absent mode, but keeps its derivatives.

    Source: Zhou et al. 2023, Lemma 9.
    """

    values: Float[jax.Array, "2"]
    present: Shaped[jax.Array, "2"] | None = None
    balanced: ClassVar[bool] = True

    def apply(
        self, f: Float[jax.Array, "2"], df: Float[jax.Array, "*order 2"], X: Float[jax.Array, "C m"]
    ) -> Float[jax.Array, "C m"]:
        """f(G) X for X of shape (C, p), from its values f at both eigenvalues, (2,). `df` is not read."""
        mean = jnp.mean(X, axis=0)
        contrast = X - mean
        if self.present is not None:
            contrast, mean = without(contrast, self.present[0]), without(mean, self.present[1])
        return f[0] * contrast + f[1] * mean

    def products(self, X: Float[jax.Array, "C m"], Y: Float[jax.Array, "C m"]) -> Float[jax.Array, "2"]:
        """Inner products of X and Y in both modes, for `trace`."""
        means = jnp.mean(X, axis=0), jnp.mean(Y, axis=0)
        both = jnp.stack([jnp.sum((X - means[0]) * (Y - means[1])), X.shape[0] * jnp.sum(means[0] * means[1])])
        return both if self.present is None else without(both, self.present)

    def trace(
        self, f: Float[jax.Array, "2"], df: Float[jax.Array, "*order 2"], products: Float[jax.Array, "2"]
    ) -> Float[jax.Array, ""]:
        """tr(X^T f(G) Y) from the `products` of X and Y. `df` is not read."""
        return jnp.sum(f * products)

    def eigenvalues(self) -> Float[jax.Array, "2"]:
        """The two distinct eigenvalues, (2,), differentiable."""
        return self.values


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GeneralSpectrum:
    """The spectrum of any G. First and second derivatives flow through `gram`; the decomposition is a constant.

    Attributes:
        gram: G itself, (k, k).
        values: Its eigenvalues, ascending, (k,).
        vectors: Its eigenvectors, as columns, (k, k).
        present: As in `BalancedSpectrum`, (k,).
    """

    gram: Float[jax.Array, "k k"]
    values: Float[jax.Array, "k"]
    vectors: Float[jax.Array, "k k"]
    present: Shaped[jax.Array, "k"] | None = None
    balanced: ClassVar[bool] = False

    def apply(
        self, f: Float[jax.Array, "k"], df: Float[jax.Array, "*order k"], X: Float[jax.Array, "C m"]
    ) -> Float[jax.Array, "C m"]:
        """f(G) X for X with k rows, or with k entries (G of a kernel between feature coordinates).

        Args:
            f: Values of the function at the eigenvalues, (k,).
            df: Its first and second derivatives there, (2, k); or the first alone, (k,), if the second is 0.
            X: The array that f(G) multiplies.
        """
        slopes = df if df.ndim == 2 else jnp.stack([df, jnp.zeros_like(df)])
        rows = X.reshape(self.values.shape[0], -1)
        present = jnp.ones_like(self.values) if self.present is None else self.present
        return _apply(f, slopes, self.values, self.vectors, self.gram, rows, present[:, None]).reshape(X.shape)

    def products(self, X: Float[jax.Array, "C m"], Y: Float[jax.Array, "C m"]) -> Float[jax.Array, "k k"]:
        """Inner products of the parts of X and Y in every two modes, for `trace`."""
        parts = self.vectors.T @ X, self.vectors.T @ Y
        if self.present is not None:
            parts = without(parts[0], self.present[:, None]), without(parts[1], self.present[:, None])
        return parts[0] @ parts[1].T

    def trace(
        self, f: Float[jax.Array, "k"], df: Float[jax.Array, "2 k"], products: Float[jax.Array, "k k"]
    ) -> Float[jax.Array, ""]:
        """tr(X^T f(G) Y) from the `products` of X and Y; `f` and `df` as in `apply`. It takes k operations."""
        return _trace(f, df, self.values, self.vectors, self.gram, products)

    def eigenvalues(self) -> Float[jax.Array, "k"]:
        """The eigenvalues, ascending, (k,). The mean over a group of equal ones can be differentiated twice."""
        drift = self.gram - jax.lax.stop_gradient(self.gram)
        moved = self.vectors.T @ drift @ self.vectors
        gap, near = _gaps(self.values, _NEAR)
        repelled = jnp.sum(jnp.where(near, 0.0, moved**2 / jnp.where(near, 1.0, gap)), axis=1)
        return self.values + jnp.diagonal(moved) + repelled


Spectrum = BalancedSpectrum | GeneralSpectrum


def without(part: jax.Array, present: jax.Array) -> jax.Array:
    """`part` where `present` is 1 and 0 where it is 0; the derivative is that of `part` in both cases."""
    return part - jax.lax.stop_gradient(jnp.where(present == 0, part, 0.0))


def spectrum_of(signal: Signal, kernel: Kernel | None, samples: int, dim: int, dtype: DTypeLike) -> Spectrum:
    """The spectrum of M^T Theta M, which is C x C, or C p x C p for a kernel between feature coordinates."""
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


_NEAR, _CLOSE = 1 / 3, 1 / 4
"""Exponents for first and second divided differences: two eigenvalues count as equal if their difference, relative to
the largest one, is below the machine epsilon to this power. There cancellation is as large as the next term of the
expansion."""


def _gaps(values: jax.Array, power: float) -> tuple[jax.Array, jax.Array]:
    """Differences of eigenvalues, (k, k), and which of them count as equal, at a power of the machine epsilon."""
    gap = values[:, None] - values[None, :]
    return gap, jnp.abs(gap) <= jnp.finfo(values.dtype).eps ** power * jnp.max(jnp.abs(values))


@jax.custom_jvp
def _apply(
    f: jax.Array,
    slopes: jax.Array,
    values: jax.Array,
    vectors: jax.Array,
    gram: jax.Array,
    X: jax.Array,
    present: jax.Array,
) -> jax.Array:
    return vectors @ (f[:, None] * without(vectors.T @ X, present))


@_apply.defjvp
def _apply_jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> Any:
    """The derivative by the theorem of Daleckii and Krein.

    `drift` is 0; its own derivative makes second derivatives with respect to `gram` correct. This rule must not call
    `_apply`, because partial evaluation, for example of a scan, ignores rules like this one.
    """
    _, _, _, vectors, _, X, present = primals
    by_X_dot, by_X = _matrices(primals[:5], tangents[:5])
    X_dot = tangents[5]
    rows, rows_dot = without(vectors.T @ X, present), vectors.T @ X_dot
    return vectors @ (by_X_dot @ rows), vectors @ (by_X @ rows + by_X_dot @ rows_dot)


def _matrices(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    """V^T f(G) V, and its derivative, for (f, slopes, values, vectors, gram) and their tangents."""
    f, slopes, values, vectors, gram = primals
    f_dot, slopes_dot, _, _, gram_dot = tangents
    drift, moved = (vectors.T @ dG @ vectors for dG in (gram - jax.lax.stop_gradient(gram), gram_dot))
    table, table_dot = (_first_differences(*values_of, values) for values_of in ((f, slopes), (f_dot, slopes_dot)))
    derivative = jnp.diag(f_dot) + table * moved + _correction(drift, table, table_dot, slopes, values, moved)
    return jnp.diag(f) + table * drift, derivative


@jax.custom_jvp
def _trace(
    f: jax.Array, slopes: jax.Array, values: jax.Array, vectors: jax.Array, gram: jax.Array, products: jax.Array
) -> jax.Array:
    return jnp.sum(f * jnp.diagonal(products))


@_trace.defjvp
def _trace_jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> Any:
    """The derivative by the same theorem, and by the same rule."""
    products, products_dot = primals[5].T, tangents[5].T
    matrix, matrix_dot = _matrices(primals[:5], tangents[:5])
    return jnp.sum(matrix * products), jnp.sum(matrix_dot * products + matrix * products_dot)


@jax.custom_jvp
def _correction(
    drift: jax.Array, table: jax.Array, table_dot: jax.Array, slopes: jax.Array, values: jax.Array, moved: jax.Array
) -> jax.Array:
    """The change that a drift of G makes in the derivative along `moved`. It is 0, as `drift` is; its slope is not."""
    return table_dot * drift + _second_variation(table, slopes, values, moved, drift)


@_correction.defjvp
def _correction_jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> Any:
    """The correction is linear in `drift`, which is 0. All other derivatives are 0; leaving them out saves two thirds
    of the program."""
    return jnp.zeros_like(primals[0]), _correction(tangents[0], *primals[1:])


def _first_differences(f: jax.Array, slopes: jax.Array, values: jax.Array) -> jax.Array:
    """The table f[x_i, x_j]; where two eigenvalues meet, it is the mean of the slopes with a correction."""
    gap, near = _gaps(values, _NEAR)
    quotient = (f[:, None] - f[None, :]) / jnp.where(near, 1.0, gap)
    first, second = slopes
    mean = (first[:, None] + first[None, :]) / 2 - gap * (second[:, None] - second[None, :]) / 12
    return jnp.where(near, mean, quotient)


def _second_variation(table: jax.Array, slopes: jax.Array, values: jax.Array, A: jax.Array, B: jax.Array) -> jax.Array:
    """The sum over k of f[x_i, x_k, x_j] (A_ik B_kj + B_ik A_kj), by matrix products only.

    If x_i and x_j differ, f[x_i, x_k, x_j] is a quotient of first differences that depend on k and one of the two. If
    they meet, it is the mean of f[x_i, x_i, x_k] and f[x_j, x_j, x_k].
    """
    gap, near = _gaps(values, _CLOSE)
    first, second = slopes
    curved = (2 * second[:, None] + second[None, :]) / 6
    twice = jnp.where(near, curved, (first[:, None] - table) / jnp.where(near, 1.0, gap))

    def ordered(A: jax.Array, B: jax.Array) -> jax.Array:
        apart = ((table * A) @ B - A @ (table * B)) / jnp.where(near, 1.0, gap)
        meet = ((twice * A) @ B + A @ (twice.T * B)) / 2
        return jnp.where(near, meet, apart)

    return ordered(A, B) + ordered(B, A)
