"""MSE with decay: the norms of the global minimiser in closed form."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from unhinged_jax import _check, _memory
from unhinged_jax.dynamics import Descent
from unhinged_jax.labels import balanced
from unhinged_jax.model import LayerPeeled, regularized
from unhinged_jax.plots.looks import head
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.drawing import THRESHOLD
from unhinged_jax.theories.theory import Check, Curves, Theory, relative, worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class MSEMinimiser:
    """Global minimisers of MSE with decay on balanced classes: one shape, up to rotations of feature space.

    Attributes:
        contrast, mean: Eigenvalues of W W^T on contrasts (C-1 of them) and on the common mean.
        ratio: ||h||^2 of a sample over ||w||^2 of its prototype, lambda_2 / (N lambda_1).
        bias: Every entry of b.
        objective: The value of the minimum, including decay.
        classes: C.
    """

    contrast: float
    mean: float
    ratio: float
    bias: float
    objective: float
    classes: int

    @property
    def prototype_norm(self) -> float:
        """||w_c||, equal for all classes."""
        return math.sqrt(((self.classes - 1) * self.contrast + self.mean) / self.classes)

    @property
    def feature_norm(self) -> float:
        """||h_i||, equal for all samples."""
        return math.sqrt(self.ratio) * self.prototype_norm

    @property
    def shape(self) -> str:
        """The shape of the prototypes, in words."""
        if self.contrast == 0:
            return "zero"
        if self.mean == 0:
            return "simplex ETF"
        return "orthogonal frame" if self.mean == self.contrast else "between simplex ETF and orthogonal frame"


def mse_minimiser(classes: int, per_class: int, decay_H: float, decay_W: float, bias: bool = False) -> MSEMinimiser:
    """Global minimiser of (1/2) mean ||W h + b - y||^2 + (decay_H/2) ||H||^2 + (decay_W/2)(||W||^2 + ||b||^2).

    With c = C sqrt(N lambda_1 lambda_2), W W^T has the eigenvalue sqrt(N lambda_1/lambda_2) max(0, 1 - c) on contrasts,
    and on the common mean the same without a bias; a bias takes over the mean as far as its own decay allows, and the
    rest, 1 - c - c/lambda_2, is often negative and then replaced by 0, which gives a simplex ETF.

    Args:
        classes, per_class: C and N, of balanced classes; p must be at least C (C-1 for an ETF).
        decay_H, decay_W: lambda_1, lambda_2, above 0.
        bias: Whether there is a bias, decaying with lambda_2.

    Raises:
        ValueError: for decays that are not positive.

    Source: Tirer & Bruna 2022 (bias without decay); with decay on the bias derived here.

    Example:
        >>> found = mse_minimiser(classes=4, per_class=25, decay_H=0.01, decay_W=0.01)
        >>> found.shape, round(found.contrast, 6)
        ('orthogonal frame', 4.0)
    """
    _check.positive("decay_H", decay_H)
    _check.positive("decay_W", decay_W)
    C, N = _check.whole("classes", classes, 2), _check.whole("per_class", per_class, 1)
    c = C * math.sqrt(N * decay_H * decay_W)
    scale = math.sqrt(N * decay_H / decay_W)
    contrast = max(0.0, 1 - c)
    if bias:
        mean = max(0.0, 1 - c - c / decay_W)
        beta = (c / decay_W if mean else 1 / (1 + decay_W)) / C
    else:
        mean, beta = contrast, 0.0
    # Each mode with product x: (1 - C beta - x)^2 / 2C + c x / C, and C beta^2 lambda_2 / 2 for the bias.
    value = ((C - 1) * (((1 - contrast) ** 2) + 2 * c * contrast)
             + (1 - C * beta - mean) ** 2 + 2 * c * mean) / (2 * C) + C * beta**2 * decay_W / 2  # fmt: skip
    return MSEMinimiser(scale * contrast, scale * mean, decay_W / (N * decay_H), beta, value, C)


CASES = (
    ("orthogonal frame", (3e-3, 2e-3), False),
    ("simplex ETF", (3e-3, 2e-3), True),
    ("between the two", (1e-4, 3e-1), True),
    ("zero", (3e-1, 2e-1), False),
)
CLASSES, PER_CLASS, DIM = 4, 5, 7


def descended(model: LayerPeeled, seed: int, updates: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """H, W, b and objective after many updates of descent with momentum."""
    state = model.init(jax.random.key(seed), precision="float64")
    run = simulate(model, Descent(0.3, momentum=0.95), state, [updates], ["objective"])
    final = _memory.read_all(run.final)
    scale = np.exp(np.asarray(final.log_scale))  # a state beyond the smallest number keeps its scale apart
    return scale * final.H, scale * final.W, final.b, float(run.last("objective"))


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    labels, gaps, values, curves = balanced(CLASSES, PER_CLASS), [], [], dict[str, Any]()
    zeros = []
    for seed, (shape, decay, bias) in enumerate(CASES):
        model = regularized(labels, DIM, decay=decay, loss="mse", bias=bias)
        H, W, b, objective = descended(model, seed, 60_000)
        found = mse_minimiser(CLASSES, PER_CLASS, *decay, bias=bias)
        values.append(abs(objective - found.objective))
        if shape == "zero":
            zeros = [np.linalg.norm(W), np.linalg.norm(H)]
            continue
        frame = np.ones((CLASSES, CLASSES)) / CLASSES
        gram = found.contrast * (np.eye(CLASSES) - frame) + found.mean * frame
        gaps += [
            relative(W @ W.T, gram),
            relative(np.linalg.norm(H, axis=1), np.full(len(H), found.feature_norm)),
            float(np.abs(b - found.bias).max()),
        ]
        curves[f"gram_{shape}"] = W @ W.T
    checks = (
        Check("norms, Gram matrix and bias after long descent, relative", worst(gaps), 1e-6),
        Check("objective at its end from the closed form", worst(values), 1e-10),
        Check("norms at decays beyond c = 1", worst(zeros), 1e-6),
        Check("random states below the minimum, of 2000 near it", _below(), 0),
    )
    sizes = np.geomspace(1e-4, 1, 200)
    for bias in (False, True):
        ends = [mse_minimiser(CLASSES, PER_CLASS, x, x, bias) for x in sizes]
        curves[f"norm_{bias}"] = np.array([end.prototype_norm for end in ends])
    return checks, {**curves, "decay": sizes}


def _below() -> int:
    """Number of random states near a minimiser with a lower objective than the closed form allows."""
    draws, count = np.random.default_rng(0), 0
    targets = np.repeat(np.eye(CLASSES), PER_CLASS, axis=0)
    for _, (l1, l2), bias in CASES[:3]:
        found = mse_minimiser(CLASSES, PER_CLASS, l1, l2, bias)
        frame = np.ones((CLASSES, CLASSES)) / CLASSES
        root = np.sqrt(found.contrast) * (np.eye(CLASSES) - frame) + np.sqrt(found.mean) * frame
        W0 = np.pad(root, ((0, 0), (0, DIM - CLASSES)))
        H0 = np.sqrt(found.ratio) * np.repeat(W0, PER_CLASS, axis=0)
        for size in np.geomspace(1e-4, 1, 667):
            W, H = W0 + size * draws.standard_normal(W0.shape), H0 + size * draws.standard_normal(H0.shape)
            b = bias * (found.bias + size * draws.standard_normal(CLASSES))
            left = H @ W.T + b - targets
            value = np.sum(left**2) / (2 * len(H)) + l1 / 2 * np.sum(H**2) + l2 / 2 * (np.sum(W**2) + np.sum(b**2))
            count += bool(value < found.objective - 1e-13)
    return count


def _draw(curves: Curves, figure: Figure) -> None:
    shown = [name for name in curves if name.startswith("gram_")]
    grid = figure.add_gridspec(2, len(shown), height_ratios=(1.15, 1))
    norms = figure.add_subplot(grid[0, :])
    for bias, label in ((False, "without bias: orthogonal frame"), (True, "with bias: simplex ETF")):
        norms.plot(curves["decay"], curves[f"norm_{bias}"], label=label)
    norms.axvline(1 / (CLASSES * PER_CLASS**0.5), **THRESHOLD, label="c = C√(Nλ₁λ₂) = 1: nothing is learned")
    norms.set(xscale="log", xlabel="decay λ₁ = λ₂", ylabel="norm of a prototype")
    head(norms, "Norm of the prototypes at the minimum")
    norms.legend(loc="lower left")
    panels = [figure.add_subplot(grid[1, place]) for place in range(len(shown))]
    for axes, name in zip(panels, shown, strict=True):
        gram = curves[name] / np.trace(curves[name])
        drawn = axes.imshow(gram, cmap="RdBu_r", vmin=-0.25, vmax=0.25)
        ticks = range(CLASSES), [f"{c + 1}" for c in range(CLASSES)]
        axes.set_xticks(*ticks)
        axes.set_yticks(*ticks)
        axes.grid(False)
        head(axes, name.removeprefix("gram_"), f"off the diagonal {gram[0, 1]:.3f}".replace("-", "−"))
        axes.set_xlabel("class")
    panels[0].set_ylabel("class")
    figure.colorbar(drawn, ax=panels, label="WWᵀ over its trace,\nwhere descent ended", fraction=0.03)


THEORY = Theory(
    name="mse-decay",
    title="MSE with decay: the minimiser",
    loss="MSE",
    case="regularised",
    predicted="`‖w‖²` and `‖h‖² ∝ max(0, 1 − c)`, `c = C√(Nλ₁λ₂)`: orthogonal frame without bias, simplex ETF with one",
    assumptions="none (balanced classes, `p ≥ C`)",
    references=("tirer2022extended",),
    libraries=("deepmind2020jax",),
    account=(
        "Tirer & Bruna find the global minimisers of the MSE with decay: features collapse to their class means, "
        "aligned with the prototypes, and the norms follow from one number, `c = C√(Nλ₁λ₂)`: on every active mode `σ² "
        "= √(Nλ₁/λ₂)(1 − c)`, and nothing is learned once `c ≥ 1`. Without a bias the common mean is such a mode and "
        "prototypes form an orthogonal frame; a free bias takes it over and leaves a simplex ETF. Here the bias "
        "decays as well, which adds a third shape between them when `c(1 + 1/λ₂) < 1`. Descent with momentum from "
        "random states ends at these minimisers in all cases."
    ),
    caption="Above: norm of the prototypes at the minimum. Below: their Gram matrix where descent ended.",
    compute=_compute,
    draw=_draw,
    size=(8.0, 6.2),
)
