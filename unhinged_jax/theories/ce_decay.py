"""Cross-entropy and similar losses with decay: the minimiser is a simplex ETF, its scale solves a scalar equation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import scipy.optimize

from unhinged_jax import _check
from unhinged_jax.dynamics import Descent
from unhinged_jax.labels import balanced
from unhinged_jax.losses import Loss, LossLike, as_loss
from unhinged_jax.model import regularized
from unhinged_jax.plots.looks import head, key_of
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.drawing import THRESHOLD, pair
from unhinged_jax.theories.theory import Check, Curves, Theory, relative, worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class ETFMinimiser:
    """A minimiser whose prototypes form a simplex ETF and whose features are collapsed and aligned with them.

    Attributes:
        gap: Logit of the own class minus that of any other.
        prototype_norm, feature_norm: ||w_c|| and ||h_i||.
        objective: The value of the minimum, including decay.
    """

    gap: float
    prototype_norm: float
    feature_norm: float
    objective: float


def cross_entropy_gap(classes: int, per_class: int, decay_H: float, decay_W: float) -> float:
    """Logit gap of the cross-entropy minimiser: log(1/k - (C-1)), k = sqrt(N lambda_1 lambda_2), and 0 from C k = 1 on.

    Source: Zhu et al. 2021, their scalar condition solved; Fang et al. 2021 for the same frame under norm constraints.

    Example:
        >>> round(cross_entropy_gap(classes=3, per_class=4, decay_H=0.01, decay_W=0.01), 6)
        3.871201
    """
    k = math.sqrt(per_class * decay_H * decay_W)
    return math.log(1 / k - (classes - 1)) if classes * k < 1 else 0.0


def etf_minimiser(
    loss: LossLike, classes: int, per_class: int, decay_H: float, decay_W: float, smoothing: float = 0.0
) -> ETFMinimiser:
    """Minimiser among simplex ETFs of mean loss + (decay_H/2) ||H||^2 + (decay_W/2) ||W||^2, balanced classes.

    At logits x (e_y - 1/C) the objective is l(x) + (C-1) k x, k = sqrt(N lambda_1 lambda_2). It may have several
    minima, as for focal loss, which is flat at 0. All minima up to x = 1e4 are bracketed on a fine grid and found by
    bisection, and the lowest is returned. l may be any loss that treats the other classes alike. For cross-entropy,
    smoothed or not, it is the global minimiser.

    Args:
        loss: A name, a `Loss`, or a callable (logits, targets) -> one value per sample.
        classes, per_class: C and N; p must be at least C-1.
        decay_H, decay_W: lambda_1, lambda_2, above 0.
        smoothing: Label smoothing: targets (1 - a) e_y + a/C.

    Raises:
        ValueError: for decays that are not positive, or a loss without a minimum on the ray.

    Source: Zhu et al. 2021 for cross-entropy; the scalar equation for the rest.

    Example:
        >>> found = etf_minimiser("cross_entropy", classes=3, per_class=4, decay_H=0.01, decay_W=0.01)
        >>> abs(found.gap - cross_entropy_gap(3, 4, 0.01, 0.01)) < 1e-9
        True
    """
    _check.positive("decay_H", decay_H)
    _check.positive("decay_W", decay_W)
    C, N = _check.whole("classes", classes, 2), _check.whole("per_class", per_class, 1)
    k = math.sqrt(N * decay_H * decay_W)
    with jax.enable_x64(True):
        value = _on_the_ray(as_loss(loss), C, smoothing)
        gaps = _minima(lambda x: value(x) + (C - 1) * k * x)
        objectives = [float(value(jnp.asarray(gap))) + (C - 1) * k * gap for gap in gaps]
        gap, objective = min(zip(gaps, objectives, strict=True), key=lambda pair: pair[1])
    # W W^T = w^2 (I - 1/C) with w^2 = x sqrt(N lambda_1 / lambda_2), and decay balances features against it.
    prototype = math.sqrt((C - 1) / C * gap * math.sqrt(N * decay_H / decay_W))
    return ETFMinimiser(gap, prototype, prototype * math.sqrt(decay_W / (N * decay_H)), objective)


_FIRST, _LAST, _POINTS = 1e-6, 1e4, 6001


def _minima(objective: Callable[[jax.Array], jax.Array]) -> list[float]:
    """Where a function on x >= 0 has its local minima, 0 included."""
    slope = jax.grad(objective)
    grid = np.concatenate([[0.0], np.geomspace(_FIRST, _LAST, _POINTS)])
    falls = np.asarray(jax.jit(jax.vmap(slope))(jnp.asarray(grid))) < 0
    if falls[-1]:
        raise ValueError("the loss with decay has no minimum on simplex ETFs; use more decay.")
    found = [] if falls[0] else [0.0]
    solver: Any = optimistix.Bisection(rtol=1e-15, atol=1e-15, flip=False)  # type: ignore[call-arg]
    for at in np.flatnonzero(falls[:-1] & ~falls[1:]):
        lower, upper = jnp.asarray(grid[at]), jnp.asarray(grid[at + 1])
        found.append(float(optimistix.root_find(
            lambda x, _: slope(x), solver, (lower + upper) / 2, options={"lower": lower, "upper": upper},
            max_steps=200, throw=False,
        ).value))  # fmt: skip
    return found


def _on_the_ray(loss: Loss, classes: int, smoothing: float) -> Any:
    direction = jnp.eye(classes)[0] - 1 / classes
    target = (1 - smoothing) * jnp.eye(classes)[0] + smoothing / classes
    return lambda x: loss((x * direction)[None], target[None])[0]


def constrained_minimum(classes: int, energy_H: float, energy_W: float) -> float:
    """Least mean cross-entropy with mean ||h||^2 <= energy_H and mean ||w||^2 <= energy_W, at a simplex ETF.

    Source: Fang et al. 2021.

    Example:
        >>> round(constrained_minimum(classes=2, energy_H=1.0, energy_W=1.0), 6)
        0.126928
    """
    gap = classes / (classes - 1) * math.sqrt(energy_H * energy_W)
    return math.log1p((classes - 1) * math.exp(-gap))


def _by_slsqp(classes: int, per_class: int, energy_H: float, energy_W: float) -> float:
    """The constrained minimum by scipy, from a random start, in C dimensions."""
    n, p = classes * per_class, classes
    index = np.repeat(np.arange(classes), per_class)

    def risk(z: np.ndarray) -> tuple[float, np.ndarray]:
        H, W = z[: n * p].reshape(n, p), z[n * p :].reshape(classes, p)
        S = H @ W.T
        logs = S - np.logaddexp.reduce(S, axis=1, keepdims=True)
        G = (np.exp(logs) - np.eye(classes)[index]) / n
        return -float(logs[np.arange(n), index].mean()), np.r_[(G @ W).ravel(), (G.T @ H).ravel()]

    limits = [
        {"type": "ineq", "fun": lambda z: n * energy_H - np.sum(z[: n * p] ** 2)},
        {"type": "ineq", "fun": lambda z: classes * energy_W - np.sum(z[n * p :] ** 2)},
    ]
    start = np.random.default_rng(6).standard_normal((n + classes) * p)
    found = scipy.optimize.minimize(risk, start, jac=True, method="SLSQP", constraints=limits,
                                    options={"ftol": 1e-14, "maxiter": 2000})  # fmt: skip
    return float(found.fun)


CLASSES, PER_CLASS, DIM = 4, 5, 6
CASES = (
    ("cross_entropy", (3e-3, 5e-3), 0.0),
    ("cross_entropy", (3e-2, 1e-2), 0.0),
    ("cross_entropy", (5e-3, 5e-3), 0.1),
    ("focal", (2e-3, 5e-3), 0.0),
)


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    gaps, frames, values = [], [], []
    for seed, (loss, decay, smoothing) in enumerate(CASES):
        labels = balanced(CLASSES, PER_CLASS)
        model = regularized(labels.smoothed(smoothing) if smoothing else labels, DIM, decay=decay, loss=loss)
        state = model.init(jax.random.key(seed), precision="float64")
        run = simulate(model, Descent(0.5, momentum=0.95), state, [60_000], ["objective"])
        H, W = np.asarray(run.final.H), np.asarray(run.final.W)
        found = etf_minimiser(loss, CLASSES, PER_CLASS, *decay, smoothing)
        gaps += [relative(np.linalg.norm(W, axis=1), np.full(CLASSES, found.prototype_norm)),
                 relative(np.linalg.norm(H, axis=1), np.full(len(H), found.feature_norm))]  # fmt: skip
        etf = found.prototype_norm**2 * (CLASSES * np.eye(CLASSES) - 1) / (CLASSES - 1)
        frames.append(relative(W @ W.T, etf))
        values.append(abs(float(run.last("objective")) - found.objective))
    closed = [abs(etf_minimiser("cross_entropy", CLASSES, PER_CLASS, x, x).gap
                  - cross_entropy_gap(CLASSES, PER_CLASS, x, x)) for x in np.geomspace(1e-6, 0.5, 9)]  # fmt: skip
    bounded = abs(_by_slsqp(3, 2, 1.5, 2.0) / constrained_minimum(3, 1.5, 2.0) - 1)
    checks = (
        Check("norms at the end of long descent, relative", worst(gaps), 1e-6),
        Check("Gram matrix from the simplex ETF, relative", worst(frames), 1e-6),
        Check("objective from the closed form", worst(values), 1e-10),
        Check("scalar equation against log(1/κ − (C−1))", worst(closed), 1e-9),
        Check("minimum under norm constraints (Fang et al.) against SLSQP, relative", bounded, 1e-6),
    )
    # Dense where the curves end, so that their thresholds are not places of a grid.
    decays = np.concatenate([np.geomspace(1e-4, 0.06, 16), np.geomspace(0.063, 0.14, 32), [0.18, 0.3]])
    curves = {"decay": decays}
    for name, (loss, smoothing) in _SHOWN.items():
        curves[name] = np.array([etf_minimiser(loss, CLASSES, PER_CLASS, x, x, smoothing).gap for x in decays])
    ends = [(math.sqrt(a * b), etf_minimiser(loss, CLASSES, PER_CLASS, a, b, s).gap) for loss, (a, b), s in CASES]
    return checks, {**curves, "ends": np.array(ends)}


_SHOWN = {"cross-entropy": ("cross_entropy", 0.0), "smoothed by 0.1": ("cross_entropy", 0.1), "focal": ("focal", 0.0)}


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    for name in _SHOWN:
        left.plot(curves["decay"], curves[name], label=name)
        right.plot(curves["decay"], np.sqrt((CLASSES - 1) / CLASSES * curves[name] * PER_CLASS**0.5))
    left.plot(*curves["ends"].T, "o", color="0.1", ms=4.5, label="where descent ended")
    for axes in (left, right):
        axes.axvline(1 / (CLASSES * PER_CLASS**0.5), **THRESHOLD, label="cross-entropy vanishes: C√(Nλ₁λ₂) = 1")
        axes.set_xscale("log")
    left.set(xlabel="decay √(λ₁λ₂)", ylabel="logit gap")
    right.set(xlabel="decay λ₁ = λ₂", ylabel="norm of a prototype")
    head(left, "Logit gap at the minimum", "descent started at random")
    head(right, "Norm of the prototypes at the minimum")
    key_of(figure)


THEORY = Theory(
    name="ce-decay",
    title="Cross-entropy with decay: the simplex ETF and its scale",
    loss="cross-entropy",
    case="regularised; norm constraints",
    predicted=(
        "the global minimiser is a simplex ETF with logit gap `log(1/κ − (C−1))`, `κ = √(Nλ₁λ₂)`, and zero from "
        "`Cκ = 1` on"
    ),
    assumptions="none (balanced classes, `p ≥ C − 1`)",
    references=("zhu2021geometric", "fang2021exploring"),
    libraries=("deepmind2020jax", "optimistix2024", "virtanen2020scipy"),
    account=(
        "Fang et al. (under bounds on the norms) and Zhu et al. (with decay) prove that cross-entropy with balanced "
        "classes has its minimum at a simplex ETF. The scale of the ETF solves one scalar equation, which for "
        "cross-entropy has the solution above: the logit gap grows like the logarithm of the decay, and at `C√(Nλ₁λ₂) "
        "= 1` it vanishes, the same threshold as for the MSE and, up to `1 + γ`, for the unhinged loss. The same "
        "equation serves focal loss and label smoothing. Descent with momentum from random states ends at these "
        "norms; the minimum under norm constraints is checked by an independent optimiser."
    ),
    caption="Left: logit gap at the minimum, and where descent ended. Right: norm of the prototypes.",
    compute=_compute,
    draw=_draw,
)
