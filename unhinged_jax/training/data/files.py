"""Standard files of public image sets: they are found, compared with their published checksums, and read."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from unhinged_jax import _memory

MD5 = {
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
    "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}

Part = tuple[np.ndarray, np.ndarray]


class DataError(ValueError):
    """A data file that is missing or damaged; the message names it and what to do."""


def checked(folder: Path | None, names: tuple[str, ...], what: str, url: str) -> Path:
    """The first of these files that exists, with its checksum verified.

    Raises:
        DataError: if there is no folder, none of the files, or one that is damaged.
    """
    listed = " or ".join(names)
    if folder is None:
        raise DataError(f"{what} is read from files; give the folder that holds {listed} as --data-dir.")
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise DataError(f"{what}: {folder} holds no {listed}; download it from {url} into that folder.")
    with found.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    if digest != MD5[found.name]:
        raise DataError(
            f"{found} is damaged or not the published file: its MD5 is {digest}, expected {MD5[found.name]}; "
            f"download it again from {url}."
        )
    return found


def read_cifar(folder: Path | None, classes: int) -> tuple[Part, Part]:
    """CIFAR-10 or CIFAR-100 (fine labels) from the archive of binary files or that of Python files."""
    what, stem = f"CIFAR-{classes}", f"cifar-{classes}"
    path = checked(
        folder, (f"{stem}-binary.tar.gz", f"{stem}-python.tar.gz"), what, "https://www.cs.toronto.edu/~kriz/cifar.html"
    )
    read = _binary_batch if "binary" in path.name else _pickled_batch
    parts: dict[str, list[tuple[str, Part]]] = {"train": [], "test": []}
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            name = Path(member.name).name
            kind = "test" if name.startswith("test") else "train" if name.startswith(("data_batch", "train")) else ""
            file = archive.extractfile(member) if kind else None
            if file is not None:
                parts[kind].append((name, read(file.read(), classes)))
    if not (parts["train"] and parts["test"]):
        raise DataError(f"{path} holds no batches of {what}; download it again.")
    return _joined(parts["train"]), _joined(parts["test"])


def _joined(parts: list[tuple[str, Part]]) -> Part:
    ordered = [part for _, part in sorted(parts, key=lambda named: named[0])]
    return np.concatenate([x for x, _ in ordered]), np.concatenate([y for _, y in ordered])


def _binary_batch(raw: bytes, classes: int) -> Part:
    before = 1 if classes == 10 else 2  # CIFAR-100 has a coarse label before the fine one
    rows = np.frombuffer(raw, np.uint8).reshape(-1, before + 3072)
    return rows[:, before:].reshape(-1, 3, 32, 32), rows[:, before - 1].astype(np.int32)


def _pickled_batch(raw: bytes, classes: int) -> Part:
    batch = _ArraysOnly(io.BytesIO(raw), encoding="bytes").load()
    index = batch[b"labels" if classes == 10 else b"fine_labels"]
    return np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32), np.asarray(index, np.int32)


class _ArraysOnly(pickle.Unpickler):
    """Reads only arrays of numbers, never code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("numpy") and name in ("_reconstruct", "ndarray", "dtype"):
            return getattr(np, name, None) or np.empty(0).__reduce__()[0]
        if (module, name) == ("_codecs", "encode"):
            import codecs

            return codecs.encode
        raise DataError(
            f"a batch refers to {module}.{name}, which is not an array; the archive is not the published one."
        )


def read_svhn(folder: Path | None) -> tuple[Part, Part]:
    """SVHN, cropped digits, from its two MATLAB files; the label 10 is the digit 0."""
    import scipy.io

    def part(name: str) -> Part:
        path = checked(folder, (name,), "SVHN", "http://ufldl.stanford.edu/housenumbers")
        content = scipy.io.loadmat(path)
        return np.ascontiguousarray(np.transpose(content["X"], (3, 2, 0, 1))), content["y"].reshape(-1) % 10

    return part("train_32x32.mat"), part("test_32x32.mat")


def read_mnist(folder: Path | None) -> tuple[Part, Part]:
    """MNIST from its four IDX files."""

    def array(name: str) -> np.ndarray:
        path = checked(folder, (f"{name}.gz",), "MNIST", "https://ossci-datasets.s3.amazonaws.com/mnist")
        with gzip.open(path) as file:
            raw = file.read()
        shape = np.frombuffer(raw, ">i4", raw[3], offset=4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)

    def part(stem: str) -> Part:
        return array(f"{stem}-images-idx3-ubyte")[:, None], array(f"{stem}-labels-idx1-ubyte").astype(np.int32)

    return part("train"), part("t10k")


def read_folders(folder: Path | None, size: int) -> tuple[Part, Part, list[str]]:
    """An image-folder set, `train/CLASS/...` and `test/CLASS/...` (or `val`), images cut to squares and resized."""
    if folder is None or not (folder / "train").is_dir():
        raise DataError(
            f"an image folder holds train/CLASS/IMAGE and test/CLASS/IMAGE, but {folder or '--data-dir'} has no train; "
            "give its folder as --data-dir."
        )
    held = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    if held is None:
        raise DataError(f"{folder} has neither test nor val beside train; move some images of every class there.")
    names = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    if len(names) < 2:
        raise DataError(f"{folder / 'train'} holds {len(names)} class folders; there must be at least 2.")
    return _folder_part(folder / "train", names, size), _folder_part(held, names, size), names


def _folder_part(folder: Path, names: list[str], size: int) -> Part:
    from PIL import Image, UnidentifiedImageError

    unknown = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name not in names)
    if unknown:
        raise DataError(
            f"{folder} has the classes {', '.join(unknown)}, which train does not have; remove or rename them."
        )
    kinds = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
    found = [sorted(path for path in (folder / name).glob("*") if path.suffix.lower() in kinds) for name in names]
    index = np.repeat(np.arange(len(names), dtype=np.int32), [len(paths) for paths in found])
    if not index.size:
        raise DataError(f"{folder} holds no images of its classes; put PNG or JPEG files into the class folders.")
    _memory.refuse(3 * size**2 * index.size, f"{index.size:,} images of {size} x {size} pixels")
    images = np.empty((index.size, 3, size, size), np.uint8)
    for place, path in enumerate(path for paths in found for path in paths):
        try:
            with Image.open(path) as image:
                side = min(image.size)
                left, top = (image.width - side) // 2, (image.height - side) // 2
                cut = image.convert("RGB").resize((size, size), box=(left, top, left + side, top + side))
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"{path} cannot be read as an image ({error}); repair or remove it.") from error
        images[place] = np.moveaxis(np.asarray(cut, np.uint8), -1, 0)
    return images, index
