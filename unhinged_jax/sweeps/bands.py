"""Curves over time: the median over seeds, with a band."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from unhinged_jax.plots import PALETTE, about_members, band, style
from unhinged_jax.plots.looks import WIDTH, along, coincide, filled, gamma_colours, head, is_wide, key, rows_of
from unhinged_jax.sweeps.lanes import Plan
from unhinged_jax.sweeps.plan import SweepPlan

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES = 5


def over_seeds(array: xarray.DataArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median, and the 10 % and 90 % quantiles, over seeds, as `unhinged_jax.plots` draws them."""
    return band(array.values, axis=array.get_axis_num("seed"))


def shown(value: Any) -> str:
    """A coordinate in a legend."""
    if not np.issubdtype(np.asarray(value).dtype, np.number):
        return str(value)
    return f"{value:g}" if value == int(value) and abs(value) < 1e6 else f"{value:.3g}"


def titled(plan: Plan, data: xarray.Dataset) -> str:
    """The title of a sweep, and how much of it there is if it is not finished."""
    result = data["result"].values
    done = int(np.sum(result >= 0))
    return plan.title if done == result.size else f"{plan.title} ({done:,} of {result.size:,} points)"


def coordinate_of(plan: Plan, name: str) -> tuple[np.ndarray, str]:
    """Values and label of a dimension: those of its first axis."""
    axis = next(dim for dim in plan.dims if dim.name == name).axes[0]
    return axis.coordinate(), axis.label


def band_figure(plan: Plan, data: xarray.Dataset, names: tuple[str, ...]) -> Figure:
    """One panel per observable, with lines for up to five points along one axis and the other axes at their middle."""
    from matplotlib.figure import Figure

    observed = [name for name in data.data_vars if name != "result"]
    dim = _axis_of_lines(plan, data, names)
    places = _spread(data.sizes[dim]) if dim else [0]
    middle = {name: (data.sizes[name] - 1) // 2 for name in data["result"].dims if name not in (dim, "seed")}
    clock = str(data["time"].attrs.get("long_name", "time"))
    axis = along(data["time"].values, clock, np.any(np.stack([_finite(data[name]) for name in observed]), axis=0))
    with style():
        figure = Figure(figsize=(4.6 if len(observed) == 1 else WIDTH, 1.5 + 2.3 * rows_of(len(observed), 2)))
        for panel, name in zip(filled(figure, len(observed), 2), observed, strict=True):
            axis.settle(panel)
            lines = _panel(panel, plan, data[name].isel({**middle, "time": axis.shown}), dim, places)
            head(panel, str(data[name].attrs.get("long_name", name)), str(name), coincide(panel, lines))
        key(figure, *figure.axes[0].get_legend_handles_labels(), title=coordinate_of(plan, dim)[1] if dim else None)
        about = [about_members(data.sizes["seed"], "seeds")]
        for name, place in middle.items():
            values, label = coordinate_of(plan, str(name))
            about.append(f"{label} = {shown(values[place])}")
        figure.suptitle(f"{titled(plan, data)}\n{', '.join(about)}", fontsize=10)
    return figure


def _finite(array: xarray.DataArray) -> np.ndarray:
    """The times at which any point has a finite value."""
    others = tuple(place for place, dim in enumerate(array.dims) if dim != "time")
    return np.isfinite(array.values).any(axis=others)


def _panel(panel: Axes, plan: Plan, array: xarray.DataArray, dim: str | None, places: list[int]) -> dict[str, Any]:
    """Draw the lines of an observable; returns them by name."""
    times = array["time"].values
    everything, lines, colours = [], {}, _colours(plan, dim, places)
    for number, place in enumerate(places):
        one = array.isel({dim: place}) if dim else array
        middle, low, high = over_seeds(one)
        label = shown(coordinate_of(plan, dim)[0][place]) if dim else "median"
        seen = np.isfinite(middle)
        (lines[label],) = panel.plot(times[seen], middle[seen], color=colours[number], label=label)
        panel.fill_between(times[seen], low[seen], high[seen], color=colours[number], alpha=0.2, linewidth=0)
        everything += [low[seen], high[seen]]
    values = np.concatenate(everything)
    if is_wide(values[np.isfinite(values)]):
        panel.set_yscale("log")
    return lines


def _colours(plan: Plan, name: str | None, places: list[int]) -> list[str]:
    """Colours of the lines: trade-offs have the same ones in every picture."""
    axes = next((dim.axes for dim in plan.dims if dim.name == name), ())
    if [axis.key for axis in axes] == ["model.gamma"] and isinstance(plan, SweepPlan):
        gammas = np.asarray(axes[0].values, float)[places]
        return gamma_colours(gammas.tolist(), plan.config_at({}).labels.classes or 2)
    return [PALETTE[number] for number in range(len(places))]


def _axis_of_lines(plan: Plan, data: xarray.Dataset, names: tuple[str, ...]) -> str | None:
    """The axis whose values the lines distinguish: one of texts if there is one, else the one with the largest
    effect."""
    for dim in plan.dims:
        if dim.kind != "seed" and 1 < dim.size <= _LINES and dim.axes[0].coordinate().dtype.kind == "U":
            return dim.name
    return max(names, key=lambda name: _matters(data, name), default=None)


def _matters(data: xarray.Dataset, name: str) -> float:
    """How much of the variation of observables at the last time lies along an axis, summed over observables."""
    last = data.drop_vars("result").isel(time=-1)
    finite = last.where(np.isfinite(last))
    total = finite.std()
    along = finite.mean([dim for dim in finite.dims if dim != name]).std()
    return float(sum(along[key] / total[key] for key in last.data_vars if total[key] > 0))


def _spread(size: int) -> list[int]:
    """Up to five places from the first to the last."""
    return sorted({round(place) for place in np.linspace(0, size - 1, min(size, _LINES))})
