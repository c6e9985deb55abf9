"""Prototypes that are normalised like the features: the loss as it is written in NumPy, and what its flow conserves."""

import jax
import numpy as np
import pytest
import scipy.integrate

import unhinged_jax as uj
from unhinged_jax import losses
from unhinged_jax.config import build
from unhinged_jax.config.reading import config_of
from unhinged_jax.observables import observe_state

LABELS, DIM, T = uj.from_counts([3, 2, 2]), 3, 0.3
MODEL = uj.spherical(
    LABELS, DIM, free_prototypes=True, unit_prototypes=True, loss=losses.CrossEntropy(T), decay=(0.0, 0.05)
)
Y = np.eye(3)[np.asarray(LABELS.index)]


def unit(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def risk(H, W):
    z = unit(H) @ unit(W).T / T
    return np.mean(np.log(np.sum(np.exp(z), axis=1)) - np.sum(z * Y, axis=1))


def forces(H, W):
    """Minus the gradients of the risk, by hand: through the softmax, and then across each row."""
    u, v = unit(H), unit(W)
    z = u @ v.T / T
    P = (Y - np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)) / len(H) / T
    pull = P @ v, P.T @ u
    return [
        (g - np.sum(g * e, axis=1, keepdims=True) * e) / np.linalg.norm(X, axis=1, keepdims=True)
        for g, e, X in zip(pull, (u, v), (H, W), strict=True)
    ]


def start():
    rng = np.random.default_rng(2)
    return uj.State(rng.normal(size=(7, DIM)), 2 * rng.normal(size=(3, DIM)))


def test_flow_is_that_of_scipy_and_observables_are_those_of_unit_vectors():
    state, times = start(), np.array([0.0, 2.0, 15.0])

    def velocity(_t, x):
        H, W = x[:21].reshape(7, 3), x[21:].reshape(3, 3)
        of_H, of_W = forces(H, W)
        return np.concatenate([of_H.ravel(), (of_W - 0.05 * W).ravel()])

    begin = np.concatenate([state.H.ravel(), state.W.ravel()])
    found = scipy.integrate.solve_ivp(velocity, (0, 15), begin, "DOP853", times, rtol=1e-11, atol=1e-12).y.T
    seen = ["loss", "objective", "accuracy", "margin_min", "accuracy_margin", "norm_W", "minimal_angle_prototypes"]
    run = uj.simulate(MODEL, uj.Flow(rtol=1e-10), state, times, seen, states=True)
    H, W = np.asarray(run.states.H), np.asarray(run.states.W)
    np.testing.assert_allclose(H.reshape(3, -1), found[:, :21], rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(W.reshape(3, -1), found[:, 21:], rtol=1e-7, atol=1e-8)
    # The loss does not change along a row: lengths of features stay, those of prototypes decay.
    np.testing.assert_allclose(np.linalg.norm(H, axis=2), np.tile(np.linalg.norm(H[0], axis=1), (3, 1)), rtol=1e-9)
    faded = np.linalg.norm(W[0], axis=1) * np.exp(-0.05 * times)[:, None]
    np.testing.assert_allclose(np.linalg.norm(W, axis=2), faded, rtol=1e-9)
    for i, (h, w) in enumerate(zip(H, W, strict=True)):
        scores = unit(h) @ unit(w).T
        own = scores[np.arange(7), np.asarray(LABELS.index)]
        margin = own - np.max(np.where(Y == 1, -np.inf, scores), axis=1)
        want = {
            "loss": risk(h, w), "objective": risk(h, w) + 0.025 * np.sum(w**2), "accuracy": np.mean(margin > 0),
            "margin_min": margin.min(), "accuracy_margin": margin.min(), "norm_W": np.linalg.norm(w),
            "minimal_angle_prototypes": np.arccos(np.max((unit(w) @ unit(w).T)[~np.eye(3, dtype=bool)])),
        }  # fmt: skip
        for name, value in want.items():
            np.testing.assert_allclose(run[name][i], value, rtol=1e-10, atol=1e-12, err_msg=name)


def test_gradient_by_finite_differences_and_sizes_that_do_not_matter():
    state, step = start(), 1e-6
    with jax.enable_x64(True):
        got = np.asarray(MODEL.forces(state.H, state.W, np.zeros(3))[1])
    for place in np.ndindex(3, DIM):
        near = [np.array(state.W) for _ in range(2)]
        near[0][place] += step
        near[1][place] -= step
        slope = (risk(state.H, near[0]) - risk(state.H, near[1])) / (2 * step)
        np.testing.assert_allclose(got[place], -slope, rtol=1e-6, atol=1e-9)
    sizes = np.array([[1e-3], [1.0], [1e4]])
    same = [observe_state(MODEL, s, ["loss", "margin_mean"]) for s in (state, state.replace(W=sizes * state.W))]
    for name in same[0]:
        np.testing.assert_allclose(same[0][name], same[1][name], rtol=1e-12)


def test_what_is_refused():
    with pytest.raises(ValueError, match="free_prototypes=True"):
        uj.spherical(LABELS, DIM, unit_prototypes=True)
    with pytest.raises(ValueError, match="of any length"):
        uj.spherical(LABELS, DIM, free_prototypes=True, unit_prototypes=True, loss="adjusted_margin")
    with pytest.raises(ValueError, match=r"unit prototypes cannot be normalised: a row of state\.W"):
        MODEL.check_state(uj.State(np.ones((7, 3)), np.zeros((3, 3))))
    with pytest.raises(uj.NoClosedForm, match="free prototypes"):
        uj.exact(MODEL.replace(loss="unhinged"), uj.Flow(), start(), [1.0])
    section = {
        "labels": {"layout": "counts", "counts": [3, 2, 2]},
        "model": {"case": "spherical", "dim": 3, "free_prototypes": True, "unit_prototypes": True,
                  "loss": {"name": "cross_entropy", "temperature": T}, "decay": [0.0, 0.05]},
        "dynamics": {"kind": "flow"},
    }  # fmt: skip
    assert build(config_of({**section, "run": {"times": [1.0]}})).model == MODEL
