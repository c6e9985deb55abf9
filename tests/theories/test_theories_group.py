"""Cross-entropy from starts that a group permutes: what the theory claims, by other means than its own."""

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg

from unhinged_jax.theories import group_starts, registry
from unhinged_jax.theories.ce_free import gap_on_etf


def test_characters_are_hadamards_matrix():
    np.testing.assert_array_equal(group_starts.characters(16), scipy.linalg.hadamard(16))


def test_time_of_a_gap_is_that_of_its_equation():
    C, N, gaps = 5, 3, np.array([0.5, 1.0, 4.0, 9.0])
    times = group_starts.time_of_gap(gaps, 0.1, C, N)
    np.testing.assert_allclose(gap_on_etf(0.1, C, N, times), gaps, rtol=1e-7)
    inverse, _ = scipy.integrate.quad(lambda g: N**0.5 * (np.exp(g) + C - 1) / (2 * g), 0.1, 4.0)
    np.testing.assert_allclose(times[2], inverse, rtol=1e-10)


def test_spectrum_over_time_against_the_flow_of_all_entries():
    """The gradient of the loss as it is written, for H and W (C, p), by SciPy."""
    C, rng = 4, np.random.default_rng(0)
    a = np.array([0.0, 0.9, 0.3, 0.5])
    chi = scipy.linalg.hadamard(C) / 2
    W = chi @ np.diag(a) @ np.linalg.qr(rng.normal(size=(6, C)))[0].T

    def velocity(_t, z):
        H, W = z.reshape(2, C, 6)
        P = np.eye(C) - np.exp(S := H @ W.T) / np.exp(S).sum(axis=1, keepdims=True)
        return np.concatenate([P @ W, P.T @ H]).ravel() / C

    times = np.array([0.0, 3.0, 25.0])
    found = scipy.integrate.solve_ivp(
        velocity, (0, 25), np.stack([W, W]).ravel(), "DOP853", times, rtol=1e-11, atol=1e-13
    )
    rows = chi @ found.y.T.reshape(3, 2, C, 6)[:, 1]
    np.testing.assert_allclose(
        group_starts.spectrum_over_time(a, 1, times), np.linalg.norm(rows, axis=2), rtol=1e-8, atol=1e-10
    )


@pytest.mark.long
def test_theory_keeps_its_bounds():
    assert registry.run("group-starts").passed
