"""A store as an `xarray.Dataset`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unhinged_jax.sweep.store import Store

if TYPE_CHECKING:
    import xarray


def open_sweep(store: str | Path) -> xarray.Dataset:
    """The results of a sweep, read from disk when used.

    Args:
        store: Folder that `sweep` wrote, finished or not; points that are not there yet hold NaN and result -1.

    Returns:
        An `xarray.Dataset`: one variable an observable over the plan's dimensions, `seed` and `time`; `result`,
        `elapsed` and `steps` of every point; plan, versions, commit, device and precision as attributes.

    Raises:
        ValueError: if the folder is not such a store.

    Source: beyond the paper.
    """
    import xarray

    opened = Store(store)
    data = xarray.open_zarr(opened.path, consolidated=False, zarr_format=3, chunks=None)
    texts = {
        name: (array.dims, opened.coordinate(str(name)), {"long_name": array.attrs.get("long_name", name)})
        for name, array in data.coords.items()
        if "texts" in array.attrs
    }
    data = data.assign_coords(texts)
    for name in data.coords:
        if np.issubdtype(data[name].dtype, np.floating):
            data[name].encoding.pop("_FillValue", None)
    return data
