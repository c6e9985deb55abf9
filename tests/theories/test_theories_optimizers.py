"""What optimisers do to the sum of the prototypes: by other means than those of the theory."""

import numpy as np
import pytest

from unhinged_jax.theories import nc0, registry


def test_sign_descent_with_both_decays_comes_to_rest_where_the_theory_says():
    """By updates in NumPy at a rate that falls, for entries that the decoupled decay stops and others."""
    g = np.random.default_rng(0).normal(size=40) * np.geomspace(1e-2, 3, 40)
    for coupled, decoupled in ((0.7, 0.3), (0.05, 2.0), (1.0, 1.0)):
        W = np.zeros_like(g)
        for k in range(8000):
            W -= 0.05 / (1 + k / 400) * (np.sign(g + coupled * W) + decoupled * W)
        wanted = nc0.settled(g, coupled, decoupled)
        np.testing.assert_allclose(W, wanted, atol=5e-3)
        slides = np.abs(g) / coupled < 1 / decoupled
        assert slides.any() and not slides.all()
        np.testing.assert_array_equal(wanted[slides], -g[slides] / coupled)


@pytest.mark.long
@pytest.mark.parametrize("name", ["nc0"])
def test_theories_keep_their_bounds(name):
    assert registry.run(name).passed
