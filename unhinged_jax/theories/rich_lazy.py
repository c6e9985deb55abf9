"""MSE from balanced starts: one exact family from rich to lazy, and the unhinged flow as its limit near the origin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from unhinged_jax import _memory
from unhinged_jax.closed_form import exact
from unhinged_jax.comparison import verify
from unhinged_jax.dynamics import Flow
from unhinged_jax.labels import balanced
from unhinged_jax.model import State, unconstrained
from unhinged_jax.plots.looks import head
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.drawing import pair
from unhinged_jax.theories.theory import Check, Curves, Theory, relative

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES, PER_CLASS = 4, 3
DIM = CLASSES * PER_CLASS
SCALE = 0.01
SHOWN = (0.0, 0.3, 3.0, 30.0)
KAPPAS = np.geomspace(1e-3, 1e3, 19)
SIZES = (1e-2, 1e-3, 1e-4)
NEVER = 1e6


def _gram(state: State) -> np.ndarray:
    """The Gram matrix of the rows of [H; W], (n + C, n + C), which no rotation of the feature space changes."""
    H, W = (_memory.read(part) for part in (state.H, state.W))
    Z = np.vstack([H, W]) * np.exp(float(state.log_scale))
    found: np.ndarray = Z @ Z.T
    return found


def _near_origin() -> list[float]:
    """Relative distance of the MSE flow at t = 10 from the unhinged flow, for starts of three sizes."""
    model = unconstrained(balanced(CLASSES, PER_CLASS), DIM, loss="mse")
    linear = unconstrained(balanced(CLASSES, PER_CLASS), DIM, gamma=1 / (CLASSES - 1))
    draw, gaps = model.init(jax.random.key(4), balanced=0.0, precision="float64"), []
    for size in SIZES:
        start = State(size * draw.H, size * draw.W, np.full(CLASSES, 1 / CLASSES))
        run = exact(model, Flow(), start, [10.0], ["norm"])
        slower = Flow((CLASSES - 1) / CLASSES)
        truth = exact(linear, slower, start.replace(b=np.zeros(CLASSES)), [10.0], ["norm"])
        gaps.append(relative(_gram(run.final), _gram(truth.final)))
    return gaps


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    model = unconstrained(balanced(CLASSES, PER_CLASS), DIM, loss="mse")
    times = np.concatenate([[0.0], np.geomspace(0.1, 3e2, 80)])
    curves: dict[str, Any] = {"time": times, "shown": np.array(SHOWN), "kappa": KAPPAS}
    for kappa in SHOWN:
        state = model.init(jax.random.key(3), balanced=kappa, scale=SCALE, precision="float64")
        curves[f"loss_{kappa:g}"] = exact(model, Flow(), state, times, ["loss"])["loss"]
    few, seen = np.array([1.0, 5.0, 25.0]), ["norm_H", "norm_W", "loss"]
    checked = model.init(jax.random.key(3), balanced=0.3, scale=SCALE, precision="float64")
    compared = verify(
        simulate(model, Flow(rtol=1e-11), checked, few, seen), exact(model, Flow(), checked, few, seen)
    ).worst
    moved, spread = [], []
    for kappa in KAPPAS:
        state = model.init(jax.random.key(3), balanced=kappa, scale=SCALE, precision="float64")
        run = exact(model, Flow(), state, [NEVER], ["nc1_trace_ratio"])
        kernels = [_gram(end)[: model.samples, : model.samples] for end in (state, run.final)]
        moved.append(np.linalg.norm(kernels[1] - kernels[0]) / np.linalg.norm(kernels[0]))
        spread.append(float(run["nc1_trace_ratio"][0]))
    rich = model.init(jax.random.key(3), balanced=0.0, scale=SCALE, precision="float64")
    collapsed = float(exact(model, Flow(), rich, [NEVER], ["nc1_trace_ratio"])["nc1_trace_ratio"][0])
    lazy = KAPPAS > 30
    slope = np.polyfit(np.log(KAPPAS[lazy]), np.log(np.array(moved)[lazy]), 1)[0]
    gaps = _near_origin()
    order = np.polyfit(np.log(SIZES), np.log(gaps), 1)[0]
    checks = (
        Check("exact from the simulated flow at κ = 0.3, relative", compared, 1e-8),
        Check("change of the features' kernel for large κ, power of κ, from −2", abs(slope + 2), 0.02),
        Check("within-class over between-class variance at the end, κ = 0", collapsed, 1e-12),
        Check("the same at κ = 1000", spread[-1], 1.0, at_least=True),
        Check("MSE from unhinged at size 1e-4, t = 10, relative", gaps[-1], 1e-6),
        Check("order of that difference in the size, from 2", abs(order - 2), 0.02),
    )
    return checks, {**curves, "moved": np.array(moved), "spread": np.array(spread)}


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    later = curves["time"] > 0
    for kappa in curves["shown"]:
        left.plot(curves["time"][later], curves[f"loss_{kappa:g}"][later], label=f"κ = {kappa:g}")
    left.set(xscale="log", xlabel="time (0 is not on this axis)", ylabel="loss")
    head(left, "Loss from balanced starts", "κ: how much larger the features start")
    left.legend()
    right.plot(curves["kappa"], curves["moved"], label="change of HHᵀ over HHᵀ at the start")
    right.plot(curves["kappa"], curves["spread"], label="within- over between-class variance")
    late = curves["kappa"][curves["kappa"] > 10]
    right.plot(
        late, 3 * curves["moved"][-1] * (curves["kappa"][-1] / late) ** 2, color="0.3", lw=1, ls=":", label="∝ 1/κ²"
    )
    right.set(xscale="log", yscale="log", xlabel="κ, from rich to lazy", ylabel="ratio")
    head(right, "Kernel and collapse at the end of training")
    right.legend()


THEORY = Theory(
    name="rich-lazy",
    title="MSE from rich to lazy, exactly",
    loss="MSE",
    case="unconstrained",
    predicted=(
        "`Z(t) = e^{At} Z₀ (I + Z₀ᵀ ∫e^{2As}ds Z₀)^{−1/2}` up to a rotation, `A = [[κ/2, Y], [Yᵀ, −κ/2]]`; features "
        "collapse for `κ → 0`, and for `κ → ∞` their kernel stays, to `1/κ²`"
    ),
    assumptions="balanced start, `HᵀH − WᵀW = κI`",
    references=("domine2025lazy", "braun2022exact", "fukumizu1998effect", "saxe2014exact", "mixon2022neural"),
    libraries=("kidger2021on",),
    account=(
        "From a balanced start the flow of MSE is a matrix Riccati equation (Fukumizu; Saxe, McClelland & Ganguli for "
        "aligned starts; Braun et al. for any with `κ = 0`; Dominé et al. for all `κ`), and `exact` evaluates it at "
        "any time. `κ` is how much larger the features start than the prototypes. At `κ = 0` the loss waits and then "
        "falls in a step, and the features are learned: they collapse to their class means. At large `κ` the "
        "prototypes alone fit the labels, exponentially from the first moment, while the kernel `HHᵀ` changes by a "
        "share that falls like `1/κ²` and nothing collapses. With enough dimensions, `p ≥ n`, all of these runs end "
        "at loss 0. The linear theory near the origin is the limit of small starts: with the bias at 1/C, the exact "
        "MSE flow differs from the exact unhinged flow at `γ = 1/(C−1)`, slower by `(C−1)/C`, by the square of the "
        "size of the start."
    ),
    caption="Left: loss over time from balanced starts. Right: what has changed at the end, over κ.",
    compute=_compute,
    draw=_draw,
)
