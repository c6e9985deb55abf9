"""Steps far beyond the stable one: exact against loops over NumPy arrays."""

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
    assert run.result == (uj.Result.COMPLETED if fits.all() else uj.Result.OVERFLOW)
    simulated = uj.simulate(model, uj.Descent(eta), START, updates, (), states=True).states.H
    np.testing.assert_allclose((simulated / size)[fits], (want / size)[fits], atol=1e-9)


def test_derivatives_of_a_step_that_mirrors_are_those_of_differences():
    def loss(decay):
        model = uj.spherical(LABELS, P, gamma=0.5, decay=1.0).replace(decay_H=decay)
        return uj.exact(model, uj.Descent(0.5), START, [3], "loss")["loss"][0]

    found = jax.grad(loss)(3.0)
    want = (loss(3.0 + 1e-5) - loss(3.0 - 1e-5)) / 2e-5
    np.testing.assert_allclose(found, want, rtol=1e-7)
