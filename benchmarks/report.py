"""Records as Markdown."""

from __future__ import annotations

import math

from benchmarks.acceptance import Verdict, worst
from benchmarks.latency import README, YARDSTICK
from benchmarks.record import Cell, Report, Result

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def seconds(value: float) -> str:
    """A time with three digits and a unit."""
    if value >= 100:
        return f"{value:.0f} s"
    scale, unit = next(((s, u) for s, u in _UNITS if value >= s), _UNITS[-1])
    return f"{value / scale:.3g} {unit}"


def engineering(value: float, unit: str) -> str:
    """A quantity with three digits and a prefix."""
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def _share(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0%}" if value >= 0.01 else "<1%"


def _errors(error: dict[str, float]) -> str:
    shown = [f"{name} {value:.1e}" for name, value in error.items() if value > 0]
    return ", ".join(shown) or "0"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def cell_table(cell: Cell) -> str:
    """Everybody in a cell, the fastest first."""
    results = sorted(cell.results, key=lambda result: result.seconds)
    fastest = next((result.seconds for result in results if result.ours), results[0].seconds)
    rows = [_row(result, fastest) for result in results]
    head = [
        "contender", "time", "quartiles", "against our fastest", f"{cell.unit}/s", "timed", "compile", "memory",
        "bandwidth", "GEMM", "largest errors",
    ]  # fmt: skip
    return table(head, rows)


def _row(result: Result, fastest: float) -> list[str]:
    name = f"**{result.contender}**" if result.ours else result.contender
    timed = "all" if result.share > 0.999 else f"{100 * result.share:.2g} %"
    memory = "" if result.peak_memory is None else engineering(result.peak_memory, "B")
    return [
        name, seconds(result.seconds), f"{seconds(result.lower)} – {seconds(result.upper)}",
        f"{result.seconds / fastest:.3g}×", engineering(result.rate, "").strip(), timed, seconds(result.compile),
        memory, _share(result.bandwidth), _share(result.gemm), _errors(result.error),
    ]  # fmt: skip


def cell_heading(cell: Cell) -> str:
    """What a cell is and how quiet it was."""
    shape = ", ".join(f"{name}={value}" for name, value in cell.shape.items() if value and (name, value) != ("runs", 1))
    quiet = {True: "quiet", False: "**other processes were busy: noisy**", None: "load unknown"}[cell.quiet]
    load = "" if cell.foreign is None else f", other processes used at most {cell.foreign:.2f} cores"
    return f"{shape}; {cell.rounds} rounds kept, {cell.dropped} dropped; {quiet}{load}"


def machine_table(report: Report) -> str:
    """What it ran on."""
    machine = report.machine
    rows = [
        ["measured", report.date],
        ["device", f"{machine['device']} ({machine['backend']}), {machine['devices']}"],
        ["processor", f"{machine['cpu']}, {machine['cores']} cores"],
        ["caches", ", ".join(f"{level} {size}" for level, size in machine["cache"].items()) or "unknown"],
        ["clock", _clock(machine["clock_mhz"])],
        ["system", f"{machine['system']}, Python {machine['python']}, {machine['compiler'] or 'no C compiler'}"],
        ["versions", ", ".join(f"{name} {version}" for name, version in machine["versions"].items())],
        ["commit", f"{machine['commit']}" + (" with uncommitted changes" if machine["uncommitted_changes"] else "")],
        ["precision of products", machine["matmul_precision"]],
    ]
    if machine["accelerator"]:
        rows.insert(2, ["accelerator", ", ".join(f"{k} {v}" for k, v in machine["accelerator"].items())])
    return table(["", ""], rows)


def _clock(clock: dict[str, float] | None) -> str:
    return ", ".join(f"{name} {value:.0f} MHz" for name, value in (clock or {}).items()) or "not readable"


def peaks_table(report: Report) -> str:
    """Peaks and who reached them."""
    units = {"memory": "B/s", "cache": "B/s"}
    rows = [
        [name.replace("_", " "), engineering(peak["rate"], units.get(name, "FLOP/s")), peak["by"]]
        for name, peak in report.peaks.items()
    ]
    return table(["peak", "rate", "reached by"], rows)


def verdict_table(verdicts: list[Verdict]) -> str:
    """Bounds, met or not; those that the record does not tell of, in a sentence."""
    words = {True: "met", False: "**not met**"}
    told = [[v.what, v.bound, v.measured, words[v.met]] for v in verdicts if v.met is not None]
    parts = [table(["what", "bound", "measured", ""], told)] if told else []
    untold = [v.what for v in verdicts if v.met is None]
    if untold:
        parts.append(f"Not measured in this record: {'; '.join(untold)}.")
    return "\n\n".join(parts)


def tolerance_table(cell: Cell) -> str:
    """Solvers over tolerances: what they cost, and what they give."""
    solves = [result for result in [*cell.results, *cell.other_tolerances] if result.evaluations and result.rtol]
    rows = [
        [r.contender, f"{r.rtol:g}", seconds(r.seconds), f"{worst(r.error):.1e}", f"{r.evaluations}"]
        for r in sorted(solves, key=lambda r: (r.contender, -(r.rtol or math.nan)))
    ]
    return table(["solver", "rtol", "time", "largest error", "evaluations"], rows)


def scaling_table(report: Report) -> str:
    """Costs along every axis."""
    rows = [
        [
            series.axis, series.what, series.unit,
            ", ".join(f"{value}: {seconds(cost)}" for value, cost in zip(series.values, series.costs, strict=True)),
            "" if series.slope is None else f"{series.slope:.2f}",
        ]
        for series in report.scaling
    ]  # fmt: skip
    return table(["axis", "who", "cost", "value: cost", "log-log slope"], rows)


def xla_table(report: Report, size: str) -> str:
    """Model against XLA's count."""
    rows = []
    for cell in report.cells:
        if cell.size != size:
            continue
        for result in cell.results:
            if result.xla:
                rows.append(
                    [
                        f"{cell.workload}, {cell.precision}", result.contender, engineering(result.flops, "FLOP"),
                        engineering(result.bytes, "B"), engineering(result.xla["flops"], "FLOP"),
                        engineering(result.xla["bytes"], "B"),
                    ]
                )  # fmt: skip
    head = ["cell", "program", "model: operations", "bytes", "XLA, loop bodies once: operations", "bytes"]
    return table(head, rows)


def startup_table(report: Report) -> str:
    """Commands and how long they take."""
    rows = [
        [f"`{name}`", seconds(time["median"]), f"{seconds(time['lower'])} – {seconds(time['upper'])}"]
        for name, time in report.startup.items()
    ]
    return table(["command", "time", "quartiles"], rows)


def latency_table(report: Report) -> str:
    """First calls, beside plain diffrax."""
    base = report.latency.get(YARDSTICK, {}).get("cold")
    rows = []
    for name, times in report.latency.items():
        beside = f"{times['cold'] / base:.2f}×" if base and name != README else ""
        again = seconds(times["again"]) if "again" in times else ""
        rows.append([name, seconds(times["cold"]), beside, seconds(times["warm"]), again])
    return table(
        ["first call of", "processor time", "against plain diffrax", "with a warm cache", "a later call"], rows
    )


def skipped_list(report: Report) -> str:
    """What was left out, and why, each reason once."""
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for one in report.skipped:
        where = ", ".join(filter(None, (one.size, one.precision)))
        grouped.setdefault((one.workload, one.what, one.reason), []).append(where)
    lines = []
    for (workload, what, reason), places in grouped.items():
        inside = "; ".join(filter(None, places))
        lines.append(f"- {workload}{f' ({inside})' if inside else ''}: {what}: {reason}")
    return "\n".join(lines) or "Nothing."


def everything(report: Report) -> str:
    """All tables of a record."""
    parts = [
        "# Benchmark results", machine_table(report), "## Peaks", peaks_table(report),
    ]  # fmt: skip
    for cell in report.cells:
        parts += [f"## {cell.workload}, {cell.size}, {cell.precision}", cell.title]
        parts += [cell_heading(cell), cell_table(cell)]
        if cell.other_tolerances:
            parts.append(tolerance_table(cell))
    if report.scaling:
        parts += ["## Scaling", scaling_table(report)]
    if report.startup:
        parts += ["## Start-up", startup_table(report)]
    if report.latency:
        parts += ["## First calls", latency_table(report)]
    parts += ["## Left out", skipped_list(report)]
    return "\n\n".join(parts) + "\n"
