"""Optimisers of our own against NumPy, SciPy and chains of optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg

import unhinged_jax as uj
from unhinged_jax.special import polar


def tree(unit=1.0, seed=0, dtype=float):
    rng = np.random.default_rng(seed)
    shapes = {"H": (5, 3), "W": (2, 3), "b": (2,)}
    return {name: (unit * rng.normal(size=shape)).astype(dtype) for name, shape in shapes.items()}


def change(optimizer, gradient, params=None):
    with jax.enable_x64(True):
        gradient, params = jax.tree.map(jnp.asarray, (gradient, params))
        return optimizer.update(gradient, optimizer.init(gradient), params if params is not None else gradient)[0]


@pytest.mark.parametrize("unit", [1.0, 1e-200, 1e200])
def test_spectral_descent_moves_by_the_polar_factor_at_any_scale(unit):
    gradient, params = tree(unit), tree(seed=1)
    moved = change(uj.Optimizer(uj.spectral_descent, learning_rate=0.3, weight_decay=0.2), gradient, params)
    for name in ("H", "W"):
        factor = scipy.linalg.polar(gradient[name] / unit)[0]
        np.testing.assert_allclose(moved[name], -0.3 * (factor + 0.2 * params[name]), atol=1e-14)
    unit_b = gradient["b"] / unit / np.linalg.norm(gradient["b"] / unit)
    np.testing.assert_allclose(moved["b"], -0.3 * (unit_b + 0.2 * params["b"]), atol=1e-14)


@pytest.mark.parametrize("case", ["meeting", "of lower rank", "zeros"])
def test_polar_factor_and_its_derivative(case):
    """Where singular values meet, where one vanishes and stays so, and at 0; against SciPy and differences."""
    rng = np.random.default_rng(2)
    U, V = (np.linalg.qr(rng.normal(size=(n, 3)))[0] for n in (5, 4))
    s = {"meeting": [2.0, 2.0, 0.5], "of lower rank": [2.0, 0.5, 0.0], "zeros": [0.0] * 3}[case]
    X, r = U @ np.diag(s) @ V.T, np.count_nonzero(s)
    dX = rng.normal(size=(5, 4))
    dX -= (np.eye(5) - U[:, :r] @ U[:, :r].T) @ dX @ (np.eye(4) - V[:, :r] @ V[:, :r].T) * (r < 3)  # keeps the rank

    def by_svd(X):
        left, _, right = np.linalg.svd(X)
        return left[:, :r] @ right[:r]

    with jax.enable_x64(True):
        value, slope = jax.jvp(polar, (jnp.asarray(X),), (jnp.asarray(dX),))
        back = jax.grad(lambda x: jnp.sum(polar(x) * dX))(jnp.asarray(X))
    np.testing.assert_allclose(value, U[:, :r] @ V[:, :r].T, atol=1e-13)
    wanted = (by_svd(X + 1e-6 * dX) - by_svd(X - 1e-6 * dX)) / 2e-6
    np.testing.assert_allclose(slope, wanted, atol=1e-8)
    np.testing.assert_allclose(np.sum(np.asarray(back) * dX), np.sum(wanted * dX), atol=1e-8)


@pytest.mark.parametrize("max_norm", [0.5, 50.0])
def test_clipped_and_normalized_descent_are_chains_of_optax(max_norm):
    gradient = tree()
    chain = optax.chain(optax.clip_by_global_norm(max_norm), optax.sgd(0.3))
    ours = change(uj.Optimizer(uj.clipped_descent, learning_rate=0.3, max_norm=max_norm), gradient)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-13), ours, change(chain, gradient))
    size = np.sqrt(sum(np.sum(part**2) for part in gradient.values()))
    ours = change(uj.Optimizer(uj.normalized_descent, learning_rate=0.3), gradient)
    jax.tree.map(lambda x, g: np.testing.assert_allclose(x, -0.3 * g / size, rtol=1e-13), ours, gradient)


def test_sizes_whose_squares_leave_the_range_and_zeros():
    for unit in (1e-30, 1e30):
        gradient = tree(unit, dtype=np.float32)
        size = np.sqrt(sum(np.sum((part.astype(float) / unit) ** 2) for part in gradient.values()))
        for optimizer, length in ((uj.normalized_descent(1.0), 1.0), (uj.clipped_descent(1.0, unit), unit)):
            moved = optimizer.update(gradient, optimizer.init(gradient))[0]
            np.testing.assert_allclose(moved["W"], -gradient["W"] / unit / size * length, rtol=1e-6)
    nothing = {"W": np.zeros((2, 3))}
    for optimizer in (uj.normalized_descent(1.0), uj.clipped_descent(1.0, 1.0), uj.spectral_descent(1.0)):
        np.testing.assert_array_equal(change(optimizer, nothing)["W"], 0)


def test_norm_that_is_not_above_zero_is_refused():
    with pytest.raises(ValueError, match="max_norm must be"):
        uj.clipped_descent(0.1, -1.0)


def test_spectral_descent_raises_every_singular_value_alike():
    """From a spectral start every mode grows by the rate at each update, where plain descent multiplies it."""
    labels = uj.from_counts([5, 3, 2])
    model = uj.unconstrained(labels, dim=4, gamma=0.2)
    with jax.enable_x64(True):
        left, s, right = np.linalg.svd(np.asarray(model.signal().dense("float64")), full_matrices=False)
    rows = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 3)))[0].T
    f, a = np.array([0.3, 0.7, 0.1]), np.array([0.2, 0.4, 0.6])
    start = uj.State(left * f @ rows, right.T * a @ rows)
    dynamics = uj.Descent(optimizer=uj.Optimizer(uj.spectral_descent, learning_rate=0.05))
    run = uj.simulate(model, dynamics, start, [20], "norm")
    np.testing.assert_allclose(run.final.H, left * (f + 1) @ rows, atol=1e-12)
    np.testing.assert_allclose(run.final.W, right.T * (a + 1) @ rows, atol=1e-12)
    assert s.min() > 0.01
