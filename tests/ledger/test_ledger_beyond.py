"""Ledger, beyond the paper: any signal, descent, imbalance, label noise."""

import numpy as np
import oracles
import paper_columns as columns
from scipy.linalg import expm
from verdicts import holds

import unhinged_jax as uj


def test_any_signal_matrix():
    """One 2 x 2 exponential for each singular value of any signal matrix, here a random one in rows."""
    worst, p = 0.0, 4
    for seed, (n, C, decay, rates) in enumerate([(6, 3, (0.1, 0.3), (0.7, 1.3)), (2, 5, (0.0, 0.2), (1.0, 0.4))]):
        draws = np.random.default_rng(seed)
        M, H, W, tau = draws.normal(size=(n, C)), draws.normal(size=(n, p)), draws.normal(size=(C, p)), 1.2
        V, sigma, U = np.linalg.svd(M, full_matrices=False)
        (l1, l2), (r1, r2) = decay, rates
        F, A = V.T @ H, U @ W
        new_H, new_W = np.exp(-r1 * l1 * tau) * (H - V @ F), np.exp(-r2 * l2 * tau) * (W - U.T @ A)
        for k, value in enumerate(sigma):
            E = expm(np.array([[-r1 * l1, r1 * value], [r2 * value, -r2 * l2]]) * tau)
            new_H += np.outer(V[:, k], E[0, 0] * F[k] + E[0, 1] * A[k])
            new_W += np.outer(U[k], E[1, 0] * F[k] + E[1, 1] * A[k])
        truth = oracles.flow_state(oracles.generator(M, None, decay, rates), H, W, tau)
        worst = max(worst, columns.relative(np.vstack([new_H, new_W]), np.vstack(truth)))
    holds("any-signal-matrix", worst, within=1e-12)


def test_gradient_descent():
    """Powers of one 2 x 2 matrix for each mode, against the plain loop; without decay any step has the flow's limit."""
    C, N, gamma, eta, l1, l2, s = 4, 2, 0.2, 0.3, 0.1, 0.2, 0.6
    H, W = columns.start(3, C, N, 0)
    M, (K, J) = columns.signal(C, N, gamma), columns.contrasts(C)
    S = columns.blocks(C, N).T / N**0.5
    G, R = H @ S, H - H @ S @ S.T
    new_G, new_W = np.zeros_like(G), np.zeros_like(W)
    for sigma, onto in zip(columns.sigmas(C, N, gamma), (K, J), strict=True):
        T = np.array([[1 - s * eta * l1, s * eta * sigma], [eta * sigma, 1 - eta * l2]])
        power = np.linalg.matrix_power(T, 60)
        new_G += (power[0, 0] * G + power[0, 1] * W) @ onto
        new_W += (power[1, 0] * G + power[1, 1] * W) @ onto
    closed = (1 - s * eta * l1) ** 60 * R + new_G @ S.T, new_W
    h, w = H.copy(), W.copy()
    for _ in range(60):
        h, w = h + s * eta * (w @ M - l1 * h), w + eta * (h @ M.T - l2 * w)
    worst = columns.relative(closed, (h, w))
    limit = columns.unit(columns.Modes(M, H, W, s).limit)
    for step in (1.0, 40.0):
        h, w = H.copy(), W.copy()
        for _ in range(600 if step == 1 else 400):
            h, w = h + s * step * w @ M, w + step * h @ M.T
            size = np.linalg.norm(np.hstack([h, w]))
            h, w = h / size, w / size
        worst = max(worst, np.linalg.norm(np.hstack([h, w]) - limit))
    holds("gradient-descent", worst, within=1e-10)


def top_rank(counts, weights=None, gamma=None):
    """How many singular values of the signal share the largest."""
    C = len(counts)
    gamma = 1 / (C - 1) if gamma is None else gamma
    rows = np.repeat(np.arange(C), counts)
    q = (np.ones(C) if weights is None else weights)[rows]
    M = oracles.signal_matrix(q / q.sum(), oracles.one_hot(rows, C), gamma)
    values = np.linalg.svd(M, compute_uv=False)
    return int(np.sum(values > values[0] * (1 - 1e-9)))


def test_class_imbalance():
    counts = np.array([5, 4, 3])
    assert top_rank([4, 4, 4]) == 2 and top_rank(counts) == 1
    assert [top_rank(c) for c in ([4, 4, 2, 2], [4, 4, 4, 2], [5, 5, 5, 5, 1])] == [1, 2, 3]  # k equal largest: k - 1
    assert top_rank(counts, counts**-0.5) == 2 and top_rank(counts, counts**-1.0) == 1
    draws = np.random.default_rng(0)
    state = uj.State(draws.normal(size=(12, 4)), draws.normal(size=(3, 4)), np.zeros(3))
    found = uj.limit(uj.unconstrained(uj.from_counts(counts), 4), uj.Flow(), state, precision="float64")
    values = np.linalg.svd(np.asarray(found.direction.W), compute_uv=False)
    holds("class-imbalance", values[1] / values[0], within=1e-9)  # rank one


def noisy_values(C, N, gamma, rate):
    """Singular values of the expected signal, contrasts first, from the package's noisy labels."""
    labels = uj.balanced(C, N).symmetric_noise(rate)
    targets = np.asarray(labels.targets)[np.repeat(np.arange(C), N)]
    M = oracles.signal_matrix(np.full(C * N, 1 / (C * N)), targets, gamma)
    contrast, mean = np.zeros(C), np.ones(C) / C**0.5
    contrast[:2] = 0.5**0.5, -(0.5**0.5)
    return np.linalg.norm(M @ contrast), np.linalg.norm(M @ mean)


def test_label_noise():
    worst = 0.0
    for C, N, gamma in ((4, 2, 1 / 3), (4, 2, 0.5), (5, 3, 0.1)):
        sigma1, sigma2 = columns.sigmas(C, N, gamma)
        for rate in (0.0, 0.2, 0.6):
            first, second = noisy_values(C, N, gamma, rate)
            worst = max(worst, abs(first - abs(1 - rate * C / (C - 1)) * sigma1), abs(second - abs(sigma2)))
        edge = (C - 1) / C * (1 - abs(1 + gamma - gamma * C) / (1 + gamma))
        below, above = (np.subtract(*noisy_values(C, N, gamma, edge + d)) for d in (-0.01, 0.01))
        assert below > 0 and (above < 0 or gamma == 1 / 3)  # at gamma = 1/(C-1) the mean has no pull at all
    holds("label-noise", worst, within=1e-14)
