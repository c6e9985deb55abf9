"""Observables over time as labelled arrays and as tables, for one run and for a batch of runs."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import PyTree, Shaped

from unhinged_jax import _memory
from unhinged_jax.observables import OBSERVABLES

if TYPE_CHECKING:
    import pandas
    import xarray


def arrays_of(observables: dict[str, PyTree]) -> dict[str, np.ndarray]:
    """Every array by name; arrays in a tree that a function returned are called "name.key".

    Raises:
        ValueError: if two have the same name.
    """
    found: dict[str, np.ndarray] = {}
    for name, values in observables.items():
        for path, leaf in jax.tree_util.tree_flatten_with_path(values)[0]:
            whole_name = ".".join([name, *(_key(part) for part in path)])
            if whole_name in found:
                raise ValueError(f"two observables are called {whole_name!r} in a table; rename one of them.")
            found[whole_name] = _memory.read(leaf)
    return found


def dataset(
    arrays: dict[str, np.ndarray],
    times: Shaped[np.ndarray, "*batch T"],
    reached: Shaped[np.ndarray, "*batch T"],
    members: dict[str, Shaped[np.ndarray, "*batch"]],
) -> xarray.Dataset:
    """A dataset with the dimensions of the batch, `time`, and further axes of arrays.

    Args:
        arrays: Observables by name, each with the axes of the batch and of time first.
        times, reached: As in a trajectory. Members that have times of their own share the dimension `row`.
        members: What each member has one of; coordinates of the batch, and attributes of a single run.
    """
    import xarray

    batch = times.shape[:-1]
    lead = _batch_axes(arrays, batch)
    first = times.reshape(-1, times.shape[-1])[0]
    shared = bool(np.all(times == first))
    row = "time" if shared else _free("row", arrays)
    data = {}
    for name, array in arrays.items():
        own = array.ndim - times.ndim
        stem = name
        while any(f"{stem}_{axis}" in {*arrays, *lead} for axis in range(1, own + 1)):
            stem += "_"  # no axis has the name of an observable
        dims = (*lead, row, *(f"{stem}_{axis}" for axis in range(1, own + 1)))
        known = OBSERVABLES.get(name)
        data[name] = (dims, array, {"long_name": known.meaning if known else name, "units": "1"})
    unit = "updates" if np.issubdtype(times.dtype, np.integer) else "time"
    time = (row, first) if shared else ((*lead, row), times)
    coords = {"time": (*time, {"units": unit}), "reached": ((*lead, row), reached)}
    if batch:
        coords |= {_free(name, arrays): (lead, values) for name, values in members.items()}
    return xarray.Dataset(data, coords, {} if batch else {name: values.item() for name, values in members.items()})


def frame(arrays: dict[str, np.ndarray], times: Shaped[np.ndarray, "*batch T"]) -> pandas.DataFrame:
    """A table with one column per number and one row per time; in a batch, per member and time."""
    import pandas

    batch = times.shape[:-1]
    columns = {}
    for name, array in arrays.items():
        rows = array.reshape(times.size, *array.shape[times.ndim :])
        for place in np.ndindex(rows.shape[1:]):
            label = f"{name}[{','.join(map(str, place))}]" if place else name
            columns[label] = rows[(slice(None), *place)]
    index: Any = pandas.Index(times.ravel(), name="time")
    if batch:
        places = np.indices(times.shape)[:-1].reshape(len(batch), -1)
        index = pandas.MultiIndex.from_arrays([*places, index], names=[*_batch_axes(columns, batch), "time"])
    return pandas.DataFrame(columns, index=index)


def _batch_axes(names: Collection[str], batch: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(_free(f"batch_{axis + 1}", names) for axis in range(len(batch)))


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _key(part: object) -> str:
    """A step of a path into a tree: a key, an index or the name of a field."""
    return str(next(getattr(part, name) for name in ("key", "idx", "name") if hasattr(part, name)))
