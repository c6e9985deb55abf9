"""MSE from balanced starts: what the two theories claim, by other means than their own."""

import jax
import numpy as np
import pytest
import scipy.optimize

import unhinged_jax as uj
from unhinged_jax.theories import registry


def test_minimum_for_any_counts_is_the_lowest_that_a_search_finds():
    """SciPy's BFGS from random starts on the objective as it is written, at decays that kill one class."""
    counts, dim, (l1, l2) = [5, 3, 1], 3, (0.05, 0.3)
    Y, n = np.repeat(np.eye(3), counts, axis=0), sum(counts)

    def objective(z):
        H, W = z[: n * dim].reshape(n, dim), z[n * dim :].reshape(3, dim)
        E = H @ W.T - Y
        value = np.sum(E**2) / (2 * n) + l1 / 2 * np.sum(H**2) + l2 / 2 * np.sum(W**2)
        return value, np.concatenate([(E @ W / n + l1 * H).ravel(), (E.T @ H / n + l2 * W).ravel()])

    starts = np.random.default_rng(0).normal(size=(4, (n + 3) * dim))
    found = min((scipy.optimize.minimize(objective, z, jac=True, tol=1e-12) for z in starts), key=lambda end: end.fun)
    H, W = found.x[: n * dim].reshape(n, dim), found.x[n * dim :].reshape(3, dim)
    values = np.maximum(0, np.sqrt(counts) - n * np.sqrt(l1 * l2))
    assert (values == 0).sum() == 1
    np.testing.assert_allclose(np.linalg.svd(H @ W.T)[1], np.sort(values)[::-1], atol=1e-4)
    # The rates make an even problem of it, so `limit` knows it as well.
    model = uj.regularized(uj.from_counts(counts), dim, decay=(l1, l2), loss="mse")
    flow = uj.Flow(rate_H=(l2 / l1) ** 0.5, rate_W=(l1 / l2) ** 0.5)
    draw = model.init(jax.random.key(0), balanced=0.0, precision="float64")
    by = (l2 / l1) ** 0.25
    limit = uj.limit(model, flow, uj.State(draw.H * by, draw.W / by))
    np.testing.assert_allclose(limit.survivors.values, values, atol=1e-12)
    assert limit.survivors.note == "class 2 dies"


@pytest.mark.long
@pytest.mark.parametrize("name", ["rich-lazy", "dying-classes"])
def test_theories_keep_their_bounds(name):
    assert registry.run(name).passed
