"""Minibatches and growth by noise: the oracles of the two theories beside plain enumeration."""

import itertools

import jax
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax.theories import THEORIES, minibatch, stochastic_growth


def test_growth_is_the_spectral_radius_of_the_enumerated_map():
    M, decay, rate = np.array([[0.4, -0.1], [0.3, 0.2], [-0.2, 0.5]]), 0.3, 0.7
    both = 0
    for drawn in itertools.product(range(3), repeat=2):
        DM = np.bincount(drawn, minlength=3)[:, None] * 1.5 * M
        A = (1 - rate * decay) * np.eye(5) + rate * np.block([[np.zeros((3, 3)), DM], [DM.T, np.zeros((2, 2))]])
        both = both + np.kron(A, A) / 9
    want = np.log(np.max(np.abs(np.linalg.eigvals(both))))
    assert stochastic_growth.second_growth(M, decay, rate, batch=2) == pytest.approx(want, abs=1e-13)


def test_one_path_written_out():
    model = uj.regularized(uj.balanced(classes=2, per_class=1), dim=1, gamma=0.0, decay=0.5)
    state = model.init(jax.random.key(0), features=np.array([[1.0], [2.0]]), prototypes=np.array([[3.0], [4.0]]))
    ends = list(minibatch.every_path(model, state, rate=0.1, batch=1, updates=1))
    # Sample 0 alone, with twice its weight 1/2: h_0 + 0.1 (3 - h_0/2), w_0 + 0.1 (1 - 3/2); the rest decays.
    np.testing.assert_allclose(np.concatenate(ends[0])[:, 0], [1.25, 1.9, 2.95, 3.8], rtol=1e-12)
    np.testing.assert_allclose(np.concatenate(ends[1])[:, 0], [0.95, 2.3, 2.85, 4.0], rtol=1e-12)


@pytest.mark.long
@pytest.mark.parametrize("name", ["minibatch", "stochastic-growth"])
def test_every_bound_is_kept(name):
    assert THEORIES[name].run().passed
