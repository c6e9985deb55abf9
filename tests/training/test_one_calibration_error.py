"""One report, one calibration error: tables, files and pictures give the same number, that of a loop over bins."""

import csv
import dataclasses
import re

import numpy as np

from unhinged_jax.training.experiments import figures, report
from unhinged_jax.training.experiments.outcome import ExperimentOutcome
from unhinged_jax.training.experiments.plan import Experiment


def outcome(case, seeds=3):
    """Two seeds that ended, of different calibration, and one that was stopped and knows nothing."""
    draw = np.random.default_rng(len(case.variant))
    labels = np.arange(40) % 4
    logits = draw.normal(size=(seeds, 40, 4)) + np.array([1.0, 5.0, 0.0])[:, None, None] * np.eye(4)[labels]
    logits[2] = np.nan
    history = {"test_accuracy": np.ones((2, seeds))}
    return ExperimentOutcome(
        case.variant, case.point, history, labels, logits, np.ones((seeds, 40)), {}, np.array([-1, -1, 1]),
        np.full(4, 10), 1.0,
    )  # fmt: skip


def by_hand(logits, labels, bins=15):
    total = 0.0
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for b in range(bins):
        inside = [i for i in range(len(p)) if b / bins < p[i].max() <= (b + 1) / bins]
        total += abs(sum(p[i].argmax() == labels[i] for i in inside) - sum(p[i].max() for i in inside))
    return total / len(p)


def test_every_place_shows_the_same_number(tmp_path, monkeypatch):
    plan = Experiment.read("imbalance")
    few = [c for c in plan.cases if c.variant in ("CE", "UL") and c.point in ("long-tailed 100", "step 100")]
    plan = dataclasses.replace(plan, cases=tuple(few))
    found = [outcome(case) for case in plan.cases]
    right = {(o.variant, o.point): [by_hand(o.logits[seed], o.labels) for seed in range(2)] for o in found}
    drawn = {}
    whole = figures.reliability_diagrams

    def kept(chosen):
        picture = whole(chosen)
        texts = [axes.texts[0].get_text() for axes in picture.axes]
        variants, points = (list(dict.fromkeys(getattr(o, name) for o in chosen)) for name in ("variant", "point"))
        for o in chosen:
            drawn[o.variant, o.point] = texts[points.index(o.point) * len(variants) + variants.index(o.variant)]
        return picture

    facts = {"command": "", "processor_seconds_of_cases": 1.0, "seconds": 1.0}
    monkeypatch.setattr(figures, "reliability_diagrams", kept)
    text = report.write(plan, found, tmp_path, facts)[0].read_text()
    with (tmp_path / "values.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["measure"] == "ece"]
    for (variant, point), values in right.items():
        mean = 100 * np.mean(values)
        mine = [float(row["value"]) for row in rows if (row["variant"], row["point"]) == (variant, point)]
        np.testing.assert_allclose(mine[:2], values, rtol=1e-8)
        assert np.isnan(mine[2])
        table = text[text.index("ECE (%)") :]
        head, line = table.splitlines()[0], next(x for x in table.splitlines() if x.startswith(f"| {variant} |"))
        cell = line.split("|")[[part.strip() for part in head.split("|")].index(point) + 1]
        assert float(re.search(r"[\d.]+", cell)[0]) == np.round(mean, 2), (variant, point)
        if point.startswith("long-tailed"):
            assert drawn[variant, point].endswith(f"ECE {mean:.1f} %")
    assert len(right) == 4 and len(drawn) == 2
