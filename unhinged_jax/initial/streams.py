"""The number streams of two PyTorch generators, repeated in NumPy."""

from __future__ import annotations

import math

import numpy as np

from unhinged_jax import _check


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
    seed = _check.whole("seed", seed, 0, 2**32 - 1)
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
    seed = _check.whole("seed", seed, 0, 2**64 - 1)
    count = _check.whole("count", count, 0, 2**32 - 1)
    element = np.arange(count, dtype=np.uint32)
    zero = np.zeros_like(element)
    a, b, _, _ = philox4x32((zero, zero, element, zero), (seed & _MASK, seed >> 32))
    bits = a.astype(np.uint64) ^ (b.astype(np.uint64) << np.uint64(21))
    return bits * 2.0**-53 + 2.0**-54


_MASK = 0xFFFFFFFF
_Words = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def philox4x32(counter: _Words, key: tuple[int, int]) -> _Words:
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


def _checked_blocks(name: str, value: int) -> int:
    number = _check.whole(name, value, least=0)
    if number % 16:
        raise ValueError(
            f"{name} must be a multiple of 16, the block of the generator, but got {number}; draw more and cut."
        )
    return number
