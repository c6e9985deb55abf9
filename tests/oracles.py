"""Independent references in plain NumPy and decimal arithmetic: nothing here uses the package's own algebra."""

import itertools
import math
from decimal import Decimal, getcontext

import numpy as np
from scipy.linalg import expm

getcontext().prec = 120


def one_hot(index, classes):
    return np.eye(classes)[np.asarray(index)]


def signal_matrix(weights, targets, gamma):
    """M_ic = q_i ((1 + gamma) Y_ic - gamma)."""
    return np.asarray(weights)[:, None] * ((1 + gamma) * np.asarray(targets) - gamma)


def generator(M, kernel=None, decay=(0.0, 0.0), rates=(1.0, 1.0)):
    """The matrix A of Z' = A Z for the stacked rows Z = [H; W]."""
    n, C = M.shape
    pull = M if kernel is None else kernel @ M
    (l1, l2), (r1, r2) = decay, rates
    return np.block([[-r1 * l1 * np.eye(n), r1 * pull], [r2 * M.T, -r2 * l2 * np.eye(C)]])


def flow_state(A, H, W, tau):
    Z = expm(A * tau) @ np.concatenate([H, W])
    return Z[: len(H)], Z[len(H) :]


def flow_bias(M, b, decay_W, r2, tau):
    C = len(b)
    A = np.zeros((C + 1, C + 1))
    A[:C, :C] = -r2 * decay_W * np.eye(C)
    A[:C, C] = r2 * M.sum(axis=0)
    return (expm(A * tau) @ np.append(b, 1.0))[:C]


def descent(gradient, parts, etas, rates, momentum=None, nesterov=False):
    """Simultaneous steps of optax's sgd on a list of arrays; yields the parts after every update.

    `rates` holds one number or one sequence over updates for each part.
    """
    parts = [np.array(part, dtype=float) for part in parts]
    trace = [np.zeros_like(part) for part in parts]
    yield [part.copy() for part in parts]
    for k, eta in enumerate(etas):
        downhill = [-g for g in gradient(*parts)]
        if momentum is not None:
            trace = [d + momentum * v for d, v in zip(downhill, trace, strict=True)]
            change = [d + momentum * v for d, v in zip(downhill, trace, strict=True)] if nesterov else trace
        else:
            change = downhill
        at = [r[k] if np.ndim(r) else r for r in rates]
        parts = [part + eta * r * move for part, r, move in zip(parts, at, change, strict=True)]
        yield [part.copy() for part in parts]


def linear_gradient(M, kernel=None, decay=(0.0, 0.0), moves=(1, 1, 1)):
    """(dL/dH, dL/dW, dL/db) of -<M, H W^T + b> + decay, the kernel on the first."""
    pull = M if kernel is None else kernel @ M

    def gradient(H, W, b):
        return (
            moves[0] * (decay[0] * H - pull @ W),
            moves[1] * (decay[1] * W - M.T @ H),
            moves[2] * (decay[1] * b - M.sum(axis=0)),
        )

    return gradient


def relative(got, want):
    """Frobenius distance over Frobenius norm."""
    want = np.asarray(want, dtype=float)
    return np.linalg.norm(np.asarray(got, dtype=float) - want) / np.linalg.norm(want)


def decimals(x):
    """A NumPy array of exact decimals."""
    return np.vectorize(lambda v: Decimal(float(v)), otypes=[object])(np.asarray(x, dtype=float))


def decimal_expm(A, tau):
    """expm(A tau) with decimal entries: Taylor series of a scaled matrix, then squarings."""
    A = A * Decimal(tau)
    size = max(abs(entry) for entry in A.ravel()) * len(A)
    squarings = 0
    while size > 1:
        size, squarings = size / 2, squarings + 1
    A = A / Decimal(2) ** squarings
    total = term = decimals(np.eye(len(A)))
    for k in range(1, 90):
        term = term.dot(A) / Decimal(k)
        total = total + term
    for _ in range(squarings):
        total = total.dot(total)
    return total


def decimal_power(A, count):
    """A^count with decimal entries, count >= 0."""
    total = decimals(np.eye(len(A)))
    while count:
        total = total.dot(A) if count % 2 else total
        A, count = A.dot(A), count // 2
    return total


def decimal_norm(Z):
    return sum((x * x for x in Z.ravel()), Decimal(0)).sqrt()


def direction_distance(Z, limit):
    """|| Z/||Z|| - L/||L|| || of decimal arrays."""
    return decimal_norm(Z / decimal_norm(Z) - limit / decimal_norm(limit))


def from_hull(point, corners):
    """Distance of a point from a convex hull: the nearest point lies inside a face, so every face is tried."""
    best = math.inf
    for count in range(1, len(corners) + 1):
        for face in itertools.combinations(corners, count):
            rows = np.array(face)
            edges = (rows[1:] - rows[0]).T
            along = np.linalg.lstsq(edges, point - rows[0], rcond=None)[0] if count > 1 else np.zeros(0)
            if min(*along, 1 - along.sum(), 1) >= -1e-12:
                best = min(best, np.linalg.norm(point - rows[0] - edges @ along))
    return best


def beyond_metrics(H, labels, W, ood):
    """What `measure` computes beside `collapse_metrics`, from faces of hulls and loops over classes."""
    C = len(W)
    mu = np.array([H[labels == c].mean(0) for c in range(C)])
    outside = ood.mean(0)

    def one_vs_rest(V):
        V = V / np.linalg.norm(V, axis=1)[:, None]
        return min(from_hull(V[c], np.delete(V, c, axis=0)) for c in range(C))

    return {
        "one_vs_rest_means": one_vs_rest(mu - H.mean(0)),
        "one_vs_rest_prototypes": one_vs_rest(W),
        "nc5": np.mean([abs(m @ outside) / np.linalg.norm(m) / np.linalg.norm(outside) for m in mu]),
    }


def collapse_metrics(H, labels, W, b):
    """Every metric from dense covariances and explicit loops over samples and pairs."""
    (n, p), C = H.shape, len(W)
    mu = np.array([H[labels == c].mean(0) for c in range(C)])
    centre = H.mean(0)
    A = mu - centre
    within, between = np.zeros((p, p)), np.zeros((p, p))
    for h, y in zip(H, labels, strict=True):
        within += np.outer(h - mu[y], h - mu[y]) / n
        between += np.outer(A[y], A[y]) / n
    pairs = list(itertools.combinations(range(C), 2))
    variance = [np.mean(np.sum((H[labels == c] - mu[c]) ** 2, 1)) for c in range(C)]

    def cos(V, i, j):
        return V[i] @ V[j] / np.linalg.norm(V[i]) / np.linalg.norm(V[j])

    def equinorm(V):
        norms = np.linalg.norm(V, axis=1)
        return norms.std() / norms.mean()

    def etf(V):
        gram = V @ V.T
        return np.linalg.norm(gram / np.linalg.norm(gram) - (np.eye(C) - np.ones((C, C)) / C) / np.sqrt(C - 1))

    unit = A / np.linalg.norm(A, axis=1)[:, None]
    energy = np.mean([-np.log(np.linalg.norm(unit[i] - unit[j])) for i, j in pairs])
    duality = np.array([W[c] @ unit[c] / np.linalg.norm(W[c]) for c in range(C)])
    logits = H @ W.T + b
    nearest = [min(range(C), key=lambda c: np.linalg.norm(h - mu[c])) for h in H]
    margins = [s[y] - max(np.delete(s, y)) for s, y in zip(logits, labels, strict=True)]
    # Thrampoulidis et al. 2022, Definition 2: the SVD of the labels, one column per sample, each less 1/C.
    U, S, Vt = np.linalg.svd(np.array([np.eye(C)[y] - 1 / C for y in labels]).T, full_matrices=False)
    per_sample = Vt.T @ np.diag(S) @ Vt
    first = [int(np.flatnonzero(labels == c)[0]) for c in range(C)]
    balanced_means = mu - mu.mean(0)

    def seli(V, target):
        return np.linalg.norm(V @ V.T / np.linalg.norm(V @ V.T) - target / np.linalg.norm(target))

    def riesz(V):
        V = V / np.linalg.norm(V, axis=1)[:, None]
        return np.mean([1 / np.linalg.norm(V[i] - V[j]) for i, j in pairs]) * np.sqrt(2 * C / (C - 1))

    return {
        "nc0": np.linalg.norm(sum(W)) / sum(np.linalg.norm(w) for w in W),
        "seli_distance_means": seli(balanced_means, per_sample[np.ix_(first, first)]),
        "seli_distance_prototypes": seli(W, U @ np.diag(S) @ U.T),
        "riesz_energy_means": riesz(A),
        "riesz_energy_prototypes": riesz(W),
        "ncc_accuracy": np.mean(nearest == labels),
        "accuracy": np.mean(logits.argmax(1) == labels),
        "nc1": np.trace(within @ np.linalg.pinv(between, rcond=1e-12)) / C,
        "nc1_trace_ratio": np.trace(within) / np.trace(between),
        "cdnv": np.mean([(variance[i] + variance[j]) / 2 / np.sum((mu[i] - mu[j]) ** 2) for i, j in pairs]),
        "nc2_equinorm_means": equinorm(A),
        "nc2_equinorm_prototypes": equinorm(W),
        "nc2_equiangularity_means": np.mean([abs(cos(A, i, j) + 1 / (C - 1)) for i, j in pairs]),
        "nc2_equiangularity_prototypes": np.mean([abs(cos(W, i, j) + 1 / (C - 1)) for i, j in pairs]),
        "etf_distance_means": etf(A),
        "etf_distance_prototypes": etf(W),
        "gnc2": energy + 0.5 * np.log(2 * C / (C - 1)),
        "nc3_self_duality": np.linalg.norm(W / np.linalg.norm(W) - A / np.linalg.norm(A)),
        "unc3": duality.std() / abs(duality.mean()),
        "nc4": np.mean(nearest == logits.argmax(1)),
        "minimal_angle_means": math.acos(min(1.0, max(cos(A, i, j) for i, j in pairs))),
        "minimal_angle_prototypes": math.acos(min(1.0, max(cos(W, i, j) for i, j in pairs))),
        "margin_min": min(margins),
        "margin_mean": np.mean(margins),
    }
