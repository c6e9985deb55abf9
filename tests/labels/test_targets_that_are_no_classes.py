"""Targets that are any numbers: regression, several labels for a sample, codes of classes; beside plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

import unhinged_jax as uj
from unhinged_jax.derivatives.parameters import available

N, P, ETA, DECAY = 7, 4, 0.2, (0.02, 0.05)
RNG = np.random.default_rng(11)
TRUTH = np.array([0, 1, 2, 0, 1, 2, 1])
ROWS = {
    "regression": uj.targets(RNG.normal(size=(N, 3))),
    "one output": uj.targets(RNG.normal(size=N)),
    "several labels": uj.targets(RNG.integers(0, 2, (N, 3))),
    "codes": uj.targets(2.0 * np.eye(3)[TRUTH] - 1, truth=TRUTH),
}


def binary(logits, targets):
    """Cross-entropy of every output by itself."""
    return jnp.sum(jnp.logaddexp(0.0, logits) - targets * logits, axis=-1)


def start(C, seed=1):
    rng = np.random.default_rng(seed)
    return uj.State(rng.normal(size=(N, P)), rng.normal(size=(C, P)), rng.normal(size=C))


def looped(pull_of, state, updates):
    H, W, b = state.H, state.W, state.b
    for _ in range(updates):
        pull = pull_of(H @ W.T + b) / N
        down = pull @ W - DECAY[0] * H, pull.T @ H - DECAY[1] * W, pull.sum(axis=0) - DECAY[1] * b
        H, W, b = (part + ETA * step for part, step in zip((H, W, b), down, strict=True))
    return H, W, b


def close(run, parts):
    for name, part in zip("HWb", parts, strict=True):
        np.testing.assert_allclose(getattr(run.final, name), part, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ROWS)
def test_squared_error_descends_to_the_given_numbers(name):
    labels = ROWS[name]
    Y = np.asarray(labels.targets, float)
    model = uj.regularized(labels, P, decay=DECAY, bias=True, loss="mse")
    run = uj.simulate(model, uj.Descent(ETA), start(labels.classes), [0, 15], ["loss", "norm_W"])
    parts = looped(lambda S: Y - S, start(labels.classes), 15)
    close(run, parts)
    assert float(run.last("loss")) == pytest.approx(np.sum((parts[0] @ parts[1].T + parts[2] - Y) ** 2) / 2 / N)


@pytest.mark.parametrize("loss", ["cross_entropy", binary])
def test_several_labels_for_a_sample(loss):
    labels = ROWS["several labels"]
    Y = np.asarray(labels.targets, float)

    def pull(S):
        odds = np.exp(S)
        return Y - (
            odds / (1 + odds) if loss is binary else Y.sum(axis=1, keepdims=True) * odds / odds.sum(axis=1)[:, None]
        )

    model = uj.regularized(labels, P, decay=DECAY, bias=True, loss=loss)
    close(uj.simulate(model, uj.Descent(ETA), start(3), [9], "loss"), looped(pull, start(3), 9))


@pytest.mark.long_for("regression")
@pytest.mark.parametrize("name", ["regression", "one output"])
def test_closed_form_of_the_linear_loss(name):
    labels, tau = ROWS[name], 3.0
    C, state, Y = labels.classes, start(labels.classes), np.asarray(labels.targets, float)
    model = uj.regularized(labels, P, decay=DECAY, gamma=0.3)
    M = (1.3 * Y - 0.3) / N
    K = np.block([[-DECAY[0] * np.eye(N), M], [M.T, -DECAY[1] * np.eye(C)]])
    end = expm(K * tau) @ np.concatenate([state.H, state.W])
    run = uj.exact(model, uj.Flow(), state, [tau], ["loss", "distance"])
    close(run, (end[:N], end[N:], state.b))
    simulated = uj.simulate(model, uj.Flow(rtol=1e-10), state, [tau], ["distance"])
    assert float(simulated.last("distance")) == pytest.approx(float(run.last("distance")), rel=1e-6)


def test_ridge_regression_is_where_frozen_features_end():
    labels, state = ROWS["regression"], start(3)
    model = uj.frozen(labels, P, decay=0.1, loss="mse")
    run = uj.simulate(model, uj.Descent(0.5), state, [3_000], "norm_W")
    H, Y = state.H, np.asarray(labels.targets) - state.b
    ridge = np.linalg.solve(H.T @ H / N + 0.1 * np.eye(P), H.T @ Y / N).T
    np.testing.assert_allclose(run.final.W, ridge, rtol=1e-10, atol=1e-12)


def test_codes_with_a_truth_have_an_accuracy():
    labels, state = ROWS["codes"], start(3)
    model = uj.regularized(labels, P, decay=DECAY, bias=True, loss="mse")
    found = uj.observe_state(model, state, ["accuracy", "nc1"])
    expected = np.mean(np.argmax(state.H @ state.W.T + state.b, axis=1) == TRUTH)
    assert float(found["accuracy"]) == pytest.approx(expected, abs=1e-6)
    assert labels.counts().tolist() == [2, 3, 2]
    assert labels.replace(targets=np.ones((N, 3))).kind == "values"


@pytest.mark.parametrize("name", ["accuracy", "accuracy_margin", "margin_min", "nc1", "nc3_self_duality", "cdnv"])
def test_what_needs_classes_is_refused(name):
    model = uj.regularized(ROWS["regression"], P, decay=DECAY, loss="mse")
    for ask in (
        lambda: uj.simulate(model, uj.Descent(0.1), start(3), [1], name),
        lambda: uj.observe_state(model, start(3), name),
        lambda: uj.event_time(model, uj.Descent(0.1), start(3), name, 0.5, times=[0, 1], method="simulate"),
    ):
        with pytest.raises(ValueError, match="the targets are numbers, not classes; give `truth`"):
            ask()


def test_sets_of_observables_leave_out_what_needs_classes():
    model = uj.regularized(ROWS["regression"], P, decay=DECAY, loss="mse")
    run = uj.simulate(model, uj.Descent(0.1), start(3), [1])
    assert "loss" in run.observables and "accuracy" not in run.observables
    named = available(model, uj.Descent(0.1), start(3))
    assert "class_weights" not in named and "sample_weights" in named


WRONG = {
    "event": (lambda: uj.event_time(
        uj.regularized(ROWS["regression"], P, decay=0.1), uj.Flow(), start(3), "accuracy is 1", times=[0, 1.0]),
        "not classes"),
    "weights of classes": (lambda: ROWS["regression"].weighted(classes=[1.0, 2, 3]), "not classes"),
    "counts": (lambda: ROWS["regression"].counts(), "not classes"),
    "noise": (lambda: ROWS["codes"].symmetric_noise(0.1), "one-hot labels.*'values'"),
    "hinge": (lambda: uj.regularized(ROWS["regression"], P, decay=0.1, loss="hinge"), "Hinge has no meaning.*distr"),
    "focal": (lambda: uj.unconstrained(ROWS["several labels"], P, loss="focal"), "Focal has no meaning"),
    "negative": (lambda: uj.unconstrained(ROWS["codes"], P, loss="cross_entropy"), "CrossEntropy.*of at least 0"),
    "replaced": (lambda: uj.unconstrained(uj.balanced(3, 2), P, loss="hinge").replace(labels=ROWS["codes"]), "Hinge"),
    "one output": (lambda: uj.unconstrained(ROWS["one output"], P), "single output.*gamma=0"),
    "NaN": (lambda: uj.targets([[np.nan, 1.0]]), "finite"),
    "shape": (lambda: uj.targets(np.ones((2, 2, 2))), r"\(n, C\), or \(n,\)"),
    "truth": (lambda: uj.targets(np.ones((2, 3)), truth=[0, 3]), "truth"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "says"), WRONG.values(), ids=WRONG)
def test_what_has_no_meaning_says_so(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_files_hold_targets():
    sections = {
        "model": {"case": "regularized", "dim": P, "decay": 0.1, "loss": "mse"},
        "labels": {"layout": "targets", "targets": np.asarray(ROWS["regression"].targets).tolist()},
        "dynamics": {"kind": "descent", "schedule": 0.1},
        "run": {"until": 5, "observe": ["loss"]},
        "sweep": {"method": "simulate", "grid": {"model.decay": [0.1, 0.2]}},
    }
    plan = uj.SweepPlan.of(sections)
    from unhinged_jax.config import build

    problem = build(plan.config_at({}))
    assert problem.model.labels.kind == "values"
    np.testing.assert_allclose(problem.model.labels.targets, ROWS["regression"].targets)


def test_traced_targets_can_be_differentiated():
    def loss(Y):
        model = uj.regularized(uj.targets(Y), P, decay=DECAY, loss="mse")
        return uj.simulate(model, uj.Descent(ETA), start(3), [5], "loss").last("loss")

    Y = np.asarray(ROWS["regression"].targets)
    with jax.enable_x64(True):
        slope = np.asarray(jax.grad(loss)(jnp.asarray(Y)))
    step = np.zeros_like(Y)
    step[2, 1] = 1e-6
    ends = []
    for near in (Y - step, Y + step):
        state = start(3)
        H, W, b = state.H, state.W, state.b
        for _ in range(5):
            pull = (near - H @ W.T - b) / N
            H, W = H + ETA * (pull @ W - DECAY[0] * H), W + ETA * (pull.T @ H - DECAY[1] * W)
        ends.append(np.sum((H @ W.T + b - near) ** 2) / 2 / N)
    assert slope[2, 1] == pytest.approx((ends[1] - ends[0]) / 2e-6, rel=1e-6)
