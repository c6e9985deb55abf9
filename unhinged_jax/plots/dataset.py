"""Curves of a labelled dataset: that of a sweep, of a run or of a batch of runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unhinged_jax import _check
from unhinged_jax.plots.figures import Line, about_members, panels

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

STATISTIC = "statistic"  # the dimension that `ensemble` has in place of members
_LINES = 5
ABOUT = frozenset({"result", "steps", "elapsed", "reached"})  # how points ended, not what was observed


def plot(
    data: xarray.Dataset, names: str | Sequence[str] | None = None, *, x: str | None = None, lines: str | None = None
) -> Figure:
    """Draw the numbers of a dataset as curves, one panel each, with seeds or the members of a batch as bands.

    Args:
        data: What `open_sweep`, `sweep` or `Trajectory.to_xarray` returned, or any dataset of that form; a trajectory
            is taken as well. `seed`, `batch_1`, `batch_2`, ... are the dimensions of members. What `ensemble` returned
            is drawn as the mean with a band of two standard errors.
        names: Variables to draw; by default all that hold one number for each point.
        x: The dimension along which they are drawn; by default `time`, or without it the longest one of numbers.
        lines: The dimension of whose values up to five are drawn as lines of their own; by default the first that is no
            longer than that, or else the first. Any further dimension is drawn at its middle, which the title names.

    Returns:
        A `matplotlib.figure.Figure`, which a notebook shows; `figure.savefig(path)` writes it. A line is the median
        of the members, and its band goes from their 10 % to their 90 % quantile.

    Raises:
        ValueError: if this is no dataset, for a name that it does not have, if there is nothing to draw, or if members
            have times of their own.

    Source: beyond the paper.

    Example:
        >>> import xarray
        >>> data = xarray.Dataset(
        ...     {"norm": (("decay", "seed", "time"), np.ones((2, 3, 4)))},
        ...     {"decay": [0.1, 0.2], "seed": range(3), "time": range(4)},
        ... )
        >>> figure = plot(data)
        >>> len(figure.axes), [line.get_label() for line in figure.axes[0].lines]
        (1, ['0.1', '0.2'])
    """
    data = dataset_of(data)
    members, points = _points(data)
    x = _along(data, points) if x is None else _known(data, "x", x)
    data = data.isel({dim: 0 for dim in points if data.sizes[dim] == 1 and dim != x})
    free = [dim for dim in points if dim in data.sizes and dim != x]
    if lines is None:
        free.sort(key=lambda dim: data.sizes[dim] > _LINES)  # otherwise in their order
        lines = next(iter(free), None)
    elif _known(data, "lines", lines) not in free:
        raise ValueError(
            f"lines must be one of the dimensions {', '.join(free) or '(none is left)'}, but is {lines!r}."
        )
    drawn = _variables(data, names, {*members, *free, x, STATISTIC}, x)
    middle = {dim: (data.sizes[dim] - 1) // 2 for dim in free if dim != lines}
    places = np.unique(np.linspace(0, data.sizes[lines] - 1, _LINES).round().astype(int)) if lines else [None]
    content = {}
    for name in drawn:
        array = data[name].isel({dim: place for dim, place in middle.items() if dim in data[name].dims})
        content[name] = [_line(data, array, members, x, lines, place) for place in places]
    meanings = {name: str(data[name].attrs.get("long_name", "")) for name in drawn}
    count = int(np.prod([data.sizes[dim] for dim in members]))
    about = [about_members(count, "seeds" if members == ["seed"] else "members")] if count > 1 else []
    if STATISTIC in data.dims:
        about = ["mean, and two standard errors on both sides"]
    about += [f"{dim} {_shown(data, dim, place)}" for dim, place in middle.items()]
    return panels(_coordinate(data, x), content, meanings, label=_label(data, x), title=", ".join(about), legend=lines)


def dataset_of(data: Any) -> xarray.Dataset:
    """The dataset, or that of a trajectory.

    Raises:
        ValueError: for anything else; for the path of a store, or one variable, the message says what to give.
    """
    import xarray

    if isinstance(data, str | os.PathLike):
        raise ValueError(
            f"data must be an xarray.Dataset or a Trajectory, but got the path {str(data)!r}; open a store with "
            "`unhinged_jax.open_sweep(path)`, or a saved run with `unhinged_jax.load(path)`, and give what they return."
        )
    if isinstance(data, xarray.DataArray):
        raise ValueError(
            f"data must be an xarray.Dataset or a Trajectory, but got one variable of one; give the dataset, and the "
            f"name after it: (data, {str(data.name or 'name')!r})."
        )
    found = data.to_xarray() if hasattr(data, "to_xarray") else data
    if not isinstance(found, xarray.Dataset):
        raise ValueError(f"data must be an xarray.Dataset or a Trajectory, but got {_check.given(data)}.")
    return found


def members_of(data: xarray.Dataset) -> list[str]:
    """The dimensions of members: the seeds of a sweep, the axes of a batch.

    Raises:
        ValueError: if the members have times of their own.
    """
    if "row" in data.sizes and "time" in data.variables and data["time"].ndim > 1:
        raise ValueError("a picture of a batch needs times that its members share; draw the members one by one.")
    return [dim for dim in map(str, data.sizes) if dim == "seed" or dim.startswith("batch_")]


def _points(data: xarray.Dataset) -> tuple[list[str], list[str]]:
    """The dimensions of members, and all others that number points; not those of arrays."""
    dims, members = [str(dim) for dim in data.sizes if dim != STATISTIC], members_of(data)
    points = {*map(str, data["result"].dims), "time"} if "result" in data.variables else {*map(str, data.coords)}
    return members, [dim for dim in dims if dim in points and dim not in members]


def _along(data: xarray.Dataset, points: list[str]) -> str:
    numeric = [dim for dim in points if _coordinate(data, dim).dtype.kind in "fiu"]
    if not numeric:
        raise ValueError("there is no dimension of numbers along which to draw; give its name as `x`.")
    return max(numeric, key=lambda dim: (data.sizes[dim] > 1, dim == "time", data.sizes[dim]))


def _known(data: xarray.Dataset, what: str, dim: str) -> str:
    if not isinstance(dim, str) or dim not in data.sizes:
        raise ValueError(
            f"{what} must be a dimension of the dataset, {', '.join(map(str, data.sizes))}, but got "
            f"{_check.given(dim)}."
        )
    return dim


def listed(names: object) -> list[str]:
    """A name, or several of them, as a list."""
    found = [names] if isinstance(names, str) else list(names) if isinstance(names, Iterable) else [None]
    named = [name for name in found if isinstance(name, str)]
    if len(named) < len(found):
        raise ValueError(f"names must be the name of a variable, or a list of names, but got {_check.given(names)}.")
    return named


def _variables(data: xarray.Dataset, names: str | Sequence[str] | None, points: set[str], x: str) -> list[str]:
    numbers = [str(name) for name, array in data.data_vars.items()
               if array.dtype.kind in "fiub" and x in array.dims and {*map(str, array.dims)} <= points]  # fmt: skip
    if names is None:
        chosen = [name for name in numbers if name not in ABOUT]
    else:
        chosen = listed(names)
        for name in chosen:
            if name not in numbers:
                raise ValueError(
                    f"{name!r} is no variable with one number for each point along {x}; the dataset has "
                    f"{', '.join(numbers) or 'none'}."
                )
    if not chosen:
        raise ValueError(f"there is no variable with one number for each point along {x}; observe one, such as 'loss'.")
    return chosen


def _line(
    data: xarray.Dataset, array: xarray.DataArray, members: list[str], x: str, lines: str | None, place: int | None
) -> Line:
    """One line of the members of an array, or of their statistics."""
    split = lines is not None and lines in array.dims
    one = array.isel({lines: place}) if split else array
    label = "" if lines is None else _shown(data, lines, place or 0)
    if STATISTIC in one.dims:
        mean, error = (np.asarray(one.sel({STATISTIC: name}).values, float) for name in ("mean", "error"))
        return Line(mean, mean - 2 * error, mean + 2 * error, label)
    there = [dim for dim in members if dim in one.dims]
    values = np.asarray(one.transpose(*there, x).values, float)
    return Line.of(values.reshape(-1, values.shape[-1]), label)


def _coordinate(data: xarray.Dataset, dim: str) -> np.ndarray:
    return np.asarray(data[dim].values)  # without a coordinate, the places 0, 1, ...


def _label(data: xarray.Dataset, dim: str) -> str:
    if dim == "time":
        return "number of updates" if np.issubdtype(_coordinate(data, dim).dtype, np.integer) else "time"
    return str(data[dim].attrs.get("long_name", dim))


def _shown(data: xarray.Dataset, dim: str, place: int) -> str:
    value = _coordinate(data, dim)[place]
    return f"{value:.4g}" if np.issubdtype(np.asarray(value).dtype, np.number) else str(value)
