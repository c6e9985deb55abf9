"""Images from outside a data set, for out-of-distribution detection."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unhinged_jax import _check
from unhinged_jax.training.data.load import load
from unhinged_jax.training.extra import require

OUTSIDE = ("photographs", "digits", "svhn", "cifar10", "cifar100", "mnist", "mnist5k")


def outside_images(
    name: str, image: tuple[int, int, int], count: int, folder: str | Path | None = None, seed: int = 0
) -> np.ndarray:
    """Images of another origin in the shape of a data set's own.

    Args:
        name: "photographs" (pieces of the two photographs inside scikit-learn, CC BY 2.0) or a data set of `load`.
        image: Shape (c, h, w) that they get: resized, and averaged over colours for a single channel.
        count: Largest number of images.
        folder: The folder of the files of a data set.
        seed: Seed of the choice.

    Returns:
        Bytes of shape (n, c, h, w), n <= count.

    Raises:
        ValueError: for an unknown name, or files that are missing or damaged.

    Source: beyond the paper; SVHN beside CIFAR as in its Appendix C.4 (test part).
    """
    _check.choice("outside data", name, OUTSIDE)
    draw = np.random.default_rng(seed)
    if name == "photographs":
        return _pieces(image, count, draw)
    images = load(name, folder).test_x
    rows = np.sort(draw.permutation(images.shape[0])[:count])
    return np.stack([_fitted(one, image) for one in images[rows]])


def _pieces(image: tuple[int, int, int], count: int, draw: np.random.Generator) -> np.ndarray:
    photographs = require("sklearn.datasets").load_sample_images().images
    _, height, width = image
    pieces = []
    for place in range(count):
        photograph = photographs[place % len(photographs)]
        top = draw.integers(0, photograph.shape[0] - height + 1)
        left = draw.integers(0, photograph.shape[1] - width + 1)
        pieces.append(_fitted(np.moveaxis(photograph[top : top + height, left : left + width], -1, 0), image))
    return np.stack(pieces)


def _fitted(one: np.ndarray, image: tuple[int, int, int]) -> np.ndarray:
    """One image (c, h, w) resized, its channels averaged or repeated."""
    from PIL import Image

    channels, height, width = image
    if one.shape[0] != channels:
        mean = np.round(one.mean(axis=0, keepdims=True)).astype(np.uint8)
        one = np.repeat(mean, channels, axis=0)
    if one.shape[1:] == (height, width):
        return np.ascontiguousarray(one)
    resized = [np.asarray(Image.fromarray(channel).resize((width, height))) for channel in one]
    return np.stack(resized)
