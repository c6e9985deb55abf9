"""Legends of sweep maps: every line is named by what it means, whatever stands before it or in another panel."""

import json

import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax.sweep.boundaries import boundaries
from unhinged_jax.sweep.maps import map_figure
from unhinged_jax.sweep.report import _boundaries

xarray = pytest.importorskip("xarray", reason="sweeps need xarray")

CLASSES = 10
NOISE = [0.0, 0.6]


def plan_of(grid, labels=None):
    tables = {
        "model": {"case": "regularized", "dim": 4, "decay": 0.1},
        "labels": {"layout": "balanced", "classes": CLASSES, "per_class": 2, **(labels or {})},
        "dynamics": {"kind": "flow"},
        "run": {"times": [0, 1], "observe": ["log_norm"]},
        "sweep": {"method": "exact", "seeds": 1, "grid": grid},
    }
    return uj.Plan.of(tables, check=False)


GAMMA = {"model.gamma": [0.0, 0.02, 0.1, 0.5, 1.0]}
DECAY = {"model.decay": [0.02, 0.2, 2.0]}
NOISY = {"noise": {"kind": "symmetric", "rate": 0.1, "expected": True}}


def crossings(rate, classes):
    """The trade-offs at which the singular value of the contrasts is that of the mean, by bisection of Lemma 9."""

    def gap(gamma):
        contrast = (1 - rate * classes / (classes - 1)) * (1 + gamma)
        return contrast - abs(1 + gamma - gamma * classes)

    grid = np.linspace(1e-9, 3, 20_001)
    signs = np.sign([gap(g) for g in grid])
    return grid[:-1][signs[:-1] != signs[1:]]


@pytest.fixture(scope="module")
def drawn():
    plan = plan_of({**GAMMA, **DECAY, "labels.noise.rate": NOISE}, NOISY)
    names = {dim.axes[0].key: dim.name for dim in plan.dims}
    order = [names["model.gamma"], names["model.decay"], names["labels.noise.rate"], "seed"]
    shape = [plan.shape[name] for name in order]
    values = np.random.default_rng(0).normal(size=(*shape, 2))
    data = xarray.Dataset(
        {"log_norm": ((*order, "time"), values), "result": (order, np.zeros(shape, int))},
        coords={"time": [0.0, 1.0]},
    )
    return plan, order, map_figure(plan, data, (order[0], order[1]), 1)


def looks(line):
    """How a line is dashed."""
    return line.get_linestyle(), tuple(line._unscaled_dash_pattern[1] or ())


def test_lines_are_named_by_what_they_are(drawn):
    _, _, figure = drawn
    (legend,) = figure.legends
    named = {
        looks(line): text.get_text() for line, text in zip(legend.get_lines(), legend.get_texts(), strict=True)
    }
    assert len(named) == len(legend.get_texts())  # no two meanings look alike
    panels = [axes for axes in figure.axes if axes.get_xlabel()]
    assert len(panels) == len(NOISE)
    for axes, rate in zip(panels, NOISE, strict=True):
        seen = {}
        for line in axes.get_lines():
            if line.get_color() == "#D55E00" and np.ptp(line.get_xdata()) == 0:  # upright: a trade-off
                seen.setdefault(named[looks(line)], []).append(line.get_xdata()[0])
        name = "σ of contrasts = σ of mean" if rate else "γ = 2/(C−2)"
        assert list(seen) == [name], (rate, seen)
        np.testing.assert_allclose(sorted(seen[name]), crossings(rate, CLASSES), atol=2e-4)


def test_the_report_shows_a_line_only_where_it_belongs(drawn):
    plan, order, _ = drawn
    lines = json.loads(json.dumps(_boundaries(plan, order[:3])))
    for line in lines:
        if line["meaning"] == "γ = 2/(C−2)":
            assert line["at"] == {"2": 0}  # without noise
            assert {x for x, _ in line["points"]} == {2 / (CLASSES - 2)} or line["y"] == 0
        if line["meaning"] == "σ of contrasts = σ of mean":
            assert line["at"] == {"2": 1}
    assert len({line["meaning"] for line in lines}) == len({line["dashes"] for line in lines})


def test_a_trade_off_moves_with_the_number_of_classes():
    counts = [4, 6, 11]
    plan = plan_of({**GAMMA, "labels.classes": counts})
    x, y = (next(dim.name for dim in plan.dims if dim.axes[0].key == key) for key in ("labels.classes", "model.gamma"))
    (line,) = [line for line in boundaries(plan, x, y, {}) if line.meaning == "γ = 2/(C−2)"]
    np.testing.assert_allclose(line.y, [2 / (count - 2) for count in counts], rtol=1e-12)


def test_decays_joined_with_different_values_have_no_line_at_the_first_of_them():
    tables = plan_of(GAMMA).tables()
    tables["model"]["decay"] = [0.1, 0.1]

    def meanings(other):
        zipped = {"name": "decays", "model.decay.0": [0.02, 0.2, 2.0], "model.decay.1": other}
        plan = uj.Plan.of({**tables, "sweep": {**tables["sweep"], "zip": zipped}}, check=False)
        return {line.meaning for line in boundaries(plan, "gamma", "decays", {})}

    assert "λ₁λ₂ = max σ²" in meanings([0.02, 0.2, 2.0])
    assert "λ₁λ₂ = max σ²" not in meanings([2.0, 2.0, 2.0])
