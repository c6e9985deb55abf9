"""Labels drawn at each update: the drift along zero squared error against the enumeration of all label draws."""

import itertools

import numpy as np
import pytest

from unhinged_jax.labels import balanced
from unhinged_jax.theories import noisy_labels


@pytest.mark.parametrize(("classes", "rate", "larger"), [(2, 0.3, 1.5), (3, 0.2, 2.0), (3, 0.1, 0.8)])
def test_the_drift_is_that_of_all_draws_of_one_update(classes, rate, larger):
    Y = np.asarray(balanced(classes, 1).symmetric_noise(rate).probabilities(), float)
    U, S, V = np.linalg.svd(Y)
    H, W = U * np.sqrt(S) * larger, V.T * np.sqrt(S) / larger
    eta, moved = 0.1, np.zeros((classes, classes))
    for drawn in itertools.product(range(classes), repeat=classes):
        chance = np.prod([Y[i, c] for i, c in enumerate(drawn)])
        E = (np.eye(classes)[list(drawn)] - H @ W.T) / classes
        new_H, new_W = H + eta * E @ W, W + eta * E.T @ H
        moved += chance * (new_H.T @ new_H - new_W.T @ new_W - H.T @ H + W.T @ W)
    q = S * (larger**2 - larger**-2)
    slope = np.sum(q / np.sqrt(q**2 + 4 * S**2) * np.diag(moved)) / eta**2
    noise, s = 1 - np.sum(Y[0] ** 2), 1e-5
    start, later = noisy_labels.drift(S, larger, noise, classes, [0.0, s])
    assert start == pytest.approx(np.sum(H**2) + np.sum(W**2))
    assert (later - start) / s == pytest.approx(slope, rel=1e-4)
