"""The precision a computation runs in, without touching JAX's global flag."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np

from unhinged_jax import _check

NAMES = ("float32", "float64")


def scope(precision: str | None) -> AbstractContextManager[Any]:
    """A context in which new arrays have this precision; None leaves JAX's current setting alone.

    Raises:
        ValueError: for another name.

    Example:
        >>> import jax.numpy as jnp
        >>> with scope("float64"):
        ...     jnp.zeros(1).dtype
        dtype('float64')
    """
    if precision is None:
        return contextlib.nullcontext()
    _check.choice("precision", precision, NAMES)
    return jax.enable_x64(precision == "float64")


def of(tree: Any) -> str:
    """The widest floating-point precision among the arrays of a tree: "float64" or "float32"."""
    dtypes = [np.dtype(leaf.dtype) for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]
    return "float64" if any(dtype == np.float64 for dtype in dtypes) else "float32"
