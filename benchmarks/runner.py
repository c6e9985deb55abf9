"""Runs a cell: everybody builds, runs once, is checked, and is then timed in alternating rounds."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from benchmarks import costs, reference
from benchmarks.case import Case
from benchmarks.contender import Contender, Run, Workload
from benchmarks.load import SystemMeter
from benchmarks.record import Cell, Result, Skipped
from benchmarks.timing import Limits, Rounds, alternate, quartiles, timed

Say = Callable[[str], None]

_LONG = 30.0  # seconds of a first call, beyond which a solver is shown at one tolerance only


@dataclasses.dataclass
class Entry:
    """A contender that is ready: its part of the case, its function, and its first call."""

    contender: Contender
    case: Case
    factor: float
    run: Run
    first: float
    outputs: dict[str, np.ndarray]
    rtol: float | None

    @property
    def key(self) -> str:
        """Of its samples; a solver takes part once a tolerance."""
        return f"{self.contender.name} {self.rtol}"


def run_cell(
    workload: Workload,
    size: str,
    precision: str,
    limits: Limits,
    peaks: Mapping[str, Any],
    say: Say,
    *,
    full: bool = False,
    quick: bool = False,
) -> tuple[Cell | None, list[Skipped]]:
    """Measure one cell.

    Args:
        workload, size, precision: Which.
        limits: Of the rounds.
        peaks: From `peaks.measure`.
        say: Told what is going on.
        full: Time the whole work of everybody instead of a share of it.
        quick: Leave out who compiles for long, and other tolerances.

    Returns:
        The cell (None if nobody could take part), and who was left out, why.
    """
    jax.clear_caches()  # so that first calls compile, and memory stays bounded
    case = workload.case(size, precision)
    say("reference")
    truth = workload.reference(case)
    entries: list[Entry] = []
    skipped: list[Skipped] = []
    for contender in workload.contenders:
        reason = contender.absent() or contender.refuses(case)
        if quick and contender.patient:
            reason = "compiles for long: not in a quick run"
        if reason is None:
            say(f"{contender.name}, first call")
            built = _built(contender, case, full)
            if isinstance(built, Entry):
                entries.append(built)
                continue
            reason = built
        skipped.append(Skipped(workload.name, size, precision, contender.name, reason))
    if not entries:
        return None, skipped
    say("timing")
    rounds = alternate({entry.key: entry.run for entry in entries}, limits, SystemMeter())
    results = [_result(entry, rounds.samples[entry.key], truth, entries, workload, peaks, quick) for entry in entries]
    cell = Cell(
        workload=workload.name,
        title=workload.title,
        unit=workload.unit,
        size=size,
        precision=precision,
        shape=_shape(case),
        rounds=rounds.kept,
        dropped=rounds.dropped,
        quiet=rounds.quiet,
        foreign=rounds.foreign,
        results=results,
        other_tolerances=[] if quick else _other_tolerances(workload, case, entries, limits, peaks, truth, say),
    )
    return cell, skipped


def _built(contender: Contender, case: Case, full: bool) -> Entry | str:
    """A contender after its first call, or why it failed."""
    part, factor = (case, 1.0) if full else contender.part(case)
    try:
        run = contender.build(part)
        first, outputs = timed(run)
    except Exception as error:  # a peer that breaks is left out, with its reason
        return f"failed: {one_line(error)}"
    curves = {name: np.asarray(value) for name, value in outputs.items()}
    return Entry(contender, part, factor, run, first, curves, case.rtol or None)


def one_line(error: Exception) -> str:
    """An exception in one line without paths."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"(?<![\w<])/[\w./-]+", "<path>", f"{type(error).__name__}: {text}")[:200]


def _shape(case: Case) -> dict[str, int]:
    return {
        "C": case.classes, "N": case.per_class, "p": case.dim, "n": case.samples, "runs": case.runs,
        "steps": case.steps, "points": len(case.times),
    }  # fmt: skip


def _result(
    entry: Entry,
    samples: list[float],
    truth: Mapping[str, np.ndarray],
    entries: list[Entry],
    workload: Workload,
    peaks: Mapping[str, Any],
    quick: bool,
) -> Result:
    contender, case = entry.contender, entry.case
    whole = [seconds * entry.factor for seconds in samples]
    time, steady = quartiles(whole), quartiles(samples).median
    evaluations = int(np.asarray(entry.outputs.get("evaluations", 0)))
    cost = contender.cost(case, evaluations).times(entry.factor)
    work = {"steps": case.steps * case.runs, "runs": case.runs, "solutions": 1}[workload.unit]
    gemm = peaks.get(f"gemm_{case.precision}")
    return Result(
        contender=contender.name,
        ours=contender.ours,
        seconds=time.median,
        lower=time.lower,
        upper=time.upper,
        samples=whole,
        share=1 / entry.factor,
        first=entry.first,
        compile=max(0.0, entry.first - steady),
        rate=work * entry.factor / time.median,
        flops=cost.flops,
        bytes=cost.bytes,
        xla=_counted(contender, case) if case.size == "paper" and not quick else None,  # it compiles once more
        bandwidth=cost.bytes / time.median / peaks["memory"]["rate"] if "memory" in peaks else None,
        gemm=cost.flops / time.median / gemm["rate"] if gemm else None,
        error=reference.errors(entry.outputs, truth),
        ours_error={
            other.contender.name: _on_the_same_part(other, entry, truth) for other in entries if other.contender.ours
        },
        rtol=entry.rtol,
        evaluations=evaluations or None,
    )


def _on_the_same_part(ours: Entry, peer: Entry, truth: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Our errors on what a peer did: the same runs and points, and the same curves."""
    cut = {}
    for name, curve in ours.outputs.items():
        if name in peer.outputs and curve.ndim == peer.outputs[name].ndim:
            cut[name] = curve[tuple(slice(0, length) for length in peer.outputs[name].shape)]
    return reference.errors(cut, truth)


def _counted(contender: Contender, case: Case) -> dict[str, float] | None:
    if contender.lowered is None:
        return None
    try:
        return costs.of_xla(contender.lowered(case))
    except Exception:  # not every backend counts
        return None


def _other_tolerances(
    workload: Workload,
    case: Case,
    entries: list[Entry],
    limits: Limits,
    peaks: Mapping[str, Any],
    truth: Mapping[str, np.ndarray],
    say: Say,
) -> list[Result]:
    """Solvers at other tolerances, everybody who is not too slow in alternating rounds again."""
    found = []
    few = dataclasses.replace(limits, most=limits.least, seconds=limits.seconds / 2)
    for rtol in workload.tolerances.get(case.precision, ()):
        say(f"tolerance {rtol:g}")
        again = [
            built
            for entry in entries
            if "evaluations" in entry.outputs and entry.outputs["evaluations"] > 0 and entry.first < _LONG
            if isinstance(built := _built(entry.contender, case.replace(rtol=rtol), full=True), Entry)
        ]
        if not again:
            continue
        rounds: Rounds = alternate({entry.key: entry.run for entry in again}, few, SystemMeter())
        found += [_result(entry, rounds.samples[entry.key], truth, again, workload, peaks, True) for entry in again]
    return found
