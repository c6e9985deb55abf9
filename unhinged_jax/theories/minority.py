"""Minority collapse: a threshold under cross-entropy with decay, no threshold under the unhinged loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import numpy.typing as npt
import scipy.optimize

from unhinged_jax import _check
from unhinged_jax.closed_form import exact
from unhinged_jax.dynamics import Descent, Flow
from unhinged_jax.labels import Labels, step_imbalanced
from unhinged_jax.model import regularized, unconstrained
from unhinged_jax.plots.looks import head, key_under
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.drawing import THRESHOLD, pair
from unhinged_jax.theories.theory import Check, Curves, Theory, least, relative, worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAJOR, MINOR, FEW, DECAY = 2, 2, 2, 1 / (13 * math.sqrt(2))
DIM = 6


def collapse_ratio(majorities: int, minorities: int, few: int, decay_H: float, decay_W: float) -> float:
    """Imbalance n_A / n_B beyond which the minority prototypes of the cross-entropy minimiser are all equal.

    Contrasts among minority classes enter the signal matrix with the singular value sqrt(n_B)/n, and are lost as soon
    as that is not above sqrt(lambda_1 lambda_2).

    Args:
        majorities, minorities: How many classes of n_A and of n_B samples.
        few: n_B.
        decay_H, decay_W: lambda_1, lambda_2, above 0.

    Returns:
        R with sqrt(n_B) / (n_B (majorities R + minorities)) = sqrt(lambda_1 lambda_2); below 1 there is collapse at any
        R.

    Source: Fang et al. 2021 for the collapse, Hong & Ling 2023 for a sharp threshold; in this form derived here.

    Example:
        >>> round(collapse_ratio(majorities=2, minorities=2, few=2, decay_H=0.05, decay_W=0.05), 6)
        6.071068
    """
    _check.positive("decay_H", decay_H)
    _check.positive("decay_W", decay_W)
    return (1 / math.sqrt(few * decay_H * decay_W) - minorities) / majorities


def reduced_minimiser(counts: npt.ArrayLike, decay_H: float, decay_W: float, seed: int = 0) -> np.ndarray:
    """Prototypes of the cross-entropy minimiser for any real class sizes, one collapsed feature per class, by scipy.

    Args:
        counts: Class sizes, positive reals, shape (C,).
        decay_H, decay_W: lambda_1, lambda_2.
        seed: Seed of the random start.

    Returns:
        W, shape (C, C): C dimensions suffice.

    Source: Fang et al. 2021: at a minimum features of a class are equal.

    Example:
        >>> bool(np.allclose(reduced_minimiser([1.0, 1.0], 9.0, 9.0), 0, atol=1e-5))
        True
    """
    counts = np.asarray(counts, float)
    C, shares = counts.size, counts / counts.sum()

    def objective(z: np.ndarray) -> tuple[float, np.ndarray]:
        H, W = z.reshape(2, C, C)
        S = H @ W.T
        logs = S - np.logaddexp.reduce(S, axis=1, keepdims=True)
        G = shares[:, None] * (np.exp(logs) - np.eye(C))
        held = decay_H * counts[:, None]
        value = -shares @ np.diag(logs) + np.sum(held * H**2) / 2 + decay_W * np.sum(W**2) / 2
        return float(value), np.r_[(G @ W + held * H).ravel(), (G.T @ H + decay_W * W).ravel()]

    start = np.random.default_rng(seed).standard_normal(2 * C * C)
    found = scipy.optimize.minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-11, "maxiter": 5000})
    return np.asarray(found.x[C * C :].reshape(C, C))


def contrast_ratio(W: npt.ArrayLike, majorities: int) -> np.ndarray:
    """Spread of the minority prototypes over that of the majority ones, from W (..., C, p).

    Example:
        >>> float(contrast_ratio([[1.0], [-1.0], [0.5], [-0.5]], majorities=2))
        0.5
    """
    W = np.asarray(W, float)
    many, few = W[..., :majorities, :], W[..., majorities:, :]
    spread = [np.linalg.norm(part - part.mean(axis=-2, keepdims=True), axis=(-2, -1)) for part in (many, few)]
    return np.asarray(spread[1] / spread[0])


def _labels(ratio: int) -> Labels:
    return step_imbalanced(classes=MAJOR + MINOR, largest=FEW * ratio, ratio=ratio, majority=MAJOR)


def _cross_entropy(curves: dict[str, Any]) -> tuple[Check, ...]:
    threshold = collapse_ratio(MAJOR, MINOR, FEW, DECAY, DECAY)
    measured, agree, margins = [], [], []
    ratios = (3, 5, 6, 8)
    for ratio in ratios:
        model = regularized(_labels(ratio), DIM, decay=DECAY, loss="cross_entropy")
        state = model.init(jax.random.key(1), precision="float64")
        final = simulate(model, Descent(0.5, momentum=0.9), state, [40_000], ["loss"]).final
        H, W = np.asarray(final.H), np.asarray(final.W)
        measured.append(float(contrast_ratio(W, MAJOR)))
        counts = [FEW * ratio] * MAJOR + [FEW] * MINOR
        agree.append(abs(measured[-1] - float(contrast_ratio(reduced_minimiser(counts, DECAY, DECAY), MAJOR))))
        logits = H[-1] @ W.T
        p = np.exp(logits - np.logaddexp.reduce(logits))
        if ratio < threshold:  # active contrasts are exactly where decay holds them
            margins.append(abs(FEW**0.5 / len(H) * (1 - p[-1] + p[-2]) / DECAY - 1))
    fine = np.concatenate([np.linspace(1, 5.3, 18), threshold + np.array([-0.1, -0.03, 0.03, 0.1]), [6.5, 7.5, 9, 10]])
    spread = [contrast_ratio(reduced_minimiser([FEW * r] * MAJOR + [FEW] * MINOR, DECAY, DECAY), MAJOR) for r in fine]
    curves.update(fine=fine, spread=np.array(spread), ratios=np.array(ratios), measured=np.array(measured),
                  threshold=np.array(threshold))  # fmt: skip
    alive = least([m for m, r in zip(measured, ratios, strict=True) if r < threshold])
    dead = worst([m for m, r in zip(measured, ratios, strict=True) if r > threshold])
    return (
        Check("minority over majority contrast beyond the threshold, simulated", dead, 1e-6),
        Check("the same below the threshold, smallest", alive, 0.1, at_least=True),
        Check("simulated against an independent minimiser", worst(agree), 1e-5),
        Check("balance √n_B/n (1 − p + p′) = √(λ₁λ₂) of living contrasts, relative", worst(margins), 1e-8),
        Check("reduced minimiser 0.03 beyond the threshold", float(spread[-6]), 1e-4),
        Check("reduced minimiser 0.03 below it", float(spread[-7]), 0.01, at_least=True),
    )


def _unhinged(curves: dict[str, Any]) -> tuple[Check, ...]:
    times, rates, agree = np.linspace(0, 180, 46), [], []
    for ratio in (1, 2, 5, 10):
        labels = _labels(ratio)
        model = unconstrained(labels, DIM)
        state = model.init(jax.random.key(5), precision="float64")
        run = exact(model, Flow(), state, times, (), states=True)
        assert run.states is not None
        values = contrast_ratio(run.states.W, MAJOR)
        curves[f"unhinged_{ratio}"] = values
        n, scale = labels.samples, 1 + 1 / (MAJOR + MINOR - 1)
        predicted = scale * (math.sqrt(FEW * ratio) - math.sqrt(FEW)) / n
        late = slice(-8, None)
        rates.append(abs(-np.polyfit(times[late], np.log(values[late]), 1)[0] - predicted) / max(predicted, 0.01))
        if ratio == 5:
            other = simulate(model, Flow(rtol=1e-11), state, times, ["loss"], states=True)
            assert other.states is not None
            agree.append(relative(contrast_ratio(other.states.W, MAJOR), values))
    curves["time"] = times
    return (
        Check("unhinged: rate at which minority contrasts fall behind, relative", worst(rates), 1e-3),
        Check("unhinged: simulated against exact, relative", worst(agree), 1e-8),
    )


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    curves: dict[str, Any] = {}
    return _cross_entropy(curves) + _unhinged(curves), curves


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    left.plot(curves["fine"], curves["spread"], label="minimiser by scipy")
    left.plot(curves["ratios"], curves["measured"], "o", color="0.1", ms=4.5, label="where descent ended")
    left.axvline(curves["threshold"], **THRESHOLD, label="predicted threshold")
    left.set(xlabel="imbalance $n_A / n_B$", ylabel="minority over majority")
    head(left, "Contrast among minority prototypes, cross-entropy with decay", "zero beyond the threshold")
    for ratio in (1, 2, 5, 10):
        right.plot(curves["time"], curves[f"unhinged_{ratio}"], label=f"imbalance {ratio}")
    right.set(yscale="log", xlabel="time", ylabel="minority over majority")
    head(right, "The same along the unhinged flow, exact", "it dies out at any imbalance above 1")
    key_under(left)
    key_under(right, columns=2)


THEORY = Theory(
    name="minority-collapse",
    title="Minority collapse",
    loss="cross-entropy, unhinged",
    case="regularised; unconstrained",
    predicted=(
        "cross-entropy: minority prototypes coincide iff `√(n_B)/n ≤ √(λ₁λ₂)`; unhinged: they do at any imbalance, at "
        "the rate `(1+γ)(√(n_A) − √(n_B))/n`"
    ),
    assumptions="two sizes of class; p large enough",
    references=("fang2021exploring", "hong2023neural", "zhou2023unhinged"),
    libraries=("deepmind2020jax", "kidger2021on", "virtanen2020scipy"),
    account=(
        "Fang et al. found that beyond some imbalance the prototypes of minority classes become equal under "
        "cross-entropy; Hong & Ling gave a sharp threshold. With decay the threshold can be read off the signal "
        "matrix: contrasts among minority classes have the singular value `√(n_B)/n`, and decay extinguishes them as "
        "soon as that value is not above `√(λ₁λ₂)`. Simulated minimisers and an independent reduced problem are "
        "checked on both sides of the threshold. Under the unhinged loss there is no threshold: every contrast grows "
        "at its own rate, and those of the majority grow faster, so the minority's contrasts die out exponentially "
        "relative to them at any imbalance. The exact solution gives the rate."
    ),
    caption=(
        "Left: spread of the minority prototypes over the majority's at the minimum of cross-entropy. Right: the same "
        "along the unhinged flow."
    ),
    compute=_compute,
    draw=_draw,
)
