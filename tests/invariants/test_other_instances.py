"""Numbers that were silently wrong beside those first found: other functions, sizes and containers of each kind."""

import equinox as eqx
import jax
import numpy as np
import pytest

import unhinged_jax as uj

LABELS = uj.balanced(3, 4)
RNG = np.random.default_rng(3)
STATE = uj.State(RNG.normal(size=(12, 4)), RNG.normal(size=(3, 4)), np.zeros(3))
UNCONSTRAINED = uj.unconstrained(LABELS, 4)


def seen(model, state, names):
    return {name: float(value) for name, value in uj.observe_state(model, state, names).items()}


def test_nothing_times_infinity_is_nothing():
    W, H = np.eye(3, 4), np.repeat(np.eye(3, 4), 4, axis=0)
    H[0] = 0  # a sample at the origin: its margin is 0 at any scale
    found = seen(UNCONSTRAINED, uj.State(H, W, np.zeros(3), 500.0), ["margin_min", "margin_mean", "loss", "objective"])
    assert found == {"margin_min": 0.0, "margin_mean": np.inf, "loss": -np.inf, "objective": -np.inf}
    flat = uj.State(H, np.zeros((3, 4)), np.zeros(3), 500.0)
    assert seen(UNCONSTRAINED, flat, [*found]) == dict.fromkeys(found, 0.0)


@pytest.mark.parametrize(("decay", "sign"), [(1e-3, -1), (0.1, -1), (10.0, 1)])
def test_objective_of_two_infinite_terms_is_the_larger(decay, sign):
    H, W = np.repeat(np.eye(3, 4), 4, axis=0), np.eye(3, 4)
    # In units of e^1000 the data term is -1, since every sample scores 1 at its own class, and the rest 15 decay / 2.
    found = seen(uj.regularized(LABELS, 4, decay=decay), uj.State(H, W, np.zeros(3), 500.0), ["objective"])
    assert found["objective"] == sign * np.inf and np.sign(-1 + 15 * decay / 2) == sign


@pytest.mark.parametrize(("loss", "wrong"), [("cross_entropy", np.inf), ("hinge", np.inf), ("mse", np.inf)])
def test_losses_of_logits_beyond_the_range(loss, wrong):
    H, W = np.repeat(np.eye(3, 4), 4, axis=0), np.eye(3, 4)
    model = uj.unconstrained(LABELS, 4, loss=loss)
    right = np.inf if loss == "mse" else 0.0
    assert seen(model, uj.State(H, W, np.zeros(3), 500.0), ["loss"])["loss"] == right
    assert seen(model, uj.State(H, -W, np.zeros(3), 500.0), ["loss"])["loss"] == wrong
    large = seen(model, uj.State(H, -W, np.zeros(3), 150.0), ["loss"])["loss"]  # e^300 itself is within it
    assert np.log(large) == pytest.approx({"cross_entropy": 300, "hinge": 300, "mse": 600 - np.log(2)}[loss], abs=1e-9)


def test_a_batch_of_limits_says_that_it_is_one():
    model = uj.regularized(LABELS, 4, decay=0.05)
    starts = np.stack([STATE.H, -2 * STATE.H]).astype(np.float32)
    W, b = STATE.W.astype(np.float32), STATE.b.astype(np.float32)
    batch = jax.vmap(lambda H: uj.limit(model, uj.Flow(), uj.State(H, W, b)))(starts)
    assert "batch of shape (2,)" in repr(batch)
    with pytest.raises(ValueError, match="needs one limit"):
        _ = batch.side
    assert jax.tree.map(lambda leaf: leaf[0], batch).side == "grows"


def test_labels_changed_in_the_tree_are_looked_at():
    wrong = np.array([0] * 4 + [1] * 4 + [3] * 4)
    for change in (lambda labels: labels.index, wrong), (lambda labels: labels.weights, -np.ones(12)):
        model = uj.unconstrained(eqx.tree_at(change[0], LABELS, change[1]), 4)
        with pytest.raises(ValueError, match=r"index must hold labels in 0 ... 2|weights must be finite and at least"):
            uj.observe_state(model, STATE)
        with pytest.raises(ValueError, match=r"index must hold labels in 0 ... 2|weights must be finite and at least"):
            uj.exact(model, uj.Flow(), STATE, [1.0])


def test_exponents_refuse_rates_that_no_run_can_have():
    model = uj.regularized(uj.balanced(2, 1), 1, decay=0.1)
    start = uj.State(np.array([[0.5], [-0.2]]), np.array([[0.3], [0.4]]), np.zeros(2))
    with pytest.raises(ValueError, match="must not be negative"):
        uj.lyapunov(model, uj.Flow(lambda t: -0.1), start, 20.0, 1)


def test_a_hessian_beyond_the_range_is_refused():
    model = uj.unconstrained(LABELS, 4, loss="cross_entropy")
    with pytest.raises(ValueError, match="give a state of another scale"):
        uj.hessian_spectrum(model, STATE.replace(log_scale=800.0), 2)


def test_a_spectrum_at_a_start_of_equal_means_is_that_of_the_mode_it_has():
    # H = 1 h', W = 1 w': h' = .05 w, w' = .2 h, so that w = 2 h wins; distances of unit vectors by hand.
    h, w, t = np.array([1.0, 2.0, 0.0, -1.0]), np.array([0.5, 0.0, 1.0, 1.0]), np.array([0.0, 10.0, 50.0])
    start = uj.State(np.tile(h, (12, 1)), np.tile(w, (3, 1)), np.zeros(3))
    model = uj.unconstrained(LABELS, 4, loss=uj.losses.Unhinged(0.2))
    found = uj.exact(model, uj.Flow(), start, t, "distance")["distance"]
    lead, rest = (h + w / 2) / 2, (h - w / 2) / 2
    # In coordinates of length: (sqrt(12) h, sqrt(3) w) = sqrt(12) (h, w / 2).
    d = np.concatenate([lead, lead]) / np.linalg.norm([lead, lead])
    for when, value in zip(t, found, strict=True):
        x = np.exp(-0.2 * when) * np.concatenate([rest, -rest])  # orthogonal to d
        angle = np.arctan2(np.linalg.norm(x), np.linalg.norm([lead, lead]))
        assert abs(x @ d) < 1e-15 and value == pytest.approx(2 * np.sin(angle / 2), rel=1e-11)
