"""Plans: reading them, their designs, what is data of a program and what is structure; boundaries of theory."""

import copy
import json

import jax
import numpy as np
import pytest
from scipy.stats import qmc

import unhinged_jax as uj
from unhinged_jax import config
from unhinged_jax.sweeps.boundaries import boundaries, critical_gammas, critical_noise
from unhinged_jax.sweeps.groups import grouping_of
from unhinged_jax.sweeps.layout import Layout, layout_of
from unhinged_jax.sweeps.plan import SHIPPED

BASE = {
    "model": {"case": "regularized", "dim": 3, "decay": 0.1, "gamma": 0.5},
    "labels": {"layout": "balanced", "classes": 3, "per_class": 2},
    "dynamics": {"kind": "descent", "schedule": {"kind": "cosine", "peak": 0.1, "horizon": 20}},
    "run": {"times": [0, 5, 20], "observe": ["norm", "accuracy"], "precision": "float64"},
}


def plan(sweep, **sections):
    """A plan: BASE with some keys of some sections replaced."""
    tables = copy.deepcopy(BASE)
    for name, keys in sections.items():
        tables.setdefault(name, {}).update(keys)
    return uj.SweepPlan.of({**tables, "sweep": sweep})


# --- reading ------------------------------------------------------------------------------------

BAD = {
    "no axis": ({"grid": {"gamma": [0.1]}}, "dotted key"),
    "unknown key": ({"grid": {"model.gama": [0.1, 0.2]}}, "'gama'"),
    "unknown section": ({"grid": {"modell.gamma": [0.1, 0.2]}}, "'modell'"),
    "value out of range": ({"grid": {"model.decay": [0.1, -0.2]}}, "decay"),
    "value of a wrong type": ({"grid": {"model.dim": [2, 2.5]}}, "whole number"),
    "a value twice": ({"grid": {"model.gamma": [0.1, 0.1]}}, "twice"),
    "empty": ({"grid": {"model.gamma": []}}, "list of values"),
    "NaN": ({"grid": {"model.gamma": [0.1, float("nan")]}}, "finite"),
    "span without count": ({"grid": {"model.gamma": {"from": 0, "to": 1}}}, "count"),
    "span downwards": ({"grid": {"model.gamma": {"from": 1, "to": 0, "count": 3}}}, "smaller to a larger"),
    "log from zero": ({"grid": {"model.gamma": {"from": 0, "to": 1, "count": 3, "spacing": "log"}}}, "from > 0"),
    "misspelt option": ({"grid": {"model.gamma": {"from": 0, "to": 1, "cuont": 3}}}, "'cuont'"),
    "values and span": ({"grid": {"model.gamma": {"from": 0, "to": 1, "values": [1]}}}, "either"),
    "zip of two lengths": ({"zip": {"model.gamma": [0, 1], "model.decay": [0.1]}}, "equally many"),
    "one key twice": ({"grid": {"model.gamma": [0, 1]}, "zip": {"model.gamma": [0, 1]}}, "two axes"),
    "one name twice": ({"grid": {"model.gamma": [0, 1], "model.decay": {"values": [0, 1], "name": "gamma"}}}, "called"),
    "times vary": ({"grid": {"run.until": [1, 2]}}, "share times"),
    "no seeds": ({"seeds": 0}, "seeds"),
    "seed twice": ({"seeds": [1, 1]}, "different"),
    "seed as an axis": ({"grid": {"state.seed": [1, 2]}}, "seeded"),
    "seeded by no seed": ({"seeds": 2, "seeded": ["model.dim"]}, "'.seed'"),
    "Sobol of no power of 2": ({"random": {"count": 6, "model.gamma": {"from": 0, "to": 1}}}, "count = 8"),
    "unknown design": ({"random": {"design": "halton", "count": 4, "model.gamma": {"from": 0, "to": 1}}}, "halton"),
    "random without axes": ({"random": {"count": 4}}, "needs axes"),
    "unknown method": ({"method": "guess"}, "guess"),
    "labels of another number": ({"grid": {"model.gamma": {"values": [0, 1], "labels": ["a"]}}}, "labels"),
    "place beyond a list": ({"grid": {"model.decay.2": [0, 1]}}, "decay"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_plan_that_cannot_be_says_why(case):
    sweep, word = BAD[case]
    with pytest.raises(ValueError, match=word.replace("(", r"\(")) as error:
        plan(sweep)
    assert str(error.value).startswith("plan: ") and str(error.value).count("plan: ") == 1
    assert "\n" not in str(error.value)


def test_a_plan_without_a_sweep_section_and_states_are_refused():
    with pytest.raises(ValueError, match=r"\[sweep\]"):
        uj.SweepPlan.of(BASE)
    with pytest.raises(ValueError, match="states"):
        plan({"seeds": 2}, run={"states": True})


def test_python_and_toml_say_the_same(tmp_path):
    text = """
[model]
case = "unconstrained"
dim = 3
[labels]
layout = "balanced"
classes = 3
per_class = 2
[dynamics]
kind = "flow"
[run]
times = [0, 1]
[sweep]
seeds = 3
[sweep.grid]
"model.gamma" = {from = 0.1, to = 0.9, count = 5}
"""
    (tmp_path / "plan.toml").write_text(text)
    read = uj.SweepPlan.read(tmp_path / "plan.toml")
    made = uj.SweepPlan.of(
        {
            "model": {"case": "unconstrained", "dim": np.int64(3)},
            "labels": {"layout": "balanced", "classes": 3, "per_class": 2},
            "dynamics": {"kind": "flow"},
            "run": {"times": np.array([0, 1])},
            "sweep": {"seeds": range(3), "grid": {"model.gamma": np.linspace(0.1, 0.9, 5)}},
        }
    )
    assert read.shape == made.shape == {"gamma": 5, "seed": 3}
    assert read.points == 15
    np.testing.assert_allclose(read.dims[0].axes[0].values, made.dims[0].axes[0].values, rtol=1e-15)
    assert uj.SweepPlan.of(read.tables()).tables() == read.tables()
    assert read.config_at({"gamma": 4, "seed": 2}).model.gamma == 0.9
    assert read.config_at({"gamma": 4, "seed": 2}).state.seed == 2


# --- designs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", ["sobol", "latin_hypercube"])
def test_random_designs_fill_their_strata_and_follow_their_seed(design):
    def drawn(seed):
        spans = {"model.gamma": {"from": 0.2, "to": 1.2}, "model.decay": {"from": 1e-3, "to": 1e-1, "spacing": "log"}}
        found = plan({"random": {"design": design, "count": 16, "seed": seed, **spans}})
        return np.array([axis.values for axis in found.dims[0].axes])

    gamma, decay = drawn(1)
    shares = np.array([gamma - 0.2, np.log(decay / 1e-3) / np.log(100)])
    # Both designs put exactly one of 16 points into each 16th of every axis.
    for share in shares:
        assert sorted(np.floor(16 * share).astype(int)) == list(range(16))
    np.testing.assert_array_equal(drawn(1), drawn(1))
    assert not np.array_equal(drawn(1), drawn(2))
    assert qmc.discrepancy(shares.T) < 0.05


def test_a_geometric_span_has_equal_ratios_and_its_ends_as_given():
    axis = plan({"grid": {"model.decay": {"from": 1e-3, "to": 0.3, "count": 7, "spacing": "log"}}}).dims[0].axes[0]
    np.testing.assert_allclose(np.diff(np.log(axis.values)), np.log(300) / 6, rtol=1e-12)
    assert (axis.values[0], axis.values[-1]) == (1e-3, 0.3)


# --- structure and data -------------------------------------------------------------------------


def test_what_changes_no_shape_is_data_and_the_rest_makes_programs():
    found = grouping_of(
        plan(
            {
                "seeds": 2,
                "grid": {
                    "model.gamma": [0.1, 0.2],
                    "dynamics.schedule.peak": [0.1, 0.2],
                    "dynamics.schedule.horizon": [10, 20],
                    "labels.per_class": [2, 3],
                    "dynamics.rate_H + dynamics.rate_W": [1.0, 2.0],
                },
                "zip": {"name": "loss", "model.loss": ["unhinged", "unhinged"], "model.decay": [0.1, 0.2]},
            }
        )
    )
    data = {key for keys in found.traced for key in keys}
    assert data == {
        "model.gamma", "dynamics.schedule.peak", "dynamics.schedule.horizon", "dynamics.rate_H", "dynamics.rate_W",
        "model.decay", "state.seed",
    }  # fmt: skip
    assert found.separate == (False, False, False, True, False, True, False)
    assert len(found.groups) == 2  # per_class: the two entries of the zip have one structure
    assert sorted(found.which.values()) == [0, 0, 1, 1]


def test_label_noise_and_momentum_and_single_decays_are_data():
    sweep = {
        "seeds": 2, "seeded": ["state.seed", "labels.noise.seed"],
        "grid": {"labels.noise.rate": [0.1, 0.2], "dynamics.momentum": [0.1, 0.9], "model.decay.1": [0.1, 0.2]},
    }  # fmt: skip
    noise = {"kind": "symmetric", "rate": 0.1, "seed": 0}
    found = grouping_of(plan(sweep, labels={"noise": noise}, model={"decay": [0.1, 0.2]}))
    assert len(found.groups) == 1
    assert not any(found.separate)


def test_points_without_a_closed_form_or_with_other_times_are_refused():
    with pytest.raises(ValueError, match=r"model.loss = 'mse'.*closed form"):
        grouping_of(plan({"method": "exact", "grid": {"model.loss": ["unhinged", "mse"]}}, model={"gamma": None}))
    kinds = {"grid": {"dynamics.kind": ["flow", "descent"]}}
    with pytest.raises(ValueError, match="times"):
        grouping_of(plan(kinds, run={"times": None, "until": 30, "points": 8}))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_plans_need_few_programs(name):
    shipped = uj.SweepPlan.read(name)
    found = grouping_of(shipped)
    assert len(found.groups) == {"phase": 1, "noise": 1, "imbalance": 6, "schedules": 5}[name]
    if name == "phase":
        assert shipped.shape == {"gamma": 64, "decay": 64, "seed": 16}


# --- layout -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "separate", "lanes"), [((5, 7, 3), (False,) * 3, 16), ((4, 9), (True, False), 4)])
def test_blocks_cover_every_point_once(shape, separate, lanes):
    layout = layout_of(shape, separate, lanes, order=range(len(shape)))
    seen = np.zeros(shape, int)
    for number in range(layout.blocks):
        region = layout.slices(number)
        seen[region] += 1
        assert layout.size(number) == seen[region].size <= max(lanes, 16)
        assert all(part.stop - part.start == 1 for part, alone in zip(region, separate, strict=True) if alone)
    assert np.all(seen == 1)


def test_blocks_fill_dimensions_in_the_order_given():
    assert layout_of((64, 64), (False, False), 64, order=(0, 1)).block == (64, 1)
    assert layout_of((64, 64), (False, False), 64, order=(1, 0)).block == (1, 64)
    assert Layout((3,), (2,)).counts == (2,)


# --- boundaries: against singular values of the signal matrix, by NumPy -------------------------


def singular_values(**sections):
    """Of the dense signal matrix of a configuration, largest first."""
    tables = copy.deepcopy(BASE)
    for name, keys in sections.items():
        tables[name].update(keys)
    tables = json.loads(json.dumps(tables, default=float))  # NumPy's numbers as Python's
    with jax.enable_x64(True):
        problem = config.build_stateless(config.config_of(tables))
        return np.linalg.svd(np.asarray(problem.model.signal().dense("float64")), compute_uv=False)


def wins(classes, gamma, rate):
    """Whether the top left singular vectors are contrasts: the largest singular value is (C-1)-fold."""
    noise = {"kind": "symmetric", "rate": rate, "expected": True}
    values = singular_values(labels={"classes": classes, "noise": noise}, model={"gamma": gamma})
    return bool(np.isclose(values[0], values[classes - 2], rtol=1e-9))


@pytest.mark.parametrize("classes", [4, 10])
@pytest.mark.parametrize("gamma", [0.02, 0.1, 0.15])
def test_contrasts_lose_to_the_mean_at_the_critical_noise(classes, gamma):
    rate = critical_noise(gamma, classes)
    assert wins(classes, gamma, rate - 1e-4)
    assert not wins(classes, gamma, rate + 1e-4)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_contrasts_win_between_the_critical_trade_offs(rate):
    low, high = critical_gammas(rate, 10)
    assert critical_noise(high, 10) == pytest.approx(rate, abs=1e-12)
    assert wins(10, high - 1e-4, rate) and not wins(10, high + 1e-4, rate)
    if rate:
        assert wins(10, low + 1e-4, rate) and not wins(10, low - 1e-4, rate)
    else:
        assert high == 2 / (10 - 2)


def lines(found, x, y):
    return {line.meaning: line for line in boundaries(found, x, y, {})}


def test_the_growth_boundary_is_the_largest_singular_value():
    found = plan({"grid": {"model.gamma": [0.0, 0.4, 2.5], "model.decay": [0.1, 0.2]}})
    drawn = lines(found, "gamma", "decay")
    line = drawn["λ₁λ₂ = max σ²"]
    want = [singular_values(model={"gamma": gamma})[0] for gamma in line.x]
    np.testing.assert_allclose(line.y, want, rtol=1e-5)
    np.testing.assert_allclose(line.y, np.maximum(1 + line.x, np.abs(1 - 2 * line.x)) / (3 * np.sqrt(2)), rtol=1e-5)
    np.testing.assert_array_equal(drawn["γ = 2/(C−2)"].x, 2.0)
    swapped = lines(found, "decay", "gamma")["λ₁λ₂ = max σ²"]
    np.testing.assert_array_equal(swapped.x, line.y)


def test_with_two_decays_the_product_counts():
    found = plan({"grid": {"model.decay.0": [0.1, 0.2, 0.4], "model.gamma": [0.1, 0.5]}}, model={"decay": [0.1, 0.05]})
    line = lines(found, "gamma", "0")["λ₁λ₂ = max σ²"]
    np.testing.assert_allclose(line.y * 0.05, [singular_values(model={"gamma": g})[0] ** 2 for g in line.x], rtol=1e-5)


def test_weights_to_the_half_power_equalise_contrasts_under_a_long_tail():
    labels = {"layout": "long_tailed", "largest": 20, "ratio": 10.0, "per_class": None, "classes": 4}
    model = {"gamma": None, "case": "unconstrained", "decay": None}

    def top(exponent):
        tables = copy.deepcopy(BASE)
        tables["labels"] = {k: v for k, v in {**labels, "weight_exponent": exponent}.items() if v is not None}
        tables["model"] = {k: v for k, v in {**tables["model"], **model}.items() if v is not None}
        with jax.enable_x64(True):
            problem = config.build_stateless(config.config_of(tables))
            return np.linalg.svd(np.asarray(problem.model.signal().dense("float64")), compute_uv=False)[:3]

    np.testing.assert_allclose(top(0.5), top(0.5)[0], rtol=1e-9)
    assert top(0.45)[0] > 1.01 * top(0.45)[2]
    found = plan({"grid": {"labels.weight_exponent": [0.0, 1.0], "labels.ratio": [1.0, 5.0]}},
                 labels={"layout": "long_tailed", "largest": 10, "ratio": 2.0, "per_class": None})  # fmt: skip
    assert list(lines(found, "weight_exponent", "ratio")) == ["exponent ½: equal contrasts"]


def test_no_boundary_is_drawn_where_the_theory_does_not_hold():
    found = plan({"grid": {"model.gamma": [0.1, 0.2], "model.decay": [0.1, 0.2]}}, model={"case": "spherical"})
    assert boundaries(found, "gamma", "decay", {}) == []


@pytest.mark.parametrize(("axis", "named"), [
    ({"values": [0.1, 0.2], "label": "$\\gamma_{$"}, "axis 'model.gamma': label is"),
    ({"values": [0.1, 0.2], "labels": ["low", "$\\nope$"]}, "axis 'model.gamma': labels is"), (None, "title is"),
])  # fmt: skip
def test_a_text_of_pictures_that_is_not_tex_is_refused_with_its_key(axis, named):
    """matplotlib found out only while it drew, and did not say whose text it was."""
    grid = {"model.gamma": axis or [0.1, 0.2]}
    title = {"title": "5 $\\frac{1$"} if axis is None else {}
    with pytest.raises(
        config.ConfigError, match=rf"\[sweep\]: {named} .*which matplotlib cannot typeset: (Expected|Unknown)"
    ):
        plan({"grid": grid, **title})
    plan({"grid": {"model.gamma": {"values": [0.1, 0.2], "label": "price in $, $\\gamma$"}}, "title": "5 $"})
