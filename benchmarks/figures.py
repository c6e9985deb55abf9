"""Work against precision, roofline, scaling: SVG, in the style of the library's own figures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks import words
from benchmarks.acceptance import worst
from benchmarks.record import Report, Result, Series
from benchmarks.report import told_peaks
from benchmarks.words import engineering
from unhinged_jax.plots import PALETTE, save, style
from unhinged_jax.plots.looks import GREY, WIDTH, filled, head, is_lowest, key, key_under, over_decades, rows_of

_BLUE, _RED, _GREEN, _PURPLE, _ORANGE, _SKY, _BLACK = PALETTE
# Colour and marker of everybody, the same in every figure and nobody else's; variants of a tool share its look.
_LOOK = {
    "unhinged_jax, closed form": (_BLUE, "*"),
    "unhinged_jax, simulated": (_RED, "o"),
    "C by hand": (_BLACK, "D"),
    "NumPy by hand": (_GREEN, "s"),
    "SciPy": (_GREEN, "v"),
    "plain JAX": (_PURPLE, "^"),
    "plain diffrax": (_SKY, "P"),
    "PyTorch": (_ORANGE, "X"),
    "torchdiffeq": (_ORANGE, "h"),
}
_TOOLS = (
    ("unhinged_jax exact", "unhinged_jax, closed form"), ("unhinged_jax", "unhinged_jax, simulated"),
    ("C by hand", "C by hand"), ("NumPy", "NumPy by hand"), ("SciPy", "SciPy"), ("naive JAX", "plain JAX"),
    ("plain diffrax", "plain diffrax"), ("torchdiffeq", "torchdiffeq"), ("PyTorch", "PyTorch"), ("torch.", "PyTorch"),
)  # fmt: skip
_FLOOR = 1e-17  # where errors of exactly 0 are drawn


def tool(contender: str) -> str:
    """Whose variant a contender is."""
    return next((name for start, name in _TOOLS if contender.startswith(start)), contender)


def _look(contender: str) -> tuple[str, str]:
    return _LOOK.get(tool(contender), (_BLACK, "."))


def _whole_decades(axes: Any) -> None:
    """Limits at powers of ten, so that every axis shows some, and minor ticks go without labels."""
    from matplotlib.ticker import NullFormatter

    for axis, limits, set_limits in (
        (axes.xaxis, axes.get_xlim(), axes.set_xlim),
        (axes.yaxis, axes.get_ylim(), axes.set_ylim),
    ):
        set_limits(
            *(10.0 ** edge(math.log10(limit)) for edge, limit in zip((math.floor, math.ceil), limits, strict=True))
        )
        axis.set_minor_formatter(NullFormatter())
        over_decades(axis)


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(figure, path.parent, path.stem, kinds=(path.suffix[1:],))[0]


def _legend(figure: Any, contenders: list[str], extra: list[Any]) -> None:
    from matplotlib.lines import Line2D

    known = {tool(name): _look(name) for name in contenders}
    names = [name for name in _LOOK if name in known] + [name for name in known if name not in _LOOK]
    handles = [
        Line2D([], [], color=known[name][0], marker=known[name][1], linestyle="none", label=name) for name in names
    ]
    handles += extra
    key(figure, handles, [str(handle.get_label()) for handle in handles])


def _filled_and_open() -> list[Any]:
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"color": "grey", "marker": "o", "linestyle": "none"}
    return [Line2D([], [], **look, label="float64"), Line2D([], [], **look, markerfacecolor="white", label="float32")]


def work_precision(report: Report, path: Path) -> Path | None:
    """Time against error, one panel a workload at its largest measured common size; tolerances of a solver joined."""
    from matplotlib.figure import Figure

    shown = _panels(report)
    if not shown:
        return None
    with style():
        figure = Figure(figsize=(WIDTH, 1.0 + 2.4 * rows_of(len(shown))))
        names: dict[str, None] = {}
        for axes, (workload, size) in zip(filled(figure, len(shown)), shown, strict=True):
            axes.set(xscale="log", yscale="log")
            for precision in ("float64", "float32"):
                names |= dict.fromkeys(_draw_cell(axes, report, workload, size, precision))
            _whole_decades(axes)
            head(axes, words.workload(workload), size if size != "paper" else "")
            if is_lowest(axes):
                axes.set_xlabel("largest error")
            if _is_first(axes):
                axes.set_ylabel("seconds")
        _legend(figure, list(names), _filled_and_open())
        return _save(figure, path)


def _is_first(axes: Any) -> bool:
    return bool(axes.get_subplotspec().is_first_col())


def _panels(report: Report) -> list[tuple[str, str]]:
    """Workloads, each at the paper's size if it was measured."""
    found: dict[str, str] = {}
    for cell in report.cells:
        if cell.workload not in found or cell.size == "paper":
            found[cell.workload] = cell.size
    return list(found.items())


def _draw_cell(axes: Any, report: Report, workload: str, size: str, precision: str) -> list[str]:
    cell = report.find(workload, size, precision)
    if cell is None:
        return []
    series: dict[str, list[Result]] = {}
    for result in [*cell.results, *cell.other_tolerances]:
        series.setdefault(result.contender, []).append(result)
    drawn = []
    for name, results in series.items():
        points = sorted((max(worst(r.error), _FLOOR), r.seconds, r.lower, r.upper) for r in results)
        points = [point for point in points if math.isfinite(point[0])]
        if not points:
            continue
        colour, marker = _look(name)
        x, y, lower, upper = (list(column) for column in zip(*points, strict=True))
        bars = [[a - b for a, b in zip(y, lower, strict=True)], [a - b for a, b in zip(upper, y, strict=True)]]
        axes.errorbar(
            x, y, yerr=bars, color=colour, marker=marker, linestyle="-" if len(x) > 1 else "none", linewidth=0.9,
            markersize=9 if marker == "*" else 5.5, markerfacecolor=colour if precision == "float64" else "white",
        )  # fmt: skip
        drawn.append(name)
    return drawn


def roofline(report: Report, path: Path) -> Path | None:
    """Operations per second against operations per byte, both by the model, under the measured peaks."""
    from matplotlib.figure import Figure

    measured = {cell.precision for cell in report.cells}
    precisions = [p for p in ("float64", "float32") if p in measured and f"gemm_{p}" in report.peaks]
    if not precisions:
        return None
    with style():
        figure = Figure(figsize=(WIDTH, 4.6))
        names: dict[str, None] = {}
        for axes, precision in zip(filled(figure, len(precisions)), precisions, strict=True):
            axes.set(xscale="log", yscale="log", xlabel="operations per byte (model)")
            names |= dict.fromkeys(_draw_roofs(axes, report, precision))
            top = engineering(report.peaks[f"gemm_{precision}"]["rate"], "FLOP/s")
            head(axes, precision, f"flat roof: products, {top}")
        figure.axes[0].set_ylabel("operations per second (model)")
        _legend(figure, list(names), _roofs(report))
        return _save(figure, path)


_DASHES: dict[str, Any] = {"memory": "-", "cache": "--"}


def _roofs(report: Report) -> list[Any]:
    from matplotlib.lines import Line2D

    peaks = told_peaks(report)
    rates = {name: engineering(peaks[name]["rate"], "B/s") for name in _DASHES if name in peaks}
    return [Line2D([], [], color=GREY, linewidth=1.2, linestyle=_DASHES[name], label=f"roof of the {name}, {rate}")
            for name, rate in rates.items()]  # fmt: skip


def _draw_roofs(axes: Any, report: Report, precision: str) -> list[str]:
    top = report.peaks[f"gemm_{precision}"]["rate"]
    cells = [cell for cell in report.cells if cell.precision == precision]
    cells = [cell for cell in cells if cell.size != "small"] or cells
    points = [
        (result.flops / result.bytes, result.flops / result.seconds, result.contender)
        for cell in cells
        for result in cell.results
        if result.bytes and result.flops
    ]
    left = min([x for x, _, _ in points], default=0.1) / 2
    right = max([x for x, _, _ in points], default=100.0) * 2
    for name, peak in told_peaks(report).items():
        if name not in _DASHES:
            continue
        rate, dashes = peak["rate"], _DASHES[name]
        knee = max(left, top / rate)
        ends = [left, knee, max(right, knee)]
        axes.plot(ends, [min(left * rate, top), top, top], dashes, color=GREY, linewidth=1.2)
    for x, y, name in points:
        colour, marker = _look(name)
        axes.plot(x, y, marker=marker, color=colour, linestyle="none", markersize=9 if marker == "*" else 5.5,
                  markeredgecolor="white", markeredgewidth=0.5)  # fmt: skip
    _whole_decades(axes)
    return [name for _, _, name in points]


_AXES = {
    "batch": ("Cost of a run in a batch", "runs in the batch"), "n": ("Number of samples", "samples n"),
    "C": ("Number of classes", "classes C"), "p": ("Number of dimensions", "dimensions p"),
    "devices": ("Number of devices", "devices"),
}  # fmt: skip


def scaling(series: list[Series], path: Path) -> Path | None:
    """Cost along every axis, with fitted powers where a power describes it."""
    from matplotlib.figure import Figure

    order = [axis for axis in _AXES if any(one.axis == axis for one in series)]
    if not order:
        return None
    with style():
        figure = Figure(figsize=(WIDTH, 0.6 + 3.5 * rows_of(len(order))))
        for axes, axis in zip(filled(figure, len(order)), order, strict=True):
            title, label = _AXES[axis]
            axes.set(xscale="log", yscale="log", xlabel=label)
            remarks = []
            for one in (s for s in series if s.axis == axis):
                remarks += _draw_series(axes, one)
            axes.set_ylabel(next(one.unit for one in series if one.axis == axis).replace(" a run", " per run"))
            over_decades(axes.yaxis)
            values = sorted({value for one in series if one.axis == axis for value in one.values})
            axes.set_xlim(values[0] / 1.3, values[-1] * 1.3)
            axes.set_xticks(values, [_short(value) for value in values])
            axes.minorticks_off()
            head(axes, title, *dict.fromkeys(remarks))
            key_under(axes)
        return _save(figure, path)


def _short(value: int) -> str:
    """A number on an axis, such as `30k`."""
    return f"{value // 1000}k" if value >= 1000 and value % 1000 == 0 else f"{value}"


def _draw_series(axes: Any, one: Series) -> list[str]:
    """Draw a series and its fitted power; returns remarks on it."""
    entropy = "cross-entropy" in one.what
    colour, marker = (_PURPLE, "^") if entropy else _look(one.what)
    name, *rest = one.what.removeprefix("unhinged_jax ").split(", ", 1)
    label = "cross-entropy" if entropy else {"simulate": "simulated", "exact": "closed form"}.get(name, name)
    axes.fill_between(one.values, one.lower, one.upper, color=colour, alpha=0.2, linewidth=0)
    powered = words.is_power(one)
    axes.plot(one.values, one.costs, marker=marker, color=colour, markersize=9 if marker == "*" else 5.5, linewidth=1.2,
              label=f"{label}: slope {words.slope(one)}" if powered else label)  # fmt: skip
    if powered:
        axes.plot(one.values, words.power(one), color=colour, linewidth=1.2, linestyle=":")
    return [text for text in rest if not entropy]
