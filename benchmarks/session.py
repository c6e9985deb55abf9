"""One run from beginning to end: machine, peaks, cells, memory, scaling, start-up; then the files."""

from __future__ import annotations

import dataclasses
import datetime
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import figures, latency, machine, memory, page, peaks, record, report, runner, startup
from benchmarks import scaling as scaling_module
from benchmarks.contender import Workload
from benchmarks.load import SystemMeter, wait_for_quiet
from benchmarks.record import Cell, Report, Skipped
from benchmarks.timing import Limits, timed
from benchmarks.workloads import all_workloads

_CONSOLE = Console(stderr=True)
_SECONDS = {"small": 8.0, "paper": 25.0, "large": 25.0}


@dataclasses.dataclass(frozen=True)
class Options:
    """What is asked for on the command line; empty means all."""

    quick: bool = False
    workloads: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    seconds: float | None = None
    full: bool = False
    wait: bool = True
    memory: bool = True
    scaling: bool = True


def chosen(names: Sequence[str]) -> list[Workload]:
    """The named workloads, or all.

    Raises:
        ValueError: for an unknown name.
    """
    known = all_workloads()
    for name in names:
        if name not in known:
            raise ValueError(f"unknown workload {name!r}; there are {', '.join(known)}.")
    return [known[name] for name in names] or list(known.values())


@contextmanager
def progress() -> Iterator[Any]:
    """A function that shows what is going on, on a terminal only."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=_CONSOLE, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=None)
        yield lambda text: bar.update(task, description=text)


def plan(options: Options) -> tuple[list[tuple[Workload, str, str]], list[Skipped]]:
    """The cells to measure, and what is left out from the beginning."""
    cells, skipped = [], []
    for workload in chosen(options.workloads):
        for what, reason in workload.skips.items():
            skipped.append(Skipped(workload.name, "", "", what, reason))
        sizes = [size for size in workload.sizes if not options.sizes or size in options.sizes]
        for size in sizes[:1] if options.quick else sizes:
            for precision, missing in machine.precisions().items():
                if precision not in workload.precisions or not workload.contenders:
                    continue
                if size == "large" and precision != workload.precisions[-1]:
                    continue
                if options.precisions and precision not in options.precisions:
                    continue
                if options.quick and precision != _quick_precision(workload):
                    continue
                if missing:
                    skipped.append(Skipped(workload.name, size, precision, precision, missing))
                else:
                    cells.append((workload, size, precision))
    return cells, skipped


def _quick_precision(workload: Workload) -> str | None:
    """The first that the device has: a quick run measures one."""
    found = machine.precisions()
    return next((name for name in workload.precisions if found[name] is None), None)


def limits_for(size: str, quick: bool, seconds: float | None = None) -> Limits:
    """How long to repeat."""
    if quick:
        return Limits(least=1, most=2, seconds=1.0, sample=0.03, settle=0.005)
    return Limits(seconds=_SECONDS[size] if seconds is None else seconds)


def measure(options: Options, out: Path) -> int:
    """Measure everything that is asked for and write it after every cell, so that nothing finished is lost."""
    begin = time.perf_counter()
    cells, skipped = plan(options)
    if not cells:
        raise ValueError("nothing is left to measure; see `python -m benchmarks --help` for the choices.")
    found = _empty(options, skipped)

    def save(found: Report) -> Report:
        found = dataclasses.replace(found, seconds=time.perf_counter() - begin)
        record.write(found, out / "results.json")
        return found

    with progress() as say:
        if options.wait and not options.quick:
            say("waiting for other processes to become quiet")
            waited, load = wait_for_quiet(SystemMeter(), Limits().foreign, 120.0)
            found.options.update(waited_seconds=waited, load_at_start=load)
        say("peaks of the machine")
        found.peaks.update(peaks.measure(options.quick))
        for number, (workload, size, precision) in enumerate(cells, start=1):
            label = f"[{number}/{len(cells)}] {workload.name}, {size}, {precision}"
            cell, left_out = runner.run_cell(
                workload, size, precision, limits_for(size, options.quick, options.seconds), found.peaks,
                partial(_say_in, say, label), full=options.full, quick=options.quick,
            )  # fmt: skip
            found.skipped.extend(left_out)
            if cell is not None:
                found.cells.append(cell)
                _show(cell)
            save(found)
        if options.scaling:
            found.startup.update(startup.measure(1 if options.quick else 6, say))
            if not options.quick:
                found.latency.update(latency.measure(3, say))
                found = save(dataclasses.replace(found, scaling=scaling_module.measure(False, say)))
        if options.memory:
            found = dataclasses.replace(found, cells=memory.measure(found.cells, say))
    _write(save(found), out)
    return 0


def _say_in(say: Callable[[str], None], label: str, text: str) -> None:
    say(f"{label}: {text}")


def _empty(options: Options, skipped: list[Skipped]) -> Report:
    return Report(
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        options=dataclasses.asdict(options),
        machine=machine.describe(),
        peaks={},
        cells=[],
        skipped=skipped,
        scaling=[],
        startup={},
        seconds=0.0,
    )


def _write(found: Report, out: Path) -> None:
    """What is made from a record."""
    (out / "results.md").write_text(report.everything(found), encoding="utf-8")
    figures.work_precision(found, out / "work-precision.svg")
    figures.roofline(found, out / "roofline.svg")
    figures.scaling(found.scaling, out / "scaling.svg")
    _CONSOLE.print(f"{found.seconds:.0f} s; results.json, results.md and figures are in {out}", soft_wrap=True)


def scaling(out: Path, quick: bool) -> int:
    """Measure scaling alone."""
    found = _empty(Options(quick=quick), [])
    begin = time.perf_counter()
    with progress() as say:
        series = scaling_module.measure(quick, say)
    found = dataclasses.replace(found, scaling=series, seconds=time.perf_counter() - begin)
    record.write(found, out / "scaling.json")
    figures.scaling(series, out / "scaling.svg")
    for one in series:
        costs = ", ".join(f"{value}: {cost:.3g}" for value, cost in zip(one.values, one.costs, strict=True))
        slope = "" if one.slope is None else f"  slope {one.slope:.2f}"
        _CONSOLE.print(f"{one.axis}, {one.what} ({one.unit})  {costs}{slope}", highlight=False, soft_wrap=True)
    return 0


def first_calls(out: Path, rounds: int, to: Path | None) -> int:
    """Measure first calls alone."""
    begin = time.perf_counter()
    found = _empty(Options(), [])
    with progress() as say:
        found.latency.update(latency.measure(rounds, say))
    record.write(dataclasses.replace(found, seconds=time.perf_counter() - begin), out / "latency.json")
    if to is not None:
        to.write_text(page.first_calls(found), encoding="utf-8")
    _CONSOLE.print(report.latency_table(found), highlight=False, soft_wrap=True)
    return 0


def trace(workloads: Sequence[str], folder: Path, quick: bool) -> int:
    """A profiler's trace of one call of everybody of ours in a workload, compiled before."""
    import jax

    workload = chosen(workloads)[0]
    size = "paper" if "paper" in workload.sizes and not quick else workload.sizes[0]
    precision = _quick_precision(workload)
    if precision is None:
        raise ValueError(f"workload {workload.name!r} has no precision that this device has.")
    case = workload.case(size, precision)
    runs = {one.name: one.build(one.part(case)[0]) for one in workload.contenders if one.ours}
    if not runs:
        raise ValueError(f"workload {workload.name!r} has nothing of ours to trace.")
    for run in runs.values():
        timed(run)
    with jax.profiler.trace(str(folder)):
        for name, run in runs.items():
            with jax.profiler.TraceAnnotation(name):
                timed(run)
    _CONSOLE.print(f"trace of {workload.name}, {size}, {precision} in {folder}", soft_wrap=True)
    return 0


def _show(cell: Cell) -> None:
    noisy = "" if cell.quiet is not False else "  (noisy)"
    _CONSOLE.print(f"[bold]{cell.workload}[/] {cell.size} {cell.precision}, {cell.rounds} rounds{noisy}")
    for result in cell.results:
        worst = max(result.error.values(), default=float("nan"))
        band = f"{result.lower:.3g}-{result.upper:.3g}"
        share = "" if result.share > 0.999 else f"  timed {result.share:.2%}"
        _CONSOLE.print(
            f"  {result.contender:30s} {result.seconds:10.4g} s  ({band})  error {worst:.1e}"
            f"  compile {result.compile:.1f} s{share}", highlight=False, soft_wrap=True,
        )  # fmt: skip
