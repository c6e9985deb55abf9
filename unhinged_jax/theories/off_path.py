"""The full MSE flow approaches the central path: the loss off the path falls like the square of the loss on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np
import scipy.linalg

from unhinged_jax.dynamics import Flow
from unhinged_jax.labels import balanced
from unhinged_jax.losses import MSE
from unhinged_jax.model import LayerPeeled, State, must_fit, unconstrained
from unhinged_jax.plots.looks import head, key_under
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.central_path import snr_singular_values
from unhinged_jax.theories.drawing import pair
from unhinged_jax.theories.theory import Check, Curves, Theory, worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def split(model: LayerPeeled, state: State) -> tuple[float, float]:
    """MSE split into the loss of the least-squares classifier and the excess of (W, b) over it.

    With D the difference of (W, b) from the least-squares classifier of the features and S the second moments of (h,
    1), the loss is L_LS + (1/2) tr(D S D^T): the second part vanishes exactly on the central path.

    Args:
        model: With the loss "mse" and a bias; any labels and weights q.
        state: One state.

    Returns:
        (loss on the path, loss off the path).

    Raises:
        ValueError: for another loss, without a bias, or for normalised features.

    Source: Han, Papyan & Donoho 2022, decomposition of the MSE loss, here without ridge; weights are beyond it.

    Example:
        >>> model = unconstrained(balanced(classes=2, per_class=3), dim=1, loss="mse", bias=True)
        >>> on, off = split(model, model.init(jax.random.key(0)))
        >>> on > 0 and off > 0
        True
    """
    _must_be_mse(model)
    (H, prototypes), root = _whole(state), np.sqrt(np.asarray(model.labels.weights, float))[:, None]
    with jax.enable_x64(True):
        targets = np.asarray(model.labels.probabilities(), float)
    seen = scipy.linalg.orth(root * np.column_stack([H, np.ones(model.samples)]))
    wanted = seen.T @ (root * targets)
    left = root * targets - seen @ wanted
    aside = seen.T @ (root * (H @ prototypes.T + np.asarray(state.b, float))) - wanted
    return float(np.sum(left**2) / 2), float(np.sum(aside**2) / 2)


def _must_be_mse(model: LayerPeeled) -> None:
    if not isinstance(model.loss, MSE) or not model.bias or model.spherical:
        raise ValueError(
            "the central path is that of the loss 'mse' with a bias and free features; build the model with "
            "`unconstrained(..., loss='mse', bias=True)`."
        )


def _whole(state: State) -> tuple[np.ndarray, np.ndarray]:
    """H and W with their scale, in float64."""
    must_fit(state, "float64")
    scale = np.exp(np.asarray(state.log_scale, float))
    return scale * np.asarray(state.H, float), scale * np.asarray(state.W, float)


def late_rates(model: LayerPeeled, state: State) -> tuple[float, float]:
    """Exponential rates of the loss on and off the path near the end of an MSE flow at unit rates.

    The residual R of least squares drives only the features: R' = -R W W^T / n, so the loss on the path falls at 2
    kappa, kappa the smallest eigenvalue of W W^T / n on contrasts. It moves the least-squares classifier only at second
    order, and the classifier follows at the rates of the second moments S of (h, 1): the loss off the path falls at
    min(4 kappa, 2 min eig S).

    Args:
        model: As in `split`, with equal weights 1/n.
        state: One state.

    Returns:
        (rate on the path, rate off the path), from the prototypes and features of `state`.

    Raises:
        ValueError: as `split`, and for other weights.

    Source: beyond the papers.

    Example:
        >>> model = unconstrained(balanced(classes=2, per_class=1), dim=1, loss="mse", bias=True)
        >>> late_rates(model, State(np.array([[-1.0], [1.0]]), np.array([[-2.0], [2.0]]), np.zeros(2)))
        (8.0, 2.0)
    """
    _must_be_mse(model)
    if not np.allclose(np.asarray(model.labels.weights) * model.samples, 1, rtol=0, atol=1e-6):
        raise ValueError("these rates are those of equal sample weights 1/n; leave the labels unweighted.")
    contrasts = scipy.linalg.null_space(np.ones((1, model.classes)))
    H, prototypes = _whole(state)
    W = contrasts.T @ prototypes
    kappa = np.linalg.eigvalsh(W @ W.T)[0] / model.samples
    extended = np.column_stack([H, np.ones(model.samples)])
    follows = np.linalg.eigvalsh(extended.T @ extended)[0] / model.samples
    return round(float(2 * kappa), 12), round(float(min(4 * kappa, 2 * follows)), 12)


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    model = unconstrained(balanced(3, 6), 5, loss="mse", bias=True)
    state = model.init(jax.random.key(4), precision="float64")
    times = np.linspace(0, 240, 97)
    observe = {"loss": None, "snr": snr_singular_values}
    run = simulate(model, Flow(rtol=1e-12, atol=1e-14), state, times, observe, states=True)
    parts = np.array([split(model, jax.tree.map(lambda leaf, k=k: leaf[k], run.states)) for k in range(times.size)])
    on, off = parts.T
    gap = np.abs(on + off - np.asarray(run["loss"])) / np.asarray(run["loss"])
    clear = off > 1e-20  # above rounding
    late = clear & (times > 0.5 * times[clear][-1])
    rates = [-np.polyfit(times[late], np.log(part[late]), 1)[0] for part in (on, off)]
    predicted = late_rates(model, run.final)
    power = np.polyfit(np.log(on[late]), np.log(off[late]), 1)[0]
    checks = (
        Check("rate of the loss off the path, from predicted, relative", abs(rates[1] / predicted[1] - 1), 0.03),
        Check("rate of the loss on the path, from predicted, relative", abs(rates[0] / predicted[0] - 1), 0.01),
        Check("power of the loss on the path that the loss off it follows, from 2", abs(power - 2), 0.05),
        Check("loss on the path + off the path against the loss", worst(gap[clear]), 1e-9),
        Check("loss off over loss on the path at the end", float(off[-1] / on[-1]), 1e-6),
    )
    return checks, {"time": times, "on": on, "off": off, "snr": np.asarray(run["snr"])}


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    left.plot(curves["time"], curves["on"], label="least-squares classifier")
    shown = curves["off"] > 1e-20
    left.plot(curves["time"][shown], curves["off"][shown], label="off the central path")
    left.plot(curves["time"], curves["off"][40] * (curves["on"] / curves["on"][40]) ** 2, ls=":", color="0.3",
              label="square of the first, to scale")  # fmt: skip
    left.set(yscale="log", xlabel="time", ylabel="loss", ylim=(1e-13, 20))
    head(left, "The two parts of the loss", "late, the second is the square of the first")
    for j in range(curves["snr"].shape[1]):
        right.plot(curves["time"], curves["snr"][:, j], label=f"$\\omega_{j + 1}$")
    right.set(yscale="log", xlabel="time", ylabel="singular value ω")
    head(right, "Singular values of the signal-to-noise ratio", "both grow exponentially")
    key_under(left)
    key_under(right, columns=2)


THEORY = Theory(
    name="off-path",
    title="How fast the full MSE flow reaches the central path",
    loss="MSE",
    case="unconstrained",
    predicted=(
        "loss = loss of least squares + loss off the path, and the second falls at `min(4κ, 2 min eig S)` while "
        "the first falls at `2κ`"
    ),
    assumptions="none for the split; late times for the rates",
    references=("han2022neural",),
    libraries=("kidger2021on", "virtanen2020scipy"),
    account=(
        "Han, Papyan & Donoho split the MSE into the loss of the least-squares classifier and a part that vanishes on "
        "the central path, and measure that the second is negligible when networks train. In the layer-peeled model "
        "the rate is known. The residual of least squares drives only the features, and moves the least-squares "
        "classifier only at second order, so the prototypes follow. With `κ` the smallest eigenvalue of `WWᵀ/n` on "
        "contrasts and S the matrix of second moments of `(h, 1)`, the loss on the path falls like `e^(−2κt)` and the "
        "loss off it like its square, unless S is slower. Nothing is renormalised here."
    ),
    caption="Left: the two parts of the loss of the full flow. Right: SNR singular values along it.",
    compute=_compute,
    draw=_draw,
)
