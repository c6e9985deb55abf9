"""What arguments of schedules must be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from unhinged_jax import _check


def sequence(name: str, x: Iterable[Any], of: str = "numbers") -> Any:
    """A one-dimensional array as it is, any other sequence as a tuple."""
    if isinstance(x, (np.ndarray, Array)):
        if x.ndim != 1:
            raise ValueError(f"`{name}` must be one-dimensional, but has shape {x.shape}.")
        return x
    try:
        return tuple(x)
    except TypeError:
        raise TypeError(f"`{name}` must be a sequence of {of}, but is {_check.given(x)}.") from None


def ascending(name: str, times: Sequence[float] | np.ndarray | Array) -> Any:
    """The times themselves, if they exceed 0 and ascend. Traced times pass unchecked."""
    _check.positive(name, times, "use times after 0", array=True)
    if _check.concrete(times) and np.any(np.diff(np.asarray(times, dtype=np.float64)) <= 0):
        raise ValueError(f"{name} must be strictly ascending, but got {times}; sort them and drop repeats.")
    return times


def checked_times(t: ArrayLike) -> Array:
    """Times as a floating array; integer step counts take the precision of the other operands."""
    _check.non_negative("t", t, "use times from 0 on", array=True)
    times = jnp.asarray(t)
    return times if jnp.issubdtype(times.dtype, jnp.floating) else times * 1.0


def check_function(function: Callable[[Any], Any]) -> None:
    """Trace the callable once, so that a function JAX cannot use fails here and says why."""
    _check.takes("the callable schedule", function, ("time",))
    advice = "write it with jax.numpy (jnp.where instead of if) for one scalar time."
    try:
        out = jax.eval_shape(function, jnp.zeros(()))
    except Exception as problem:
        raise TypeError(f"The callable schedule cannot be traced by JAX: {advice}") from problem
    shape, kind = getattr(out, "shape", None), np.dtype(getattr(out, "dtype", object)).kind
    if shape != () or kind not in "fiuV":
        raise TypeError(f"The callable schedule must return one real scalar, but returns {out}: {advice}")
    try:
        hash(jax.tree_util.tree_structure(function))
    except TypeError as problem:
        raise TypeError(
            "The callable schedule is not hashable: use a function, or register its class as a "
            "pytree so that its parameters become leaves."
        ) from problem
