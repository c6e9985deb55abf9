"""Steps far beyond the stable one: exact against loops over NumPy arrays."""

import decimal

import jax
import numpy as np
import pytest

import unhinged_jax as uj

C, P = 3, 2


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def spherical_loop(H, G, q, eta, decay, updates):
    path = []
    for _ in range(updates):
        length = np.linalg.norm(H, axis=1, keepdims=True)
        unit = H / length
        H = H + eta * (length ** (q - 1) * (G - unit * np.sum(G * unit, axis=1, keepdims=True)) - decay * H)
        path.append(H)
    return path


LABELS = uj.from_counts([2, 1, 1])
RNG = np.random.default_rng(2)
START = uj.State(RNG.normal(size=(4, P)), RNG.normal(size=(C, P)), np.zeros(C))
PULL = 0.25 * (1.5 * np.eye(C)[LABELS.index] - 0.5) @ START.W


# eta x decay is 1.5, 1 exactly, just below and above 1, 0.3 with a pull that overshoots, and 40.
@pytest.mark.parametrize("q", [0, 1, 2])
@pytest.mark.parametrize(
    ("eta", "decay"), [(0.5, 3.0), (2.0, 0.5), (0.5, 1.999), (2.0, 0.5001), (30.0, 0.01), (8.0, 5.0)]
)
def test_spherical_descent_of_any_step_equals_a_loop(q, eta, decay):
    updates = [0, 1, 2, 5]  # without what is kept, a loop amplifies its own rounding
    model = uj.spherical(LABELS, P, gamma=0.5, rescale=q, decay=1.0).replace(decay_H=decay)
    run = uj.exact(model, uj.Descent(eta), START, updates, (), states=True)
    with np.errstate(all="ignore"):
        want = np.stack([START.H, *spherical_loop(START.H, PULL, q, eta, decay, 5)])[updates]
    size = np.linalg.norm(want, axis=2, keepdims=True)
    fits = (size[..., 0] < 1e100).all(axis=1)
    np.testing.assert_allclose((run.states.H / size)[fits], (want / size)[fits], atol=1e-10)
    assert run.result == (uj.RunResult.COMPLETED if fits.all() else uj.RunResult.OVERFLOW)
    simulated = uj.simulate(model, uj.Descent(eta), START, updates, (), states=True).states.H
    np.testing.assert_allclose((simulated / size)[fits], (want / size)[fits], atol=1e-9)


def test_derivatives_of_a_step_that_mirrors_are_those_of_differences():
    def loss(decay):
        model = uj.spherical(LABELS, P, gamma=0.5, decay=1.0).replace(decay_H=decay)
        return uj.exact(model, uj.Descent(0.5), START, [3], "loss")["loss"][0]

    found = jax.grad(loss)(3.0)
    want = (loss(3.0 + 1e-5) - loss(3.0 - 1e-5)) / 2e-5
    np.testing.assert_allclose(found, want, rtol=1e-7)


def directions_apart(H, W, rates, beta, decay, moves, leading):
    """log of the distance between the state's direction and `leading`, after updates in 1000 digits, one feature."""
    with decimal.localcontext() as context:
        context.prec = 1000
        D = np.vectorize(decimal.Decimal, otypes=[object])
        M = D(np.array([[0.5, -0.25], [-0.25, 0.5]]))  # (1 + gamma) / 2 I - gamma / 2, gamma = 0.5
        H, W, beta, decay = D(H), D(W), D(beta), D(decay)
        V, U = 0 * H, 0 * W
        for rate in map(decimal.Decimal, rates):
            dH, dW = moves[0] * (M @ W - decay * H), moves[1] * (M.T @ H - decay * W)
            V, U = dH + beta * V, dW + beta * U
            H, W = H + rate * V, W + rate * U
        Z, L = np.concatenate([H, W]), D(leading)
        if not all(moves):
            Z, L = (Z[:2], L[:2]) if moves[0] else (Z[2:], L[2:])
        apart = Z / (Z @ Z).sqrt() - L / (L @ L).sqrt()
        return float((apart @ apart).ln() / 2)


@pytest.mark.parametrize(
    ("case", "eta", "beta", "decay", "updates"),
    [
        ("regularized", 10.0, 0.5, 0.05, 700),  # contrasts win by far
        ("regularized", 12.0, 0.0, 0.05, 1400),  # mu- of the contrasts oscillates and beats what is left by e^709
        ("regularized", 12.0, 0.0, 1.0, 600),  # and beats mu+, too: the distance stays
        ("anchored", 10.0, 0.5, 1.0, 600),  # the update grows by itself, beyond the largest number
        ("frozen", 10.0, 0.0, 1.0, 600),
    ],
)
def test_distances_where_one_mode_beats_the_rest_by_more_than_the_largest_number(case, eta, beta, decay, updates):
    labels, rng = uj.balanced(2, 1), np.random.default_rng(1)
    H, W = rng.normal(size=2), rng.normal(size=2)
    model = getattr(uj, case)(labels, 1, gamma=0.5, decay=decay)
    moves = {"regularized": (1, 1), "anchored": (1, 0), "frozen": (0, 1)}[case]
    mean = (H[0] - H[1] + W[0] - W[1]) / 4
    M = np.array([[0.5, -0.25], [-0.25, 0.5]])
    leading = np.concatenate([M @ W, M.T @ H]) if case != "regularized" else mean * np.array([1.0, -1.0, 1.0, -1.0])
    schedule = uj.piecewise([eta, eta / 2], [3]) if beta == 0 else eta
    rates = [eta if k < 3 or beta else eta / 2 for k in range(updates)]
    descent = uj.Descent(schedule, momentum=beta or None)
    want = directions_apart(H, W, rates, beta, decay, moves, leading)
    state = uj.State(H[:, None], W[:, None], np.zeros(2))
    name = {"regularized": "log_distance", "anchored": "log_distance_H", "frozen": "log_distance"}[case]
    found = uj.exact(model, descent, state, [updates], name)[name][0]
    assert float(found) == pytest.approx(want, rel=1e-9, abs=1e-9)
