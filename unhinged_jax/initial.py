"""Initial features and prototypes, random or given by a published generator.

Two kinds of draw live here. ``normal``, ``kaiming_uniform``, ``kaiming_normal`` and ``simplex_etf``
take a JAX key and work under ``jit`` and ``vmap``, in the precision in force. ``torch_cpu_normal``
and ``cuda_uniform`` repeat, in NumPy and always in float64, the streams of two PyTorch generators,
because the numerical experiments of Zhou et al. (2023) start from them; ``paper_features``,
``paper_prototypes`` and ``paper_anchors`` are those starts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _check

__all__ = [
    "cuda_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "normal",
    "paper_anchors",
    "paper_features",
    "paper_prototypes",
    "simplex_etf",
    "torch_cpu_normal",
]

PAPER_SEED = 123
PAPER_CLASSES, PAPER_SAMPLES, PAPER_DIM = 100, 1000, 512


def normal(key: jax.Array, shape: Sequence[int], scale: ArrayLike = 1.0) -> jax.Array:
    """Independent normal entries of mean zero.

    x ~ N(0, scale²), entry by entry.

    Args:
        key: JAX key.
        shape: shape of the result, positive integers.
        scale: standard deviation, a non-negative scalar; default 1. May be traced.

    Returns:
        Array of ``shape`` in the default precision.

    Raises:
        TypeError: ``key`` is not a JAX key, or ``shape`` is not a tuple.
        ValueError: ``shape`` does not hold positive integers, or ``scale`` is negative, not finite
            or not a scalar.

    Source:
        The start of the numerical experiments, Appendix C.1 ("randomly initialize").

    Example:
        >>> import jax
        >>> normal(jax.random.key(0), (3, 2)).shape
        (3, 2)
    """
    _check_key(key)
    if np.ndim(scale) != 0:
        raise ValueError(
            f"scale must be a scalar, but got shape {np.shape(scale)}; multiply the result instead."
        )
    _check.non_negative("scale", scale)
    draw = jax.random.normal(key, _checked_shape(shape, least_axes=0))
    return draw * jnp.asarray(scale, draw.dtype)


def kaiming_uniform(key: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Uniform entries with the variance 2/fan_in of He et al. (2015).

    x ~ U[−a, a),  a = √(6/fan_in),  fan_in = length of the last axis.

    Args:
        key: JAX key.
        shape: (..., fan_out, fan_in), positive integers; leading axes are independent copies.

    Returns:
        Array of ``shape`` in the default precision.

    Raises:
        TypeError: ``key`` is not a JAX key, or ``shape`` is not a tuple.
        ValueError: ``shape`` does not hold positive integers, or has fewer than two axes.

    Source:
        Beyond the paper's text, but the law of the initial prototypes it used.

    Example:
        >>> import jax
        >>> float(abs(kaiming_uniform(jax.random.key(0), (5, 6))).max()) <= 1.0
        True
    """
    return _kaiming(key, shape, "uniform")


def kaiming_normal(key: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Normal entries, not truncated, with the variance 2/fan_in of He et al. (2015).

    x ~ N(0, 2/fan_in),  fan_in = length of the last axis.

    Args:
        key: JAX key.
        shape: (..., fan_out, fan_in), positive integers; leading axes are independent copies.

    Returns:
        Array of ``shape`` in the default precision.

    Raises:
        TypeError: ``key`` is not a JAX key, or ``shape`` is not a tuple.
        ValueError: ``shape`` does not hold positive integers, or has fewer than two axes.

    Source:
        Beyond the paper.

    Example:
        >>> import jax
        >>> kaiming_normal(jax.random.key(0), (5, 6)).shape
        (5, 6)
    """
    return _kaiming(key, shape, "normal")


def simplex_etf(classes: int, dim: int, key: jax.Array | None = None) -> jax.Array:
    """Prototypes that form a simplex equiangular tight frame.

    W Wᵀ = (C I − 11ᵀ)/(C − 1): rows of unit norm, every pair at cosine −1/(C − 1), sum zero.

    Args:
        classes: number C of prototypes, at least 2.
        dim: dimension p of the features, at least C − 1.
        key: JAX key of a rotation drawn uniformly; default None places the frame in the first
            C − 1 coordinates, always in the same way.

    Returns:
        Array of shape (C, p) in the default precision.

    Raises:
        TypeError: ``key`` is not a JAX key.
        ValueError: ``classes`` or ``dim`` is not a whole number, ``classes`` < 2, or
            ``dim`` < ``classes`` − 1.

    Source:
        Zhou et al. (2023), Lemma 1 (the optimum) and Appendix D.1 (as initial prototypes).

    Example:
        >>> W = simplex_etf(3, 2)
        >>> [[round(float(x), 3) + 0.0 for x in row] for row in W @ W.T]
        [[1.0, -0.5, -0.5], [-0.5, 1.0, -0.5], [-0.5, -0.5, 1.0]]
    """
    classes = _check.whole("classes", classes, least=2)
    dim = _check.whole("dim", dim, least=1)
    if dim < classes - 1:
        raise ValueError(
            f"dim must be at least classes - 1 = {classes - 1} for a simplex ETF of {classes} "
            f"prototypes, but got {dim}; raise dim or use fewer classes."
        )
    frame = _minimal_frame(classes)
    if key is None:
        return jnp.pad(frame, ((0, 0), (0, dim - classes + 1)))
    _check_key(key)
    axes = jax.random.orthogonal(key, classes - 1, m=dim)
    return jnp.matmul(frame, axes, precision=jax.lax.Precision.HIGHEST)


def torch_cpu_normal(seed: int, count: int, skip: int = 0) -> np.ndarray:
    """Standard normal numbers of PyTorch's CPU generator, in float64.

    Equals ``torch.manual_seed(seed)`` followed by ``torch.randn(count, dtype=torch.float64)``,
    to the rounding of log, cos and sin. Sixteen uniforms u₁…u₈, v₁…v₈ of 53 bits make sixteen
    numbers: √(−2 ln(1 − u)) cos 2πv, then the same with sin.

    Args:
        seed: seed of the Mersenne Twister, 0 ≤ seed < 2³².
        count: how many numbers, a multiple of 16 (other lengths draw differently in PyTorch).
        skip: how many numbers the stream has given before, a multiple of 16; default 0.

    Returns:
        NumPy array of shape (count,).

    Raises:
        ValueError: an argument is not a whole number or out of range, or ``count`` or ``skip`` is
            not a multiple of 16.

    Source:
        The generator behind the paper's initial features; beyond its text.

    Example:
        >>> torch_cpu_normal(0, 32)[16:].tolist() == torch_cpu_normal(0, 16, skip=16).tolist()
        True
    """
    seed = _checked_whole("seed", seed, below=2**32)
    count = _checked_blocks("count", count)
    skip = _checked_blocks("skip", skip)
    # RandomState is NumPy's frozen generator: its byte stream is the Twister's words in order.
    stream = np.random.RandomState(seed).bytes(8 * (skip + count))
    words = np.frombuffer(stream, dtype="<u4", offset=8 * skip).reshape(-1, 2)
    high, low = words.astype(np.uint64).T
    bits = ((high << np.uint64(32)) | low) & np.uint64(2**53 - 1)
    u, v = np.moveaxis((bits * 2.0**-53).reshape(-1, 2, 8), 1, 0)
    radius = np.sqrt(-2.0 * np.log(1.0 - u))
    angle = 2.0 * math.pi * v
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)


def cuda_uniform(seed: int, count: int) -> np.ndarray:
    """Uniform numbers in (0, 1] of PyTorch's CUDA generator, in float64.

    Element i takes the first two outputs a, b of Philox4x32-10 at counter (0, 0, i, 0) with the
    seed as key: z = (a xor 2²¹b)·2⁻⁵³ + 2⁻⁵⁴. This is the first draw after
    ``torch.manual_seed(seed)`` while the launch has a thread for every element (some 10⁵ on a
    large device). A longer draw takes further outputs of the same threads, by a rule that
    depends on the device and is not repeated here.

    Args:
        seed: seed of the generator, 0 ≤ seed < 2⁶⁴.
        count: how many numbers, 0 ≤ count < 2³².

    Returns:
        NumPy array of shape (count,).

    Raises:
        ValueError: an argument is not a whole number or out of range.

    Source:
        Salmon et al. (2011) for Philox. The generator behind the paper's initial prototypes;
        beyond its text.

    Example:
        >>> z = cuda_uniform(123, 1000)
        >>> bool((z > 0).all() and (z <= 1).all())
        True
    """
    seed = _checked_whole("seed", seed, below=2**64)
    count = _checked_whole("count", count, below=2**32)
    element = np.arange(count, dtype=np.uint32)
    zero = np.zeros_like(element)
    a, b, _, _ = _philox4x32((zero, zero, element, zero), (seed & _MASK, seed >> 32))
    bits = a.astype(np.uint64) ^ (b.astype(np.uint64) << np.uint64(21))
    return bits * 2.0**-53 + 2.0**-54


@functools.cache
def paper_features() -> np.ndarray:
    """Initial features of the paper's Figures 1, 5-9 and 15.

    H₀ = ``torch.randn(1000, 512)`` on the CPU with seed 123; ‖H₀‖² = 512085.677421. Row i has
    label i mod 100.

    Returns:
        Read-only NumPy array of shape (1000, 512), float64.

    Source:
        Zhou et al. (2023), Appendix C.1; the generator is beyond its text.

    Example:
        >>> round(float((paper_features() ** 2).sum()), 6)
        512085.677421
    """
    count = PAPER_SAMPLES * PAPER_DIM
    return _read_only(torch_cpu_normal(PAPER_SEED, count).reshape(PAPER_SAMPLES, PAPER_DIM))


@functools.cache
def paper_prototypes() -> np.ndarray:
    """Initial prototypes of the paper's Figures 1 and 5-8.

    W₀ = (2z − 1)√(6/512), Kaiming-uniform from the CUDA stream z with seed 123;
    ‖W₀‖² = 200.038864.

    Returns:
        Read-only NumPy array of shape (100, 512), float64.

    Source:
        Zhou et al. (2023), Appendix C.1; the generator is beyond its text.

    Example:
        >>> round(float((paper_prototypes() ** 2).sum()), 6)
        200.038864
    """
    z = cuda_uniform(PAPER_SEED, PAPER_CLASSES * PAPER_DIM)
    bound = math.sqrt(6.0 / PAPER_DIM)
    return _read_only(((2.0 * z - 1.0) * bound).reshape(PAPER_CLASSES, PAPER_DIM))


@functools.cache
def paper_anchors(centred: bool = False) -> np.ndarray:
    """Fixed prototypes of the paper's Figure 15 and, centred, of Figure 9.

    W = the 100×512 numbers that follow H₀ in its stream; ‖W‖² = 51215.264983. Centred, each row
    less its own mean over the coordinates (so the rows do not sum to zero):
    ‖W‖² = 51110.894144.

    Args:
        centred: False for Figure 15 (the default), True for Figure 9.

    Returns:
        Read-only NumPy array of shape (100, 512), float64.

    Source:
        Zhou et al. (2023), Appendix C.1; the generator is beyond its text.

    Example:
        >>> round(float((paper_anchors(centred=True) ** 2).sum()), 6)
        51110.894144
    """
    skip = PAPER_SAMPLES * PAPER_DIM
    draw = torch_cpu_normal(PAPER_SEED, PAPER_CLASSES * PAPER_DIM, skip=skip)
    anchors = draw.reshape(PAPER_CLASSES, PAPER_DIM)
    return _read_only(anchors - anchors.mean(axis=1, keepdims=True) if centred else anchors)


def _kaiming(key: jax.Array, shape: Sequence[int], distribution: str) -> jax.Array:
    _check_key(key)
    shape = _checked_shape(shape, least_axes=2)
    draw = jax.nn.initializers.variance_scaling(
        2.0,
        "fan_in",
        distribution,  # type: ignore[arg-type]
        in_axis=-1,
        out_axis=-2,
        batch_axis=tuple(range(len(shape) - 2)),
    )
    return draw(key, shape)


def _minimal_frame(classes: int) -> jax.Array:
    """Simplex ETF of shape (C, C − 1): Householder columns orthogonal to the ones vector."""
    root = math.sqrt(classes)
    scale = math.sqrt(classes / (classes - 1))
    first = jnp.full((1, classes - 1), scale / root)
    shift = scale * (1.0 + 1.0 / root) / (classes - 1)
    return jnp.concatenate([first, scale * jnp.eye(classes - 1) - shift])


_MASK = 0xFFFFFFFF
_Words = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _philox4x32(counter: _Words, key: tuple[int, int]) -> _Words:
    """Ten rounds of Philox4x32 (Salmon et al. 2011) on arrays of 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _product(c0, 0xD2511F53)
        high1, low1 = _product(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high1 ^ c1 ^ np.uint32(k0), low1, high0 ^ c3 ^ np.uint32(k1), low0
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def _product(words: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """High and low 32 bits of the 64-bit product."""
    product = words.astype(np.uint64) * np.uint64(factor)
    return (product >> np.uint64(32)).astype(np.uint32), product.astype(np.uint32)


def _read_only(array: np.ndarray) -> np.ndarray:
    """The cached result is shared by all callers, so none may write to it."""
    array.setflags(write=False)
    return array


def _check_key(key: object) -> None:
    # A NumPy array is what a legacy key becomes when saved and loaded; JAX takes it.
    if not isinstance(key, jax.Array | np.ndarray):
        raise TypeError(
            f"key must be a JAX key, but got {key!r} of type {type(key).__name__}; "
            "use jax.random.key(seed)."
        )


def _checked_shape(shape: Sequence[int], least_axes: int) -> tuple[int, ...]:
    if not isinstance(shape, tuple | list):
        raise TypeError(f"shape must be a tuple of whole numbers, as (3, 2), but got {shape!r}.")
    if len(shape) < least_axes:
        raise ValueError(
            f"shape must have at least {least_axes} axes, but got {shape}; "
            "give the rows first and the features last."
        )
    return tuple(_check.whole("each length in shape", length, least=1) for length in shape)


def _checked_whole(name: str, value: int, below: int) -> int:
    number = _check.whole(name, value, least=0)
    if number >= below:
        raise ValueError(f"{name} must be below {below}, but got {number}; use a smaller number.")
    return number


def _checked_blocks(name: str, value: int) -> int:
    number = _check.whole(name, value, least=0)
    if number % 16:
        raise ValueError(
            f"{name} must be a multiple of 16, the block of the generator, but got {number}; "
            "draw more and cut."
        )
    return number
