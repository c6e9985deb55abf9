"""The data that settings describe."""

from __future__ import annotations

import numpy as np

from unhinged_jax.training.data import Dataset, held_out, imbalanced, load, noisy
from unhinged_jax.training.settings import Settings


def dataset(settings: Settings) -> Dataset:
    """The data set of the settings: it is loaded, classes are held out, it is made imbalanced, and labels are made
    noisy.

    Raises:
        ValueError: for a set that cannot be read, or a setting that is not allowed.

    Source: Zhou et al. 2023, Appendix C.2-C.3; noise beyond the paper.
    """
    return novel_classes(settings)[0]


def novel_classes(settings: Settings) -> tuple[Dataset, np.ndarray | None]:
    """`dataset`, and the test images of the classes that it holds out, or None."""
    given = settings.data
    data, novel = load(given.name, given.dir, given.size), None
    if given.held_out:
        data, novel = held_out(data, given.held_out)
    if given.imbalance is not None:
        data = imbalanced(data, given.imbalance, given.ratio, given.seed)
    if given.noise:
        data = noisy(data, given.noise, given.seed, given.noise_kind)
    return data, novel
