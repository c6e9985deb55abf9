"""A store as an `xarray.Dataset`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unhinged_jax import _check
from unhinged_jax.sweeps.seal import SEAL
from unhinged_jax.sweeps.store import Store

if TYPE_CHECKING:
    import xarray

UNSEALED = "its observables are checked when they are read, its coordinates and attributes are not"


def open_sweep(store: str | Path) -> xarray.Dataset:
    """The results of a sweep, read from disk when used.

    Args:
        store: Folder that `sweep` wrote, finished or not; missing points hold NaN and result -1.

    Returns:
        An `xarray.Dataset`: one variable per observable over the plan's dimensions, `seed` and `time`; `result`,
        `elapsed` and `steps` of every point; plan, versions, commit, device and precision as attributes.

        Nothing that the store names is imported or opened: a store is data. Blocks are compared with their digests
        as they are read.

    Raises:
        ValueError: if the folder is not such a store, or if its coordinates or attributes, or a block that is read,
            differ from what was written; the message names the file.

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
        ...     _ = uj.sweep(uj.SweepPlan.of(tables), f"{folder}/small.zarr", workers=0)
        ...     data = open_sweep(f"{folder}/small.zarr").load()
        >>> data["result"].values.tolist(), data.attrs["precision"]
        ([0, 0], 'float32')
    """
    opened = Store(_check.path("store", store))
    return dataset_of(opened)


def dataset_of(opened: Store) -> xarray.Dataset:
    """The dataset of `open_sweep`, from an open store."""
    if not opened.sealed:
        warnings.warn(f"{opened.path} was made by an older version: {UNSEALED}.", stacklevel=3)
    import xarray
    from xarray.core import indexing

    from unhinged_jax.sweeps.lazy import Checked

    def variable(name: str) -> xarray.Variable:
        array = opened.array(name)
        dims = array.metadata.dimension_names
        lazy: Any = indexing.MemoryCachedArray(indexing.LazilyIndexedArray(Checked(opened, name)))
        return xarray.Variable(dims, indexing.CopyOnWriteArray(lazy), dict(array.attrs))

    attrs = {name: value for name, value in dict(opened.group.attrs).items() if name not in ("coordinates", SEAL)}
    return xarray.Dataset(
        {name: variable(name) for name in opened.variables},
        coords={name: _coordinate(opened, name) for name in opened.coordinates()},
        attrs=attrs,
    )


def _coordinate(opened: Store, name: str) -> tuple[Any, ...]:
    array = opened.array(name)
    attrs = {key: value for key, value in dict(array.attrs).items() if key != "texts"}
    return array.metadata.dimension_names, opened.coordinate(name), attrs
