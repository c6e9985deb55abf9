"""Elementary functions without cancellation; values and gradients are smooth where the textbook formula is 0/0."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from unhinged_jax._platform import on_accelerator

_FEW = 2**9  # numbers; three sums of them in one pass compile in half the time, and their rounding stays small on CPUs
_PASS = 2**14  # numbers; a pass over more of them costs more than a branch
_LOOP = 2**14  # numbers; of more of them a reduction in two steps takes a quarter of the time
_COLUMNS = 8  # of an array; with fewer one step is faster
_PIECES = 64  # classes with fewer rows than the square of this, on average, are added in one piece


def phi1(x: jax.Array) -> jax.Array:
    """(1 - e^-x)/x, which is 1 at x = 0.

    Example:
        >>> phi1(jnp.zeros(()))
        Array(1., dtype=float32)
    """
    small = jnp.abs(x) < 0.05
    safe = jnp.where(small, 1.0, x)
    inner = jnp.where(small, x, 0.0)
    series = sum((-inner) ** k / math.factorial(k + 1) for k in range(9))
    return jnp.where(small, series, -jnp.expm1(-safe) / safe)


def log1p_ratio(x: jax.Array) -> jax.Array:
    """log(1 + x)/x, which is 1 at x = 0.

    Example:
        >>> log1p_ratio(jnp.zeros(()))
        Array(1., dtype=float32)
    """
    small = jnp.abs(x) < 0.02
    safe = jnp.where(small, 1.0, x)
    inner = jnp.where(small, x, 0.0)
    series = sum((-inner) ** k / (k + 1) for k in range(10))
    return jnp.where(small, series, jnp.log1p(safe) / safe)


def power_of_two(exponent: jax.Array, dtype: DTypeLike) -> jax.Array:
    """2^k for integers k, exact if it is a normal number; the compiled code is a tenth of that of `jnp.ldexp`.

    Example:
        >>> power_of_two(jnp.asarray([-3, 0, 4]), jnp.float32)
        Array([ 0.125,  1.   , 16.   ], dtype=float32)
    """
    info = jnp.finfo(dtype)
    integer = jnp.dtype(f"int{info.bits}")
    bits = (exponent.astype(integer) + (info.maxexp - 1)) << info.nmant
    return jax.lax.bitcast_convert_type(bits, dtype)


def faint(dtype: DTypeLike) -> float:
    """The size below which numbers are so close to the smallest normal number that sums of them lose digits.

    Example:
        >>> 1e-32 < faint("float32") < 1e-30
        True
    """
    info = jnp.finfo(dtype)
    return float(info.tiny) / float(info.eps)


def segment_sum(values: jax.Array, index: jax.Array, classes: int) -> jax.Array:
    """Sums over the rows of each class, shape (classes, ...), in float32 or wider.

    If hundreds of thousands of float32 numbers were added one by one, the sum would lose its third digit. Long sums are
    therefore computed in about as many pieces as a piece has rows, and then the pieces are added.

    Example:
        >>> segment_sum(jnp.ones(3, jnp.bfloat16), jnp.array([0, 1, 1]), 2)
        Array([1., 2.], dtype=float32)
    """
    if jnp.issubdtype(values.dtype, jnp.floating) and values.dtype.itemsize < 4:
        values = values.astype(jnp.float32)
    rows = values.shape[0]
    pieces = math.isqrt(rows // classes) if values.dtype == jnp.float32 else 1
    if pieces < _PIECES:
        return jax.ops.segment_sum(values, index, classes)
    piece = jnp.arange(rows, dtype=jnp.int32) // -(-rows // pieces)
    sums = jax.ops.segment_sum(values, index + classes * piece, classes * pieces)
    return jnp.sum(sums.reshape(pieces, classes, *values.shape[1:]), axis=0)


def safe_sqrt(x: jax.Array) -> jax.Array:
    """sqrt(x) for x >= 0, with gradient 0 instead of infinity at 0; NaN stays NaN."""
    positive = ~(x <= 0)
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def counted(weights: jax.Array, values: jax.Array) -> jax.Array:
    """The values, with 0 for infinities and NaN of weight 0, which would otherwise not be left out of a sum.

    Finite values stay, because derivatives with respect to the weights read them.

    Example:
        >>> counted(jnp.array([0.0, 0.0, 1.0]), jnp.array([jnp.inf, 2.0, 3.0]))
        Array([0., 2., 3.], dtype=float32)
    """
    return jnp.where((weights == 0) & ~jnp.isfinite(values), 0.0, values)


def safe_log(x: jax.Array) -> jax.Array:
    """log(x) for x >= 0, with -inf at 0 and gradient 0 there; NaN stays NaN."""
    positive = ~(x <= 0)
    return jnp.where(positive, jnp.log(jnp.where(positive, x, 1.0)), -jnp.inf)


def drift(size: jax.Array, beyond: int = 20) -> jax.Array:
    """The exponent k for which 2^k is nearest to a size, if |k| > beyond, else 0; a constant for derivatives.

    It is 0 for a size that is 0 or not finite.
    """
    info = jnp.finfo(size.dtype)
    ready = (size > 0) & jnp.isfinite(size)
    bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(size), jnp.dtype(f"int{info.bits}"))
    # From sqrt(2) on a mantissa is nearer to 2 than to 1, in units of which numbers are rounded here.
    up = int((2 - 2**0.5) * 2**info.nmant)
    power = jnp.where(ready, ((bits + up) >> info.nmant) - (info.maxexp - 1), 0).astype(jnp.int32)
    return jax.lax.stop_gradient(jnp.where(jnp.abs(power) > beyond, power, 0))


def over_all(reduce: Callable[..., jax.Array], array: jax.Array) -> jax.Array:
    """`jnp.sum` or `jnp.max` of all entries of an array, (), in two steps if they are many.

    On a CPU XLA reduces several columns at a time, but one entry of a row after the other. The barrier keeps it from
    making one step of the two.

    Example:
        >>> over_all(jnp.sum, jnp.ones((2, 3)))
        Array(6., dtype=float32)
    """
    columns = array.shape[-1] if array.ndim > 1 else 1
    if columns < _COLUMNS or array.size <= _LOOP or on_accelerator():
        return reduce(array)
    return reduce(jax.lax.optimization_barrier(reduce(array, axis=tuple(range(array.ndim - 1)))))


def largest(*parts: jax.Array) -> jax.Array:
    """The largest absolute entry of all arrays together, ()."""
    most = [over_all(jnp.max, jnp.abs(part)) if part.size else jnp.zeros((), part.dtype) for part in parts]
    return jnp.max(jnp.stack(most))


def _added(one: tuple[jax.Array, ...], other: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return tuple(x + y for x, y in zip(one, other, strict=True))


def _three_sums(part: jax.Array, up: float, down: float) -> tuple[jax.Array, ...]:
    """The sums of squares of an array, of `up` times and of `down` times it."""
    nothing = jnp.zeros((), part.dtype)
    larger, smaller = part * up, part * down
    if part.size == 1:  # of a single number XLA would square the factors, which leaves the range
        larger, smaller = jax.lax.optimization_barrier((larger, smaller))
    squares = part * part, larger**2, smaller**2
    return tuple(jax.lax.reduce(squares, (nothing,) * 3, _added, tuple(range(part.ndim))))


@jax.custom_jvp
def safe_norm(*parts: jax.Array) -> jax.Array:
    """The Frobenius norm of all arrays together, (), at any scale: no square over- or underflows.

    Its derivative at 0 is 0.
    """
    return _norm(*parts)


@jax.jit  # so that it is traced once for all arrays of the same shapes
def _norm(*parts: jax.Array) -> jax.Array:
    info, nothing = jnp.finfo(parts[0].dtype), jnp.zeros((), parts[0].dtype)
    # These powers of two bring squares into range. XLA may square them, too, if an array is a constant.
    up, down, most = 2.0 ** (info.maxexp // 2 - 1), 2.0 ** -(info.maxexp // 2 + 2), 2.0 ** (9 * info.maxexp // 16)

    def norm(unit: ArrayLike) -> jax.Array:
        return jnp.sqrt(sum((over_all(jnp.sum, (part * unit) ** 2) for part in parts), nothing))

    if on_accelerator() or sum(part.size for part in parts) <= _FEW:
        # Three sums in one pass, without a branch, for which an accelerator would wait for the host.
        flat = [jnp.concatenate([jnp.ravel(part) for part in parts])] if not on_accelerator() else parts
        sums = functools.reduce(_added, (_three_sums(part, up, down) for part in flat))
        square, large, small = sums
        fits = (square > 2.0 ** (-info.maxexp // 2)) & (square < most)
        return jnp.where(fits, jnp.sqrt(square), jnp.where(square > 1, jnp.sqrt(small) / down, jnp.sqrt(large) / up))
    square = sum((over_all(jnp.sum, part * part) for part in parts), nothing)
    fits = (square > 2.0 ** (-info.maxexp // 2)) & (square < most)
    unit = jnp.where(square > 1, down, up).astype(square.dtype)
    if sum(part.size for part in parts) > _PASS:
        return jax.lax.cond(fits, lambda: jnp.sqrt(square), lambda: norm(unit) / unit)
    # A second pass over a few numbers costs less than a branch.
    unit = jnp.where(fits, 1.0, unit)
    return norm(unit) / unit


@safe_norm.defjvp
def _safe_norm_jvp(parts: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    norm = safe_norm(*parts)
    there = norm != 0
    size = jnp.where(there, norm, 1.0)
    slopes = (over_all(jnp.sum, part / size * tangent) for part, tangent in zip(parts, tangents, strict=True))
    return norm, jnp.where(there, sum(slopes, jnp.zeros_like(norm)), 0.0)


@jax.custom_jvp
def polar(X: jax.Array) -> jax.Array:
    """The polar factor U V^T of a matrix X = U diag(s) V^T, of its shape, without what only rounding has put into X.

    Its derivative keeps the rank of X, and is smooth where singular values meet.

    Example:
        >>> polar(jnp.array([[2.0, 0.0], [0.0, 1e-20]])).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    U, _, V = _kept_vectors(X)
    return U @ V.T


def _kept_vectors(X: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """U, s, V with zeros for vectors of singular values that are only rounding, which are 0."""
    size = largest(X)
    U, s, Vt = jnp.linalg.svd(X / jnp.where(size > 0, size, 1.0), full_matrices=False)
    keep = s > 16 * max(X.shape) * jnp.finfo(X.dtype).eps * jnp.max(s, initial=0.0)
    return U * keep, jnp.where(keep, s * size, 0.0), Vt.T * keep


@polar.defjvp
def _polar_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    U, s, V = _kept_vectors(*primals)
    (dX,) = tangents
    sums = s[:, None] + s
    A, inverse = U.T @ dX @ V, jnp.where(s > 0, 1 / jnp.where(s > 0, s, 1.0), 0.0)
    turn = U @ ((A - A.T) / jnp.where(sums > 0, sums, 1.0)) @ V.T
    left, right = (dX @ V - U @ A) * inverse @ V.T, U * inverse @ (U.T @ dX - A @ V.T)
    return U @ V.T, turn + left + right


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def greatest(values: jax.Array, axis: int = 0) -> jax.Array:
    """`jnp.max` with a safe derivative: the mean of the tangents of all entries that are largest up to rounding.

    The derivative of JAX compares the entries with their maximum. XLA may compute an entry twice and round it in two
    ways, and if then no entry equals the maximum, that derivative is 0/0.

    Example:
        >>> jax.grad(greatest)(jnp.array([1.0, 2.0, 2.0]))
        Array([0. , 0.5, 0.5], dtype=float32)
    """
    return jnp.max(values, axis)


@greatest.defjvp
def _greatest_jvp(axis: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (values,), (tangent,) = primals, tangents
    top = greatest(values, axis)
    above = jnp.expand_dims(jax.lax.stop_gradient(top), axis)
    slack = 4 * jnp.finfo(values.dtype).eps * jnp.where(jnp.isfinite(above), jnp.abs(above), 0.0)
    place = jax.lax.broadcasted_iota(jnp.int32, values.shape, axis % values.ndim)
    here = (values >= above - slack) | (place == jnp.argmax(values, axis, keepdims=True))
    return top, jnp.sum(jnp.where(here, tangent, 0.0), axis) / jnp.sum(here, axis)


def first_largest(values: jax.Array) -> jax.Array:
    """The first row with the largest entry of every column: `argmax` along axis 0, without a rule for NaN.

    XLA's own argmax is several times slower on CPUs. Comparing entries with their maximum does not work, because XLA
    may compute an entry twice and round it differently.

    Example:
        >>> first_largest(jnp.array([[1.0, 0.0], [2.0, 5.0], [2.0, 1.0]]))
        Array([1, 1], dtype=int32)
    """

    def row_by_row(values: jax.Array) -> jax.Array:
        def better(best: tuple[jax.Array, jax.Array], row: tuple[jax.Array, jax.Array]) -> tuple[tuple, None]:
            larger = row[0] > best[0]
            return (jnp.where(larger, row[0], best[0]), jnp.where(larger, row[1], best[1])), None

        first = jnp.zeros(values.shape[1], jnp.int32)
        return jax.lax.scan(better, (values[0], first), (values, jnp.arange(values.shape[0], dtype=jnp.int32)))[0][1]

    def at_once(values: jax.Array) -> jax.Array:
        return jax.lax.argmax(values, 0, jnp.int32)

    return jax.lax.platform_dependent(jax.lax.stop_gradient(values), cpu=row_by_row, default=at_once)
