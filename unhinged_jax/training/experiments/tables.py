"""Means over seeds with their intervals, as Markdown and CSV."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from unhinged_jax._files import whole
from unhinged_jax.training.experiments.markdown import as_text
from unhinged_jax.training.experiments.outcome import ExperimentOutcome


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over the seeds that ended well, with its standard error and 95 % interval."""

    value: float
    error: float
    low: float
    high: float
    seeds: int

    def percent(self) -> str:
        """The entry of a table, in percent, with the standard error."""
        if not self.seeds:
            return "stopped"
        return f"{100 * self.value:.2f} ± {100 * self.error:.2f}" if self.seeds > 1 else f"{100 * self.value:.2f}"


def mean_of(values: np.ndarray) -> Mean:
    """The mean of one value per seed, without NaN; Student's t interval.

    Example:
        >>> mean_of(np.array([1.0, 3.0, np.nan])).value
        2.0
    """
    kept = np.asarray(values, float)
    kept = kept[np.isfinite(kept)]
    if kept.size == 0:
        return Mean(np.nan, np.nan, np.nan, np.nan, 0)
    value = float(kept.mean())
    if kept.size == 1:
        return Mean(value, np.nan, np.nan, np.nan, 1)
    error = float(kept.std(ddof=1) / np.sqrt(kept.size))
    half = float(stats.t.ppf(0.975, kept.size - 1)) * error
    return Mean(value, error, value - half, value + half, kept.size)


def grid(
    outcomes: Sequence[ExperimentOutcome], measure: Callable[[ExperimentOutcome], np.ndarray]
) -> dict[str, dict[str, Mean]]:
    """Variant -> point -> mean of a measure of each seed."""
    found: dict[str, dict[str, Mean]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.variant, {})[outcome.point] = mean_of(measure(outcome))
    return found


def markdown(table: dict[str, dict[str, Mean]], unit: str, corner: str = "") -> str:
    """A Markdown table in percent, the best of every column in bold."""
    points = list(next(iter(table.values())))
    largest = unit != "lower"
    best = {
        point: (max if largest else min)(
            (row[point].value for row in table.values() if row[point].seeds), default=np.nan
        )
        for point in points
    }
    heads = [corner, *(as_text(point) or "all" for point in points)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, row in table.items():
        cells = [f"**{row[p].percent()}**" if row[p].value == best[p] else row[p].percent() for p in points]
        lines.append(f"| {as_text(name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_csv(
    path: Path, outcomes: Sequence[ExperimentOutcome], measures: dict[str, Callable[[ExperimentOutcome], np.ndarray]]
) -> Path:
    """One line per variant, point, measure and seed, so that nothing is averaged away."""
    with whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", "point", "measure", "seed", "value"])
        for outcome in outcomes:
            for name, measure in measures.items():
                for seed, value in enumerate(measure(outcome)):
                    writer.writerow([outcome.variant, outcome.point, name, seed, f"{value:.9g}"])
    return path


def verdict(outcomes: Sequence[ExperimentOutcome], reference: str, candidate: str) -> str:
    """Whether the candidate is above the reference or within one standard error of it, in words and numbers."""
    known = {outcome.variant: outcome for outcome in outcomes}
    given = reference, candidate
    reference, candidate = (as_text(name) for name in given)
    a, b = (mean_of(known[name].accuracy) for name in given)
    both = known[given[1]].accuracy - known[given[0]].accuracy
    gap = mean_of(both)
    error = np.hypot(a.error, b.error)
    if not (a.seeds and b.seeds):
        return f"{candidate} or {reference} was stopped, so they cannot be compared."
    holds = b.value >= a.value - error
    close = "within one standard error of" if holds else "more than one standard error below"
    word = "above" if b.value >= a.value else close
    return (
        f"{candidate} reaches {b.percent()} % and {reference} {a.percent()} %: {candidate} is {word} {reference} "
        f"(difference {100 * gap.value:+.2f}, standard error {100 * error:.2f}, 95 % interval of the paired difference "
        f"{100 * gap.low:+.2f} to {100 * gap.high:+.2f})."
    )
