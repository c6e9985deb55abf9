"""Prototypes that a group of as many elements as classes permutes: circulant for the cyclic group, or Hadamard's.

Class c is element c of the group: of the whole numbers modulo C ("cyclic"), or of those of m bits under exclusive or
("hadamard", C = 2^m). A symmetric matrix is a function of the difference of two classes if and only if

    Q diag(f) Q,    f_k = f_{-k},    Q_ck = (cos(2 pi ck/C) + sin(2 pi ck/C)) / sqrt(C)  or  (-1)^(c.k) / sqrt(C),

where c.k counts the bits that c and k share and -k = k. Q is symmetric and orthogonal, so that Q Q = I.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _check
from unhinged_jax.initial.draws import check_key

GROUPS = ("cyclic", "hadamard")


def transformed(group: str, X: Any, xp: Any = jnp) -> Any:
    """Q X along the first axis, (C, ...); `xp` is the module of the array, numpy or jax.numpy."""
    if group == "cyclic":
        Z = xp.fft.fft(X, axis=0)
        return (Z.real - Z.imag) / X.shape[0] ** 0.5
    shape, size = X.shape, 1
    while size < shape[0]:
        pairs = X.reshape(-1, 2, size, *shape[1:])
        X, size = xp.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1), 2 * size
    return X.reshape(shape) / shape[0] ** 0.5


def eigenvalues(group: str, column: Any, xp: Any = jnp) -> Any:
    """The f_k of the matrix whose column of class 0 is given, (C,); of a column that is not even, those of its half.

    The same map times 1/C leads back.
    """
    if group == "cyclic":
        return xp.fft.fft(column).real
    return transformed(group, column, xp) * column.shape[0] ** 0.5


def opposite(group: str, classes: int) -> np.ndarray:
    """-k for every k, (C,)."""
    return -np.arange(classes) % classes if group == "cyclic" else np.arange(classes)


def difference(group: str, first: Any, second: Any, classes: int) -> Any:
    """The element that takes the second class to the first; whole numbers of any shapes that fit together."""
    return (first - second) % classes if group == "cyclic" else first ^ second


def check_group(group: object, classes: int) -> None:
    """Raise ValueError unless this names a group that has so many elements."""
    _check.choice("group", group, GROUPS)
    if group == "hadamard" and classes & (classes - 1):
        raise ValueError(
            f"group='hadamard' needs a number of classes that is a power of two, but there are {classes}; "
            "give group='cyclic', which takes any number."
        )


def group_prototypes(key: jax.Array, spectrum: ArrayLike, dim: int, group: str = "cyclic") -> jax.Array:
    """Prototypes W whose products are a function of the difference of two classes, turned at random.

    W = Q diag(a) E,  E Eᵀ = I,  so W Wᵀ = Q diag(a²) Q and a holds the singular values of W.

    Args:
        key: JAX key of E, drawn uniformly.
        spectrum: a, shape (C,), at least 0: first that of the mean of all prototypes. For the cyclic
            group the entries k and C − k, a sine and a cosine, must be equal.
        dim: dimension p, at least C, or C − 1 if the first entry is known to be 0.
        group: "cyclic" (default), or "hadamard" for C a power of two.

    Returns:
        Array of shape (C, p) in the default precision.

    Raises:
        TypeError: ``key`` is not a JAX key.
        ValueError: an unknown group, or one that has not C elements; a spectrum that is negative or
            belongs to no such W; ``dim`` is too small.

    Source:
        Garrod, Keating & Thrampoulidis 2025 for Hadamard's; the cyclic group is beyond that paper.

    Example:
        >>> import jax
        >>> W = group_prototypes(jax.random.key(0), [0.0, 1.0, 2.0, 1.0], dim=3)
        >>> [round(float(x), 3) + 0.0 for x in (W @ W.T)[0]]
        [1.5, -1.0, 0.5, -1.0]
    """
    check_key(key)
    _check.non_negative("spectrum", spectrum, array=True)
    classes = np.shape(spectrum)[0] if np.ndim(spectrum) == 1 else 0
    if classes < 2:
        raise ValueError(f"spectrum must have one entry per class, but has the shape {np.shape(spectrum)}.")
    check_group(group, classes)
    known = _check.known(spectrum)
    if known is not None and not np.allclose(known, known[..., opposite(group, classes)], rtol=1e-6, atol=0):
        raise ValueError(
            "the entries k and C - k of the spectrum of a cyclic group must be equal, because both belong to one "
            f"angle, but got {_check.given(known.tolist())}."
        )
    centred = known is not None and bool(np.all(known[..., 0] == 0))
    if _check.whole("dim", dim, least=1) < classes - centred:
        raise ValueError(
            f"dim must be at least {classes - centred} for the characters of a group of {classes} elements"
            f"{'' if centred else ', or one less if the first entry of the spectrum is 0'}, but got {dim}."
        )
    a = jnp.asarray(spectrum, jnp.result_type(float))
    axes = jax.random.orthogonal(key, classes - 1 if centred else classes, m=dim)
    E = jnp.concatenate([jnp.zeros((1, dim), axes.dtype), axes]) if centred else axes
    return transformed(group, a[:, None] * E)


def drawn_spectrum(key: jax.Array, classes: int, group: str) -> jax.Array:
    """A spectrum of absolute values of normal numbers, (C,), without a mean."""
    a, k = jnp.abs(jax.random.normal(key, (classes,))), np.arange(classes)
    return jnp.where(k == 0, 0.0, a[np.minimum(k, opposite(group, classes))])
