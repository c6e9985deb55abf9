"""The starts of the numerical experiments of Zhou et al. (2023)."""

from __future__ import annotations

import functools
import math

import numpy as np

from unhinged_jax.initial.streams import cuda_uniform, torch_cpu_normal

PAPER_SEED = 123
PAPER_CLASSES, PAPER_SAMPLES, PAPER_DIM = 100, 1000, 512


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


def _read_only(array: np.ndarray) -> np.ndarray:
    """The cached result is shared by all callers, so none may write to it."""
    array.setflags(write=False)
    return array
