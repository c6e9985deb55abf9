"""More classes than dimensions: what the theory claims, by SciPy on the loss as it is written."""

import numpy as np
import pytest
import scipy.optimize

from unhinged_jax.theories import frames, registry


def minimum(classes, temperature, start):
    """Unit features and prototypes, one sample per class, that minimise cross-entropy of cosines over a temperature."""

    def objective(x):
        X = x.reshape(2, classes, 3)
        lengths = np.linalg.norm(X, axis=2, keepdims=True)
        h, w = X / lengths
        z = h @ w.T / temperature
        logs = z - np.logaddexp.reduce(z, axis=1, keepdims=True)
        P = (np.exp(logs) - np.eye(classes)) / classes / temperature
        slope = np.stack([P @ w, P.T @ h])
        slope = (slope - np.sum(slope * np.stack([h, w]), axis=2, keepdims=True) * np.stack([h, w])) / lengths
        loss = -np.mean(np.diagonal(logs))
        return np.log(loss), slope.ravel() / loss  # the same minimum, where the loss itself is flat

    found = scipy.optimize.minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-12, "maxiter": 3000})
    h, w = (X / np.linalg.norm(X, axis=1, keepdims=True) for X in found.x.reshape(2, classes, 3))
    return h, w, found.x


def largest(w):
    return np.max((w @ w.T)[~np.eye(len(w), dtype=bool)])


@pytest.mark.parametrize(("classes", "order"), [(6, None), (12, None), (8, 1.0)])
def test_the_minimum_is_a_code_as_the_temperature_falls(classes, order):
    starts = np.random.default_rng(0).normal(size=(3, 6 * classes))
    above = []
    for temperature in (0.1, 0.05):
        ends = [minimum(classes, temperature, start) for start in starts]
        starts = [end[2] for end in ends]
        above.append(min(largest(w) for _, w, _ in ends) - frames.largest_cosine(classes, 3))
        best = min(ends, key=lambda end: largest(end[1]))
        np.testing.assert_allclose(best[0], best[1], atol=1e-3)
    if order is None:
        np.testing.assert_allclose(above, 0, atol=1e-5)
    else:
        assert above[1] > 1e-3 and np.log2(above[0] / above[1]) == pytest.approx(order, abs=0.1)


@pytest.mark.long
def test_theory_keeps_its_bounds():
    assert registry.run("frames").passed
