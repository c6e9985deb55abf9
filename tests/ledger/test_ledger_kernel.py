"""Ledger, Section 3.5, Appendices D.1 and D.2: the invariant kernel, the MSE flow, initial prototypes, decisions."""

import numpy as np
import paper_columns as columns
from scipy.linalg import expm
from verdicts import corrected, false_as_printed, holds

import unhinged_jax as uj
from unhinged_jax import initial


def semidefinite(size, seed, rank=None):
    J = np.random.default_rng(seed).normal(size=(size, rank or size))
    return J @ J.T / size


def test_theorem_8():
    """Evaluated where its products are defined at all: p = C, N = 1, the kernel p x p."""
    C, gamma, t = 3, 0.4, 0.7
    H, W = columns.start(C, C, 1, 0)
    M, K, zero = columns.signal(C, 1, gamma), semidefinite(C, 1), np.zeros((C, C))
    A, B = np.block([[zero, K], [np.eye(C), zero]]), np.block([[zero, M.T], [M, zero]])
    z = np.block([[H, zero], [zero, W]]).ravel()
    truth = expm(np.kron(A, B.T) * t) @ z  # z' = (A kron B') z, which the proof starts from
    (a, UA), (b, UB) = np.linalg.eig(A), np.linalg.eig(B)
    growth = np.exp(np.kron(a, b) * t)

    def solved(change):
        return (np.linalg.inv(change) @ (growth * (change @ z))).real

    inverses = np.linalg.inv(UA), np.linalg.inv(UB)
    printed = columns.relative(solved(np.kron(inverses[1] @ inverses[0], np.eye(2 * C))), truth)
    assert columns.relative(solved(np.kron(*inverses)), truth) < 1e-10  # one slip: the Kronecker product of the two

    # What is meant by the tangent kernel mixes samples: H' = Theta M W in rows. C x C problem, singular Theta allowed.
    C, N, p, r1, r2 = 3, 2, 4, 0.7, 1.3
    H, W = (X.T for X in columns.start(p, C, N, 2))
    M, theta, t = columns.signal(C, N, gamma).T, semidefinite(C * N, 3, rank=4), 1.5
    flow = np.block([[np.zeros((C * N, C * N)), r1 * theta @ M], [r2 * M.T, np.zeros((C, C))]])
    truth = expm(flow * t) @ np.vstack([H, W])
    squares, U = np.linalg.eigh(r1 * r2 * M.T @ theta @ M)
    x = np.sqrt(np.maximum(squares, 0)) * t

    def of_root(function):
        return U @ np.diag(function(x)) @ U.T

    def sinhc(x):
        return np.where(x > 1e-8, np.sinh(x) / np.maximum(x, 1e-8), 1.0)

    pulled = M.T @ H
    W_t = of_root(np.cosh) @ W + r2 * t * of_root(sinhc) @ pulled
    driven = t * of_root(sinhc) @ W + r2 * t**2 / 2 * of_root(lambda x: sinhc(x / 2) ** 2) @ pulled
    right = columns.relative(np.vstack([H + r1 * theta @ M @ driven, W_t]), truth)
    run = uj.exact(
        uj.ntk_invariant(uj.balanced(C, N), p, theta, gamma=gamma),
        uj.Flow(rate_H=r1, rate_W=r2),
        uj.State(H, W, np.zeros(C)),
        [t],
        "norm",
        precision="float64",
    )
    right = max(right, columns.relative(np.vstack([run.final.H, run.final.W]), truth))
    false_as_printed("theorem-8", printed=printed, off=0.5, right=right, within=1e-11)


def test_eq_25():
    """The flow of the MSE loss: all three right-hand sides need a minus sign (the kernel being the identity)."""
    C, N, p = 3, 2, 2
    H, W = columns.start(p, C, N, 0)
    b, Y = np.array([0.2, -0.1, 0.4]), columns.blocks(C, N)

    def loss(H, W, b):
        return np.sum((W.T @ H + b[:, None] - Y) ** 2) / (C * N)

    residual = 2 / (C * N) * (W.T @ H + b[:, None] - Y)
    printed_parts = [W @ residual, H @ residual.T, residual.sum(axis=1)]
    printed, right = [], []
    for which, direction in enumerate(printed_parts):
        downhill = np.zeros_like(direction)
        for at in np.ndindex(direction.shape):
            moved = []
            for sign in (1, -1):  # quadratic in one entry, so a central difference is exact
                parts = [H.copy(), W.copy(), b.copy()]
                parts[which][at] += sign * 0.5
                moved.append(loss(*parts))
            downhill[at] = moved[1] - moved[0]
        printed.append(columns.relative(direction, downhill))
        right.append(columns.relative(-direction, downhill))
    corrected("eq-25", printed=min(printed), off=1.9, right=max(right), within=1e-12)


def test_appendix_d1():
    """P is Lemma 15's, and scaling up prototypes that start as a simplex ETF makes the limit that ETF, like 1/scale."""
    C, N, p = 4, 2, 5
    H, _ = columns.start(p, C, N, 0)
    frame = np.asarray(initial.simplex_etf(C, p)).T.astype(float)
    away = {}
    for scale in (1e3, 2e3):
        modes = columns.Modes(columns.signal(C, N, 1 / 3), H, scale * frame)
        P = (H @ columns.blocks(C, N).T / N**0.5 + scale * frame) @ columns.contrasts(C)[0] / 2
        assert columns.relative(P, modes.limit[:, C * N :]) < 1e-12
        away[scale] = np.linalg.norm(columns.unit(P) - columns.unit(frame))
    holds("appendix-d1", abs(2 * away[2e3] / away[1e3] - 1), within=1e-2)


def test_example_1():
    """A shift of all features and prototypes changes a decision: p = 1."""
    w, h, shift, s = np.array([1.0, -1.0]), 0.1, -0.5, 1.0
    before, after = np.argmax(w * h), np.argmax((w + s * shift) * (h + shift))
    holds("example-1", float(before == after), within=0)
