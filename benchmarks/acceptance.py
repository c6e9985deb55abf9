"""The bounds that the library sets itself, and whether a record meets them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from benchmarks import words
from benchmarks.compare import time_of
from benchmarks.latency import MEASURED, README, YARDSTICK
from benchmarks.record import Cell, Report, Result
from benchmarks.timing import Ratio, ratio

SIMULATE, EXACT = "unhinged_jax simulate", "unhinged_jax exact"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A bound, what was measured, and whether it is met; None if it was not measured."""

    what: str
    bound: str
    measured: str
    met: bool | None


def worst(error: dict[str, float]) -> float:
    """Largest error of the curves that are smooth: the accuracy moves by whole samples. Infinite if one is NaN."""
    values = [value for name, value in error.items() if name != "accuracy"]
    return math.inf if not values or any(math.isnan(value) for value in values) else max(values)


def verdicts(report: Report) -> list[Verdict]:
    """Every bound."""
    found = []
    for bound in _SPEEDUPS:
        found.append(_speedup(report, *bound))
    found += [_level_with_c(report), *(_entropy(report, p) for p in ("float64", "float32")), _products(report)]
    found += [_equal_error(report, *bound) for bound in _EQUAL_ERROR]
    found += [_batch(report, name) for name in (SIMULATE, EXACT)]
    found += [_samples(report, name) for name in (SIMULATE, EXACT)]
    found += [_gradient(report, kind, p) for kind in ("simulate", "exact", "flow") for p in ("float64", "float32")]
    found += [_startup(report, *bound) for bound in _STARTUP]
    found += [_first_call(report, *bound) for bound in _FIRST_CALLS]
    found += [_seconds(report, *bound) for bound in _SECONDS]
    found.append(_compiled_again(report))
    found.append(_accuracy(report))
    return found


# what, workload, precision, who, against whom (the fastest of them), at least
_SPEEDUPS: tuple[tuple[str, str, str, str, tuple[str, ...], float], ...] = (
    ("Figure-1 curve, exact, against the PyTorch loop, float64", "descent", "float64", EXACT, ("PyTorch",), 300),
    ("Figure-1 curve, exact, against the PyTorch loop, float32", "descent", "float32", EXACT, ("PyTorch",), 300),
    ("Figure-1 curve, simulated, against the PyTorch loop, float64", "descent", "float64", SIMULATE, ("PyTorch",), 60),
    ("Figure-1 curve, simulated, against the PyTorch loop, float32", "descent", "float32", SIMULATE, ("PyTorch",), 60),
    ("spherical, simulated, against the PyTorch loop, float64", "spherical", "float64", SIMULATE, ("PyTorch",), 100),
    ("spherical, simulated, against the PyTorch loop, float32", "spherical", "float32", SIMULATE, ("PyTorch",), 100),
    ("sweep, exact, against the PyTorch loop", "sweep", "float32", EXACT, ("PyTorch",), 300),
    ("sweep, exact, against the best plain JAX", "sweep", "float32", EXACT,
     ("naive JAX, vmap", "naive JAX, loop of jit"), 10),
    ("sweep, simulated, against the PyTorch loop", "sweep", "float32", SIMULATE, ("PyTorch",), 60),
    ("sweep, simulated, against the best plain JAX", "sweep", "float32", SIMULATE,
     ("naive JAX, vmap", "naive JAX, loop of jit"), 1.5),
    ("1,024 stochastic runs against the best plain JAX", "stochastic", "float32", SIMULATE,
     ("plain JAX SGD, vmap, rows", "plain JAX SGD, vmap, weights"), 20),
)  # fmt: skip

# Means over runs that draw differ from their expectation by their standard errors, whoever makes them.
_STATISTICAL = ("stochastic",)

_EQUAL_ERROR: tuple[tuple[str, str, str, float], ...] = (
    ("regularised flow at equal error against plain diffrax", "flow", "plain diffrax", 5),
    ("cross-entropy flow at equal error against plain diffrax", "ce_flow", "plain diffrax", 1.5),
    ("cross-entropy flow at equal error against torchdiffeq", "ce_flow", "torchdiffeq", 4),
)

# what, command, the command it comes on top of (jax and diffrax), seconds below which it stays
_STARTUP: tuple[tuple[str, str, str | None, float], ...] = (
    ("`import unhinged_jax` on top of jax, diffrax", "import jax, diffrax, unhinged_jax", "import jax, diffrax", 0.5),
    ("all its public names besides", "import jax, diffrax and every public name", "import jax, diffrax", 0.5),
    ("`unhinged --help`", "unhinged --help", None, 0.3),
    ("first small simulation of a cold process", "first small simulation, cold process", None, 6.0),
)  # fmt: skip


# first call, times plain diffrax below which it stays
_FIRST_CALLS: tuple[tuple[str, float], ...] = (
    ("simulate, flow", 1.5), ("exact, flow", 1.5), ("simulate, descent", 1.5), ("simulate, cross-entropy flow", 1.5),
    ("simulate, cross-entropy descent", 1.5), ("jax.grad of a flow", 2.5),
)  # fmt: skip


# first call, cache, seconds below which it stays
_SECONDS = ((README, "cold", 12.0), (README, "warm", 4.0), (MEASURED, "cold", 3.0))


def _shown(value: Ratio) -> str:
    ends = (words.times(end).removesuffix("×") for end in (value.lower, value.upper))
    return f"{words.times(value.value)} ({' to '.join(ends)})"


def _missing(what: str, bound: str) -> Verdict:
    return Verdict(what, bound, "not measured", None)


def _speedup(
    report: Report, what: str, workload: str, precision: str, who: str, peers: tuple[str, ...], least: float
) -> Verdict:
    cell = report.find(workload, "paper", precision)
    mine = cell.find(who) if cell else None
    others = [result for name in peers if cell and (result := cell.find(name))]
    bound = f"at least {least:g}×"
    if mine is None or not others:
        return _missing(what, bound)
    best = min(others, key=lambda result: result.seconds)
    found = ratio(time_of(best), time_of(mine))
    return Verdict(what, bound, _shown(found), found.value >= least)


def _level_with_c(report: Report) -> Verdict:
    what, bound = "Figure-1 curve, simulated, against C by hand", "level: 1× within noise, or better"
    cell = report.find("descent", "paper", "float64")
    mine, other = (cell.find(name) if cell else None for name in (SIMULATE, "C by hand"))
    if mine is None or other is None:
        return _missing(what, bound)
    found = ratio(time_of(other), time_of(mine))
    return Verdict(what, bound, _shown(found), found.upper >= 1)


def _least(cell: Cell | None, report: Report, by: str | None = None) -> float | None:
    """Seconds that the three products of every step take at the measured peak of large products.

    With `by`, at the lower peak that this library reaches; None if it reaches the peak, or was not measured.
    """
    peak = report.peaks.get(f"gemm_{cell.precision}") if cell else None
    if cell is None or peak is None or by == peak["by"]:
        return None
    rate = peak["rate"] if by is None else peak["ways"].get(by)
    if rate is None:
        return None
    shape = cell.shape
    return 3 * 2 * shape["n"] * shape["C"] * shape["p"] * shape["steps"] / rate


def _entropy(report: Report, precision: str) -> Verdict:
    what, bound = f"cross-entropy descent against the PyTorch loop, {precision}", "at least 1.8×"
    cell = report.find("ce", "paper", precision)
    mine, other = (cell.find(name) if cell else None for name in (SIMULATE, "PyTorch"))
    if mine is None or other is None:
        return _missing(what, bound)
    found = ratio(time_of(other), time_of(mine))
    # A program of XLA is bound by XLA's products, whatever another library's reach.
    peaks = (("the GEMM peak", _least(cell, report)), ("XLA's own", _least(cell, report, by="jax")))
    limits = ", ".join(f"{words.times(other.seconds / least)} at {name}" for name, least in peaks if least)
    limit = f"; its three products alone would be {limits}" if limits else ""
    return Verdict(what, bound, _shown(found) + limit, found.value >= 1.8)


def _products(report: Report) -> Verdict:
    what, bound = "cross-entropy descent against its three products at the measured GEMM peak", "at most 1.4×"
    parts = []
    for precision in ("float64", "float32"):
        cell = report.find("ce", "paper", precision)
        mine, least = cell.find(SIMULATE) if cell else None, _least(cell, report)
        if mine is not None and least is not None:
            own = _least(cell, report, by="jax")
            beside = f" ({mine.seconds / own:.2f}× at XLA's own)" if own else ""
            parts.append((mine.seconds / least, f"{mine.seconds / least:.2f}× in {precision}{beside}"))
    if not parts:
        return _missing(what, bound)
    return Verdict(what, bound, ", ".join(text for _, text in parts), all(value <= 1.4 for value, _ in parts))


def at_error(cell: Cell, who: str, error: float) -> Result | None:
    """A contender's fastest solve whose error is not above the given one, over all tolerances measured."""
    solves = [r for r in [*cell.results, *cell.other_tolerances] if r.contender == who and worst(r.error) <= error]
    return min(solves, key=lambda result: result.seconds, default=None)


def _equal_error(report: Report, what: str, workload: str, peer: str, least: float) -> Verdict:
    bound, parts = f"at least {least:g}×", []
    for precision in ("float64", "float32"):
        cell = report.find(workload, "paper", precision)
        other = cell.find(peer) if cell else None
        if cell is None or other is None:
            continue
        mine = at_error(cell, SIMULATE, worst(other.error))
        parts.append((precision, None if mine is None else ratio(time_of(other), time_of(mine))))
    if not parts:
        return _missing(what, bound)
    shown = ", ".join(f"{_shown(r) if r else 'never as exact'} in {precision}" for precision, r in parts)
    return Verdict(what, bound, shown, all(r is not None and r.value >= least for _, r in parts))


def _batch(report: Report, who: str) -> Verdict:
    what, bound = f"cost of a run in a larger batch over the least in a smaller one, {who}", "at most 1.1×"
    series = next((s for s in report.scaling if s.axis == "batch" and s.what == who), None)
    if series is None or len(series.costs) < 2:
        return _missing(what, bound)
    ratios = [series.costs[i] / min(series.costs[:i]) for i in range(1, len(series.costs))]
    place = int(np.argmax(ratios))
    shown = f"{words.times(ratios[place])} at {series.values[place + 1]:,} runs"
    return Verdict(what, bound, shown, ratios[place] <= 1.1)


def _samples(report: Report, who: str) -> Verdict:
    what, bound = f"log-log slope of the cost in n from 10⁴ to 10⁵, {who}", "at most 1.1"
    series = next((s for s in report.scaling if s.axis == "n" and s.what == who), None)
    if series is None or not {10_000, 100_000} <= set(series.values):
        return _missing(what, bound)
    costs = dict(zip(series.values, series.costs, strict=True))
    value = math.log10(costs[100_000] / costs[10_000])
    return Verdict(what, bound, f"{value:.2f}", value <= 1.1)


def _gradient(report: Report, kind: str, precision: str) -> Verdict:
    what, bound = f"gradient of a final observable over its forward run, {kind}, {precision}", "at most 5×"
    cell = report.find("gradient", "paper", precision)
    both = [cell.find(f"unhinged_jax {kind} {way}") if cell else None for way in ("gradient", "forward")]
    if both[0] is None or both[1] is None:
        return _missing(what, bound)
    found = ratio(time_of(both[0]), time_of(both[1]))
    return Verdict(what, bound, _shown(found), found.value <= 5)


def _startup(report: Report, what: str, command: str, base: str | None, most: float) -> Verdict:
    bound = f"under {most:g} s"
    if command not in report.startup or (base is not None and base not in report.startup):
        return _missing(what, bound)
    seconds = report.startup[command]["median"] - (report.startup[base]["median"] if base else 0.0)
    return Verdict(what, bound, words.difference(seconds), seconds < most)


def _first_call(report: Report, name: str, most: float) -> Verdict:
    what, bound = f"first call of `{name}` against plain diffrax, processor time", f"at most {most:g}×"
    if not {name, YARDSTICK} <= report.latency.keys():
        return _missing(what, bound)
    value = report.latency[name]["cold"] / report.latency[YARDSTICK]["cold"]
    return Verdict(what, bound, f"{value:.2f}×", value <= most)


def _seconds(report: Report, name: str, cache: str, most: float) -> Verdict:
    what, bound = f"{name}, {cache} cache, processor time", f"at most {most:g} s"
    if name not in report.latency:
        return _missing(what, bound)
    value = report.latency[name][cache]
    return Verdict(what, bound, f"{value:.1f} s", value <= most)


def _compiled_again(report: Report) -> Verdict:
    what, bound = "programs that a later call of ours compiles", "none"
    counts = {name: of["compiled_again"] for name, of in report.latency.items() if "compiled_again" in of}
    if not counts:
        return _missing(what, bound)
    some = [f"{count:g} by {name}" for name, count in counts.items() if count]
    return Verdict(what, bound, ", ".join(some) or "none", not some)


def rounding(precision: str) -> float:
    """Errors below this count as rounding, and are not compared: sixteen units in the last place."""
    return 16 * float(np.finfo(precision).eps)


@dataclasses.dataclass(frozen=True)
class Worse:
    """An error of ours above that of a peer."""

    cell: Cell
    curve: str
    who: str
    mine: float
    peer: str
    theirs: float


def worse_than_peers(report: Report) -> list[Worse]:
    """Where an error of ours is above that of a peer on the same part of the work, and above rounding."""
    found = []
    for cell in (one for one in report.cells if one.workload not in _STATISTICAL):
        floor = rounding(cell.precision)
        for peer in (result for result in cell.results if not result.ours):
            if not any(peer.error.values()):
                continue  # it is what errors are measured against
            for who, errors in peer.ours_error.items():
                for curve, mine in errors.items():
                    theirs = peer.error.get(curve, math.inf)
                    if math.isnan(theirs) or mine <= max(theirs, floor):
                        continue
                    found.append(Worse(cell, curve, who, mine, peer.contender, theirs))
    return found


def _accuracy(report: Report) -> Verdict:
    what = "error of everything timed against the peer's, on the same part of the work"
    bound = "not above it, beyond rounding (16 units in the last place)"
    if not report.cells:
        return _missing(what, bound)
    found = worse_than_peers(report)
    return Verdict(what, bound, f"{len(found)} above" if found else "never above", not found)
