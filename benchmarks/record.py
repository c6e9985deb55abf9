"""What is written down: dataclasses, and JSON made of them and read back strictly."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class Result:
    """One contender in one cell.

    Attributes:
        contender, ours: Who.
        seconds, lower, upper: Median and quartiles of the time of the whole work, scaled up if only a share was timed.
        samples: Every kept sample, scaled likewise.
        share: Share of the work that was timed.
        first: Seconds of the first call, on the share.
        compile: `first` less the median of the later calls, on the share: tracing, compiling, warming up.
        rate: Units of work a second.
        flops, bytes: By the model.
        xla: XLA's count of the program, each loop body once; None if it is no single JAX program.
        bandwidth, gemm: Bytes and operations a second by the model, as shares of the measured peaks.
        error: Largest error of every curve on the share.
        ours_error: On that same share, the errors of each of our contenders, by name.
        rtol: Tolerance, for solvers.
        evaluations: Of the vector field, for solvers.
        peak_memory: Bytes resident at most in a process of its own; `base_memory`, after imports; None if not measured.
    """

    contender: str
    ours: bool
    seconds: float
    lower: float
    upper: float
    samples: list[float]
    share: float
    first: float
    compile: float
    rate: float
    flops: float
    bytes: float
    xla: dict[str, float] | None
    bandwidth: float | None
    gemm: float | None
    error: dict[str, float]
    ours_error: dict[str, dict[str, float]]
    rtol: float | None = None
    evaluations: int | None = None
    peak_memory: int | None = None
    base_memory: int | None = None


@dataclasses.dataclass(frozen=True)
class Cell:
    """A workload at a size and a precision: everybody in it was timed in alternating rounds.

    Attributes:
        shape: C, N, p, n, runs, steps, points.
        rounds, dropped: Kept, and dropped for load by others.
        quiet: False if too few rounds were quiet and noisy ones had to be used; None if load is unknown.
        foreign: Largest load by others during a kept round, in cores.
        other_tolerances: The solvers once more at other tolerances, for the work-precision diagram.
    """

    workload: str
    title: str
    unit: str
    size: str
    precision: str
    shape: dict[str, int]
    rounds: int
    dropped: int
    quiet: bool | None
    foreign: float | None
    results: list[Result]
    other_tolerances: list[Result] = dataclasses.field(default_factory=list)

    def find(self, contender: str) -> Result | None:
        """One contender's result, if it took part."""
        return next((result for result in self.results if result.contender == contender), None)


@dataclasses.dataclass(frozen=True)
class Skipped:
    """What was left out, and why."""

    workload: str
    size: str
    precision: str
    what: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Series:
    """Cost against one size, everything else fixed.

    Attributes:
        axis: "batch", "n", "C", "p" or "devices".
        what: Who does what.
        unit: Of the costs, such as "seconds a run".
        values, costs: Along the axis; median costs, with quartiles.
        slope: Least-squares slope of log cost against log value.
    """

    axis: str
    what: str
    unit: str
    values: list[int]
    costs: list[float]
    lower: list[float]
    upper: list[float]
    slope: float | None
    quiet: bool | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """One run of the benchmarks."""

    date: str
    options: dict[str, Any]
    machine: dict[str, Any]
    peaks: dict[str, Any]
    cells: list[Cell]
    skipped: list[Skipped]
    scaling: list[Series]
    startup: dict[str, dict[str, float]]
    seconds: float
    schema: int = SCHEMA
    latency: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)

    def find(self, workload: str, size: str, precision: str) -> Cell | None:
        """One cell, if it was measured."""
        return next((c for c in self.cells if (c.workload, c.size, c.precision) == (workload, size, precision)), None)


class RecordError(ValueError):
    """A file that is no record of ours; the message names it."""


def write(report: Report, path: Path) -> None:
    """Write a report as JSON; what is not finite becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(dataclasses.asdict(report)), indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def read(path: Path) -> Report:
    """Read a report.

    Raises:
        RecordError: if it is not one, or of another schema.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RecordError(f"{path}: cannot be read as JSON: {reason}.") from error
    if not isinstance(tree, dict) or tree.get("schema") != SCHEMA:
        raise RecordError(f"{path}: not a record of schema {SCHEMA}; write one with `python -m benchmarks`.")
    try:
        return _build(Report, tree)
    except (KeyError, TypeError) as error:
        raise RecordError(f"{path}: not a whole record: {error}.") from error


_SAME_MACHINE = (
    "device", "devices", "cpu", "cores", "system", "python", "versions", "commit", "uncommitted_changes",
    "matmul_precision",
)  # fmt: skip
_SAME_OPTIONS = ("quick", "sizes", "precisions", "full")


def merged(reports: Sequence[Report]) -> Report:
    """Several runs on one machine as one record, for machines that are lent by the minute.

    Everybody in a cell was timed in one run, so ratios within cells hold. Of each peak the highest is kept, and what is
    a share of a peak is one of that.

    Raises:
        RecordError: if machines, versions, commits or options differ, or anything was measured twice.
    """
    _agree(reports)
    peaks = _highest([report.peaks for report in reports])
    known = [skip for report in reports for skip in report.skipped]
    workloads = [name for report in reports for name in report.options.get("workloads", ())]
    return dataclasses.replace(
        reports[0],
        options={**reports[0].options, "workloads": list(dict.fromkeys(workloads))},
        peaks=peaks,
        cells=[_under(peaks, report.peaks, cell) for report in reports for cell in report.cells],
        skipped=[skip for number, skip in enumerate(known) if skip not in known[:number]],
        scaling=[series for report in reports for series in report.scaling],
        startup={name: times for report in reports for name, times in report.startup.items()},
        latency={name: times for report in reports for name, times in report.latency.items()},
        seconds=sum(report.seconds for report in reports),
    )


def _agree(reports: Sequence[Report]) -> None:
    """Raise unless reports are of one machine, commit and set of options, and nothing is in two of them."""
    first = reports[0]
    for other in reports[1:]:
        pairs = [(key, first.machine.get(key), other.machine.get(key)) for key in _SAME_MACHINE]
        pairs += [(key, first.options.get(key), other.options.get(key)) for key in _SAME_OPTIONS]
        for key, mine, theirs in pairs:
            if mine != theirs:
                raise RecordError(
                    f"the records must be of one machine, commit and set of options, but {key} is {mine!r} in the "
                    f"first and {theirs!r} in another; merge those of each apart."
                )
    names: list[str] = []
    for report in reports:
        names += [f"{cell.workload}, {cell.size}, {cell.precision}" for cell in report.cells]
        names += [f"{series.axis}, {series.what}" for series in report.scaling]
        names += [*report.startup, *report.latency]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RecordError(f"{twice} was measured in two of the records; leave one of them out.")


def _highest(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of each peak and each way to it the highest."""
    peaks = {}
    for name in dict.fromkeys(name for peaks in found for name in peaks):
        ways: dict[str, float] = {}
        for each in (one[name]["ways"] for one in found if name in one):
            ways |= {way: max(rate, ways.get(way, 0.0)) for way, rate in each.items()}
        by = max(ways, key=ways.__getitem__)
        peaks[name] = {"rate": ways[by], "by": by, "ways": ways}
    return peaks


def _under(peaks: dict[str, Any], own: dict[str, Any], cell: Cell) -> Cell:
    """A cell whose shares of its run's own peaks become shares of others."""

    def share(value: float | None, peak: str) -> float | None:
        return None if value is None else value * own[peak]["rate"] / peaks[peak]["rate"]

    def result(one: Result) -> Result:
        return dataclasses.replace(
            one, bandwidth=share(one.bandwidth, "memory"), gemm=share(one.gemm, f"gemm_{cell.precision}")
        )

    return dataclasses.replace(
        cell, results=list(map(result, cell.results)), other_tolerances=list(map(result, cell.other_tolerances))
    )


def _finite(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_finite(value) for value in tree]
    if isinstance(tree, float) and not math.isfinite(tree):
        return None
    return tree


def _build(kind: Any, tree: Any) -> Any:
    """A dataclass from its dictionary; null where a number must be was not finite."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        unknown = set(tree) - set(hints)
        if unknown:
            raise TypeError(f"unknown key {sorted(unknown)[0]!r}")
        return kind(**{name: _build(hints[name], value) for name, value in tree.items()})  # type: ignore[operator]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return [_build(arguments[0], item) for item in tree]
    if origin is dict:
        return {key: _build(arguments[1], item) for key, item in tree.items()}
    if tree is None and origin is types.UnionType:
        return None
    if origin is types.UnionType:
        return _build(next(option for option in arguments if option is not type(None)), tree)
    return math.nan if kind is float and tree is None else tree
