"""The report of an experiment: a CSV file of every seed, figures, and a page with tables and how they were made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unhinged_jax._files import whole
from unhinged_jax.training.data.load import LICENCES
from unhinged_jax.training.experiments import figures, tables
from unhinged_jax.training.experiments.markdown import as_code, as_text
from unhinged_jax.training.experiments.outcome import ExperimentOutcome
from unhinged_jax.training.experiments.plan import Experiment
from unhinged_jax.training.metrics import SCORES, detection, scores

Written = tuple[str, dict[str, Any], dict[str, Any]]  # the text, figures by name, measures of the CSV


def write(
    experiment: Experiment, outcomes: Sequence[ExperimentOutcome], out: Path, facts: dict[str, Any]
) -> list[Path]:
    """Write report.md, values.csv, report.json and the figures.

    Returns:
        Their paths, report.md first.
    """
    text, drawn, measures = _REPORTS[experiment.about.report](experiment, outcomes)
    paths = [path for name, figure in drawn.items() for path in figures.save(figure, out, name)]
    paths.append(tables.write_csv(out / "values.csv", outcomes, measures))
    return [page(experiment, out, text, list(drawn), facts, _made(experiment, outcomes)), *paths]


def page(experiment: Experiment, out: Path, text: str, drawn: list[str], facts: dict[str, Any], made: str) -> Path:
    """Write report.md and report.json."""
    pictures = "\n".join(f"![{name}]({name}.png)\n" for name in drawn)
    command = f"{as_code(facts['command'])}: " if facts["command"] else ""
    used = facts["processor_seconds_of_cases"]
    spent = f" {used:.0f} s of processor time." if np.isfinite(used) else ""
    foot = f"{command}{made}{spent}"
    with whole(out / "report.md") as part:
        part.write_text(f"# {as_text(experiment.about.title)}\n\n{text}\n\n{pictures}\n{foot}\n", encoding="utf-8")
    facts = {name: value for name, value in facts.items() if value == value}  # JSON has no NaN
    record = {"experiment": experiment.name, **facts, "cases": [case.settings.tables() for case in experiment.cases]}
    with whole(out / "report.json") as part:
        part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return out / "report.md"


def _made(experiment: Experiment, outcomes: Sequence[ExperimentOutcome]) -> str:
    first = experiment.cases[0].settings
    sizes = sorted({int(o.counts.sum()) for o in outcomes})
    images = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return (
        f"{len(first.seeds)} seeds; {LICENCES[first.data.name]}; {images} training and {outcomes[0].labels.size} test "
        f"images; {first.network.kind}, {first.network.features} features; {first.train.epochs} epochs, batch "
        f"{first.train.batch}, rate {first.train.rate:g}, weight decay {first.train.weight_decay:g}."
    )


def _accuracy(outcome: ExperimentOutcome) -> np.ndarray:
    return outcome.accuracy


def _ece(outcome: ExperimentOutcome) -> np.ndarray:
    return outcome.calibration_error


def _stopped(outcomes: Sequence[ExperimentOutcome]) -> str:
    told = [
        as_text(f"{o.variant} {o.point}") + f" stopped in epoch {', '.join(str(e + 1) for e in o.stopped if e >= 0)}"
        for o in outcomes
        if np.any(o.stopped >= 0)
    ]
    return "Stopped before overflow: " + "; ".join(told) + "." if told else ""


def _curves(experiment: Experiment, outcomes: Sequence[ExperimentOutcome]) -> Written:
    table = tables.markdown(tables.grid(outcomes, _accuracy), "higher", "test accuracy (%), mean ± standard error")
    lowest = min(np.nanmin(o.accuracy) for o in outcomes)
    parts = [table, f"The lowest accuracy of any seed of any variant is {100 * lowest:.2f} %."]
    about = experiment.about
    if about.reference and about.candidate:
        parts.append(tables.verdict(outcomes, about.reference, about.candidate))
    parts.append(_stopped(outcomes))
    return "\n\n".join(p for p in parts if p), {"accuracy": figures.accuracy_curves(outcomes)}, {"accuracy": _accuracy}


def _table(experiment: Experiment, outcomes: Sequence[ExperimentOutcome]) -> Written:
    table = tables.markdown(tables.grid(outcomes, _accuracy), "higher", "test accuracy (%)")
    figure = figures.against_points(outcomes, "test accuracy (%)", xlabel=experiment.about.axis or "")
    return "\n\n".join(p for p in (table, _stopped(outcomes)) if p), {"accuracy": figure}, {"accuracy": _accuracy}


def _imbalance(experiment: Experiment, outcomes: Sequence[ExperimentOutcome]) -> Written:
    accuracy = tables.markdown(tables.grid(outcomes, _accuracy), "higher", "test accuracy (%)")
    ece = tables.markdown(tables.grid(outcomes, _ece), "lower", "ECE (%), 15 bins")
    drawn = {"accuracy": figures.against_points(outcomes, "test accuracy (%)", xlabel=experiment.about.axis or "")}
    for name, start in (("reliability-ce", "CE"), ("reliability-ul", "UL")):
        chosen = [o for o in outcomes if o.variant.startswith(start) and o.point.startswith("long-tailed")]
        if chosen:
            drawn[name] = figures.reliability_diagrams(chosen)
    return f"{accuracy}\n\n{ece}\n\n{_stopped(outcomes)}", drawn, {"accuracy": _accuracy, "ece": _ece}


def _detected(outcome: ExperimentOutcome, source: str, score: str, metric: str) -> np.ndarray:
    inside, outside = scores(outcome.logits, outcome.norms)[score], scores(*outcome.outside[source])[score]
    return np.array([detection(a, b)[metric] for a, b in zip(inside, outside, strict=True)])


def _detection(_experiment: Experiment, outcomes: Sequence[ExperimentOutcome]) -> Written:
    parts, measures = [], {"accuracy": _accuracy}
    for source in outcomes[0].outside:
        for metric in ("fpr95", "auroc", "aupr"):
            columns: dict[str, dict[str, tables.Mean]] = {o.variant: {} for o in outcomes}
            for score in SCORES:
                measure = partial(_detected, source=source, score=score, metric=metric)
                measures[f"{source} {score} {metric}"] = measure
                for outcome in outcomes:
                    columns[outcome.variant][score.replace("_", " ")] = tables.mean_of(measure(outcome))
            better = "lower" if metric == "fpr95" else "higher"
            parts.append(tables.markdown(columns, better, f"{metric.upper()} (%) against {source}"))
    accuracy = tables.markdown(tables.grid(outcomes, _accuracy), "higher", "test accuracy (%)")
    return "\n\n".join([accuracy, *parts]), {"scores": figures.score_histograms(outcomes)}, measures


def _blowup(_experiment: Experiment, outcomes: Sequence[ExperimentOutcome]) -> Written:
    lines = ["| | last feature norm | last prototype norm | longest/shortest prototype | accuracy (%) | ended |"]
    lines.append("|" + "---|" * 6)
    for o in outcomes:
        last = {name: tables.mean_of(values[-1]).value for name, values in o.history.items()}
        epochs = ", ".join(str(int(e) + 1) for e in sorted({*o.stopped}) if e >= 0)
        ended = f"stopped in epoch {epochs}" if epochs else "all epochs"
        lines.append(
            f"| {as_text(o.variant)} | {last['feature_norm']:.3g} | {last['norm_W']:.3g} | "
            f"{last['prototype_ratio']:.3g} | {100 * last['test_accuracy']:.1f} | {ended} |"
        )
    return "\n".join(lines), {"growth": figures.growth(outcomes)}, {"stopped": lambda o: o.stopped}


_REPORTS = {
    "curves": _curves, "table": _table, "imbalance": _imbalance, "detection": _detection, "blowup": _blowup
}  # fmt: skip
