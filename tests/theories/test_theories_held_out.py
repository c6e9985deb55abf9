"""A linearised network on its test set: when it is best to stop, by a descent on the network's own parameters."""

import numpy as np
import pytest

from unhinged_jax.theories import held_out, registry


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_the_test_loss_of_a_descent_turns_when_it_is_predicted_to(share):
    """x @ theta and W, from 0 and the identity, by small steps of plain gradient descent on the training samples."""
    x, step = held_out._inputs(share), 1e-3
    y = np.repeat(np.arange(4), 30)
    test = np.tile(np.arange(30) >= 10, 4)
    target = np.eye(4)[y] - (1 - np.eye(4)[y]) / 3
    moment = x[~test].T @ target[~test] / 40
    theta, W, losses = np.zeros((16, 4)), np.eye(4), []
    for _ in range(6500):
        losses.append(-np.sum(target[test] * (x[test] @ theta @ W.T)) / 80)
        theta, W = theta + step * moment @ W, W + step * moment.T @ theta
    best = held_out._modes(x).best
    assert np.argmin(losses) * step == pytest.approx(best, rel=5e-3) and 1 < best < 6
    assert held_out._modes(held_out._inputs(0.6)).best == np.inf


@pytest.mark.long
def test_the_theory_keeps_its_bounds():
    assert registry.run("held-out").passed
