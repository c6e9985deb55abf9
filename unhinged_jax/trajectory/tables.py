"""Observables over time as labelled arrays and as tables, for one run and for a batch of runs."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree, Shaped

from unhinged_jax import _memory
from unhinged_jax.observables import OBSERVABLES

if TYPE_CHECKING:
    import pandas

_CELLS = 100_000  # of a table, as texts at a time


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


def at_last(reached: PyTree, tree: PyTree, axis: int) -> PyTree:
    """The entries of arrays along an axis that belong to the last place that was reached."""
    xp: Any = jnp if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree)) else np
    where = xp.max(xp.where(reached, xp.arange(np.shape(reached)[-1]), 0), axis=-1)

    def of_array(values: Any) -> Any:
        if not axis:
            return values[where]
        there = xp.reshape(where, (*np.shape(reached)[:-1], *[1] * (np.ndim(values) - axis)))
        return xp.squeeze(xp.take_along_axis(values, there, axis=axis), axis=axis)

    return jax.tree.map(of_array, tree)


at_last_by_jax = jax.jit(at_last, static_argnums=2)  # else each operation is compiled on its own


class Labelled(NamedTuple):
    """Arrays with named axes, as xarray takes them.

    Attributes:
        data, coords: Name -> the names of the axes, the array, and texts that describe it.
        attrs: Name -> text or number that describes all of them.
    """

    data: dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, str]]]
    coords: dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, str]]]
    attrs: dict[str, Any]


def labelled(
    arrays: dict[str, np.ndarray],
    times: Shaped[np.ndarray, "*batch T"],
    reached: Shaped[np.ndarray, "*batch T"],
    members: dict[str, Shaped[np.ndarray, "*batch"]],
) -> Labelled:
    """Arrays with the dimensions of the batch, `time`, and further axes of arrays.

    Args:
        arrays: Observables by name, each with the axes of the batch and of time first.
        times, reached: As in a trajectory. Members that have times of their own share the dimension `row`.
        members: What each member has one of; coordinates of the batch, and attributes of a single run.
    """
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
    unit = {"units": "updates" if np.issubdtype(times.dtype, np.integer) else "time"}
    time = ((row,), first, unit) if shared else ((*lead, row), times, unit)
    coords = {"time": time, "reached": ((*lead, row), reached, {})}
    if batch:
        coords |= {_free(name, arrays): (lead, values, {}) for name, values in members.items()}
    return Labelled(data, coords, {} if batch else {name: values.item() for name, values in members.items()})


def frame(arrays: dict[str, np.ndarray], times: Shaped[np.ndarray, "*batch T"]) -> pandas.DataFrame:
    """A table with one column per number and one row per time; in a batch, per member and time."""
    import pandas

    index, columns = _columns(arrays, times)
    levels: Any = [pandas.Index(values, name=name) for name, values in index.items()]
    return pandas.DataFrame(columns, index=levels[0] if len(levels) == 1 else pandas.MultiIndex.from_arrays(levels))


def write_csv(path: Path, arrays: dict[str, np.ndarray], times: Shaped[np.ndarray, "*batch T"]) -> None:
    """The table of `frame` as pandas writes it, which need not be imported."""
    index, columns = _columns(arrays, times)
    both = [*index.values(), *columns.values()]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator=os.linesep)
        writer.writerow([*index, *columns])
        step = max(1, _CELLS // len(both))
        for first in range(0, times.size, step):
            writer.writerows(zip(*(_cells(values[first : first + step]) for values in both), strict=True))


def _columns(
    arrays: dict[str, np.ndarray], times: Shaped[np.ndarray, "*batch T"]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The index of a table, and its columns, by name."""
    batch = times.shape[:-1]
    columns = {}
    for name, array in arrays.items():
        rows = array.reshape(times.size, *array.shape[times.ndim :])
        for place in np.ndindex(rows.shape[1:]):
            label = f"{name}[{','.join(map(str, place))}]" if place else name
            columns[label] = rows[(slice(None), *place)]
    places = np.indices(times.shape).reshape(times.ndim, -1)
    return {**dict(zip(_batch_axes(columns, batch), places, strict=False)), "time": times.ravel()}, columns


def _cells(values: np.ndarray) -> np.ndarray:
    """Numbers in the shortest form that is read back as the same number; empty if there is none."""
    texts = values.astype(str)
    texts[values != values] = ""
    return texts


def _batch_axes(names: Collection[str], batch: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(_free(f"batch_{axis + 1}", names) for axis in range(len(batch)))


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _key(part: object) -> str:
    """A step of a path into a tree: a key, an index or the name of a field."""
    return str(next(getattr(part, name) for name in ("key", "idx", "name") if hasattr(part, name)))
