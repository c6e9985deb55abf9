"""Prototypes of more classes than a simplex of their dimension has vertices."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax import _check
from unhinged_jax.initial.draws import check_key, simplex_etf

_COARSE, _FINE = 4.0 ** np.arange(1, 5), 4.0 ** np.arange(5, 13)
"""Sharpnesses of the soft maximum: of every try, and then of the best one, until the least largest cosine is known to
about 1e-7."""


def orthoplex(classes: int, dim: int, key: jax.Array | None = None) -> jax.Array:
    """Prototypes of p + 1 < C ≤ 2p classes whose cosines are at most 0, as few as possible.

    C − p simplices in mutually orthogonal subspaces, of sizes as equal as possible: for C = 2p the
    2p points ±e_i, the vertices of the orthoplex. Rows have unit norm and sum to zero.

    Args:
        classes: number C of prototypes, from p + 1 (a simplex) to 2p.
        dim: dimension p of the features.
        key: JAX key of a rotation drawn uniformly; default None for blocks of coordinates.

    Returns:
        Array of shape (C, p) in the default precision.

    Raises:
        TypeError: ``key`` is not a JAX key.
        ValueError: C is not in p + 1 ... 2p.

    Source:
        Rankin 1955 for the least largest cosine, 0; Jiang et al. 2024 for it as a softmax code.

    Example:
        >>> orthoplex(4, 2).round(3).tolist()
        [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    """
    classes, dim = _check.whole("classes", classes, least=2), _check.whole("dim", dim, least=1)
    if not dim < classes <= 2 * dim:
        way = "give 'etf'" if classes <= dim else "give 'softmax_code', or raise dim"
        raise ValueError(
            f"an orthoplex holds from dim + 1 to 2 dim prototypes, but these are {classes} in {dim} dimensions; {way}."
        )
    sizes = [len(part) for part in np.array_split(np.arange(classes), classes - dim)]
    pair = jnp.array([[1.0], [-1.0]])
    frame = jax.scipy.linalg.block_diag(*(pair if size == 2 else simplex_etf(size, size - 1) for size in sizes))
    return frame if key is None else _turned(frame, key)


def softmax_code(classes: int, dim: int, key: jax.Array, tries: int = 16) -> jax.Array:
    """Prototypes whose largest cosine is as small as can be found: Tammes' problem, and a softmax code.

    min over unit vectors of max_{c ≠ c'} ⟨w_c, w_c'⟩. Up to 2p classes, and in the plane, the minimum is
    known: a simplex (C ≤ p + 1), an `orthoplex` (C ≤ 2p), a regular polygon, all turned at random. Elsewhere
    it is looked for, from several random starts, along soft maxima log Σ e^{β⟨w_c, w_c'⟩} / β with
    growing β, by L-BFGS (scipy). The best one is a local minimum to about 1e−7.

    Args:
        classes: number C of prototypes, at least 2.
        dim: dimension p of the features.
        key: JAX key of the starts and the rotation; not a traced one.
        tries: number of random starts; default 16.

    Returns:
        Array of shape (C, p) in the default precision, rows of unit norm.

    Raises:
        TypeError: ``key`` is not a JAX key.
        ValueError: a traced key; more than one prototype in no dimension.

    Source:
        Jiang et al. 2024, Sections 2 and 3, where a softmax code maximises the least distance of a
        prototype from the convex hull of the others; the minimum here has the same value of it in
        every case that they prove.

    Example:
        >>> W = softmax_code(12, 3, jax.random.key(0), tries=1)  # the icosahedron
        >>> round(float(jnp.max(W @ W.T - 2 * jnp.eye(12))) * 5**0.5, 3)
        1.0
    """
    classes, dim = _check.whole("classes", classes, least=2), _check.whole("dim", dim, least=1)
    tries = _check.whole("tries", tries, least=1)
    check_key(key)
    if classes <= dim + 1:
        return simplex_etf(classes, dim, key)
    if classes <= 2 * dim:
        return orthoplex(classes, dim, key)
    if dim < 2:
        raise ValueError(f"{classes} prototypes do not differ in one dimension; give dim=2 at least.")
    turn, seed = jax.random.split(key)
    if dim == 2:
        angles = 2 * math.pi / classes * jnp.arange(classes)
        return _turned(jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1), turn)
    if not _check.concrete(key):
        raise ValueError("a softmax code is looked for outside jax.jit and jax.vmap; draw it there and give it.")
    rng = np.random.default_rng(np.asarray(jax.random.bits(seed, (4,))))
    # Soft maxima of small sharpness lead most starts to one minimum; a start at a large one has others in reach.
    found = [_spread(rng.normal(size=(classes, dim)), _COARSE[i % len(_COARSE) :]) for i in range(tries)]
    best = _spread(min(found, key=_largest_cosine), _FINE)
    return _turned(jnp.asarray(best, jnp.result_type(float)), turn)


def _turned(frame: jax.Array, key: jax.Array) -> jax.Array:
    """The frame in a rotation of the whole space drawn uniformly."""
    check_key(key)
    turn = jax.random.orthogonal(key, frame.shape[1]).astype(frame.dtype)
    return jnp.matmul(frame, turn, precision=jax.lax.Precision.HIGHEST)


def _unit(V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.linalg.norm(V, axis=1, keepdims=True)
    return V / lengths, lengths


def _largest_cosine(V: np.ndarray) -> float:
    return float(np.max((V @ V.T)[~np.eye(len(V), dtype=bool)]))


def _spread(V: np.ndarray, sharpnesses: np.ndarray) -> np.ndarray:
    """A local minimum of the largest cosine, from directions V, (C, p), along soft maxima of these sharpnesses."""
    from scipy import optimize

    def soft_maximum(flat: np.ndarray, sharpness: float) -> tuple[float, np.ndarray]:
        X, lengths = _unit(flat.reshape(V.shape))
        cosines = X @ X.T
        np.fill_diagonal(cosines, -np.inf)
        top = cosines.max()
        weights = np.exp(sharpness * (cosines - top))
        total = weights.sum()
        slope = 2 / total * weights @ X
        slope = (slope - np.sum(slope * X, axis=1, keepdims=True) * X) / lengths
        return float(top + np.log(total) / sharpness), slope.ravel()

    for sharpness in sharpnesses:
        how = {"maxiter": 200, "ftol": 1e-15, "gtol": 1e-12}
        found = optimize.minimize(soft_maximum, V.ravel(), (sharpness,), "L-BFGS-B", jac=True, options=how)
        V = _unit(found.x.reshape(V.shape))[0]
    return V
