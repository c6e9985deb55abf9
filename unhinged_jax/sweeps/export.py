"""The results of a sweep in other formats: CSV, Parquet, NetCDF."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unhinged_jax._files import whole
from unhinged_jax.sweeps.read import open_sweep
from unhinged_jax.sweeps.store import PENDING, REASONS

if TYPE_CHECKING:
    import pandas
    import xarray

_ROWS = 1_000_000
_WRITERS = {".csv": "_csv", ".parquet": "_parquet", ".nc": "_netcdf"}


def export(store: str | Path, file: str | Path, *, force: bool = False) -> None:
    """Write the results of a sweep into one file, which appears whole or not at all.

    Args:
        store: Folder that `sweep` wrote.
        file: NAME.csv or NAME.parquet: one row per point and time, with its coordinates, its observables and the reason
            why it ended; or NAME.nc, the dataset itself.
        force: Replace an existing file.

    Raises:
        ValueError: for another ending, Parquet without pyarrow, an existing file, or a damaged store.
        OSError: if it cannot be written.

    Source: beyond the paper.
    """
    file = Path(file)
    if file.suffix not in _WRITERS:
        raise ValueError(f"export to a file that ends in {', '.join(_WRITERS)}, but got {file.name!r}.")
    if file.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ValueError("Parquet needs pyarrow: pip install pyarrow; or export to .csv or .nc.")
    data = open_sweep(store)
    with whole(file, force=force) as part:
        globals()[_WRITERS[file.suffix]](data, str(part))


def tables(data: xarray.Dataset) -> Iterator[pandas.DataFrame]:
    """Rows (point, time) in portions, so that a large sweep needs little memory."""
    first = next(iter(data["result"].dims))
    rows_each = max(1, math.prod(data.sizes.values()) // data.sizes[first])
    step = max(1, _ROWS // rows_each)
    names = {**REASONS, PENDING: "pending"}
    # Dimensions without a coordinate are numbered over the whole sweep, not from 0 in every portion.
    data = data.assign_coords({name: np.arange(size) for name, size in data.sizes.items() if name not in data.coords})
    for begin in range(0, data.sizes[first], step):
        part = _columns(data.isel({first: slice(begin, begin + step)}).load())
        frame = part.drop_vars("result").to_dataframe()
        reasons = np.vectorize(names.get, otypes=[object])(part["result"].values)
        spread = part["result"].astype(object).copy(data=reasons).to_series().rename("result")
        frame = frame.join(spread)
        ends = [name for name in ("result", "steps", "elapsed") if name in frame]  # a store lists them in any order
        yield frame[[*sorted(str(name) for name in frame if name not in ends), *ends]].reset_index()


def _columns(data: xarray.Dataset) -> xarray.Dataset:
    """The dataset with a variable for each entry of an array that has axes of its own, "NAME[i,j]"."""
    kept = {*data["result"].dims, "time"}
    found = data.drop_dims([dim for dim in data.dims if dim not in kept])
    for name, array in data.data_vars.items():
        own = [dim for dim in array.dims if dim not in kept]
        for place in np.ndindex(*(array.sizes[dim] for dim in own)) if own else ():
            found[f"{name}[{','.join(map(str, place))}]"] = array.isel(dict(zip(own, place, strict=True)), drop=True)
    return found


def _csv(data: xarray.Dataset, file: str) -> None:
    for number, frame in enumerate(tables(data)):
        frame.to_csv(file, index=False, mode="a", header=number == 0)


def _parquet(data: xarray.Dataset, file: str) -> None:
    import pyarrow
    import pyarrow.parquet

    writer = None
    try:
        for frame in tables(data):
            table = pyarrow.Table.from_pandas(frame, preserve_index=False)
            writer = writer or pyarrow.parquet.ParquetWriter(file, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _netcdf(data: xarray.Dataset, file: str) -> None:
    data = data.load()
    for name in data.variables:
        data[name].encoding.clear()
        if data[name].dtype.kind == "O" or data[name].dtype.kind == "T":
            data[name] = data[name].astype(str)
    data.to_netcdf(file)
