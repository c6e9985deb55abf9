"""`verify` and the rows of the certificate: right runs pass, and wrong ones are noticed."""

import dataclasses
import importlib
import math

import jax
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax.comparison import state_errors

certificate = importlib.import_module("unhinged_jax.certificate.cases")
command = importlib.import_module("unhinged_jax.certificate.command")

MODEL = uj.regularized(uj.from_counts([3, 2, 1]), 4, decay=(0.1, 0.05), gamma=0.3, bias=True)
TIMES = [0, 10, 50, 100, 110, 120]


@pytest.fixture(scope="module")
def runs():
    """A simulated and an exact run of the same problem, in float64."""
    rng = np.random.default_rng(0)
    state = uj.State(rng.normal(size=(6, 4)), rng.normal(size=(3, 4)), np.zeros(3))
    return [
        solve(MODEL, uj.Descent(0.3), state, TIMES, ["norm", "log_distance"], states=True, precision="float64")
        for solve in (uj.simulate, uj.exact)
    ]


def test_right_runs_agree(runs):
    found = uj.verify(*runs)
    assert set(found.errors) == {"H", "W", "b", "norm", "log_distance"}
    assert 0 < found.worst < 1e-11
    assert found.rate == pytest.approx(found.rate_of_truth, rel=1e-9)
    assert found.rate > 0.01
    assert "norm" in repr(found) and f"{found.worst:.2e}" in repr(found)


def test_a_wrong_observable_is_measured(runs):
    _, truth = runs
    values = np.array(truth["norm"])
    values[2] *= 1.01
    wrong = dataclasses.replace(truth, observables={"norm": values})
    assert uj.verify(wrong, truth).errors["norm"] == pytest.approx(0.01, rel=1e-9)
    values[2] = np.nan
    assert uj.verify(wrong, truth).worst == math.inf


@pytest.mark.parametrize("name", ["H", "W", "b"])
def test_a_wrong_state_is_measured(runs, name):
    _, truth = runs
    right = np.asarray(getattr(truth.states, name))
    off = right.copy()
    off[3] *= 1 + 1e-6
    wrong = dataclasses.replace(truth, states=dataclasses.replace(truth.states, **{name: off}))
    errors = uj.verify(wrong, truth).errors
    assert errors[name] == pytest.approx(1e-6, rel=1e-6)
    assert [errors[other] for other in "HWb" if other != name] == [0, 0]


def test_states_at_another_scale_are_the_same(runs):
    _, truth = runs
    states = truth.states
    log_scale = np.asarray(states.log_scale) + np.log(2.0)
    half = dataclasses.replace(states, H=np.asarray(states.H) / 2, W=np.asarray(states.W) / 2, log_scale=log_scale)
    assert uj.verify(dataclasses.replace(truth, states=half), truth).worst < 1e-15


def test_runs_that_cannot_be_compared_are_refused(runs):
    run, truth = runs
    with pytest.raises(ValueError, match="same times"):
        uj.verify(dataclasses.replace(run, times=np.array([0, 10, 50, 100, 110, 121])), truth)
    with pytest.raises(ValueError, match="no observable in common"):
        uj.verify(dataclasses.replace(run, observables={}, states=None), truth)


ROW = certificate.Row(
    "case", "flow", "float64", error_H=1e-9, error_W=2e-9, error_b=0.0, bound=1e-8, rate=0.1, predicted=0.10001,
    rate_bound=1e-3, order=1.01, seconds=1.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({}, True),
        ({"error_H": 2e-8}, False),
        ({"error_W": 2e-8}, False),
        ({"error_b": 2e-8}, False),
        ({"error_dense": 2e-8}, False),
        ({"error_dense": math.nan}, False),
        ({"error_H": math.nan}, False),
        ({"error_H": math.inf}, False),
        ({"rate": 0.1002}, False),
        ({"rate": math.nan}, False),
        ({"rate": math.nan, "predicted": math.nan}, True),
        ({"order": 0.9}, False),
        ({"order": 2.0}, False),
        ({"order": math.nan}, True),
        ({"deviation": 1.0, "deviation_bound": 3.5}, True),
        ({"deviation": 3.6, "deviation_bound": 3.5}, False),
        ({"deviation": math.nan, "deviation_bound": 3.5}, False),
    ],
)
def test_a_row_passes_only_if_every_bound_is_kept(change, passed):
    assert dataclasses.replace(ROW, **change).passed is passed


def test_the_certificate_covers_every_problem_in_flow_and_descent():
    rows = certificate.cases()
    for name, model in certificate.problems().items():  # from a balanced start only the flow of squared error is solved
        assert {row.how for row in rows if row.name == name} >= {"flow", *["descent"] * model.loss.linear}
    assert {row.precision for row in rows} == {"float32", "float64"}
    assert {row.how for row in rows} >= {"momentum", "Nesterov", "cosine descent"}


def case_of(name, how):
    return next(c for c in certificate.cases() if (c.name, c.how, c.precision) == (name, how, "float64"))


@pytest.mark.long
def test_a_row_of_runs_that_draw_passes_and_a_wrong_expectation_fails_it(monkeypatch):
    case, truth = case_of("regularized, noisy counts", "distinct batches"), certificate.exact
    monkeypatch.setattr(certificate, "DRAWS", 1000)
    right = certificate.run_case(case)
    assert right.passed and 0 < right.deviation < right.deviation_bound < 5
    other = dataclasses.replace(case.dynamics, replacement=True)
    monkeypatch.setattr(certificate, "exact", lambda model, _, *rest: truth(model, other, *rest))
    wrong = certificate.run_case(case)
    assert not wrong.passed and wrong.deviation > wrong.deviation_bound
    command._table([right, wrong])


def test_a_case_passes_and_one_wrong_coefficient_fails_it(monkeypatch):
    case, simulated = case_of("regularized", "flow"), []

    def once(*inputs, **settings):
        """The simulation knows no coefficients, so that both comparisons can use one."""
        if not simulated:
            simulated.append(uj.simulate(*inputs, **settings))
        return simulated[0]

    monkeypatch.setattr(certificate, "simulate", once)
    row = certificate.run_case(case)
    assert row.passed, row
    assert 0 < max(row.error_H, row.error_W) < case.bound
    assert row.predicted > 0

    coefficients = importlib.import_module("unhinged_jax.closed_form.flow")
    right = coefficients.flow_coefficients

    def wrong(*inputs):
        found = right(*inputs)
        return dataclasses.replace(found, W_from_W=1.0001 * found.W_from_W)

    monkeypatch.setattr(coefficients, "flow_coefficients", wrong)
    jax.clear_caches()  # what is compiled still holds the right coefficients
    try:
        broken = certificate.run_case(case)
    finally:
        jax.clear_caches()
    assert not broken.passed
    assert max(broken.error_H, broken.error_W) > 1e-5


@pytest.mark.parametrize("off", [0.0, 1e-6])
def test_the_dense_update_is_compared_too(monkeypatch, off):
    """Only a run with reduce=False is wrong here; a case of float32, which has none, does not notice."""

    def run(model, dynamics, state, times, observe, *, states, precision, reduce=True):
        kept = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], len(times), axis=0), state)
        kept = kept if reduce else kept.replace(W=kept.W * (1 + off))
        return uj.Trajectory(times, {}, np.ones(len(times), bool), state, times[-1], 0, 0, states=kept)

    for name in ("simulate", "exact"):
        monkeypatch.setattr(certificate, name, run)
    monkeypatch.setattr(certificate, "_rates", lambda *inputs: (math.nan, math.nan))
    monkeypatch.setattr(certificate, "_order", lambda *inputs: math.nan)
    row = certificate.run_case(case_of("regularized", "descent"))
    assert row.error_dense == pytest.approx(off, rel=1e-6) and row.passed is (off == 0)
    rough = next(c for c in certificate.cases() if (c.name, c.precision) == ("regularized", "float32"))
    assert certificate.run_case(rough).passed


def test_states_that_were_not_reached_are_infinitely_wrong():
    whole = uj.State(np.ones((2, 4, 3)), np.ones((2, 2, 3)), np.zeros((2, 2)), np.zeros(2))
    cut = jax.tree.map(lambda leaf: np.where(np.arange(2).reshape(-1, *[1] * (leaf.ndim - 1)), np.nan, leaf), whole)
    for pair in ((cut, whole), (whole, cut), (cut, cut)):
        assert state_errors(*pair)["H"] == np.inf
    assert state_errors(whole, whole) == {"H": 0.0, "W": 0.0, "b": 0.0}
