"""Frozen features, linear classifier: under the unhinged loss the prototypes move on a straight line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike

from unhinged_jax.dynamics import Flow
from unhinged_jax.labels import from_counts
from unhinged_jax.model import LayerPeeled, frozen
from unhinged_jax.plots.looks import head, key_of
from unhinged_jax.schedules import cosine, logspaced
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.drawing import logarithmic, pair
from unhinged_jax.theories.theory import Check, Curves, Theory, relative, worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def heading(H: npt.ArrayLike, index: npt.ArrayLike, weights: npt.ArrayLike, classes: int, gamma: float) -> np.ndarray:
    """Velocity of the prototypes at unit rate: sums over class means, w_c' = (1+gamma) m_c - gamma sum_j m_j.

    Args:
        H: Features, shape (n, p).
        index, weights: Labels and sample weights q_i, shape (n,).
        classes: C.
        gamma: Trade-off of the unhinged loss.

    Returns:
        M^T H, shape (C, p), with m_c = sum over class c of q_i h_i.

    Source: Zhou et al. 2023, Eq. 4, at r_1 = 0.

    Example:
        >>> heading([[1.0], [3.0]], [0, 1], [0.5, 0.5], classes=2, gamma=1.0).tolist()
        [[-1.0], [1.0]]
    """
    H, index, weights = np.asarray(H, float), np.asarray(index), np.asarray(weights, float)
    sums = np.stack([weights[index == c] @ H[index == c] for c in range(classes)])
    return (1 + gamma) * sums - gamma * sums.sum(axis=0)


def turning(path: Sequence[ArrayLike] | np.ndarray, start: npt.ArrayLike, direction: npt.ArrayLike) -> np.ndarray:
    """Angle between each displacement from `start` and a direction, in radians, without cancellation near 0."""
    moved = (np.asarray(path) - np.asarray(start)).reshape(len(path), -1)
    unit = np.ravel(direction) / np.linalg.norm(direction)
    along = moved @ unit
    return np.arctan2(np.linalg.norm(moved - along[:, None] * unit, axis=1), along)


def problem(loss: str | None = None) -> LayerPeeled:
    """Four unequal classes, a fifth of the labels flipped in expectation, gamma off its natural value."""
    labels = from_counts([9, 6, 4, 2]).symmetric_noise(0.2)
    return frozen(labels, 6, loss=loss, gamma=0.25 if loss is None else None)


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    horizon = 1e4
    flow, times = Flow(cosine(1.0, horizon=2 * horizon), rate_W=1.3, rtol=1e-10), logspaced(1e-2, horizon, 41)
    clean = problem()
    features = np.random.default_rng(5).standard_normal((clean.samples, clean.dim))
    features += 1.5 * np.eye(clean.classes, clean.dim)[np.asarray(clean.labels.index)]
    curves: dict[str, np.ndarray] = {"time": times}
    for loss in ("unhinged", "cross_entropy", "mse"):
        model = problem(None if loss == "unhinged" else loss)
        state = model.init(jax.random.key(3), features=features, precision="float64")
        run = simulate(model, flow, state, times, ["accuracy"], states=True)
        assert run.states is not None
        first = np.asarray(model.velocity(*map(jnp.asarray, (state.H, state.W, state.b)))[1])
        curves[f"turning_{loss}"] = turning(run.states.W, state.W, first)
        curves[f"accuracy_{loss}"] = np.asarray(run["accuracy"])
        if loss == "unhinged":
            line = _along(model, features)
            zeta = times / 2 + horizon / np.pi * np.sin(np.pi * times / (2 * horizon))
            off = [relative(W, state.W + 1.3 * moment * line) for moment, W in zip(zeta, run.states.W, strict=True)]
    checks = (
        Check("prototypes against W₀ + r₂ζ(t)MᵀH, relative", worst(off), 1e-8),
        Check("largest angle off the straight line, unhinged", worst(curves["turning_unhinged"]), 1e-8),
        Check("angle that cross-entropy turns by", float(curves["turning_cross_entropy"][-1]), 0.05, at_least=True),
    )
    return checks, curves


def _along(model: LayerPeeled, features: np.ndarray) -> np.ndarray:
    """The heading under expected label noise: samples enter every class with the weight of their target."""
    targets = np.asarray(model.labels.targets, float)[np.asarray(model.labels.index)]
    n, C = targets.shape
    copies = np.repeat(features, C, axis=0)
    return heading(copies, np.tile(np.arange(C), n), targets.ravel() / n, C, 0.25)


_ROUNDING = (1e-16, 1e-9)


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    for loss, label in (("unhinged", "unhinged"), ("cross_entropy", "cross-entropy"), ("mse", "MSE")):
        left.plot(curves["time"], np.maximum(curves[f"turning_{loss}"], 1e-17), label=label)
        right.plot(curves["time"], curves[f"accuracy_{loss}"], label=label)
    left.axhspan(*_ROUNDING, color="0.93", lw=0, label="rounding: no turn")
    logarithmic(left, "time", "angle (rad)", both=True)
    left.set_ylim(*_ROUNDING[:1], 10)
    logarithmic(right, "time", "share of samples classified correctly")
    right.set_ylim(0, 1.03)
    head(left, "Turn away from the first velocity", "the unhinged path is straight; others turn by 0.4 rad")
    head(right, "Training accuracy", "on clean labels; cross-entropy and MSE end together")
    key_of(figure)


THEORY = Theory(
    name="frozen",
    title="Frozen features: a straight line",
    loss="unhinged",
    case="frozen features",
    predicted="`W(t) = W₀ + r₂ζ(t)MᵀH`: a straight line along the differences of class means",
    assumptions="none",
    references=("zhou2023unhinged", "vanrooyen2015unhinged"),
    libraries=("kidger2021on",),
    account=(
        "With frozen features the unhinged gradient is constant, so the prototypes move on a straight line. Their "
        "direction of motion is always that of the first instant, `MᵀH`, a difference of class means. This is `r₁ = "
        "0` in the gradient flow of Zhou et al.; that the minimiser is a difference of means goes back to van Rooyen "
        "et al. Under other losses the prototypes turn. The data here are unbalanced and noisy, and `γ` is not "
        "`1/(C−1)`."
    ),
    caption=(
        "Left: angle between the displacement of the prototypes and their first velocity; for the unhinged loss it is "
        "rounding. Right: training accuracy against the clean labels."
    ),
    compute=_compute,
    draw=_draw,
)
