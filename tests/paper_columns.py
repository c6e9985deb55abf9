"""The paper's own convention, in plain NumPy: H is p x CN with class blocks of N columns, W is p x C.

Kept apart from the package, which stacks rows: the ledger's tests take the matrix exponential here for the truth.
"""

import numpy as np
from scipy.linalg import expm


def contrasts(C):
    """(I - 11'/C, 11'/C)."""
    mean = np.full((C, C), 1 / C)
    return np.eye(C) - mean, mean


def blocks(C, N):
    """I_C kron 1_N', which repeats every column N times."""
    return np.kron(np.eye(C), np.ones((1, N)))


def signal(C, N, gamma):
    """M below Eq. 5."""
    return ((1 + gamma) * blocks(C, N) - gamma * np.ones((C, C * N))) / (C * N)


def sigmas(C, N, gamma):
    """(1+gamma)/(C sqrt N) and (1+gamma-gamma C)/(C sqrt N), the second with its sign."""
    return (1 + gamma) / (C * N**0.5), (1 + gamma - gamma * C) / (C * N**0.5)


def start(p, C, N, seed):
    draws = np.random.default_rng(seed)
    return draws.normal(size=(p, C * N)), draws.normal(size=(p, C))


def flow(M, H, W, zeta1, zeta2, decay1=0.0, decay2=0.0):
    """Eq. 12 after the integrated rates zeta1, zeta2, by the exponential of its whole matrix (rates proportional)."""
    n, C = H.shape[1], W.shape[1]
    A = np.block([[-decay1 * zeta1 * np.eye(n), zeta2 * M.T], [zeta1 * M, -decay2 * zeta2 * np.eye(C)]])
    Z = np.hstack([H, W]) @ expm(A)
    return Z[:, :n], Z[:, n:]


def projections(H, W):
    """Lemmas 15-17 as printed: {(1, +1), (1, -1), (2, +1), (2, -1), 3} -> (H part, W part)."""
    C = W.shape[1]
    N = H.shape[1] // C
    K, _ = contrasts(C)
    parts = {}
    for sign in (1, -1):
        P = (sign / N**0.5 * H @ blocks(C, N).T + W) @ K / 2
        parts[1, sign] = (sign / N**0.5 * P @ blocks(C, N), P)
        h = (sign / N**0.5 * H.sum(axis=1) + W.sum(axis=1)) / (2 * C)
        parts[2, sign] = (sign / N**0.5 * np.outer(h, np.ones(C * N)), np.outer(h, np.ones(C)))
    within = H @ (np.eye(C * N) - np.kron(np.eye(C), np.ones((N, N))) / N)
    parts[3] = (within, np.zeros_like(W))
    return parts


def joined(pair):
    """(H, W) as one matrix p x C(N+1)."""
    return np.hstack(pair)


def unit(Z):
    return Z / np.linalg.norm(Z)


def relative(got, want):
    """Frobenius distance over Frobenius norm."""
    got, want = (joined(x) if isinstance(x, tuple) else np.asarray(x, float) for x in (got, want))
    return np.linalg.norm(got - want) / np.linalg.norm(want)


class Modes:
    """Z(zeta) = sum over k of e^(value_k zeta) part_k, from the eigenvectors of the whole matrix of Eq. 12.

    zeta is the integral of eta_2, and eta_1 = s eta_2. The parts are kept apart, so that a distance to the limit of
    1e-80 is as exact as one of 1e-2.
    """

    def __init__(self, M, H, W, s=1.0, decay1=0.0, decay2=0.0):
        n, C = H.shape[1], W.shape[1]
        r, D = s**0.5, np.concatenate([np.full(n, s**0.5), np.ones(C)])  # D A D^-1 is symmetric
        values, vectors = np.linalg.eigh(np.block([[-decay1 * s * np.eye(n), r * M.T], [r * M, -decay2 * np.eye(C)]]))
        Z = np.hstack([H, W]) / D
        order = np.argsort(-values)
        self.growth, levels, parts = values[order[0]], [], []
        for k in order:  # equal eigenvalues are one level
            part = np.outer(Z @ vectors[:, k], vectors[:, k] * D)
            if levels and abs(levels[-1] - values[k]) < 1e-9:
                parts[-1] = parts[-1] + part
            else:
                levels.append(values[k])
                parts.append(part)
        self.levels, self.parts = np.array(levels), parts

    @property
    def limit(self):
        """The part that wins: the limit of e^(-growth zeta) Z."""
        return self.parts[0]

    def distance(self, zeta, select=slice(None)):
        """|Z/|Z| - L/|L|| without cancellation; `select` picks columns (those of H, those of W)."""
        L = self.limit[:, select]
        D = sum(
            np.exp((level - self.growth) * zeta) * part[:, select]
            for level, part in zip(self.levels[1:], self.parts[1:], strict=True)
        )
        size, both = np.linalg.norm(L), np.linalg.norm(L + D)
        longer = (2 * np.sum(L * D) + np.sum(D * D)) / (both + size)
        return np.linalg.norm(D - L * longer / size) / both

    def rate(self, select=slice(None)):
        """Slope of -log distance where it is near e^-200."""
        gap = self.growth - self.levels[1]
        near, far = (self.distance(efold / gap, select) for efold in (200, 220))
        return np.log(near / far) / 20 * gap
