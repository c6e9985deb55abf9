"""MSE near the origin: the linearisation is the unhinged flow, accurate for a time that grows with log 1/size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _check
from unhinged_jax.closed_form import exact
from unhinged_jax.dynamics import Flow
from unhinged_jax.labels import balanced
from unhinged_jax.model import LayerPeeled, State, unconstrained
from unhinged_jax.plots.looks import head, key_under
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.drawing import THRESHOLD, pair
from unhinged_jax.theories.theory import Check, Curves, Theory, worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES, PER_CLASS, DIM = 4, 5, 8
SIZES = (1e-1, 1e-2, 1e-3, 1e-4)
TOLERATED = 0.1


def linearised(state: State, index: ArrayLike, classes: int, time: ArrayLike) -> State:
    """MSE flow at unit rates without the terms of third order, for balanced classes and equal biases.

    Near the origin b' = 1/C - b by itself, and the signal matrix (Y - b) / n has the contrasts at the constant
    s = 1/(C sqrt N) and the common mean at s (1 - C b(t)). Both commute, so the state turns by the hyperbolic angles s
    t and s (1 - C b_0)(1 - e^-t).

    Args:
        state: H (n, p), W (C, p), and a bias with equal entries.
        index: Labels, shape (n,), classes of equal size.
        classes: C.
        time: A scalar.

    Raises:
        ValueError: for classes that differ in size, or biases that differ.

    Source: Mixon, Parshall & Pi 2022; with a moving bias beyond the paper.

    Example:
        >>> start = State(jnp.zeros((4, 1)), jnp.ones((2, 1)), jnp.zeros(2))
        >>> linearised(start, [0, 0, 1, 1], 2, 1e9).b.tolist()
        [0.5, 0.5]
    """
    if _check.concrete(index) and np.ptp(np.bincount(np.asarray(index), minlength=classes)) > 0:
        raise ValueError("the linearised flow is that of classes of equal size; give as many samples to each.")
    if _check.concrete(state.b) and np.ptp(np.asarray(state.b)) > 1e-6 * np.max(np.abs(state.b)):
        raise ValueError("the linearised flow is that of equal biases; give state.b equal entries.")
    dtype = jnp.result_type(state.H, state.W, state.b)
    H, W, b = (jnp.asarray(part, dtype) for part in (state.H, state.W, state.b))
    members = jax.nn.one_hot(jnp.asarray(index), classes, dtype=H.dtype)
    root = jnp.sqrt(H.shape[0] / classes)
    frame = members / root  # orthonormal columns
    means, within = frame.T @ H, H - frame @ (frame.T @ H)
    speed = 1 / (classes * root)
    beta = b[0]
    gone = -jnp.expm1(-jnp.asarray(time, H.dtype))
    angles = speed * jnp.asarray(time), speed * (1 - classes * beta) * gone

    def turned(G: jax.Array, W: jax.Array, angle: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.cosh(angle) * G + jnp.sinh(angle) * W, jnp.cosh(angle) * W + jnp.sinh(angle) * G

    common = means.mean(axis=0, keepdims=True), W.mean(axis=0, keepdims=True)
    contrast = turned(means - common[0], W - common[1], angles[0])
    mean = turned(*common, angles[1])
    # Linear in H and W, so that their scale stays what it is.
    H, W = within + frame @ (contrast[0] + mean[0]), contrast[1] + mean[1]
    return State(H, W, b + (1 / classes - b) * gone, state.log_scale)


def _gap(run: State, truth: State) -> np.ndarray:
    """Relative difference of (H, W) along a leading axis of times."""
    common = np.asarray(truth.log_scale, float)

    def joined(state: State) -> np.ndarray:
        scale = np.exp(np.asarray(state.log_scale, float) - common)
        parts = [np.asarray(part).reshape(len(part), -1) for part in (state.H, state.W)]
        return np.concatenate(parts, axis=1) * (scale[:, None] if scale.ndim else scale)

    a, b = joined(run), joined(truth)
    return np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)


def _crossing(times: np.ndarray, gap: np.ndarray) -> float:
    """The time at which the gap first exceeds the tolerance, interpolated in its logarithm."""
    k = int(np.argmax(gap > TOLERATED))
    rise = np.log(TOLERATED / gap[k - 1]) / np.log(gap[k] / gap[k - 1])
    return float(times[k - 1] + rise * (times[k] - times[k - 1]))


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    labels = balanced(CLASSES, PER_CLASS)
    full = unconstrained(labels, DIM, loss="mse", bias=True)
    bilinear = unconstrained(labels, DIM, gamma=1 / (CLASSES - 1))
    draw = full.init(jax.random.key(8), precision="float64")
    speed = 1 / (CLASSES * PER_CLASS**0.5)
    times = np.linspace(0, 130, 131)
    curves: dict[str, Any] = {"time": times[1:], "sizes": np.array(SIZES)}
    crossings, early = [], []
    for size in SIZES:
        start = State(size * draw.H, size * draw.W, np.full(CLASSES, 1 / CLASSES))
        run = simulate(full, Flow(rtol=1e-11), start, times, ["loss"], states=True)
        flow = Flow((CLASSES - 1) / CLASSES)
        truth = exact(bilinear, flow, start.replace(b=np.zeros(CLASSES)), times, (), states=True)
        assert run.states is not None and truth.states is not None
        gap = _gap(run.states, truth.states)[1:]
        curves[f"gap_{size:g}"] = gap
        crossings.append(_crossing(times[1:], gap))
        early.append(gap[9])
    slope = np.polyfit(np.log(1 / np.array(SIZES[1:])), crossings[1:], 1)[0]
    order = np.polyfit(np.log(SIZES[1:]), np.log(early[1:]), 1)[0]
    checks = (
        Check("linearisation at size 1e-4, relative difference at t = 10", early[-1], 1e-6),
        Check("order in the size of the start, from 2", abs(order - 2), 0.02),
        Check("time it stays good, per log 1/size, times s, from 1", abs(slope * speed - 1), 0.02),
        Check("with the bias starting at 0, size 1e-4, t = 10", _with_bias(full, draw), 1e-6),
    )
    return checks, {**curves, "crossings": np.array(crossings)}


def _with_bias(full: LayerPeeled, draw: State) -> float:
    """Difference of the full flow from `linearised` while the bias is still moving."""
    start = State(1e-4 * draw.H, 1e-4 * draw.W, np.zeros(CLASSES))
    run = simulate(full, Flow(rtol=1e-11), start, np.array([0.3, 1.0, 3.0, 10.0]), ["loss"], states=True)
    assert run.states is not None
    closed = [linearised(start, full.labels.index, CLASSES, t) for t in (0.3, 1.0, 3.0, 10.0)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *closed)
    bias = np.abs(np.asarray(run.states.b) - stacked.b)
    return worst(np.append(bias.ravel(), _gap(run.states, stacked)))


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    for size in curves["sizes"]:
        left.plot(curves["time"], curves[f"gap_{size:g}"], label=f"start of size {size:g}")
    left.axhline(TOLERATED, **THRESHOLD, label="10 % off")
    left.set(yscale="log", xlabel="time", ylabel="relative distance", ylim=(1e-9, 30))
    head(left, "Distance between the MSE flow and its linearisation")
    sizes, times = curves["sizes"], curves["crossings"]
    right.plot(sizes, times, "o", label="measured")
    right.plot(sizes, times[-1] + CLASSES * PER_CLASS**0.5 * np.log(sizes[-1] / sizes), color="0.3", lw=1,
               label="predicted slope: C√N per log 1/size")  # fmt: skip
    right.set(xscale="log", xlabel="size of the start", ylabel="time")
    head(right, "Time until it is 10 % off")
    key_under(left, columns=2)
    key_under(right)


THEORY = Theory(
    name="near-origin",
    title="MSE near the origin is unhinged",
    loss="MSE",
    case="unconstrained",
    predicted=(
        "the linearised flow is bilinear with signal `(Y − 1/C)/n`: the unhinged flow at `γ = 1/(C−1)`, slower by "
        "`(C−1)/C`; accurate for a time `C√N log(1/s)` from a start of size `s`"
    ),
    assumptions="features and prototypes start near the origin; balanced classes",
    references=("mixon2022neural", "zhou2023unhinged"),
    libraries=("kidger2021on",),
    account=(
        "Mixon, Parshall & Pi linearise the MSE flow of free features and prototypes near the origin. With the bias "
        "at its fixed point `1/C` the dynamics is `H' = MW`, `W' = MᵀH` with `M = (Y − 1/C)/n`, which is `(C−1)/C` "
        "times the unhinged signal matrix at `γ = 1/(C−1)`: its exact solution is `exact` on the unhinged model with "
        "the rate `(C−1)/C`. The neglected terms are of third order, so the relative error is at first quadratic in "
        "the size of the start, and grows until it is of order one. The linearisation is accurate for a time "
        "`C√N log(1/s)`, `s` the size of the start, plus a constant, which is measured. A bias that starts at 0 makes "
        "the signal depend on time, but its two parts commute and the solution stays closed."
    ),
    caption="Left: distance between the MSE flow and its linearisation. Right: when it exceeds 10 %.",
    compute=_compute,
    draw=_draw,
)
