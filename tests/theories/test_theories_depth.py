"""Depth: what the theory claims, by another way than its own."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from unhinged_jax.theories import depth, registry


@pytest.mark.parametrize("factors", [3, 5])
def test_threshold_is_where_a_chain_of_numbers_turns(factors):
    """SciPy on all factors of one mode, each with a gradient of its own, one per cent above and below."""
    share = 0.3

    def velocity(_, sizes):
        return np.array([np.prod(np.delete(sizes, place)) for place in range(factors)]) - share * sizes

    for by in (0.99, 1.01):
        begin = np.full(factors, by * depth.threshold(factors, share))
        end = solve_ivp(velocity, (0, 5), begin, rtol=1e-10, atol=1e-12).y[:, -1]
        assert np.all((end > begin) == (by > 1))


@pytest.mark.long
def test_theory_keeps_its_bounds():
    assert registry.run("depth").passed
