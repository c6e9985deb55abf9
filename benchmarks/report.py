"""Records as Markdown."""

from __future__ import annotations

import math
import re
from typing import Any

from benchmarks import words
from benchmarks.acceptance import Verdict, Worse, worst
from benchmarks.latency import README, YARDSTICK
from benchmarks.record import Cell, Report, Result


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; a number is not parted from its unit."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    text = "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
    return re.sub(r"(?<=\d) (?=(?:s|ms|µs|ns|%|[kMGT]?(?:B|FLOP)(?:/s)?) )", "\N{NO-BREAK SPACE}", text)


def summary_table(report: Report) -> str:
    """Of each cell our fastest and the fastest peer, the paper's size first; empty without cells."""
    rows = []
    for cell in sorted(report.cells, key=lambda cell: cell.size != "paper"):
        slopes = [r for r in cell.results if r.contender.endswith(" gradient")]  # not the runs they are compared with
        shown = sorted(slopes or cell.results, key=lambda r: r.seconds)
        ours, peer = (next((r for r in shown if r.ours is mine), None) for mine in (True, False))
        if ours is not None and peer is not None:
            rows.append([
                f"{words.workload(cell.workload)}" + (f", {cell.size}" if cell.size != "paper" else ""),
                cell.precision, ours.contender.removeprefix("unhinged_jax "), words.seconds(ours.seconds),
                peer.contender, words.seconds(peer.seconds), f"**{words.times(peer.seconds / ours.seconds)}**",
            ])  # fmt: skip
    head = ["what", "precision", "ours, fastest", "time", "fastest peer", "time", "peer over ours"]
    return table(head, rows) if rows else ""


def cell_table(cell: Cell) -> str:
    """Everybody's times in a cell, the fastest first; columns that say nothing are left out."""
    results = sorted(cell.results, key=lambda result: result.seconds)
    fastest = next((result.seconds for result in results if result.ours), results[0].seconds)
    rows = [_row(result, fastest) for result in results]
    head = [
        "contender", "time", "quartiles", "over our fastest", f"{cell.unit}/s", "timed", "compile", "memory",
        "bandwidth", "GEMM",
    ]  # fmt: skip
    kept = [place for place in range(len(head)) if any(row[place] for row in rows)]
    return table([head[place] for place in kept], [[row[place] or "–" for place in kept] for row in rows])


def _row(result: Result, fastest: float) -> list[str]:
    name = f"**{result.contender}**" if result.ours else result.contender
    timed = "all" if result.share > 0.999 else f"{100 * result.share:.2g} %"
    memory = "" if result.peak_memory is None else words.engineering(result.peak_memory, "B")
    return [
        name, words.seconds(result.seconds), f"{words.seconds(result.lower)} – {words.seconds(result.upper)}",
        words.times(result.seconds / fastest), words.engineering(result.rate, "").strip(), timed,
        words.compiling(result), memory, words.share(result.bandwidth), words.share(result.gemm),
    ]  # fmt: skip


def error_table(cell: Cell) -> str:
    """Everybody's largest errors in a cell, one column a curve, in the order of the times."""
    results = sorted(cell.results, key=lambda result: result.seconds)
    curves = list(dict.fromkeys(curve for result in results for curve in result.error))
    rows = [
        [f"**{result.contender}**" if result.ours else result.contender,
         *(words.error(result.error[curve]) if curve in result.error else "–" for curve in curves)]
        for result in results
    ]  # fmt: skip
    return table(["largest error of", *(curve.replace("_", " ") for curve in curves)], rows)


_SHAPE = {
    "C": "$C = {}$ classes", "N": "$N = {}$ samples each", "p": "$p = {}$ dimensions", "n": "", "runs": "{} runs",
    "steps": "{} steps", "points": "{} points",
}  # fmt: skip


def cell_heading(cell: Cell) -> str:
    """What a cell is and how quiet it was."""
    given = [(name, value) for name, value in cell.shape.items() if value and (name, value) != ("runs", 1)]
    shape = ", ".join(filter(None, (_SHAPE.get(name, f"{name} = {{}}").format(f"{value:,}") for name, value in given)))
    quiet = {True: "quiet", False: "**other processes were busy: noisy**", None: "load unknown"}[cell.quiet]
    load = "" if cell.foreign is None else f", other processes used at most {cell.foreign:.2f} cores"
    return f"{shape}; {cell.rounds} rounds kept, {cell.dropped} dropped; {quiet}{load}"


def worse_table(found: list[Worse]) -> str:
    """Errors of ours above a peer's."""
    rows = [
        [words.heading(one.cell), one.curve, f"**{one.who}**", words.error(one.mine), one.peer, words.error(one.theirs)]
        for one in found
    ]
    return table(["where", "error of", "ours", "", "peer", ""], rows)


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


def told_peaks(report: Report) -> dict[str, Any]:
    """The peaks that are roofs: small arrays slower than large ones, as on an accelerator, tell what a launch takes
    and nothing of a cache."""
    memory, cache = (report.peaks.get(name, {"rate": 0.0})["rate"] for name in ("memory", "cache"))
    return {name: peak for name, peak in report.peaks.items() if name != "cache" or cache >= memory}


def peaks_table(report: Report) -> str:
    """Peaks and who reached them."""
    units = {"memory": "B/s", "cache": "B/s"}
    rows = [
        [name.replace("_", " "), words.engineering(peak["rate"], units.get(name, "FLOP/s")), peak["by"]]
        for name, peak in told_peaks(report).items()
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
        [
            r.contender,
            words.error(r.rtol or 0.0),
            words.seconds(r.seconds),
            words.error(worst(r.error)),
            f"{r.evaluations}",
        ]
        for r in sorted(solves, key=lambda r: (r.contender, -(r.rtol or math.nan)))
    ]
    return table(["solver", "rtol", "time", "largest error", "evaluations"], rows)


def scaling_table(report: Report) -> str:
    """Costs along every axis."""
    rows = []
    for series in report.scaling:
        costs = zip(series.values, series.costs, strict=True)
        listed = ", ".join(f"{value:,}: {words.seconds(cost)}" for value, cost in costs)
        rows.append([series.axis, series.what, series.unit, listed, words.slope(series)])
    return table(["axis", "who", "cost", "value: cost", "log-log slope"], rows)


def xla_table(report: Report, size: str) -> str:
    """Model against XLA's count."""
    rows = []
    for cell in report.cells:
        if cell.size != size:
            continue
        for result in cell.results:
            if result.xla:
                where = f"{words.workload(cell.workload)}, {cell.precision}"
                rows.append(
                    [
                        where, result.contender, words.engineering(result.flops, "FLOP"),
                        words.engineering(result.bytes, "B"), words.engineering(result.xla["flops"], "FLOP"),
                        words.engineering(result.xla["bytes"], "B"),
                    ]
                )  # fmt: skip
    head = ["cell", "program", "model: operations", "bytes", "XLA, loop bodies once: operations", "bytes"]
    return table(head, rows)


def startup_table(report: Report) -> str:
    """Commands and how long they take."""
    rows = [
        [f"`{name}`", words.seconds(time["median"]), f"{words.seconds(time['lower'])} – {words.seconds(time['upper'])}"]
        for name, time in report.startup.items()
    ]
    return table(["command", "time", "quartiles"], rows)


def latency_table(report: Report) -> str:
    """First calls, beside plain diffrax."""
    base = report.latency.get(YARDSTICK, {}).get("cold")
    rows = []
    for name, times in report.latency.items():
        beside = words.times(times["cold"] / base) if base and name != README else ""
        again = words.seconds(times["again"]) if "again" in times else ""
        rows.append([name, words.seconds(times["cold"]), beside, words.seconds(times["warm"]), again])
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
        lines.append(f"- {words.workload(workload)}{f' ({inside})' if inside else ''}: {what}: {reason}")
    return "\n".join(lines) or "Nothing."


def everything(report: Report) -> str:
    """All tables of a record."""
    parts = [
        "# Benchmark results", machine_table(report), "## Peaks", peaks_table(report),
    ]  # fmt: skip
    for cell in report.cells:
        parts += [f"## {words.heading(cell)}", cell.title, cell_heading(cell), cell_table(cell), error_table(cell)]
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
