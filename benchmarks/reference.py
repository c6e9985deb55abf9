"""What errors are measured against: closed forms in extended precision, and tight solves where there are none.

Written apart from the library, with NumPy and SciPy only, so that the library's own `exact` is measured too.
`numpy.longdouble` has 64 bits of mantissa on x86; where it is no wider than float64, errors near 1e-16 mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.case import Case

Curves = dict[str, np.ndarray]
_Extended = np.longdouble
Growth = Callable[[Any], np.ndarray]
"""Rate of change mu (an eigenvalue of the dynamics) -> growth at the logged times."""


class Modes:
    """A start split along the subspaces of balanced classes: contrasts, common mean, within classes (Lemmas 14-17)."""

    def __init__(self, case: Case, H: np.ndarray, W: np.ndarray) -> None:
        self.case = case
        H, W = H.astype(_Extended), W.astype(_Extended)
        means = H.reshape(case.classes, case.per_class, case.dim).mean(axis=1)
        F = means * np.sqrt(_Extended(case.per_class))
        self.within = H - np.repeat(means, case.per_class, axis=0)
        common_F, common_W = F.mean(axis=0), W.mean(axis=0)
        self.contrast = [(F - common_F + sign * (W - common_W)) / 2 for sign in (1, -1)]
        self.common = [(common_F + sign * common_W) / 2 for sign in (1, -1)]
        # Squared norms of the parts of (H, W): each of f and a counts, and the common mean once a class.
        self.square_contrast = [2 * np.sum(part**2) for part in self.contrast]
        self.square_common = [2 * case.classes * np.sum(part**2) for part in self.common]
        self.square_within = np.sum(self.within**2)

    def sigmas(self, gamma: float) -> tuple[np.longdouble, np.longdouble]:
        """Coupling of the contrasts, and of the common mean with its sign."""
        trade, classes = _Extended(gamma), self.case.classes
        unit = classes * np.sqrt(_Extended(self.case.per_class))
        return (1 + trade) / unit, (1 + trade - trade * classes) / unit

    def growths(self, gamma: float, decay: Any, factor: Growth) -> list[Any]:
        """Growth of the contrasts (up, down), of the common mean (up, down), and of what lies within classes."""
        sigma, sigma_common = self.sigmas(gamma)
        rates = (sigma - decay, -sigma - decay, sigma_common - decay, -sigma_common - decay, -decay)
        return [factor(rate) for rate in rates]

    def squares(self, growths: list[Any]) -> tuple[Any, Any]:
        """Squared norms of the leading part and of the rest."""
        up, down, common_up, common_down, fade = growths
        rest = self.square_contrast[1] * down**2 + self.square_within * fade**2
        rest = rest + self.square_common[0] * common_up**2 + self.square_common[1] * common_down**2
        return self.square_contrast[0] * up**2, rest

    def curves(self, gamma: float, decay: float, factor: Growth) -> Curves:
        """All curves of a run."""
        sigma, sigma_common = self.sigmas(gamma)
        growths = self.growths(gamma, _Extended(decay), factor)
        lead, rest = self.squares(growths)
        _, down, common_up, common_down, _ = growths
        norm = np.sqrt(lead + rest)
        # |z/|z| - l| for a unit l: 1 - cos from the parts, so that nothing cancels.
        along = rest / (norm * (norm + np.sqrt(lead)))
        loss = -sigma / 2 * (lead - self.square_contrast[1] * down**2)
        loss = loss - sigma_common / 2 * (self.square_common[0] * common_up**2 - self.square_common[1] * common_down**2)
        return {
            "loss": loss,
            "norm": norm,
            "distance": np.sqrt(along**2 + rest / norm**2),
            "accuracy": np.array([self._accuracy(*values) for values in zip(*growths, strict=True)]),
            "loss_bound": sigma / 2 * norm**2,
        }

    def last_norm(self, gamma: float, decay: float, factor: Growth) -> tuple[Any, Any]:
        """Norm at the end, and its derivative with respect to the decay by a complex step, without cancellation."""
        step = _Extended(1e-30)
        lead, rest = self.squares(self.growths(gamma, _Extended(decay) + 1j * step, factor))
        norm = np.sqrt(lead + rest)[-1]
        return norm.real, norm.imag / step

    def _accuracy(self, up: float, down: float, common_up: float, common_down: float, fade: float) -> float:
        """Share of samples classified right; float64 is enough to compare logits."""
        case, root = self.case, np.sqrt(float(self.case.per_class))
        parts = [part.astype(float) for part in (*self.contrast, *self.common)]
        growth = [float(g) for g in (up, down, common_up, common_down)]
        plus, minus, common_plus, common_minus = (g * part for g, part in zip(growth, parts, strict=True))
        W = plus - minus + common_plus - common_minus
        means = (plus + minus + common_plus + common_minus) / root
        H = np.repeat(means, case.per_class, axis=0) + float(fade) * self._within
        return float(np.mean(np.argmax(H @ W.T, axis=1) == case.index))

    @property
    def _within(self) -> np.ndarray:
        if not hasattr(self, "_within_float64"):
            self._within_float64 = self.within.astype(float)
        return self._within_float64


def descent_factor(case: Case) -> Growth:
    """mu -> (1 + eta mu)^k at the logged numbers of updates k."""
    return lambda mu: (1 + _Extended(case.rate) * mu) ** case.times.astype(_Extended)


def flow_factor(case: Case) -> Growth:
    """mu -> exp(mu tau) at the logged times."""
    return lambda mu: np.exp(mu * _Extended(case.rate) * case.times.astype(_Extended))


def linear(case: Case) -> Curves:
    """Closed form of every run, for balanced classes and the unhinged loss; a sweep has axes (seed, gamma, time)."""
    factor = flow_factor(case) if case.horizon else descent_factor(case)
    runs = []
    for seed in range(case.seeds):
        modes = Modes(case, *case.start(seed))
        runs.append([modes.curves(gamma, case.decay, factor) for gamma in case.gammas])
    if case.runs == 1:
        return runs[0][0]
    return {name: np.array([[run[name] for run in row] for row in runs]) for name in runs[0][0]}


def spherical(case: Case) -> Curves:
    """The plain update of every sample in the plane of its start and its target, in extended precision."""
    H, W = (part.astype(_Extended) for part in case.start())
    gamma, classes = _Extended(case.gammas[0]), case.classes
    targets = ((1 + gamma) * W - gamma * W.sum(axis=0)) / (classes * case.per_class)
    pull = np.repeat(np.sqrt(np.sum(targets**2, axis=1)), case.per_class)
    along = np.repeat(targets, case.per_class, axis=0) / pull[:, None]
    u = np.sum(H * along, axis=1)
    across = H - u[:, None] * along
    v = np.sqrt(np.sum(across**2, axis=1))
    across, along = (across / v[:, None]).astype(float), along.astype(float)
    rate, square_W, saved = _Extended(case.rate) * pull, np.sum(W**2), []
    logged = set(case.times.tolist())
    for k in range(case.steps + 1):
        square = u * u + v * v
        if k in logged:
            length = np.sqrt(square)
            H_now = u.astype(float)[:, None] * along + v.astype(float)[:, None] * across
            right = np.argmax(H_now @ W.astype(float).T, axis=1) == case.index
            half = np.sin(np.arctan2(v, u) / 2)
            saved.append(
                (-np.sum(pull * u / length), np.mean(right), np.sqrt(np.sum(square) + square_W),
                 2 * np.sqrt(np.sum(half**2)))
            )  # fmt: skip
        turn = rate / (square * np.sqrt(square))
        u, v = u + turn * v * v, v - turn * u * v
    curves = dict(zip(("loss", "accuracy", "norm", "distance"), np.array(saved).T, strict=True))
    return {**curves, "loss_bound": np.full(len(saved), np.sum(pull))}


def entropy_gradient(case: Case) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(H, W) -> minus the gradients of the mean cross-entropy plus decay."""
    index, rows = case.index, np.arange(case.samples)

    def downhill(H: np.ndarray, W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = H @ W.T
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        logits /= -case.samples * logits.sum(axis=1, keepdims=True)
        logits[rows, index] += 1 / case.samples
        return logits @ W - case.decay * H, logits.T @ H - case.decay * W

    return downhill


def entropy_curves(case: Case, H: np.ndarray, W: np.ndarray) -> tuple[float, float, float]:
    """Loss, accuracy and norm of one state."""
    logits = H @ W.T
    top = logits.max(axis=1)
    log_sum = top + np.log(np.sum(np.exp(logits - top[:, None]), axis=1))
    loss = np.mean(log_sum - logits[np.arange(case.samples), case.index])
    accuracy = np.mean(np.argmax(logits, axis=1) == case.index)
    return float(loss), float(accuracy), float(np.sqrt(np.sum(H**2) + np.sum(W**2)))


def entropy_descent(case: Case, dtype: Any = float) -> Curves:
    """Cross-entropy descent in NumPy. There is no closed form, so errors are differences to this."""
    H, W = (part.astype(dtype) for part in case.start())
    downhill, saved = entropy_gradient(case), []
    for k in range(case.steps + 1):
        if k % case.every == 0:
            saved.append(entropy_curves(case, H, W))
        if k < case.steps:
            move_H, move_W = downhill(H, W)
            H, W = H + case.rate * move_H, W + case.rate * move_W
    return dict(zip(("loss", "accuracy", "norm"), np.array(saved).T, strict=True))


def entropy_flow(case: Case) -> Curves:
    """Cross-entropy flow by SciPy's DOP853 at a tolerance of 1e-10."""
    from scipy.integrate import DOP853

    (H, W), times = (part.astype(float) for part in case.start()), case.times
    split, downhill = H.size, entropy_gradient(case)

    def field(_t: float, y: np.ndarray) -> np.ndarray:
        moves = downhill(y[:split].reshape(H.shape), y[split:].reshape(W.shape))
        return case.rate * np.concatenate([move.ravel() for move in moves])

    solver = DOP853(field, 0.0, np.concatenate([H.ravel(), W.ravel()]), case.horizon, rtol=1e-10, atol=1e-11)
    saved = [entropy_curves(case, H, W)]
    while solver.status == "running":
        solver.step()
        dense = solver.dense_output()
        for time in times[len(saved) :]:
            if time > solver.t:
                break
            y = dense(time)
            saved.append(entropy_curves(case, y[:split].reshape(H.shape), y[split:].reshape(W.shape)))
    return dict(zip(("loss", "accuracy", "norm"), np.array(saved).T, strict=True))


def stochastic(case: Case) -> Curves:
    """Expectations of squared norm and loss under batches drawn with replacement, by the recursion of their moments."""
    (H, W), R = case.start(), (1 + case.gammas[0]) * np.eye(case.classes) - case.gammas[0]
    H, W, R = (part.astype(float) for part in (H, W, R / case.samples))
    P = np.eye(case.classes)[case.index].T
    n_c, F = P.sum(axis=1), P @ H
    FF, FW, WW, d = F @ F.T, F @ W.T, W @ W.T, P @ np.sum(H * H, axis=1)
    eta, n, m, keep = case.rate, case.samples, case.batch, 1 - case.rate * case.decay
    seen: dict[str, list[float]] = {"square_norm": [], "loss": []}
    for k in range(case.steps + 1):
        if k % case.every == 0:
            seen["square_norm"].append(float(d.sum() + np.trace(WW)))
            seen["loss"].append(float(-np.sum(R * FW)))
        X, RW, RF = R @ WW @ R.T, n_c[:, None] * (R @ WW), n_c[:, None] * (R @ FW.T)
        own, LXL = np.diag(FW @ R.T), np.outer(n_c, n_c) * X
        new_FF = keep**2 * FF + keep * eta * (RF + RF.T) + eta**2 * (LXL + (n * np.diag(n_c * np.diag(X)) - LXL) / m)
        new_WW = keep**2 * WW + keep * eta * (FW.T @ R + R.T @ FW)
        new_WW += eta**2 * R.T @ (FF + (n * np.diag(d) - FF) / m) @ R
        new_FW = keep**2 * FW + keep * eta * (FF @ R + RW) + eta**2 * (RF + (n * np.diag(own) - RF) / m) @ R
        d = keep**2 * d + 2 * keep * eta * own + eta**2 * n_c * np.diag(X) * (1 + (n - 1) / m)
        FF, WW, FW = new_FF, new_WW, new_FW
    return {name: np.array(values) for name, values in seen.items()}


def errors(curves: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Largest error of each curve over the points it has; the last axis is time.

    Relative, point by point, for norm, distance and cross-entropy. The unhinged loss is an inner product that passes
    through zero, so its errors are relative to the largest it could be at that norm, sigma_1 ||(H, W)||^2 / 2 (or the
    sum of the pulls on a sphere), which it tends to. Absolute for the accuracy. NaN where a curve is not finite, so
    that it is never taken for small.
    """
    found = {}
    for name, exact in truth.items():
        if name not in curves:
            continue  # another kind of run has another truth
        given = np.asarray(curves[name], _Extended)
        part = tuple(slice(0, length) for length in given.shape)
        exact = np.asarray(exact)[part]
        scale = np.abs(exact)
        if name == "loss" and "loss_bound" in truth:
            scale = truth["loss_bound"][part]
        if name == "accuracy":
            scale = np.ones_like(scale)
        found[name] = float(np.max(np.abs(given - exact) / scale)) if np.all(np.isfinite(given)) else float("nan")
    return found
