"""The arrays of a new store: observables, why points ended, coordinates, digests."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from unhinged_jax.sweeps.grouping import Output
from unhinged_jax.sweeps.layout import Layout
from unhinged_jax.trajectory import RunResult

NOT_A_NUMBER, PENDING = 5, -1
REASONS = {**{int(code): code.name.lower() for code in RunResult}, NOT_A_NUMBER: "not_a_number"}
"""Why a point ended, by its number in the variable `result`."""

zarr.config.set({"array.write_empty_chunks": True})  # a missing chunk must mean a missing block

_CODECS = (ZstdCodec(level=1), Crc32cCodec())  # without the second, flipped bits are not noticed


def _array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: npt.DTypeLike,
    fill: object,
    dims: Sequence[str],
    **attrs: Any,
) -> Any:
    return group.create_array(
        name, shape=shape, chunks=chunks, dtype=dtype, fill_value=fill, dimension_names=dims,
        compressors=_CODECS, attributes=attrs,
    )  # fmt: skip


def make_variables(
    group: zarr.Group,
    layout: Layout,
    dims: tuple[str, ...],
    outputs: Mapping[str, Output],
    unit: str,
) -> None:
    """Every array of an empty store but its coordinates. `unit` is that of time: "time" or "updates"."""
    for name, output in outputs.items():
        shape, chunk = (*layout.shape, *output.shape), (*layout.block, *output.shape)
        attrs = {"long_name": output.meaning, "units": "1"}
        _array(group, name, shape, chunk, output.dtype, output.fill, (*dims, *output.dims), **attrs)
    meanings = {"flag_values": list(REASONS), "flag_meanings": " ".join(REASONS.values())}
    codes = {"long_name": "why a point ended", **meanings}
    _array(group, "result", layout.shape, layout.block, "int8", PENDING, dims, **codes)
    attrs = {"long_name": "how far a point came", "units": unit}
    _array(group, "elapsed", layout.shape, layout.block, "float64", float("nan"), dims, **attrs)
    attrs = {"long_name": "steps of the solver or updates made; 0 for a closed form", "units": "1"}
    _array(group, "steps", layout.shape, layout.block, "int32", 0, dims, **attrs)
    counts, single = layout.counts, (1,) * len(layout.counts)
    blocks = [f"block_{dim}" for dim in dims]
    each = len(outputs) + 3
    meaning = {"long_name": "digests of a block, one per variable"}
    _array(
        group, "execution/committed", (*counts, each), (*single, each), "uint64", 0, [*blocks, "variable"], **meaning
    )
    _array(group, "execution/seconds", counts, single, "float32", float("nan"), blocks, units="s")
    made = {"long_name": "steps of all points of a block, those included that a lane made waiting for a slower one"}
    _array(group, "execution/steps_made", counts, single, "int64", 0, blocks, **made)


def consolidate(place: Path) -> None:
    """Put the descriptions of all arrays beside the attributes, because xarray's own reader warns if they are
    missing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
        zarr.consolidate_metadata(place, zarr_format=3)


def coordinate(group: zarr.Group, name: str, dim: str, values: np.ndarray, attrs: dict[str, Any]) -> None:
    """A coordinate; texts are stored as numbers together with their meanings, which every reader of Zarr
    understands."""
    if values.dtype.kind == "U":
        texts = list(dict.fromkeys(values.tolist()))
        attrs = {**attrs, "texts": texts}
        values = np.asarray([texts.index(text) for text in values.tolist()], np.int32)
    with warnings.catch_warnings():
        array = _array(group, name, values.shape, values.shape, values.dtype, 0, (dim,), **attrs)
        array[...] = values


def plain_name(name: str) -> None:
    """Raise ValueError for the name of an array that would lie outside the store, because names become folders."""
    if not name or name.startswith((".", "__")) or any(letter in name for letter in "/\\\0") or name == "zarr.json":
        raise ValueError(
            f"{name!r} cannot be the name of an axis or an array: it would be a path in the store; give a plain name."
        )
