"""Labelled arrays in NetCDF files of the classic format, which xarray and most other programs read.

xarray writes them too, but to import it, with pandas and whatever else it finds, takes longer than a small run.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from unhinged_jax.trajectory.tables import Labelled


def write(path: Path, table: Labelled) -> None:
    """Write a new file, from which `read` and xarray get back the same names, axes, numbers and texts.

    Whole numbers are stored with 32 bits, or if they do not fit as floating-point numbers.

    Raises:
        ValueError: if an array is of a type that the format lacks, such as complex numbers.
        OSError: if the file cannot be written.
    """
    from scipy.io import netcdf_file

    variables = {**table.data, **table.coords}
    named = [name for name, (axes, *_) in table.coords.items() if axes != (name,)]
    with netcdf_file(path, "w") as file:
        _describe(file, {**table.attrs, "coordinates": " ".join(named)})
        sizes: dict[str, int] = {}
        for axes, array, _ in variables.values():
            sizes.update(zip(axes, array.shape, strict=True))
        for axis, size in sizes.items():
            file.createDimension(axis, size)
        for name, (axes, array, attrs) in variables.items():
            kept = _stored(array)
            variable = file.createVariable(name, kept.dtype, axes)
            variable[:] = kept
            _describe(variable, {**attrs, **({"dtype": "bool"} if array.dtype == bool else {})})


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file by name, and the texts that describe the whole file.

    Raises:
        OSError: if it cannot be read.
        `archive.UNREADABLE`: if it is damaged.
    """
    from scipy.io import netcdf_file

    with netcdf_file(io.BytesIO(path.read_bytes())) as file:
        arrays = {}
        for name, variable in file.variables.items():
            array = variable[:]
            boolean = getattr(variable, "dtype", b"") == b"bool"
            arrays[name] = array.astype(bool if boolean else array.dtype.newbyteorder("="))
        texts = {name: text.decode() for name, text in file._attributes.items() if isinstance(text, bytes)}
    return arrays, texts


def _describe(what: Any, attrs: dict[str, Any]) -> None:
    for name, value in attrs.items():
        setattr(what, name, value.encode() if isinstance(value, str) else _stored(np.atleast_1d(value)))


def _stored(array: np.ndarray) -> np.ndarray:
    """The array in a type of the format."""
    if array.dtype == bool:
        return array.astype(np.int8)
    if array.dtype.kind in "iu":
        small = array.astype(np.int32)
        return small if np.array_equal(small, array) else array.astype(np.float64)
    return array.astype(np.float32) if array.dtype == np.float16 else array
