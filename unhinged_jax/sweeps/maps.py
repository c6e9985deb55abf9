"""Maps over two axes at one moment, with the boundaries that theory predicts."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from unhinged_jax.plots import PALETTE, style
from unhinged_jax.plots.looks import WIDTH, filled, head, key, over_decades, rows_of
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

_FACETS = 4
_DECADES = 10  # that a logarithmic map shows
_MISSING = "#b0b0b0"
_WITHIN = (2.5, 97.5)


def map_figure(plan: Plan, data: xarray.Dataset, names: tuple[str, ...], moment: int) -> Figure:
    """A map for each observable: the median over seeds at one moment, over one or two axes.

    A further axis with few values makes one column per value; all other axes are at their middle. Points of which half
    of the seeds or more failed are grey: the median of the surviving seeds would be misleading.
    """
    observed = [str(name) for name in data.data_vars if name != "result"]
    others = [str(name) for name in data["result"].dims if name not in (*names, "seed")]
    facet = next((name for name in others if 1 < data.sizes[name] <= _FACETS), None)
    held = {name: (data.sizes[name] - 1) // 2 for name in others if name != facet}
    facets: list[dict[str, int]] = [{facet: place} for place in range(data.sizes[facet])] if facet else [{}]
    with style():
        figure, panels = _arranged(len(observed), len(facets) if facet else 0)
        seen: dict[str, Any] = {}
        for row, name in enumerate(observed):
            colours = colours_of(data[name].isel(held), moment)
            for column, chosen in enumerate(facets):
                panel = panels[row * len(facets) + column]
                places = {**held, **chosen}
                drawn = _panel(panel, plan, data.isel(places), name, names, moment, colours)
                seen |= _overlay(panel, plan, names, places) if len(names) == 2 else {}
                grey = len(names) == 2 and not np.all(_kept(data.isel(places)))
                seen |= {"half of the seeds or more failed": _patch()} if grey else {}
                told = [f"{label} = {shown(values[place])}" for axis, place in chosen.items()
                        for values, label in [coordinate_of(plan, axis)]]  # fmt: skip
                meaning = str(data[name].attrs.get("long_name", name))
                named = name + (colours.get("alike", "") if len(names) == 2 else "")  # a line shows it by itself
                words = [told[0], named if column == 0 else ""] if facet else [meaning, named]
                head(panel, *words, beside=0.0 if facet else _beside(plan, names))
                if drawn is not None and colours["extend"] and column == len(facets) - 1:
                    bar = figure.colorbar(drawn, ax=panel, pad=0.02, extend=colours["extend"])
                    bar.set_label(_bar_label(meaning if facet else name, colours), fontsize=8)
                    _few_ticks(bar, colours)
                if facet:
                    panel.label_outer()
        if seen:
            key(figure, list(seen.values()), list(seen))
        figure.suptitle(_title(plan, data, moment, held), fontsize=10)
    return figure


def _beside(plan: Plan, names: tuple[str, ...]) -> float:
    """Inches beside a map that texts on its vertical axis take."""
    values = coordinate_of(plan, names[-1])[0]
    return 0.07 * max(map(len, values)) if len(names) > 1 and values.dtype.kind == "U" else 0.0


def _title(plan: Plan, data: xarray.Dataset, moment: int, held: dict[str, int]) -> str:
    """What the sweep is, and which points of it the maps show."""
    about = f"median over {data.sizes['seed']} seeds" if data.sizes["seed"] > 1 else "1 seed"
    if "units" in data["time"].attrs:  # else the arrays have no times
        clock = str(data["time"].attrs.get("long_name", "time"))
        value = shown(data["time"].values[moment])
        about += f" after {value} updates" if clock == "number of updates" else f" at {clock} {value}"
    for name, place in held.items():
        values, label = coordinate_of(plan, name)
        about += f", {label} = {shown(values[place])}" if len(values) > 1 else ""
    return f"{titled(plan, data)}\n{about}"


def _arranged(count: int, facets: int) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each of `count` observables, or a row of `facets` panels for each."""
    from matplotlib.figure import Figure

    if facets:
        figure = Figure(figsize=(WIDTH, 1.3 + 1.75 * count))
        return figure, list(figure.subplots(count, facets, squeeze=False).flat)
    most = min(count, 2)
    figure = Figure(figsize=(4.6 if most == 1 else WIDTH, 1.3 + 2.5 * rows_of(count, most)))
    return figure, filled(figure, count, most)


def _patch() -> Any:
    from matplotlib.patches import Patch

    return Patch(facecolor=_MISSING)


def _bar_label(quantity: str, colours: dict[str, Any]) -> str:
    """What colours show, and what the middle or the end of a map means."""
    return "\n".join(textwrap.wrap(quantity, 26)[:3] + ([colours["note"]] if colours.get("note") else []))


def _few_ticks(bar: Any, colours: dict[str, Any]) -> None:
    from matplotlib.colors import LogNorm, TwoSlopeNorm

    norm = colours["norm"]
    bar.ax.grid(False)
    if isinstance(norm, TwoSlopeNorm):
        bar.set_ticks(_both_sides(norm))
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}".replace("-", "−"))
    elif isinstance(norm, LogNorm):
        over_decades(bar.ax.yaxis)
    else:
        bar.ax.locator_params(axis="y", nbins=6)


def _both_sides(norm: Any) -> list[float]:
    """Round numbers on both sides of a middle, and the middle."""
    from matplotlib.ticker import MaxNLocator

    low, middle, high = norm.vmin, norm.vcenter, norm.vmax
    ticks = [float(middle)]
    for end in (low, high):
        inside = [t for t in MaxNLocator(3).tick_values(min(end, middle), max(end, middle)) if low <= t <= high]
        ticks += [t for t in inside if abs(t - middle) > 0.25 * abs(end - middle)]
    return sorted(ticks)


def colours_of(array: xarray.DataArray, moment: int) -> dict[str, Any]:
    """Map and norm of colours for the medians at a moment.

    If all points share the value at the first time, the colours of a logarithm of a norm show whether it grew. Values
    on both sides of zero, unless they are logarithms, are drawn with white at zero. Values over more than two decades,
    none of them negative, are drawn by their logarithm, down to `_DECADES` decades below the largest, so that zeros
    and rounding do not take most of the colours. Outliers beyond the percentiles `_WITHIN` do not stretch the range.
    If all are alike, up to the rounding of float32, there is one colour, no bar, and "alike" says so in words.
    """
    from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm

    middle = over_seeds(array.isel(time=moment))[0]
    finite = middle[np.isfinite(middle)]
    if not finite.size:
        return {"cmap": "cividis", "norm": Normalize(0, 1), "extend": "neither"}
    if np.ptp(finite) <= 1e-6 * np.max(np.abs(finite)):
        alike = float(np.median(finite))
        unit = max(1.0, abs(alike))
        norm = Normalize(alike - unit, alike + 3 * unit)
        return {"cmap": "cividis", "norm": norm, "extend": "", "alike": f" = {shown(alike)}"}
    low, high = _range(finite)
    extend = {(True, True): "both", (True, False): "min", (False, True): "max", (False, False): "neither"}
    found = {"cmap": "cividis", "extend": extend[bool(finite.min() < low), bool(finite.max() > high)]}
    start, name = _start_of(array), str(array.name)
    if name.startswith("log_norm") and low < start < high:
        return {**found, "cmap": "PuOr_r", "norm": TwoSlopeNorm(start, low, high), "note": f"white: as {_first(array)}"}
    if not name.startswith("log") and min(-low, high) > 1e-6 * (high - low):  # not by rounding only
        most = max(-low, high)
        return {**found, "cmap": "PuOr_r", "norm": Normalize(-most, most), "note": "white: zero"}
    positive = finite[finite > 0]
    if finite.min() >= 0 and positive.size > finite.size / 2:
        least, most = (10.0**end for end in _range(np.log10(positive)))
        if most > 100 * least:
            floor = max(least, most / 10**_DECADES)
            ends = extend[bool(finite.min() < floor * (1 - 1e-9)), bool(finite.max() > most * (1 + 1e-9))]
            return {**found, "extend": ends, "floor": floor, "norm": LogNorm(floor, most)}
    return {**found, "norm": Normalize(low, high)}


def _range(values: np.ndarray) -> tuple[float, float]:
    """The ends, or where outliers lie far away, percentiles."""
    low, high = np.percentile(values, _WITHIN)
    far = high > low and values.max() - values.min() > 4 * (high - low)
    return (float(low), float(high)) if far else (float(values.min()), float(values.max()))


def _first(array: xarray.DataArray) -> str:
    """The first time in words."""
    time = array["time"].values[0]
    return f"at {array['time'].attrs.get('long_name', 'time')} {shown(time)}" if time else "at the start"


def _start_of(array: xarray.DataArray) -> float:
    """The median over seeds at the first time, if points differ there by less than 1 % of all times; else NaN."""
    starts = over_seeds(array.isel(time=0))[0]
    starts = starts[np.isfinite(starts)]
    width = float(np.ptp(array.values[np.isfinite(array.values)])) if starts.size else 0.0
    same = starts.size > 0 and np.ptp(starts) <= 0.01 * width
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
    x, label = coordinate_of(plan, names[0])
    panel.set_xlabel(label)
    panel.grid(False)
    if len(names) == 1:
        _line(panel, plan, x, values, names[0])
        return None
    y, label = coordinate_of(plan, names[1])
    panel.set_ylabel(label)
    middle = np.where(_kept(one), np.maximum(values[0], colours.get("floor", -np.inf)), np.nan)
    if one["result"].dims.index(names[0]) < one["result"].dims.index(names[1]):
        middle = middle.T
    panel.set_facecolor(_MISSING)
    shade = np.ma.masked_invalid(middle)
    drawn = panel.pcolormesh(
        edges(x), edges(y), shade, cmap=colours["cmap"], norm=colours["norm"], rasterized=True, zorder=0
    )
    for values_, axis in ((x, panel.xaxis), (y, panel.yaxis)):
        _scale(axis, values_)
    return drawn


def _kept(one: xarray.Dataset) -> np.ndarray:
    """Points of which more than half of the seeds ended well."""
    return np.isin(one["result"].values, FINE).mean(axis=one["result"].get_axis_num("seed")) > 0.5


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
