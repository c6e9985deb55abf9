"""Work against precision, roofline, scaling: SVG, in the style of the library's own figures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks.acceptance import worst
from benchmarks.record import Report, Result, Series
from benchmarks.report import engineering
from unhinged_jax.plots import PALETTE, save, style

_BLUE, _RED, _GREEN, _PURPLE, _ORANGE, _SKY, _BLACK = PALETTE
# Colour and marker of everybody, the same in every figure.
_LOOK = {
    "unhinged_jax exact": (_BLUE, "*"),
    "unhinged_jax simulate": (_RED, "o"),
    "unhinged_jax flow": (_SKY, "o"),
    "C by hand": (_BLACK, "D"),
    "NumPy by hand": (_GREEN, "s"),
    "SciPy solve_ivp": (_GREEN, "v"),
    "naive JAX": (_PURPLE, "^"),
    "naive JAX, vmap": (_PURPLE, "^"),
    "naive JAX, loop of jit": (_PURPLE, "<"),
    "naive JAX, bfloat16 products": (_PURPLE, ">"),
    "plain diffrax": (_PURPLE, "P"),
    "PyTorch": (_ORANGE, "X"),
    "torch.compile": (_SKY, "X"),
    "torch.func.vmap": (_SKY, "p"),
    "torchdiffeq": (_ORANGE, "h"),
}
_PARTS = ", parts of one processor"
_FLOOR = 1e-17  # where errors of exactly 0 are drawn


def _look(name: str) -> tuple[str, str]:
    for known in sorted(_LOOK, key=len, reverse=True):
        if name.startswith(known):
            colour, marker = _LOOK[known]
            return colour, "d" if name.endswith("gradient") else marker
    return _BLACK, "."


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


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(figure, path.parent, path.stem, kinds=(path.suffix[1:],))[0]


def _legend(figure: Any, names: list[str], extra: list[Any]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=_look(name)[0], marker=_look(name)[1], linestyle="none", label=name) for name in names
    ]
    figure.legend(handles=[*handles, *extra], loc="outside lower center", ncols=4)


def _filled_and_open() -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color="grey", marker="o", linestyle="none", label="float64: filled"),
        Line2D([], [], color="grey", marker="o", linestyle="none", markerfacecolor="white", label="float32: open"),
    ]


def work_precision(report: Report, path: Path) -> Path | None:
    """Time against error, one panel a workload at its largest measured common size; tolerances of a solver joined."""
    from matplotlib.figure import Figure

    panels = _panels(report)
    if not panels:
        return None
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    with style():
        figure = Figure(figsize=(1.0 + 3.6 * columns, 1.6 + 3.0 * rows))
        names: dict[str, None] = {}
        for place, (workload, size) in enumerate(panels, start=1):
            axes = figure.add_subplot(rows, columns, place)
            axes.set(xscale="log", yscale="log")
            axes.set_title(f"{workload}, {size}", fontweight="bold")
            axes.set_xlabel("largest error")
            axes.set_ylabel("seconds")
            for precision in ("float64", "float32"):
                names |= dict.fromkeys(_draw_cell(axes, report, workload, size, precision))
            _whole_decades(axes)
        _legend(figure, list(names), _filled_and_open())
        return _save(figure, path)


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
            markersize=9 if marker == "*" else 6, markerfacecolor=colour if precision == "float64" else "white",
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
        figure = Figure(figsize=(11.5, 5.6))
        names: dict[str, None] = {}
        for place, precision in enumerate(precisions, start=1):
            axes = figure.add_subplot(1, len(precisions), place)
            axes.set(xscale="log", yscale="log")
            axes.set_title(precision, fontweight="bold")
            axes.set_xlabel("operations a byte (model)")
            axes.set_ylabel("operations a second (model)")
            names |= dict.fromkeys(_draw_roofs(axes, report, precision))
        _legend(figure, list(names), [])
        return _save(figure, path)


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
    for name, dashes in (("memory", "-"), ("cache", "--")):
        rate = report.peaks[name]["rate"]
        knee = max(left, top / rate)
        axes.plot(
            [left, knee, max(right, knee)], [min(left * rate, top), top, top], dashes, color="#444444", linewidth=1.2
        )
        axes.annotate(
            f"{name} {engineering(rate, 'B/s')}", (left, min(left * rate, top)), xytext=(14, -2),
            textcoords="offset points", fontsize=8, color="#444444",
        )  # fmt: skip
    axes.annotate(
        f"GEMM {engineering(top, 'FLOP/s')}", (right, top), xytext=(-4, 4), textcoords="offset points", ha="right",
        fontsize=8, color="#444444",
    )  # fmt: skip
    for x, y, name in points:
        colour, marker = _look(name)
        axes.plot(x, y, marker=marker, color=colour, linestyle="none", markersize=9 if marker == "*" else 6)
    _whole_decades(axes)
    return [name for _, _, name in points]


def scaling(series: list[Series], path: Path) -> Path | None:
    """Cost along every axis, with slopes."""
    from matplotlib.figure import Figure

    order = [axis for axis in ("batch", "n", "C", "p", "devices") if any(one.axis == axis for one in series)]
    if not order:
        return None
    columns = min(3, len(order))
    rows = math.ceil(len(order) / columns)
    with style():
        figure = Figure(figsize=(1.0 + 3.6 * columns, 0.6 + 3.0 * rows))
        for place, axis in enumerate(order, start=1):
            axes = figure.add_subplot(rows, columns, place)
            axes.set(xscale="log", yscale="log", xlabel=axis)
            axes.set_title(f"cost against {axis}", fontweight="bold")
            parts = any(one.axis == axis and one.what.endswith(_PARTS) for one in series)
            for one in (s for s in series if s.axis == axis):
                axes.set_ylabel(one.unit)
                colour, marker = (_PURPLE, "^") if "cross-entropy" in one.what else _look(one.what)
                short = one.what.removeprefix("unhinged_jax ").removesuffix(_PARTS)
                label = short if one.slope is None else f"{short}: slope {one.slope:.2f}"
                axes.fill_between(one.values, one.lower, one.upper, color=colour, alpha=0.2, linewidth=0)
                axes.plot(one.values, one.costs, marker=marker, color=colour, label=label)
            _whole_decades(axes)
            values = sorted({value for one in series if one.axis == axis for value in one.values})
            axes.set_xlim(values[0] / 1.3, values[-1] * 1.3)
            axes.set_xticks(values, [f"{value:,}" for value in values], fontsize=8)
            axes.legend(fontsize=8, title="parts of one processor" if parts else None, title_fontsize=8)
        return _save(figure, path)
