"""The paper's figures: their data, their plan, and the published vertices of the first 300 updates."""

import numpy as np
import pytest

from unhinged_jax import exact, simulate
from unhinged_jax.paper import figures, published, reproduce
from unhinged_jax.paper.figures import FIGURES, UPDATES

FIRST = 300
PUBLISHED = {number + panel.letter for number, make in FIGURES.items() for panel in make().panels} & {
    *("1a", "1b", "1c", "1d", "5a", "5b", "5c", "5d", "5e", "9a", "9b", "9c", "9d", "9e", "9f")
}


def stand_in(monkeypatch, t, value):
    monkeypatch.setattr(published, "vertices", lambda panel: {"curve": (np.array(t), np.array(value))})


def test_agreement_is_measured_against_a_millionth(monkeypatch):
    stand_in(monkeypatch, [0, 5, 9], [1.0, -2.0, 4.0])
    indices = np.arange(10)
    ours = np.ones(10)
    ours[[5, 9]] = -2.0, 4.0
    assert published.deviation("1b", "curve", indices, ours) == {"points": 3, "worst": 0.0}
    ours[5] = -2.0 * (1 + 3e-6)
    assert published.deviation("1b", "curve", indices, ours)["worst"] == pytest.approx(3, rel=1e-6)
    with pytest.raises(ValueError, match="without a curve 'another'"):
        published.deviation("1b", "another", indices, ours)
    ours[5] = np.nan
    assert not published.deviation("1b", "curve", indices, ours)["worst"] <= 1


def test_values_of_zero_allow_no_difference(monkeypatch):
    stand_in(monkeypatch, [3], [0.0])
    assert published.deviation("1b", "curve", np.arange(5), np.zeros(5))["worst"] == 0
    assert published.deviation("1b", "curve", np.arange(5), np.full(5, 1e-9))["worst"] == np.inf


def test_what_was_rounding_in_the_original_is_left_out(monkeypatch):
    stand_in(monkeypatch, [0, 1], [1.0, published.FLOOR / 2])
    ours = np.array([1.0, 7.0])
    assert published.deviation("1c", "curve", np.arange(2), ours) == {"points": 1, "worst": 0.0}
    assert published.deviation("1d", "curve", np.arange(2), ours)["points"] == 2
    monkeypatch.setattr(published, "vertices", lambda panel: {"gamma=0.05": (np.array([0, 40_000]), np.ones(2))})
    found = published.deviation("1b", "gamma=0.05", np.array([0, 40_000]), np.array([1.0, 0.0]))
    assert found == {"points": 1, "worst": 0.0}


def test_curves_carry_the_published_labels():
    seen = set()
    for number, make in FIGURES.items():
        figure = make()
        for panel in figure.panels:
            curves = figure.curves_of.get(panel.letter, figure.curves)
            labels = {curve.label for curve in curves} - set(panel.omit)
            vertices = published.vertices(number + panel.letter)
            if vertices:
                seen.add(number + panel.letter)
                assert set(vertices) == labels, number + panel.letter
    assert len(PUBLISHED) == 15 and seen == PUBLISHED


def test_the_plan_holds_every_published_vertex_and_enough_besides():
    chosen = [make() for make in FIGURES.values()]
    plans = reproduce.plan_indices(chosen, {"6b": {17, 12_345}, "15a": {4_321}})
    assert set(plans) == set(FIGURES)
    for figure in chosen:
        for points in plans[figure.number]:
            assert len(points) >= 400
            assert np.all(np.diff(points) > 0) and points[0] == 0 and points[-1] == UPDATES - 1
        for panel in figure.panels:
            for t, _ in published.vertices(figure.number + panel.letter).values():
                assert np.all(np.isin(t, plans[figure.number][panel.after])), (figure.number, panel.letter)
    assert {17, 12_345} <= set(plans["6"][1])
    assert 4_321 in plans["15"][0]
    for side in (0, 1):
        assert len({plans[number][side].size for number in ("5", "6", "7", "8")}) == 1


def test_indices_are_read_by_panel(tmp_path):
    path = tmp_path / "at.csv"
    path.write_text("figure,t\n6b,17\n 6b , 12345 \n15a,0\n")
    assert reproduce.read_indices(path) == {"6b": {17, 12_345}, "15a": {0}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("panel,t\n6b,1\n", "must have the columns figure and t"),
        ("", "must have the columns figure and t"),
        ("figure,t\n6b,1\n6z,1\n", "line 3: there is no panel '6z'"),
        ("figure,t\n2a,1\n", "there is no panel '2a'"),
        ("figure,t\n6,1\n", "there is no panel '6'"),
        ("figure,t\n6b,1.5\n", "t must be a whole number, but is '1.5'"),
        ("figure,t\n6b,-1\n", "must lie in 0"),
        (f"figure,t\n6b,{UPDATES}\n", "must lie in 0"),
    ],
)
def test_bad_indices_are_refused(tmp_path, text, words):
    path = tmp_path / "at.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        reproduce.read_indices(path)


def test_figures_come_in_the_order_of_the_paper():
    assert reproduce.figure_numbers(["15", "1"]) == ["1", "15"]
    assert reproduce.figure_numbers([]) == list(FIGURES)
    with pytest.raises(ValueError, match="no figure '2'"):
        reproduce.figure_numbers(["1", "2"])


@pytest.mark.parametrize(("worst", "status"), [(0.9, 0), (1.1, 1)])
def test_a_missed_vertex_is_a_failure(tmp_path, capsys, worst, status):
    row = {
        "points": 3,
        "simulated_minus_exact": 1e-13,
        "last": 0.0,
        "published_simulated": {"points": 2, "worst": 0.1},
        "published_exact": {"points": 2, "worst": worst},
    }
    panel = {"title": "loss", "curves": {"gamma=0": row}}
    summary = {"figures": {"1": {"panels": {"1a": panel}}}, "seconds": 1.0}
    assert reproduce.report(summary, tmp_path) == status


@pytest.mark.long_for("exact-1", "simulate-1")
@pytest.mark.parametrize("number", ["1", pytest.param("5", marks=pytest.mark.long)])
@pytest.mark.parametrize("solve", [simulate, exact])
def test_the_first_updates_meet_the_published_vertices(monkeypatch, number, solve):
    """At the paper's full size, from the paper's own start."""
    early = {}
    for name in PUBLISHED:
        curves = {label: (t[t < FIRST], value[t < FIRST]) for label, (t, value) in published.vertices(name).items()}
        early[name] = curves
    monkeypatch.setattr(published, "vertices", lambda panel: early.get(panel, {}))
    figure = FIGURES[number]()
    state = figures.start(figure)
    sides = [[early[number + panel.letter].values() for panel in figure.panels if panel.after == s] for s in (0, 1)]
    before, after = (np.unique(np.concatenate([t for panel in side for t, _ in panel])) for side in sides)
    compared = 0
    for panels, curve in figure.runs():
        for letter, (t, values) in reproduce.run_curve(solve, figure, curve, panels, before, after, state).items():
            found = published.deviation(number + letter, curve.label, t, values)
            assert found["worst"] <= 1, (letter, curve.label)
            compared += found["points"]
    assert compared >= 40
