"""MSE: the central path and the way to it, the origin, decay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.optimize

import unhinged_jax as uj
from unhinged_jax.theories import central_path, mse_decay, near_origin, off_path, within_class

INDEX = np.arange(12) % 3


@pytest.fixture(scope="module")
def start():
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        H = rng.standard_normal((12, 2)) + np.array([[2.0, 0], [0, 1.5], [-1, -1]])[INDEX]
        return np.asarray(central_path.normalised(H, INDEX, 3))


def within(X):
    means = np.stack([X[c == INDEX].mean(axis=0) for c in range(3)])
    return X - means[INDEX]


def least_squares(X):
    extended, targets = np.column_stack([X, np.ones(12)]), np.eye(3)[INDEX]
    left = targets - extended @ np.linalg.lstsq(extended, targets, rcond=None)[0]
    return np.sum(left**2) / 24


def test_normalised_features(start):
    assert np.allclose(within(start).T @ within(start) / 12, np.eye(2), atol=1e-12)
    assert np.allclose(start.mean(axis=0), 0, atol=1e-12)


def test_the_path_starts_along_the_gradient_projected_onto_the_constraint(start):
    """Gradient and constraints by finite differences, the projection by least squares: no formula in common."""

    def covariance(x):
        R = within(x.reshape(12, 2))
        return (R.T @ R / 12)[np.triu_indices(2)]

    def slope(function, x, h=1e-5):
        return np.array([(function(x + h * e) - function(x - h * e)) / (2 * h) for e in np.eye(x.size)])

    x = start.ravel()
    force = -slope(lambda z: least_squares(z.reshape(12, 2)), x)
    normals = slope(covariance, x)
    tangent = force - normals @ np.linalg.lstsq(normals, force, rcond=None)[0]
    with jax.enable_x64(True):
        step = 1e-4
        moved = (np.asarray(central_path.exact(start, INDEX, 3, [step]).features[0]) - start) / step
        flow = central_path._velocity(jnp.asarray(INDEX), 3, "projected")(0.0, jnp.asarray(start), None)
    assert np.allclose(moved.ravel(), tangent, atol=1e-6)
    assert np.allclose(np.ravel(flow), tangent, atol=1e-8)


@pytest.mark.parametrize("renormalised", ["projected", "multiplied"])
def test_closed_form_against_the_integrated_flow(start, renormalised):
    with jax.enable_x64(True):
        times = np.array([0.0, 1.0, 30.0, 1000.0])
        closed = central_path.exact(start, INDEX, 3, times, renormalised)
        flow = central_path.simulate(start, INDEX, 3, times, renormalised)
        assert np.allclose(flow.features, closed.features, rtol=0, atol=1e-8)
        assert np.allclose(flow.omega, closed.omega, rtol=1e-8)
        losses = central_path.least_squares_loss(closed.omega, 3)
    assert np.allclose(losses, [least_squares(np.asarray(X)) for X in closed.features], rtol=1e-10)


def by_brent(omega, time, C, N):
    def law(w):
        return N * (C**2 * np.log(w) + C * w**2 + w**4 / 4)

    return scipy.optimize.brentq(lambda w: law(w) - law(omega) - time, omega * (1 - 1e-12), 1e6, xtol=1e-15, rtol=1e-14)


def test_growth_against_brent_and_its_own_differential_equation():
    with jax.enable_x64(True):
        omega, times = np.array([1e-3, 0.5, 4.0]), np.array([1e-9, 1.0, 1e4, 1e12])
        got = np.asarray(central_path.grown(omega[:, None], times, 3, 5))
        want = np.array([[by_brent(w, t, 3, 5) for t in times] for w in omega])
        assert np.allclose(got, want, rtol=1e-9)
        later = central_path.grown(central_path.grown(omega, 7.0, 3, 5), 11.0, 3, 5)
        assert np.allclose(later, central_path.grown(omega, 18.0, 3, 5), rtol=1e-12)
        slopes = jax.grad(lambda w, t: central_path.grown(w, t, 3, 5), argnums=(0, 1))(0.5, 20.0)
        w = float(central_path.grown(0.5, 20.0, 3, 5))
        assert np.isclose(slopes[1], w / (5 * (3 + w**2) ** 2), rtol=1e-9)
        assert np.isclose(slopes[0], (w / (3 + w**2) ** 2) / (0.5 / (3 + 0.25) ** 2), rtol=1e-9)
        # the wrong number of samples must show
        assert not np.allclose(central_path.grown(0.5, 20.0, 3, 6), w, rtol=1e-3)
    single = central_path.grown(jnp.float32(0.5), 20.0, 3, 5)
    assert single.dtype == jnp.float32 and np.isclose(single, w, rtol=1e-5)


def test_snr_is_what_it_says_and_does_not_turn():
    model = uj.unconstrained(uj.balanced(classes=3, per_class=5), dim=4)
    state = model.init(jax.random.key(0))
    H, index = np.asarray(state.H, float), np.asarray(model.labels.index)
    means = np.stack([H[index == c].mean(axis=0) for c in range(3)])
    left = H - means[index]
    scale = np.linalg.inv(scipy.linalg.sqrtm(left.T @ left / 15))
    want = np.linalg.svd((means - H.mean(axis=0)) @ scale, compute_uv=False)[:2]
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    for features in (H, 7 * H @ turn + 1):
        got = central_path.snr_singular_values(model, state.replace(H=jnp.asarray(features, jnp.float32)))
        assert np.allclose(got, want, rtol=1e-3)


def test_paths_that_cannot_be_are_refused(start):
    with pytest.raises(ValueError, match="equal sizes"):
        central_path.exact(start, [0] * 5 + [1] * 4 + [2] * 3, 3, [1.0])
    with pytest.raises(ValueError, match="normalised"):
        central_path.exact(2 * start, INDEX, 3, [1.0])
    with pytest.raises(ValueError, match="omega"):
        central_path.grown(0.0, 1.0, 3, 5)


def test_the_split_of_the_loss():
    model = uj.unconstrained(uj.balanced(3, 4), 2, loss="mse", bias=True)
    state = model.init(jax.random.key(2), bias=[0.3, -0.1, 0.2])
    H, W, b = (np.asarray(part, float) for part in (state.H, state.W, state.b))
    index = np.asarray(model.labels.index)
    loss = np.sum((H @ W.T + b - np.eye(3)[index]) ** 2) / 24
    on, off = off_path.split(model, state)
    extended = np.column_stack([H, np.ones(12)])
    left = np.eye(3)[index] - extended @ np.linalg.lstsq(extended, np.eye(3)[index], rcond=None)[0]
    assert np.isclose(on, np.sum(left**2) / 24) and np.isclose(on + off, loss)


@pytest.mark.parametrize("bias", [0.0, 0.25])
def test_linearised_against_the_linear_differential_equation(bias):
    C, N, p = 4, 2, 2
    rng, index = np.random.default_rng(5), np.repeat(np.arange(C), N)
    H, W, b = rng.standard_normal((8, p)), rng.standard_normal((C, p)), np.full(C, bias)

    def velocity(t, z):
        H, W, b = z[:16].reshape(8, p), z[16:24].reshape(C, p), z[24:]
        M = (np.eye(C)[index] - b) / 8
        return np.r_[(M @ W).ravel(), (M.T @ H).ravel(), (np.eye(C)[index] - b).mean(axis=0)]

    z = scipy.integrate.solve_ivp(velocity, (0, 6.0), np.r_[H.ravel(), W.ravel(), b], rtol=1e-11, atol=1e-12).y[:, -1]
    with jax.enable_x64(True):
        found = near_origin.linearised(uj.State(H, W, b), index, C, 6.0)
    assert np.allclose(np.ravel(found.H), z[:16], atol=1e-8)
    assert np.allclose(np.ravel(found.W), z[16:24], atol=1e-8)
    assert np.allclose(found.b, z[24:], atol=1e-8)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("decay", [(0.03, 0.02), (1e-3, 0.5), (0.5, 0.6)])
def test_the_mse_minimiser_against_bfgs(bias, decay):
    C, N, p = 3, 2, 3
    n, index = C * N, np.repeat(np.arange(C), N)

    def objective(z):
        H, W, b = z[: n * p].reshape(n, p), z[n * p : -C].reshape(C, p), bias * z[-C:]
        R = H @ W.T + b - np.eye(C)[index]
        value = np.sum(R**2) / (2 * n) + decay[0] / 2 * np.sum(H**2) + decay[1] / 2 * (np.sum(W**2) + np.sum(b**2))
        slopes = (R @ W / n + decay[0] * H, R.T @ H / n + decay[1] * W, bias * (R.mean(axis=0) + decay[1] * b))
        return value, np.concatenate([np.ravel(part) for part in slopes])

    starts = np.random.default_rng(0).standard_normal((4, n * p + C * p + C))
    runs = [scipy.optimize.minimize(objective, z, jac=True, method="BFGS", options={"gtol": 1e-10}) for z in starts]
    best = min(runs, key=lambda run: run.fun)
    found = mse_decay.mse_minimiser(C, N, *decay, bias=bias)
    assert np.isclose(best.fun, found.objective, rtol=1e-9)
    W, H = best.x[n * p : -C].reshape(C, p), best.x[: n * p].reshape(n, p)
    assert np.allclose(np.linalg.norm(W, axis=1), found.prototype_norm, atol=1e-5)
    assert np.allclose(np.linalg.norm(H, axis=1), found.feature_norm, atol=1e-5)
    assert np.allclose(bias * best.x[-C:], found.bias, atol=1e-6)


def test_rates_of_variability_and_their_threshold():
    inside, outside = within_class.variability_rates(3, 4, 0.02, 0.05)
    c = 3 * np.sqrt(4 * 0.02 * 0.05)
    contrast = mse_decay.mse_minimiser(3, 4, 0.02, 0.05).contrast
    assert np.isclose(inside, contrast / 12 + 0.02) and outside == 0.02 and c < 1
    with pytest.raises(ValueError, match="prototypes vanish"):
        within_class.variability_rates(3, 4, 0.2, 0.5)


def test_tethered_features_against_scipy():
    rng, index = np.random.default_rng(4), np.repeat([0, 1, 2], 2)
    H0, Y = rng.standard_normal((6, 3)), np.eye(3)[index]

    def velocity(t, h):
        H = h.reshape(6, 3)
        W = np.linalg.solve(H.T @ H + 6 * 0.1 * np.eye(3), H.T @ Y).T
        return (-(H @ W.T - Y) @ W / 6 - 0.05 * (H - H0)).ravel()

    want = scipy.integrate.solve_ivp(velocity, (0, 20.0), H0.ravel(), rtol=1e-10, atol=1e-11).y[:, -1]
    with jax.enable_x64(True):
        H, _ = within_class.tethered(H0, index, 3, 0.05, 0.1, [0.0, 20.0])
    assert np.allclose(np.ravel(H[-1]), want, atol=1e-7)


def test_the_split_takes_weights_soft_targets_and_features_that_leave_directions_out():
    """Against least squares by NumPy: the loss of the best classifier of these features, and what is left."""
    rng, H = np.random.default_rng(4), np.random.default_rng(3).standard_normal((6, 3))
    H[:, 2] = H[:, 0] - H[:, 1]
    q, targets = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(3), size=6)
    labels = uj.soft(targets).replace(weights=q)
    state = uj.State(H, rng.standard_normal((3, 3)), rng.standard_normal(3))
    model = uj.unconstrained(labels, 3, loss="mse", bias=True)
    root, extended = np.sqrt(q)[:, None], np.column_stack([H, np.ones(6)])
    best = np.linalg.lstsq(root * extended, root * targets, rcond=None)[0]
    on, off = off_path.split(model, state)
    assert np.isclose(on, np.sum(q[:, None] * (extended @ best - targets) ** 2) / 2, rtol=1e-12)
    assert np.isclose(on + off, np.sum(q[:, None] * (H @ state.W.T + state.b - targets) ** 2) / 2, rtol=1e-12)


def test_theories_refuse_what_they_are_not_about():
    state = uj.State(np.ones((4, 2)), np.ones((2, 2)), np.zeros(2))
    entropy = uj.unconstrained(uj.balanced(2, 2), 2, loss="cross_entropy", bias=True)
    weighted = uj.unconstrained(uj.from_counts([3, 1]).weighted(classes=[1.0, 2.0]), 2, loss="mse", bias=True)
    for call, words in (
        (lambda: off_path.split(entropy, state), "the loss 'mse' with a bias"),
        (lambda: off_path.late_rates(weighted, state), "equal sample weights"),
        (lambda: near_origin.linearised(state, [0, 0, 0, 1], 2, 1.0), "classes of equal size"),
        (lambda: near_origin.linearised(state.replace(b=np.array([0.0, 1.0])), [0, 0, 1, 1], 2, 1.0), "equal biases"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
