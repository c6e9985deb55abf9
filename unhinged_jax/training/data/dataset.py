"""A set of images, and changes to its training part."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from unhinged_jax import _check, _numbers, labels


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images and labels for training and testing, in memory.

    Attributes:
        name: The name for `load`.
        train_x, test_x: Images as bytes, shape (n, c, h, w).
        train_y, test_y: Integer labels, shape (n,).
        classes: C.
        licence: Licence and origin of the images.
        clean_y: Training labels before noise, or None if they are clean.
        flips: Whether a mirror image belongs to the same class.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: int
    licence: str
    clean_y: np.ndarray | None = None
    flips: bool = False

    def __post_init__(self) -> None:
        _numbers.settle(self, ("train_y", "test_y", "clean_y"), _numbers.whole, f"{self.name}: ")
        for part in ("train", "test"):
            images, index = getattr(self, f"{part}_x"), getattr(self, f"{part}_y")
            if images.ndim != 4 or images.dtype != np.uint8 or index.shape != images.shape[:1]:
                raise ValueError(
                    f"{part} images must be bytes of shape (n, c, h, w) with n labels, but got {images.dtype} of "
                    f"shape {images.shape} and {index.shape[0]} labels."
                )
            if images.shape[0] == 0:
                raise ValueError(f"{self.name}: the {part} part holds no image.")
            if not np.issubdtype(index.dtype, np.integer):
                raise ValueError(f"{self.name}: {part} labels must be integers, but are {index.dtype}.")
            if index.min() < 0 or index.max() >= self.classes:
                raise ValueError(
                    f"{self.name}: {part} labels range from {index.min()} to {index.max()}, but there are "
                    f"{self.classes} classes, 0 ... {self.classes - 1}."
                )
        if self.clean_y is not None and self.clean_y.shape != self.train_y.shape:
            raise ValueError(
                f"{self.name}: there are {self.train_y.shape[0]} training labels, but {self.clean_y.shape[0]} labels "
                "before noise (clean_y); replace both together."
            )

    @property
    def image(self) -> tuple[int, int, int]:
        """Shape (c, h, w) of an image."""
        channels, height, width = self.train_x.shape[1:]
        return channels, height, width

    def counts(self) -> np.ndarray:
        """Training images of each class, shape (C,)."""
        return np.bincount(self.train_y, minlength=self.classes)

    def scale(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel over the training images / 255, shapes (c, 1, 1)."""
        # Sums of bytes and of their squares are exact in 64-bit integers.
        pixels = np.moveaxis(self.train_x, 1, 0).reshape(self.train_x.shape[1], -1)
        tallies = np.stack([np.bincount(channel, minlength=256) for channel in pixels])
        values = np.arange(256) / 255
        mean = tallies @ values / pixels.shape[1]
        variance = tallies @ values**2 / pixels.shape[1] - mean**2
        return mean[:, None, None], np.sqrt(np.maximum(variance, 1e-12))[:, None, None]

    def replace(self, **changes: object) -> Dataset:
        """A copy with the named fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


def imbalanced(data: Dataset, kind: str, ratio: float, seed: int = 0) -> Dataset:
    """The training part with fewer images of some classes; the test part stays.

    Args:
        data: A set with clean labels.
        kind: "long_tailed" (counts fall geometrically) or "step" (the second half of the classes is rare).
        ratio: Largest count over smallest, at least 1. The largest is that of the rarest class of `data`.
        seed: Seed of the choice of images.

    Returns:
        A set in which class 0 is the most frequent.

    Raises:
        ValueError: for another kind, or a ratio below 1.

    Source: Zhou et al. 2023, Appendix C.3 (Cao et al. 2019, Buda et al. 2018).

    Example:
        >>> image = np.zeros((20, 1, 2, 2), np.uint8)
        >>> data = Dataset("toy", image, np.arange(20) % 2, image, np.arange(20) % 2, 2, "none")
        >>> imbalanced(data, "long_tailed", 5).counts().tolist()
        [10, 2]
    """
    _check.choice("imbalance", kind, ("long_tailed", "step"))
    layout = labels.long_tailed if kind == "long_tailed" else labels.step_imbalanced
    counts = np.bincount(layout(data.classes, int(data.counts().min()), ratio).index, minlength=data.classes)
    order = np.random.default_rng(seed).permutation(data.train_y.size)
    kept = [order[data.train_y[order] == c][:count] for c, count in enumerate(counts)]
    rows = np.sort(np.concatenate(kept))
    clean = None if data.clean_y is None else data.clean_y[rows]
    return data.replace(train_x=data.train_x[rows], train_y=data.train_y[rows], clean_y=clean)


def noisy(data: Dataset, rate: float, seed: int = 0, kind: str = "symmetric") -> Dataset:
    """Training labels with noise; `clean_y` keeps the original ones.

    Args:
        data: A set with clean labels.
        rate: Probability that a label changes, in [0, 1].
        seed: Seed of the noise.
        kind: "symmetric" (to any other class with equal probability) or "asymmetric" (class c to c + 1).

    Raises:
        ValueError: for another kind, or a rate outside [0, 1].

    Source: beyond the paper (van Rooyen et al. 2015).
    """
    _check.choice("noise", kind, ("symmetric", "asymmetric"))
    clean = labels.from_labels(data.train_y, data.classes)
    with jax.enable_x64(False):
        key = jax.random.key(seed)
        drawn = clean.symmetric_noise(rate, key) if kind == "symmetric" else clean.asymmetric_noise(rate, key)
    return data.replace(train_y=np.asarray(drawn.index), clean_y=data.train_y if data.clean_y is None else data.clean_y)


def held_out(data: Dataset, classes: int) -> tuple[Dataset, np.ndarray]:
    """The set without its last classes, and the test images of these classes, which are novel for a detector.

    Args:
        data: A set with clean labels.
        classes: How many classes to leave out, from 1 to C - 2.

    Returns:
        (the remaining set, images (n, c, h, w) of the classes left out).

    Raises:
        ValueError: for a number out of range.

    Source: beyond the paper.
    """
    _check.whole("classes held out", classes, 1)
    kept = data.classes - classes
    if kept < 2:
        raise ValueError(f"holding {classes} of {data.classes} classes out leaves {kept}; leave at least 2.")
    train, test = data.train_y < kept, data.test_y < kept
    rest = data.replace(
        train_x=data.train_x[train], train_y=data.train_y[train], test_x=data.test_x[test],
        test_y=data.test_y[test], classes=kept, clean_y=None if data.clean_y is None else data.clean_y[train],
    )  # fmt: skip
    return rest, data.test_x[~test]
