"""The one place that decides how an input becomes numbers: labels become integers, everything else native floats.

Files, data frames and mixed-precision training bring big-endian, 16-bit, unsigned and extended types. Unconverted, they
would wrap, round, or choose the precision of a run by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from unhinged_jax import _check, _memory

_MOST = int(np.iinfo(np.int32).max)


def real(name: str, value: object) -> Any:
    """The same numbers as native float32 or float64; only types longer than float64 are rounded.

    float16 and bfloat16 become float32; whole numbers, lists, data frames and extended types become float64, in NumPy.
    Whole numbers in a JAX array take JAX's default float type. Python numbers, and placeholders that JAX puts into
    leaves, are unchanged.

    Raises:
        ValueError: for complex numbers, masked arrays, and objects that do not hold numbers.

    Example:
        >>> real("x", np.array([1, 2], ">f8")).dtype, real("x", np.float16(0.5)), real("x", 0.1)
        (dtype('float64'), np.float32(0.5), 0.1)
    """
    if isinstance(value, complex):
        raise ValueError(f"{name} must be a real number, but is {value}; take its real part if that is meant.")
    if isinstance(value, jax.Array):
        return _real_of_jax(name, value)
    if isinstance(value, np.bool_):
        return bool(value)  # refused where True is not a number
    array = _array(name, value)
    if array is None:
        return value
    wanted = _float_for(name, array.dtype)
    if array.dtype == wanted and isinstance(value, (np.ndarray, np.generic)):
        return value if type(value) is not np.matrix else array
    return wanted.type(value) if isinstance(value, np.generic) else array.astype(wanted)


def number(name: str, value: object) -> Any:
    """`real` of one number, or of a JAX or NumPy array to be mapped over; a list stays a list, so that a later check
    refuses it.
    """
    return value if isinstance(value, (list, tuple)) else real(name, value)


def array(name: str, value: object) -> Any:
    """`real` of an array or one number.

    Raises:
        ValueError: as for `real`, and for everything else.
    """
    found = real(name, value)
    if not isinstance(found, (np.ndarray, jax.Array)) or not jnp.issubdtype(found.dtype, jnp.floating):
        _check.real(name, found, array=True)
    return found


def reals(**values: Any) -> list[Any]:
    """`real` of every value, in their order."""
    return [real(name, value) for name, value in values.items()]


def _real_of_jax(name: str, value: jax.Array) -> jax.Array:
    dtype = value.dtype
    if jnp.issubdtype(dtype, jnp.floating):
        return value if dtype.itemsize >= 4 else value.astype(jnp.float32)
    if jnp.issubdtype(dtype, jnp.integer) or dtype == jnp.bool_:
        return value.astype(jnp.result_type(float))
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise _not_real(name, dtype)
    return value  # this is a random key, or the tangent of a whole number


def _array(name: str, value: object) -> np.ndarray | None:
    """An object with numbers as a NumPy array; None for a Python number, and for anything that is not an array."""
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{name} is a masked array, whose mask would be lost; fill or drop the masked entries first.")
    if isinstance(value, (list, tuple)):
        leaves = jax.tree.leaves(value)
        if not leaves or not all(isinstance(x, (int, float, np.generic)) for x in leaves):
            return None
        try:
            return np.asarray(value)
        except ValueError:
            raise ValueError(f"{name} must have rows of one length, but got {_check.given(value)}.") from None
    if not hasattr(value, "__array__"):
        return None
    array = _memory.read(value)
    return None if array.dtype == jax.dtypes.float0 else array


def _float_for(name: str, dtype: np.dtype) -> np.dtype:
    if jnp.issubdtype(dtype, jnp.floating):
        return np.dtype(np.float64 if dtype.itemsize > 4 else np.float32)
    if dtype.kind in "iub":
        return np.dtype(np.float64)
    raise _not_real(name, dtype)


def _not_real(name: str, dtype: object) -> ValueError:
    return ValueError(
        f"{name} must hold real numbers, but has the type {dtype}; convert it to float64 or float32 first, so that "
        "nothing is dropped."
    )


def settle(thing: object, names: Sequence[str], kind: Callable[[str, Any], Any], prefix: str = "") -> None:
    """Replace fields of a frozen dataclass by `kind` of them, `real` or `whole`, for its `__post_init__`.

    JAX also builds such objects with other kinds of arrays in their leaves, so its own arrays are not refused here.
    """
    for name in names:
        value = getattr(thing, name)
        try:
            settled = kind(prefix + name, value)
        except ValueError:
            if isinstance(value, jax.Array):
                continue
            raise
        if settled is not value:
            object.__setattr__(thing, name, settled)


def floats(value: ArrayLike, name: str = "the array") -> jax.Array:
    """A JAX array of float32 or float64, so that sums over it do not run in 16 bits.

    Raises:
        ValueError: as for `array`.

    Example:
        >>> floats(jnp.ones(2, jnp.bfloat16)).dtype, floats([1, 2]).dtype
        (dtype('float32'), dtype('float32'))
    """
    found = jnp.asarray(array(name, value))
    return found if jnp.issubdtype(found.dtype, jnp.floating) else found.astype(jnp.result_type(float))


def like(value: ArrayLike, dtype: DTypeLike) -> Any:
    """A parameter in the type of the other operands, before any arithmetic; a Python number is unchanged.

    Example:
        >>> (1 + like(jnp.float32(0.5), np.dtype("float32"))).dtype
        dtype('float32')
    """
    return value if isinstance(value, (int, float)) else jnp.asarray(value, dtype)


def whole(name: str, value: object) -> Any:
    """Labels of any integer type as int32 (JAX's own int32 and int64 are unchanged), checked before the conversion.

    Sums over labels use the type of the labels, and in `uint8` they would wrap at 256.

    Raises:
        ValueError: for labels that are not integers, or that int32 cannot hold.

    Example:
        >>> whole("labels", np.array([0, 200], np.uint8)).dtype
        dtype('int32')
    """
    if isinstance(value, jax.Array):
        if not jnp.issubdtype(value.dtype, jnp.integer):
            raise _not_whole(name, value.dtype)
        if value.dtype in (jnp.int32, jnp.int64):
            return value
        if value.dtype.itemsize >= 4 and not isinstance(value, jax.core.Tracer):
            return jnp.asarray(whole(name, _memory.read(value)))
        return value.astype(jnp.int32)
    array = _array(name, value)
    if array is None:
        return value
    if array.dtype.kind not in "iu":
        raise _not_whole(name, array.dtype)
    if array.size and (int(array.min()) < -_MOST or int(array.max()) > _MOST):
        raise ValueError(
            f"{name} range from {array.min()} to {array.max()}, beyond 32 bits; renumber them from 0 to C - 1."
        )
    return array if array.dtype == np.int32 and array is value else array.astype(np.int32)


def _not_whole(name: str, dtype: object) -> ValueError:
    return ValueError(f"{name} must be integers, one label per sample, but have the type {dtype}; pass class indices.")


def counts(name: str, value: object, kind: str = "numbers") -> np.ndarray:
    """Times or counts as a one-dimensional array: int64 if whole numbers are given, float64 otherwise.

    Raises:
        ValueError: for anything but real numbers of at most 64 bits in one dimension.

    Example:
        >>> np.diff(counts("times", np.array([5, 3], np.uint8))).tolist()
        [-2]
    """
    try:
        array = np.atleast_1d(_memory.read(value))
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a list of {kind}, but got {_check.given(value)}.") from None
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a non-empty list of {kind}, but got shape {array.shape}.")
    if array.dtype.kind in "iu":
        if int(array.max()) > np.iinfo(np.int64).max:
            raise ValueError(f"{name} must fit 64 bits, but hold {array.max()}; give them as floating-point numbers.")
        return array.astype(np.int64)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} must be real numbers of at most 64 bits, but got {_check.given(value)}.")
    return array.astype(np.float64)


def same_times(one: ArrayLike, other: ArrayLike) -> np.ndarray:
    """Which times are equal in the narrower of their types, because JAX rounds times to its own precision.

    Example:
        >>> same_times(np.float32(0.1), 0.1), same_times(np.float64(0.1), np.float64(np.float32(0.1)))
        (array(True), array(False))
    """
    a, b = _memory.read(one), _memory.read(other)
    narrow = min(a.dtype, b.dtype, key=lambda dtype: (dtype.kind != "f", dtype.itemsize))
    return np.asarray(a.astype(narrow) == b.astype(narrow))
