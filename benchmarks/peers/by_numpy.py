"""NumPy by hand: gradients by class sums, arrays in place; and the closed form, state by state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.case import Case
from benchmarks.contender import Run
from benchmarks.reference import entropy_curves, entropy_gradient


def limit_direction(case: Case, H: np.ndarray, W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit limit (H, W) of balanced classes: the part of the start that grows fastest (Corollary 3)."""
    means = H.reshape(case.classes, case.per_class, case.dim).mean(axis=1)
    root = np.sqrt(case.per_class).astype(H.dtype)
    F, A = root * (means - means.mean(axis=0)), W - W.mean(axis=0)
    plus = (F + A) / 2
    size = np.sqrt(2 * np.sum(plus**2))
    return np.repeat(plus / (root * size), case.per_class, axis=0), plus / size


def observer(case: Case, H: np.ndarray, W: np.ndarray) -> Callable[..., tuple[float, ...]]:
    """(H, W) -> loss, accuracy, norm, distance from the limit of the start."""
    gamma, index = case.gammas[0], case.index
    limit_H, limit_W = limit_direction(case, H, W)

    # Buffers: a fresh array of megabytes costs more than what is computed in it.
    logits, off_H, off_W = np.empty((case.samples, case.classes), H.dtype), np.empty_like(H), np.empty_like(W)

    def observe(H: np.ndarray, W: np.ndarray) -> tuple[float, ...]:
        np.matmul(H, W.T, out=logits)
        own = np.take_along_axis(logits, index[:, None], axis=1)
        loss = -np.mean((1 + gamma) * own[:, 0] - gamma * logits.sum(axis=1))
        accuracy = np.mean(np.argmax(logits, axis=1) == index)
        norm = np.sqrt(np.vdot(H, H) + np.vdot(W, W))
        for part, limit, off in ((H, limit_H, off_H), (W, limit_W, off_W)):
            np.divide(part, norm, out=off)
            np.subtract(off, limit, out=off)
        return loss, accuracy, norm, np.sqrt(np.vdot(off_H, off_H) + np.vdot(off_W, off_W))

    return observe


def named(saved: Sequence[tuple[Any, ...]]) -> dict[str, np.ndarray]:
    """Logged tuples as curves."""
    return dict(zip(("loss", "accuracy", "norm", "distance"), np.array(saved).T, strict=False))


def descent(case: Case) -> Run:
    """Unconstrained gradient descent."""
    start, gamma = case.start(), case.gammas[0]
    observe = observer(case, *start)
    pull, push = case.rate * (1 + gamma) / case.samples, case.rate * gamma / case.samples

    def run() -> dict[str, np.ndarray]:
        H, W = (part.copy() for part in start)
        blocks = H.reshape(case.classes, case.per_class, case.dim)
        sums, lift, saved = np.empty_like(W), np.empty_like(W), [observe(H, W)]
        for k in range(1, case.steps + 1):
            np.sum(blocks, axis=1, out=sums)
            np.multiply(W, pull, out=lift)
            lift -= push * W.sum(axis=0)
            common = push * sums.sum(axis=0)
            sums *= pull
            W += sums
            W -= common
            blocks += lift[:, None]
            if k % case.every == 0:
                saved.append(observe(H, W))
        return named(saved)

    return run


def spherical(case: Case) -> Run:
    """Gradient descent on unit features with fixed prototypes."""
    (H0, W), index = case.start(), case.index
    gamma = case.gammas[0]
    targets = (((1 + gamma) * W - gamma * W.sum(axis=0)) / case.samples)[index]
    unit_targets = targets / np.linalg.norm(targets, axis=1, keepdims=True)

    def observe(H: np.ndarray) -> tuple[Any, ...]:
        square = np.einsum("np,np->n", H, H)
        unit = H / np.sqrt(square)[:, None]
        right = np.argmax(unit @ W.T, axis=1) == index
        norm = np.sqrt(square.sum() + np.vdot(W, W))
        return -np.vdot(targets, unit), np.mean(right), norm, np.linalg.norm(unit - unit_targets)

    def run() -> dict[str, np.ndarray]:
        H, scratch = H0.copy(), np.empty_like(H0)
        saved = [observe(H)]
        for k in range(1, case.steps + 1):
            square = np.einsum("np,np->n", H, H)
            inner = np.einsum("np,np->n", targets, H)
            scale = case.rate / np.sqrt(square)
            H *= (1 - scale * inner / square)[:, None]
            np.multiply(targets, scale[:, None], out=scratch)
            H += scratch
            if k % case.every == 0:
                saved.append(observe(H))
        return named(saved)

    return run


def entropy(case: Case) -> Run:
    """Cross-entropy descent."""
    start, downhill = case.start(), entropy_gradient(case)

    def run() -> dict[str, np.ndarray]:
        H, W = (part.copy() for part in start)
        saved = [entropy_curves(case, H, W)]
        for k in range(1, case.steps + 1):
            move_H, move_W = downhill(H, W)
            move_H *= case.rate
            move_W *= case.rate
            H += move_H
            W += move_W
            if k % case.every == 0:
                saved.append(entropy_curves(case, H, W))
        return named(saved)

    return run


def closed_form(case: Case) -> Run:
    """Theorem 2 for descent, the state of every logged point put together from its modes."""
    (H0, W0), gamma = case.start(), case.gammas[0]
    observe = observer(case, H0, W0)
    root = np.sqrt(case.per_class).astype(case.dtype)
    means = H0.reshape(case.classes, case.per_class, case.dim).mean(axis=1)
    F, within = means * root, H0 - np.repeat(means, case.per_class, axis=0)
    unit = case.classes * np.sqrt(case.per_class)
    sigma, sigma_common = (1 + gamma) / unit, (1 + gamma - gamma * case.classes) / unit

    def run() -> dict[str, np.ndarray]:
        common_F, common_W = F.mean(axis=0), W0.mean(axis=0)
        contrast_F, contrast_W = F - common_F, W0 - common_W
        saved = []
        for k in case.times:
            up, down = (1 + case.rate * sigma) ** k, (1 - case.rate * sigma) ** k
            even, odd = (up + down) / 2, (up - down) / 2
            up, down = (1 + case.rate * sigma_common) ** k, (1 - case.rate * sigma_common) ** k
            common_even, common_odd = (up + down) / 2, (up - down) / 2
            now_F = even * contrast_F + odd * contrast_W + (common_even * common_F + common_odd * common_W)
            now_W = even * contrast_W + odd * contrast_F + (common_even * common_W + common_odd * common_F)
            H = within + np.repeat(now_F / root, case.per_class, axis=0)
            saved.append(observe(H.astype(case.dtype, copy=False), now_W.astype(case.dtype, copy=False)))
        return named(saved)

    return run
