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

    Example:
        >>> import tempfile, unhinged_jax as uj
        >>> tables = {
        ...     "model": {"case": "unconstrained", "dim": 2},
        ...     "labels": {"layout": "balanced", "classes": 2, "per_class": 1},
        ...     "dynamics": {"kind": "flow"},
        ...     "run": {"times": [0, 1], "observe": ["norm"]},
        ...     "sweep": {"method": "exact", "seeds": 2},
        ... }
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = uj.sweep(uj.Plan.of(tables), f"{folder}/small.zarr", workers=0)
        ...     data = open_sweep(f"{folder}/small.zarr").load()
        >>> data["result"].values.tolist(), data.attrs["precision"]
        ([0, 0], 'float32')
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
