"""Times that can be compared: contenders in alternating rounds, noisy rounds dropped, repeated until stable."""

from __future__ import annotations

import dataclasses
import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax


class Meter(Protocol):
    """Tells how many cores other processes keep busy."""

    def begin(self) -> None:
        """Start to count."""

    def foreign(self) -> float | None:
        """Cores kept busy by others since `begin`, or None where that cannot be known."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """When to stop.

    Attributes:
        least, most: Rounds to keep at least, and to run at most.
        seconds: No new round once this much time is spent and `least` rounds were run.
        sample: Least seconds of one sample; shorter calls are repeated inside it.
        spread: A contender is stable once its interquartile range is below this share of its median.
        foreign: A round during which others keep more cores busy than this is dropped.
        settle: Seconds between two samples, for threads of the last one to go to sleep.
    """

    least: int = 3
    most: int = 15
    seconds: float = 30.0
    sample: float = 0.1
    spread: float = 0.05
    foreign: float = 0.15
    settle: float = 0.02


@dataclasses.dataclass(frozen=True)
class Quartiles:
    """Median and quartiles of a few times."""

    median: float
    lower: float
    upper: float

    @property
    def spread(self) -> float:
        """Interquartile range over median."""
        return (self.upper - self.lower) / self.median if self.median else math.inf


def quartiles(values: Sequence[float]) -> Quartiles:
    """Of at least one value; the extremes where there are fewer than four."""
    if len(values) < 4:
        return Quartiles(statistics.median(values), min(values), max(values))
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(median, lower, upper)


@dataclasses.dataclass(frozen=True)
class Ratio:
    """A ratio of medians, with the band that the quartiles of both leave open."""

    value: float
    lower: float
    upper: float


def ratio(numerator: Quartiles, denominator: Quartiles) -> Ratio:
    """numerator / denominator."""
    return Ratio(
        numerator.median / denominator.median,
        numerator.lower / denominator.upper,
        numerator.upper / denominator.lower,
    )


def stable(samples: Mapping[str, Sequence[float]], limits: Limits) -> bool:
    """Whether every contender has enough samples that lie close enough together."""
    return all(len(values) >= limits.least and quartiles(values).spread <= limits.spread for values in samples.values())


@dataclasses.dataclass
class Rounds:
    """What alternating rounds gave.

    Attributes:
        samples: Seconds a call, by contender; of quiet rounds only, unless there were too few.
        kept, dropped: Numbers of rounds.
        quiet: Whether the samples are of quiet rounds; None if foreign load cannot be known.
        foreign: Largest foreign load of a kept round, in cores; None if unknown.
    """

    samples: dict[str, list[float]]
    kept: int
    dropped: int
    quiet: bool | None
    foreign: float | None


def timed(run: Callable[[], Any], calls: int = 1, clock: Callable[[], float] = time.perf_counter) -> tuple[float, Any]:
    """Seconds a call, waiting for what it computes, and what the last call returned."""
    begin = clock()
    result = None
    for _ in range(calls):
        result = jax.block_until_ready(run())
    return (clock() - begin) / calls, result


def alternate(
    runs: Mapping[str, Callable[[], Any]],
    limits: Limits,
    meter: Meter,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Rounds:
    """Time every run once a round, in alternating order, until all are stable or time is up."""
    begin = clock()
    calls: dict[str, int] = {}
    quiet: list[dict[str, float]] = []
    noisy: list[dict[str, float]] = []
    loads: dict[bool, list[float | None]] = {True: [], False: []}
    names = list(runs)
    gc.collect()
    for number in range(limits.most):
        if len(quiet) + len(noisy) >= limits.least and clock() - begin > limits.seconds:
            break
        meter.begin()
        current = {}
        for name in names if number % 2 == 0 else reversed(names):
            seconds, _ = timed(runs[name], calls.get(name, 1), clock)
            current[name] = seconds
            sleep(limits.settle)
        load = meter.foreign()
        fresh = [name for name in names if name not in calls]
        if fresh:  # the first round only tells how many calls make a sample that the clock resolves
            calls = {name: max(1, math.ceil(limits.sample / max(current[name], 1e-9))) for name in names}
            if any(count > 1 for count in calls.values()):
                continue
        silent = load is None or load <= limits.foreign
        (quiet if silent else noisy).append(current)
        loads[silent].append(load)
        if stable(_columns(quiet, names), limits):
            break
    enough = len(quiet) >= limits.least
    rounds = quiet if enough else quiet + noisy
    used = loads[True] if enough else loads[True] + loads[False]
    known = [load for load in used if load is not None]
    return Rounds(
        samples=_columns(rounds, names),
        kept=len(rounds),
        dropped=len(noisy) if enough else 0,
        quiet=None if not known else enough,
        foreign=max(known) if known else None,
    )


def _columns(rounds: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, list[float]]:
    return {name: [one[name] for one in rounds] for name in names}
