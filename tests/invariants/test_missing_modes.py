"""Starts without any part in the modes that grow fastest: rounding and tolerances must not put one there."""

import functools

import jax
import numpy as np
import pytest

import unhinged_jax as uj

GAMMA, DECAY = 0.2, 0.01


def powers(dynamics, mu, times):
    """log of what an eigenvalue makes of its part, by the update itself."""
    if isinstance(dynamics, uj.Flow):
        return [mu * t for t in times]
    beta, eta, found = dynamics.momentum or 0.0, float(dynamics.schedule(0)), {}
    p, v, log = 1.0, 0.0, 0.0
    for k in range(times[-1] + 1):
        found[k] = log + np.log(abs(p))
        v = beta * v + mu * p
        p += eta * v
        p, v, log = 1.0, v / p, log + np.log(abs(p))
    return [found[t] for t in times]


def truth(sigma, f, a, dynamics, decay, times):
    """(log_distance, log_norm) of a mode with parts f of H and a of W, from the two eigenvectors of its block."""
    (low, high), vectors = np.linalg.eigh(np.array([[-decay, sigma], [sigma, -decay]]))
    parts = vectors.T @ np.stack([f, a])
    logs = [powers(dynamics, mu, times) for mu in (low, high)]
    distances, norms = [], []
    for fall, rise in zip(*logs, strict=True):
        across, ahead = np.linalg.norm(parts[0]), np.linalg.norm(parts[1])  # the eigenvectors are orthogonal
        tangent = fall - rise + np.log(across / ahead)
        distances.append(tangent if tangent < -20 else np.log(2 * np.sin(np.arctan(np.exp(tangent)) / 2)))
        norms.append(rise + np.log(np.hypot(ahead, across * np.exp(fall - rise))))
    return distances, norms


def matrix(model):
    with jax.enable_x64(True):
        return np.asarray(model.signal().dense("float64"))


@pytest.mark.long_for("dynamics2-5-solves2")
@pytest.mark.parametrize(
    ("dynamics", "dim", "solves"),
    [
        pytest.param(uj.Flow(1.0), 20, (uj.simulate, uj.exact), marks=pytest.mark.long),
        (uj.Flow(1.0), 20, (uj.exact,)),
        (uj.Descent(1.0, momentum=0.5), 5, (uj.simulate,)),
        pytest.param(uj.Flow(1.0), 5, (uj.simulate, uj.exact), marks=pytest.mark.long),
        pytest.param(uj.Descent(1.0), 20, (uj.simulate, uj.exact), marks=pytest.mark.long),
        pytest.param(uj.Descent(1.0, momentum=0.5), 20, (uj.exact,), marks=pytest.mark.long),
    ],
)
def test_classes_that_are_all_alike_stay_so(dynamics, dim, solves):
    """Class contrasts would grow twice as fast as the common mean, which alone is there."""
    model = uj.regularized(uj.balanced(3, 4), dim, decay=DECAY, gamma=GAMMA, bias=True)
    h, w = np.random.default_rng(0).normal(size=(2, dim))
    start = uj.State(np.tile(h, (12, 1)), np.tile(w, (3, 1)), np.array([0.1, -0.2, 0.3]))
    times = [0, 50, 200, 600]
    distances, norms = truth((1 - 2 * GAMMA) / 6, np.sqrt(12) * h, np.sqrt(3) * w, dynamics, DECAY, times)
    for solve in solves:
        run = solve(model, dynamics, start, times, ["log_distance", "log_norm", "accuracy"])
        np.testing.assert_allclose(run["log_distance"], distances, rtol=1e-7)
        np.testing.assert_allclose(run["log_norm"], norms, rtol=1e-7, atol=1e-7)
        alone = solve(model, dynamics, start, times, ["log_norm"])
        np.testing.assert_allclose(alone["log_norm"], norms, rtol=1e-7, atol=1e-7)


@pytest.mark.long
def test_what_is_missing_has_its_derivatives():
    """What a class difference put into the start becomes, though there is none."""
    model = uj.unconstrained(uj.balanced(3, 4), 20, gamma=GAMMA)
    h, w = np.random.default_rng(0).normal(size=(2, 20))
    push = np.random.default_rng(1).normal(size=(3, 20))
    sigma, t = (1 + GAMMA) / 6, 5.0

    def difference(x, solve):
        start = uj.State(np.tile(h, (12, 1)), np.tile(w, (3, 1)) + x * push, np.zeros(3))
        observe = {"it": lambda model, state: state.W[0] - state.W[1]}
        return solve(model, uj.Flow(1.0), start, [0.0, t], observe)["it"][-1]

    want = np.cosh(sigma * t) * (push[0] - push[1])
    with jax.enable_x64(True):
        for solve in (uj.simulate, uj.exact):
            slope = jax.jacrev(lambda x, solve=solve: difference(x, solve))(0.0)
            np.testing.assert_allclose(slope, want, rtol=1e-6)


@pytest.mark.parametrize(
    ("dynamics", "dim", "traced"),
    [
        pytest.param(uj.Descent(1.0, momentum=0.5), 5, False, marks=pytest.mark.long),
        pytest.param(uj.Flow(1.0), 5, False, marks=pytest.mark.long),
        pytest.param(uj.Flow(1.0), 20, False, marks=pytest.mark.long),
        pytest.param(uj.Flow(1.0), 20, True, marks=pytest.mark.long),
        pytest.param(uj.Descent(1.0), 20, False, marks=pytest.mark.long),
    ],
)
def test_unequal_classes_without_their_leading_mode(dynamics, dim, traced):
    model = uj.unconstrained(uj.from_counts([6, 4, 2]), dim, gamma=GAMMA)
    left, values, right = np.linalg.svd(matrix(model), full_matrices=False)
    f, a = np.random.default_rng(0).normal(size=(2, dim))
    alike = left[[0, 6, 10], 1][np.asarray(model.labels.index)]  # to the last digit: what is within a class stays
    start, times = uj.State(np.outer(alike, f), np.outer(right[1], a), np.zeros(3)), [0, 50, 200, 600]
    distances, norms = truth(values[1], f, a, dynamics, 0.0, times)

    def ran(start, solve):
        return solve(model, dynamics, start, times, ["log_distance", "log_norm"], precision="float64").observables

    for solve in (uj.simulate, uj.exact):
        how = functools.partial(ran, solve=solve)
        with jax.enable_x64(True):
            run = (jax.jit(how) if traced else how)(start)
        np.testing.assert_allclose(run["log_norm"], norms, rtol=1e-7)
        np.testing.assert_allclose(run["log_distance"], distances, rtol=1e-7)


@pytest.mark.long
@pytest.mark.parametrize("labels", [uj.from_counts([6, 4, 2]), uj.balanced(3, 4), uj.balanced(3, 4).smoothed(0.1)])
@pytest.mark.parametrize("dynamics", [uj.Flow(1.0), uj.Descent(1.0)])
def test_starts_without_a_mode_of_a_kernel(labels, dynamics):
    """Features that are Theta M v x, prototypes that are v y, stay so and grow by the singular value of v alone."""
    root = np.eye(12) + np.triu(np.random.default_rng(1).normal(size=(12, 12)) / 6)
    theta = root @ root.T
    model = uj.ntk_invariant(labels, 5, theta, gamma=GAMMA)
    M = matrix(model)
    values, vectors = np.linalg.eigh(M.T @ theta @ M)
    v, sigma = vectors[:, 1], np.sqrt(values[1])
    x, y = np.random.default_rng(0).normal(size=(2, 5))
    start, times = uj.State(np.outer(theta @ M @ v / sigma, x), np.outer(v, y), np.zeros(3)), [0, 50, 200, 600]
    run = uj.simulate(model, dynamics, start, times, ["log_norm_W", "log_distance"])
    own = np.log(np.linalg.norm(x + y)) + np.array(powers(dynamics, sigma, times)) - np.log(2)
    np.testing.assert_allclose(run["log_norm_W"][2:], own[2:], rtol=1e-7)
    # What rounding of the start puts beside Theta M stays; it is overgrown.
    assert np.all(np.diff(run["log_distance"]) < -5)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_the_leading_part_of_balanced_classes_has_any_size(scale):
    """Products of two columns of a start of this size leave the range of float32."""
    model = uj.regularized(uj.balanced(4, 3), 11, decay=0.02, gamma=0.2)
    start = model.init(jax.random.key(3), scale=scale, precision="float32")
    run, truth = (
        solve(model, uj.Descent(0.5), start, [0, 10, 100], "log_distance") for solve in (uj.simulate, uj.exact)
    )
    np.testing.assert_allclose(run["log_distance"], truth["log_distance"], rtol=1e-5)
