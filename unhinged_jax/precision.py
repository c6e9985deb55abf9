"""The precision of a computation, without touching JAX's global flag."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import PyTree

from unhinged_jax import _check, _memory

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


def of(tree: PyTree) -> str:
    """The widest floating-point precision among the arrays of a tree: "float64" or "float32"."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]
    wide = any(jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize > 4 for dtype in dtypes)
    return "float64" if wide else "float32"


def current() -> str:
    """JAX's current precision: "float64" or "float32"."""
    return "float64" if jnp.result_type(float) == np.float64 else "float32"


def given_back(tree: PyTree, name: str, outside: str) -> Any:
    """Results of precision `name`, as NumPy arrays if the precision `outside` differs, so that dtypes cannot mix."""
    if name == outside or not _check.concrete(tree):
        return tree
    return _memory.read_all(tree)


def refuse_compiled(name: str, outside: str) -> None:
    """Raise if a float64 computation is inside a function that JAX compiles in float32.

    JAX would continue in float32 with float64 arrays after our context has ended, and fail or round elsewhere.
    """
    if name == "float64" and outside == "float32" and not _check.concrete(jnp.zeros(())):
        raise ValueError(
            "a float64 run can be part of a compiled function (jax.jit, jax.lax.scan) only where JAX itself is "
            "in float64: call that function inside `with jax.enable_x64(True):`, or give a float32 state."
        )


def refuse_differentiated(tree: PyTree, name: str, outside: str) -> None:
    """Raise if a float64 computation is to be differentiated while JAX is in float32.

    JAX would continue with the derivative after our context has ended.
    """
    if name == "float64" and outside == "float32" and _check.differentiated(tree):
        raise ValueError(
            "a float64 run can be differentiated only where JAX itself is in float64: write "
            "`with jax.enable_x64(True):` around jax.grad, jax.jvp and the like."
        )


def settled(tree: PyTree) -> Any:
    """The tree with JAX arrays in the precision of the run, those that are already so as they are."""
    dtype = jnp.result_type(float)

    def array(leaf: ArrayLike) -> Any:
        if isinstance(leaf, float):
            return np.asarray(leaf, dtype)
        fine = isinstance(leaf, jax.Array) and leaf.dtype == dtype and not leaf.weak_type
        return leaf if fine else jnp.asarray(leaf, dtype)  # a copy costs more than the look

    return jax.tree.map(array, tree)


def traceable(tree: PyTree) -> Any:
    """The tree with Python numbers as arrays: numbers are data, so that a sweep over them compiles once.

    Floating-point leaves take the precision of the run before anything is computed with them.
    """
    dtype = jnp.result_type(float)

    def array(leaf: ArrayLike) -> Any:
        other = jnp.issubdtype(getattr(leaf, "dtype", dtype), jnp.floating) and getattr(leaf, "dtype", dtype) != dtype
        if isinstance(leaf, (int, float)) or (other and isinstance(leaf, np.ndarray)):
            return np.asarray(leaf, dtype)  # a program takes it as it is; an array of JAX would be copied here first
        if other and not isinstance(leaf, jax.core.Tracer):
            with jax.ensure_compile_time_eval():  # what is known stays known inside `jax.jit`
                return jnp.asarray(leaf, dtype)
        return jnp.asarray(leaf, dtype) if other else leaf

    return jax.tree.map(array, tree)


_Function = TypeVar("_Function", bound=Callable[..., Any])


def follows_arrays(function: _Function) -> _Function:
    """The function, computing in float64 if its first argument holds float64, even if JAX is in float32.

    Results are then NumPy arrays. Traced arguments have the precision of JAX, and so have results computed from them.
    """

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        outside = current()
        leading = args[0] if args else next(iter(kwargs.values()), None)
        narrow = outside == "float64" or of(leading) == "float32"
        if narrow or not _check.concrete((args, kwargs, jnp.zeros(()))):
            return function(*args, **kwargs)
        with scope("float64"):
            found = function(*args, **kwargs)
        return given_back(found, "float64", outside)

    return wrapped  # type: ignore[return-value]
