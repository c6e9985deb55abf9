"""Frozen features: separable families, label noise, the road to the maximal margin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize

from unhinged_jax.labels import from_counts
from unhinged_jax.theories import frozen, label_noise, log_time, perils


def on_circle(loss, points, radius):
    """Direction of least mean loss on a circle, by trying 40001 of them; the minimum lies on it for small radii."""
    angles = np.linspace(-np.pi, np.pi, 40001)
    w = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return w[np.argmin(loss(w @ np.asarray(points).T).mean(axis=1))]


LOSSES = {
    "unhinged": lambda u: -u,
    "hinge": lambda u: np.maximum(0, 1 - u),
    "cross_entropy": lambda u: np.log1p(np.exp(-u)),
    "mse": lambda u: (1 - u) ** 2 / 2,
}


@pytest.mark.parametrize("margin", [0.32, 0.1, 1e-3, 1e-6])
def test_the_unhinged_minimiser_is_right_on_half_of_a_separable_family(margin):
    with jax.enable_x64(True):
        points, w = np.asarray(perils.family(margin))[2:], np.asarray(perils.minimiser(margin))
    assert np.all(np.linalg.norm(points, axis=1) <= 1 + 1e-12)
    assert np.isclose(points[:, 0].min(), margin, rtol=1e-12)
    assert np.mean(points @ w > 0) == 0.5
    assert np.allclose(w, on_circle(LOSSES["unhinged"], points, 1.0), atol=3e-4)


def test_the_family_is_differentiable_in_its_margin():
    with jax.enable_x64(True):

        def score(m):
            return perils.family(m)[2] @ perils.minimiser(m)

        slope = jax.grad(score)(jnp.asarray(0.2))
        assert np.isclose(slope, (score(0.2 + 1e-6) - score(0.2 - 1e-6)) / 2e-6, rtol=1e-7)
    assert perils.family(0.2).dtype == jnp.float32


@pytest.mark.parametrize("margin", [0.0, 1 / 3, -0.1, float("nan")])
def test_margins_out_of_range_are_refused(margin):
    with pytest.raises(ValueError, match="margin must lie strictly between 0 and 1/3"):
        perils.family(margin)


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("radius", [0.3, 1.0])
def test_minimisers_over_balls(loss, radius):
    points = np.asarray(perils.family(0.1), float)[2:]
    assert np.allclose(perils.in_ball(loss, points, radius), on_circle(LOSSES[loss], points, radius), atol=4e-4)


def test_the_heading_is_minus_the_gradient_of_the_unhinged_loss():
    rng = np.random.default_rng(0)
    H, index, q = rng.standard_normal((7, 3)), np.array([0, 1, 2, 2, 0, 1, 1]), rng.uniform(0.5, 1, 7)

    def loss(W):
        S = H @ W.T
        own = S[np.arange(7), index]
        return np.sum(q * (-own + 0.3 * (S.sum(axis=1) - own)))

    frame = np.eye(9).reshape(9, 3, 3)
    slope = np.array([(loss(E) - loss(-E)) / 2 for E in frame]).reshape(3, 3)
    assert np.allclose(frozen.heading(H, index, q, 3, 0.3), -slope, atol=1e-12)


def test_expected_noise_scales_the_unhinged_signal():
    labels, rate = from_counts([3, 5, 2]), 0.3
    C, gamma = 3, 0.5
    clean = np.eye(C)[np.asarray(labels.index)]
    other = (1 - clean) / (C - 1)
    flipped = (1 - rate) * clean + rate * other  # every wrong label equally likely
    table = np.asarray(labels.symmetric_noise(rate).probabilities())
    assert np.allclose(table, flipped, atol=1e-6)
    slower = 1 - rate * C / (C - 1)
    assert np.allclose((1 + gamma) * flipped - gamma, slower * ((1 + gamma) * clean - gamma), atol=1e-12)


def test_noise_defeats_cross_entropy_on_data_that_the_mean_classifies():
    H, labels = label_noise.boosters_family(1 / 50)
    points, masses = H[3:], 2 * np.asarray(labels.weights)[3:]
    assert np.isclose(masses.sum(), 1) and np.allclose(H[:3], -points)
    assert np.all(points @ (masses @ points) > 0)
    for rate in (0.05, 0.4):
        w = label_noise.noisy_minimiser(points, masses, rate)
        assert masses @ (points @ w > 0) == 0.5
        p = 1 / (1 + np.exp(-points @ w))
        assert np.allclose((masses * (p - (1 - rate))) @ points, 0, atol=1e-9)
    with pytest.raises(ValueError, match="below 1/6"):
        label_noise.boosters_family(0.2)


def test_the_maximal_margin_against_quadratic_programming():
    rng = np.random.default_rng(3)
    index = np.repeat([0, 1, 2], 3)
    H = 2 * np.eye(3)[index] + 0.3 * rng.standard_normal((9, 3))
    found = log_time.max_margin(H, index, 3)
    gaps = [np.kron(np.eye(3)[y] - np.eye(3)[k], h) for h, y in zip(H, index, strict=True) for k in range(3) if k != y]
    limits = {"type": "ineq", "fun": lambda w: np.array(gaps) @ w - 1, "jac": lambda w: np.array(gaps)}
    other = scipy.optimize.minimize(
        lambda w: w @ w / 2, np.zeros(9), jac=lambda w: w, constraints=limits, method="SLSQP", options={"ftol": 1e-14}
    )
    assert np.allclose(found.W.ravel(), other.x, atol=1e-6)
    assert np.all(found.multipliers >= 0)
    assert np.isclose(found.multipliers.sum(), np.sum(found.W**2))  # complementary slackness
    with pytest.raises(ValueError, match="no linear classifier"):
        log_time.max_margin([[1.0], [1.0]], [0, 1], 2)


def test_the_offset_against_an_integration_of_the_flow():
    H, index = np.array([[1.0, 0.3], [0.2, 1.1], [-1.5, -1.2], [1.4, 1.3]]), np.array([1, 1, 0, 1])
    limit = log_time.max_margin(H, index, 2)
    start = np.array([[0.3, -0.2], [0.1, 0.4]])
    constant = log_time.offset(H, index, np.full(4, 0.25), limit, start)

    def velocity(s, w):
        W = w.reshape(2, 2)
        S = H @ W.T
        p = np.exp(S - np.logaddexp.reduce(S, axis=1, keepdims=True))
        return np.exp(s) * ((np.eye(2)[index] - p).T @ H / 4).ravel()

    last = np.log1p(1e6)
    W = scipy.integrate.solve_ivp(velocity, (0, last), start.ravel(), method="LSODA", rtol=1e-10, atol=1e-10).y[:, -1]
    assert np.allclose(W.reshape(2, 2), limit.W * np.log(1e6) + constant, atol=2e-3)
    twice = log_time.max_margin([[2.0], [-2.0]], [0, 1], 2)  # both constraints are one: multipliers are not unique
    assert np.allclose(log_time.offset([[2.0], [-2.0]], [0, 1], [0.5, 0.5], twice, np.zeros((2, 1))), [[np.log(8) / 4],
                       [-np.log(8) / 4]])  # fmt: skip
    aside, labels = [[1.0, 0.0], [-1.0, 0.0], [3.0, 1.0]], [1, 0, 1]
    one_sided = log_time.max_margin(aside, labels, 2)
    with pytest.raises(ValueError, match="span less"):
        log_time.offset(aside, labels, np.full(3, 1 / 3), one_sided, np.zeros((2, 2)))
