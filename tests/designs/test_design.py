"""Design by gradient: domains, plans, and a design that ends at what theory says."""

import json

import jax
import numpy as np
import pytest

from unhinged_jax import cli
from unhinged_jax.config import ConfigError
from unhinged_jax.designs.domains import Domain
from unhinged_jax.designs.optimise import DesignOutcome, design
from unhinged_jax.designs.plan import SHIPPED, DesignPlan
from unhinged_jax.designs.reference import Reference, _Axis

RUN = {
    "model": {"case": "unconstrained", "dim": 4},
    "labels": {"layout": "counts", "counts": [9, 4, 1]},
    "dynamics": {"kind": "flow"},
    "run": {"times": [5.0], "precision": "float64"},
}
WEIGHTS = {
    "free": {"labels.class_weights": {"domain": "simplex", "start": [0.3, 0.3, 0.4]}},
    "goal": [{"observe": "spread", "of": "modes"}],
    "steps": 150,
}


@pytest.mark.parametrize(
    ("domain", "inside"),
    [
        (Domain("real"), [-3.0, 2.0]),
        (Domain("positive"), [1e-6, 40.0]),
        (Domain("interval", low=-1.0, high=3.0), [-0.9, 2.9]),
        (Domain("simplex", total=4.0), [0.5, 3.0, 0.5]),
        (Domain("sphere", total=5.0), [[3.0, 0.0], [0.0, 4.0]]),
    ],
)
def test_coordinates_and_domains_are_inverse_and_leave_no_domain(domain, inside):
    with jax.enable_x64(True):
        np.testing.assert_allclose(domain.inside(domain.outside(inside)), inside, rtol=1e-12)
        far = np.asarray(domain.inside(30.0 * np.random.default_rng(0).normal(size=np.shape(inside))))
    assert np.all(np.isfinite(far))
    if domain.kind == "simplex":
        assert far.sum() == pytest.approx(4.0, rel=1e-12) and np.all(far >= 0)
    if domain.kind == "sphere":
        assert np.linalg.norm(far) == pytest.approx(5.0, rel=1e-12)
    if domain.kind == "interval":
        assert np.all((far >= -1) & (far <= 3))


def test_weights_that_equalise_the_modes_are_the_inverse_roots_of_the_counts(tmp_path):
    """The design is not told n_c^(-1/2); [9, 4, 1] makes it 2 : 3 : 6."""
    plan = DesignPlan.of({**RUN, "design": {**WEIGHTS, "reference": {"kind": "counts"}}})
    outcome = design(plan)
    np.testing.assert_allclose(outcome.values["labels.class_weights"], np.array([2.0, 3.0, 6.0]) / 11, rtol=1e-3)
    assert outcome.met and outcome.objective < 1e-6 < outcome.objectives[0]
    assert outcome.path["labels.class_weights"].shape == (151, 3)
    np.testing.assert_allclose(outcome.path["labels.class_weights"].sum(axis=1), 1.0, rtol=1e-12)
    assert "within 2 %" in repr(outcome)


def test_the_command_writes_what_it_found_and_its_status_says_how_near(tmp_path, capsys):
    table = "\n".join(
        [
            "[model]\ncase = 'unconstrained'\ndim = 4",
            "[labels]\nlayout = 'counts'\ncounts = [9, 4, 1]",
            "[dynamics]\nkind = 'flow'\n[run]\ntimes = [5]\nprecision = 'float64'",
            "[design]\nsteps = 3\nreference = {kind = 'counts'}",
            "[design.free.'labels.class_weights']\ndomain = 'simplex'\nstart = [0.3, 0.3, 0.4]",
            "[[design.goal]]\nobserve = 'spread'\nof = 'modes'",
        ]
    )
    (tmp_path / "plan.toml").write_text(table)
    out = tmp_path / "out"
    assert cli.main(["design", str(tmp_path / "plan.toml"), "--out", str(out)]) == 3  # three steps are too few
    assert "NOT within 2 %" in capsys.readouterr().out
    told = json.loads((out / "design.json").read_text())
    assert told["within_2_percent"] is False and told["reference"]["source"] == "n_c^-0.5"
    assert len((out / "path.csv").read_text().splitlines()) == 5
    assert (out / "path.png").stat().st_size > 10_000
    assert not list(out.glob(".unfinished-*"))
    assert cli.main(["design", str(tmp_path / "plan.toml"), "--out", str(out)]) == 1
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"free": {}}, "at least one key"),
        ({"goal": [{"observe": "loss", "goal": "best"}]}, "goal must be one of"),
        ({"goal": [{"observe": "loss", "off": "run"}]}, "unknown key 'off'; did you mean 'of'"),
        ({"free": {"model.gamma": {"domain": "interval", "start": 0.5}}}, "needs `low` below `high`"),
        ({"free": {"model.gamma": {"domain": "positive", "start": -0.5}}}, "must be above 0"),
        ({"free": {"model.gamma": {"domain": "positive"}}}, "give it a `start`"),
        ({"reference": {"kind": "oracle"}}, "reference kind must be one of"),
    ],
)
def test_bad_plans_are_refused_with_their_place(change, message):
    with pytest.raises(ConfigError, match=message):
        DesignPlan.of({**RUN, "design": {**WEIGHTS, **change}}, "my.toml")


def test_every_shipped_plan_reads():
    for name in SHIPPED:
        plan = DesignPlan.read(name)
        assert plan.design.reference is not None and plan.design.title


def test_a_design_is_judged_in_objective_and_in_place():
    reference = Reference(1.0, {"x": np.array([2.0])}, "known")
    near, far = (
        DesignOutcome({"x": np.array([x])}, value, {}, np.array([11.0, value]), {}, reference)
        for x, value in ((2.02, 1.1), (3.0, 1.1))
    )
    assert near.gap == pytest.approx(0.01) and near.met
    assert far.distance == pytest.approx(0.5) and not far.met
    assert DesignOutcome({}, 1.0, {}, np.array([2.0, 1.0]), {}, None).met is None


def test_a_zoomed_grid_stays_in_its_range():
    axis = _Axis("x", None, 0.01, 1.0, log=True)
    assert axis.points(3, None, 1.0) == pytest.approx([0.01, 0.1, 1.0])
    assert axis.points(3, 1.0, 0.5)[-1] == pytest.approx(1.0)


SCALAR = {
    **RUN,
    "model": {"case": "regularized", "dim": 4, "decay": [0.1, 0.2]},
    "design": {"goal": [{"observe": "norm"}], "free": {}, "steps": 1},
}


def plan_with(key, **entry):
    return DesignPlan.of({**SCALAR, "design": {**SCALAR["design"], "free": {key: {"domain": "interval", **entry}}}})


RANGES = {
    "NaN": ("model.decay.0", {"low": float("nan"), "high": 1.0}, "low must hold finite numbers"),
    "the wrong way": ("model.decay.0", {"low": 1.0, "high": 0.05}, "`low` must be below `high`"),
    "below 0": ("model.decay.0", {"low": -1.0, "high": 1.0}, "'model.decay.0' cannot be -0.99.*decay_H must be"),
    "a grid from 0": ("model.gamma", {"low": 0, "high": 1.0, "start": 0.5, "spacing": "log"}, "`low` above 0"),
    "a grid from nearly 0": ("model.gamma", {"low": 1e-320, "high": 1.0, "start": 0.5, "spacing": "log"}, "2.2e-308"),
    "a rate below 0": ("dynamics.schedule", {"low": -1e-4, "high": 1.0, "start": 0.5}, "'dynamics.schedule' cannot be"),
    "no such key": ("model.decai", {"low": 0.0, "high": 1.0, "start": 0.5}, "'model.decai' is not a key"),
    "no such entry": ("model.decay.7", {"low": 0.0, "high": 1.0, "start": 0.5}, "'model.decay.7' is not a key"),
}  # fmt: skip


@pytest.mark.parametrize("what", RANGES)
def test_a_range_that_the_run_cannot_have_is_refused(what):
    key, entry, message = RANGES[what]
    with pytest.raises(ConfigError, match=message):
        plan_with(key, **entry)


def test_a_free_key_may_lie_inside_a_list():
    plan = plan_with("model.decay.0", low=0.05, high=1.0)
    assert plan.free["model.decay.0"].inside(plan.start["model.decay.0"]).item() == pytest.approx(0.1)
