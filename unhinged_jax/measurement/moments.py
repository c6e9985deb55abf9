"""Class means and within-class scatter, batch by batch, in float64.

Two sets of n and m samples of a class, with means a and b and scatters S and T, have together the scatter
S + T + (nm/(n+m)) (b-a)(b-a)ᵀ (Chan, Golub & LeVeque 1979). Nothing is squared before a mean is subtracted.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax import _check
from unhinged_jax._request.compiling import lean
from unhinged_jax.collapse.statistics import PRECISION
from unhinged_jax.precision import scope

once = functools.partial(lean, level=0)
"""Compiled without optimization, because compiling takes longer than all else; products are fast anyway."""


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Inside, JAX computes in float64, and at once even where jax.jit traces the call: all numbers are known."""
    # Only where it is needed: inside, programs are fully optimized, which takes a second longer.
    at_once = contextlib.nullcontext() if _check.untransformed() else jax.ensure_compile_time_eval()
    with at_once, scope("float64"):
        yield


class Moments(NamedTuple):
    """Samples (C,) of each class, its first sample (C, p), the mean less that, sums of squared deviations (C,), and
    their scatter (p, p).

    The scatter is None if it is not kept. Features are over `unit`, a power of two that the first batch determines; it
    is 1 unless squares would leave the floating-point range, and 0 while all features are zero.
    """

    counts: np.ndarray
    first: np.ndarray
    shifts: np.ndarray
    squares: np.ndarray
    scatter: np.ndarray | None
    unit: float = 0.0


def empty(classes: int, dim: int, scatter: bool) -> Moments:
    """Moments of no samples."""
    counts, squares, means = np.zeros(classes, np.int64), np.zeros(classes), np.zeros((classes, dim))
    return Moments(counts, means, means, squares, np.zeros((dim, dim)) if scatter else None)


def absorbed(before: Moments, features: np.ndarray, labels: np.ndarray) -> Moments:
    """Moments with a batch of features (t, p), t ≥ 1, and labels (t,) more."""
    unit = unit_for(before, features)
    order = np.argsort(labels, kind="stable")
    here, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    deviations = features[order].astype(np.float64)
    deviations /= unit or 1.0
    counts, first, shifts, squares = (part.copy() for part in before[:4])
    old, counts[here] = counts[here], counts[here] + sizes
    # Less the first sample, a common offset costs no digits, and a class of equal samples has deviation 0.
    first[here] = np.where(old[:, None] > 0, first[here], deviations[starts])
    deviations -= np.repeat(first[here], sizes, axis=0)
    means = np.add.reduceat(deviations, starts, axis=0) / sizes[:, None]
    deviations -= np.repeat(means, sizes, axis=0)
    share = (sizes / counts[here])[:, None]
    between = np.sqrt(old[:, None] * share) * (means - shifts[here])

    shifts[here] += share * (means - shifts[here])
    squares[here] += np.add.reduceat(_lengths(deviations), starts) + _lengths(between)
    scatter = before.scatter
    if scatter is not None:
        scatter = scatter + gram(np.concatenate([deviations, between]))
    return Moments(counts, first, shifts, squares, scatter, unit)


def padded(rows: np.ndarray) -> np.ndarray:
    """Rows with zeros below, so that one program serves many sizes."""
    count = len(rows)
    found = np.zeros((max(64, 1 << (count - 1).bit_length()), *rows.shape[1:]), rows.dtype)
    found[:count] = rows
    return found


def gram(rows: np.ndarray) -> np.ndarray:
    """RᵀR, by XLA: the threads of NumPy's BLAS keep spinning where others use the cores as well."""
    with in_float64():
        return np.asarray(_gram(jnp.asarray(padded(rows))))


@once
def _gram(rows: jax.Array) -> jax.Array:
    return jnp.matmul(rows.T, rows, precision=PRECISION)


def _lengths(rows: np.ndarray) -> np.ndarray:
    """Squared norm of each row."""
    return np.einsum("ij,ij->i", rows, rows)


def unit_for(before: Moments, features: np.ndarray) -> float:
    """The unit with these features: that of earlier ones, else a power of two for them; 0 while all are zero.

    Raises:
        ValueError: for features that are larger than those before by more than the range of their squares.
    """
    size = float(max(np.max(features), -np.min(features)))
    if size > 1e140 * before.unit > 0:
        raise ValueError(
            f"features of this batch reach {size:.3g}, but those of earlier batches were about {before.unit:.3g}; "
            "divide all of them by one number, so that their squares can be added."
        )
    if before.unit or not size:
        return before.unit
    return 1.0 if 1e-30 < size < 1e30 else float(2.0 ** np.clip(np.frexp(size)[1], -1021, 1022))
