"""Maps over two axes at one moment, with the boundaries that theory predicts."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from unhinged_jax.plots import PALETTE, style
from unhinged_jax.sweeps.bands import coordinate_of, over_seeds, shown, titled
from unhinged_jax.sweeps.design import is_geometric
from unhinged_jax.sweeps.lanes import Plan
from unhinged_jax.sweeps.lines import lines as boundaries
from unhinged_jax.sweeps.store import FINE

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure

_FACETS = 6


def map_figure(plan: Plan, data: xarray.Dataset, names: tuple[str, ...], moment: int) -> Figure:
    """A map for each observable: the median over seeds at one moment, over one or two axes.

    A further axis with few values makes one column per value; all other axes are at their middle. Points of which half
    of the seeds or more failed are grey: the median of the surviving seeds would be misleading.
    """
    from matplotlib.figure import Figure

    observed = [str(name) for name in data.data_vars if name != "result"]
    others = [str(name) for name in data["result"].dims if name not in (*names, "seed")]
    facet = next((name for name in others if 1 < data.sizes[name] <= _FACETS), None)
    held = {name: (data.sizes[name] - 1) // 2 for name in others if name != facet}
    facets: list[dict[str, int]] = [{facet: place} for place in range(data.sizes[facet])] if facet else [{}]
    grid = (len(observed), len(facets)) if facet else arranged(len(observed))
    timed = "units" in data["time"].attrs  # else the arrays have no times
    when = f"{data['time'].attrs.get('long_name', 'time')} {shown(data['time'].values[moment])}"
    with style():
        figure = Figure(figsize=(1.2 + 3.4 * grid[1], 1.2 + 2.7 * grid[0]))
        panels = figure.subplots(*grid, squeeze=False)
        lines: dict[str, Any] = {}
        for row, name in enumerate(observed):
            colours = colours_of(data[name].isel(held), moment)
            for column, chosen in enumerate(facets):
                panel = panels[row, column] if facet else panels.flat[row]
                places = {**held, **chosen}
                one = data.isel(places)
                drawn = _panel(panel, plan, one, name, names, moment, colours)
                lines |= _overlay(panel, plan, names, places) if len(names) == 2 else {}
                alike = colours.get("alike", "") if len(names) == 2 else ""  # a line shows it by itself
                title = name + alike if column == 0 else ""
                for axis, place in chosen.items():
                    values, label = coordinate_of(plan, axis)
                    title = f"{title}\n{label} {shown(values[place])}".strip()
                panel.set_title(title, fontweight="bold" if not facet else "normal", fontsize=9.5)
                if drawn is not None and colours["extend"] and (not facet or column == len(facets) - 1):
                    figure.colorbar(drawn, ax=panel, pad=0.02, extend=colours["extend"])
        for spare in panels.flat[len(observed) :] if not facet else ():
            spare.set_visible(False)
        if lines:
            figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=2)
        seeds = f"median over {data.sizes['seed']} seeds" if data.sizes["seed"] > 1 else "1 seed"
        figure.suptitle(
            f"{titled(plan, data)}\n{seeds} at {when}" if timed else f"{titled(plan, data)}\n{seeds}", fontsize=11
        )
    return figure


def arranged(count: int) -> tuple[int, int]:
    """Rows and columns of panels."""
    columns = 2 if count == 4 else min(3, count)
    return math.ceil(count / columns), columns


def colours_of(array: xarray.DataArray, moment: int) -> dict[str, Any]:
    """Map and norm of colours for the medians at a moment.

    If the start was observed and all points share it, the colours of a logarithm of a norm show whether it grew;
    positive values over more than two decades are drawn by their logarithm. Outliers beyond the 1st and 99th percentile
    do not stretch the range. If all are alike, up to the rounding of float32, there is one colour, unlike the grey of
    failures, no bar, and "alike" says so in words.
    """
    from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm

    middle = over_seeds(array.isel(time=moment))[0]
    finite = middle[np.isfinite(middle)]
    if not finite.size:
        return {"cmap": "cividis", "norm": Normalize(0, 1), "extend": "neither"}
    if np.ptp(finite) <= 1e-6 * np.max(np.abs(finite)):
        alike = float(np.median(finite))
        unit = max(1.0, abs(alike))
        return {
            "cmap": "cividis",
            "norm": Normalize(alike - unit, alike + 3 * unit),
            "extend": "",
            "alike": f" = {shown(alike)}",
        }
    low, high = np.percentile(finite, [1, 99])
    if finite.max() - finite.min() < 4 * (high - low):
        low, high = finite.min(), finite.max()
    extend = {(True, True): "both", (True, False): "min", (False, True): "max", (False, False): "neither"}
    found = {"cmap": "cividis", "extend": extend[bool(finite.min() < low), bool(finite.max() > high)]}
    start = _start_of(array)
    if str(array.name).startswith("log_norm") and low < start < high:
        return {**found, "cmap": "PuOr_r", "norm": TwoSlopeNorm(start, low, high)}
    if low > 0 and high > 100 * low:
        return {**found, "norm": LogNorm(low, high)}
    return {**found, "norm": Normalize(low, high)}


def _start_of(array: xarray.DataArray) -> float:
    """The value at time 0 that all points share, as the median over seeds; NaN if it was not observed or differs."""
    if array["time"].values[0] != 0:
        return math.nan
    starts = over_seeds(array.isel(time=0))[0]
    starts = starts[np.isfinite(starts)]
    same = starts.size > 0 and np.ptp(starts) <= 1e-4 * max(1.0, float(np.max(np.abs(starts))))
    return float(np.median(starts)) if same else math.nan


def _panel(
    panel: Axes,
    plan: Plan,
    one: xarray.Dataset,
    name: str,
    names: tuple[str, ...],
    moment: int,
    colours: dict[str, Any],
) -> Any:
    values = over_seeds(one[name].isel(time=moment))
    kept = np.isin(one["result"].values, FINE).mean(axis=one["result"].get_axis_num("seed")) > 0.5
    x, label = coordinate_of(plan, names[0])
    panel.set_xlabel(label)
    panel.grid(False)
    if len(names) == 1:
        panel.set_ylabel("\n".join(textwrap.wrap(str(one[name].attrs.get("long_name", "")), 30)[:2]), fontsize=8)
        _line(panel, plan, x, values, names[0])
        return None
    y, label = coordinate_of(plan, names[1])
    panel.set_ylabel(label)
    middle = np.where(kept, values[0], np.nan)
    if one["result"].dims.index(names[0]) < one["result"].dims.index(names[1]):
        middle = middle.T
    panel.set_facecolor("#b0b0b0")
    shade = np.ma.masked_invalid(middle)
    drawn = panel.pcolormesh(
        edges(x), edges(y), shade, cmap=colours["cmap"], norm=colours["norm"], rasterized=True, zorder=0
    )
    for values_, axis in ((x, panel.xaxis), (y, panel.yaxis)):
        _scale(axis, values_)
    return drawn


def _line(panel: Axes, plan: Plan, x: np.ndarray, values: tuple[np.ndarray, ...], name: str) -> None:
    """For one axis only: the value at the chosen time along it, with the band over seeds."""
    at = np.arange(len(x)) if x.dtype.kind == "U" else x
    order = np.argsort(at)
    random = next(dim for dim in plan.dims if dim.name == name).kind == "random"
    panel.plot(at[order], values[0][order], color=PALETTE[0], marker="." if random else "", ls="" if random else "-")
    panel.fill_between(at[order], values[1][order], values[2][order], color=PALETTE[0], alpha=0.0 if random else 0.2)
    _scale(panel.xaxis, x)


def edges(values: np.ndarray) -> np.ndarray:
    """Borders of cells around coordinates; places 0, 1, ... for texts."""
    if values.dtype.kind == "U":
        return np.arange(len(values) + 1) - 0.5
    values = values.astype(float)
    if len(values) == 1:
        return np.asarray([values[0] - 0.5, values[0] + 0.5])
    if is_geometric(values):
        return np.exp(edges(np.log(values)))
    middles = (values[1:] + values[:-1]) / 2
    return np.concatenate([[2 * values[0] - middles[0]], middles, [2 * values[-1] - middles[-1]]])


def _scale(axis: XAxis | YAxis, values: np.ndarray) -> None:
    if values.dtype.kind == "U":
        axis.set_ticks(range(len(values)), labels=values.tolist())
        if axis.axis_name == "x":
            axis.set_tick_params(rotation=30)
    elif is_geometric(values):
        getattr(axis.axes, f"set_{axis.axis_name}scale")("log")


def _overlay(panel: Axes, plan: Plan, names: tuple[str, ...], places: dict[str, int]) -> dict[str, Any]:
    """Draw the boundaries inside the map, in the dashes of their meanings; returns those seen by meaning."""
    kinds = [next(dim for dim in plan.dims if dim.name == name) for name in names]
    if any(dim.kind == "random" or not dim.axes[0].numeric or dim.axes[0].labels for dim in kinds):
        return {}
    limits = panel.get_xlim(), panel.get_ylim()
    drawn = {}
    for line in boundaries(plan, names[0], names[1], places):
        x, y = line.x, line.y
        if np.ptp(y) == 0:  # straight lines extend to the border of the cells
            x, y = np.asarray(limits[0]), y[[0, 0]]
        elif np.ptp(x) == 0:
            x, y = x[[0, 0]], np.asarray(limits[1])
        if not all(_meets(values, *span) for values, span in zip((x, y), limits, strict=True)):
            continue
        dashes = (0, line.dashes) if line.dashes else "-"
        panel.plot(x, y, color="white", linewidth=3.2, alpha=0.85)
        drawn[line.meaning] = panel.plot(x, y, color=line.colour, linewidth=1.8, linestyle=dashes)[0]
    panel.set_xlim(*limits[0])
    panel.set_ylim(*limits[1])
    return drawn


def _meets(values: np.ndarray, low: float, high: float) -> bool:
    """Whether a line through values passes between two limits."""
    finite = values[np.isfinite(values)]
    return bool(finite.size and finite.min() <= high and finite.max() >= low)
