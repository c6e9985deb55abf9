"""Inertia: when a flow of second order is faster than one of first order; and how far averages lag behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from unhinged_jax import _memory
from unhinged_jax.closed_form import exact
from unhinged_jax.comparison import state_errors
from unhinged_jax.dynamics import Descent, Flow, MovingAverage, PolyakAverage
from unhinged_jax.labels import balanced
from unhinged_jax.limits import limit
from unhinged_jax.model import LayerPeeled, State, regularized
from unhinged_jax.plots.looks import head
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.drawing import pair
from unhinged_jax.theories.theory import Check, Curves, Theory, relative

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES, PER_CLASS, DIM = 4, 2, 6
DAMPING, KEEP = 1.5, 0.8
FLOWS: dict[str, Flow] = {
    "no inertia": Flow(rtol=1e-10),
    "heavy ball": Flow(rtol=1e-10, damping=DAMPING),
    "Nesterov": Flow(rtol=1e-10, damping="nesterov"),
}
GROWTHS: dict[str, Callable[[float], float]] = {
    "no inertia": lambda mu: mu,
    "heavy ball": lambda mu: mu / (DAMPING / 2 + (DAMPING**2 / 4 + mu) ** 0.5),
    "Nesterov": lambda mu: mu**0.5,
}
LATE = np.array([4e4, 5e4])
RATES = (2.0**-12, 2.0**-14, 2.0**-16)


def _problem(gamma: float = 0.6, decay: float = 0.02) -> tuple[LayerPeeled, State]:
    model = regularized(balanced(CLASSES, PER_CLASS), DIM, decay=decay, gamma=gamma)
    return model, model.init(jax.random.key(2), precision="float64")


def _slope(values: np.ndarray, times: np.ndarray = LATE) -> float:
    return float((values[-1] - values[-2]) / (times[-1] - times[-2]))


def _nesterov_method(model: LayerPeeled, state: State, rate: float, time: float) -> np.ndarray:
    """Nesterov's method, y = x + (k - 1)/(k + 2) (x - x_before), after time/sqrt(rate) updates, by plain NumPy."""
    M = _memory.read(model.signal().dense("float64"))
    n, C = M.shape
    K = np.block([[-model.decay_H * np.eye(n), M], [M.T, -model.decay_W * np.eye(C)]])
    x = before = np.vstack([_memory.read(state.H), _memory.read(state.W)])
    for k in range(1, round(time / rate**0.5) + 1):
        y = x + (k - 1) / (k + 2) * (x - before)
        before, x = x, y + rate * (K @ y)
    return x


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    model, state = _problem()
    sigma, decay = 1.6 / (CLASSES * PER_CLASS**0.5), 0.02  # of contrasts between classes
    first = sigma - decay
    second = abs(1.6 - 0.6 * CLASSES) / (CLASSES * PER_CLASS**0.5) - decay
    grid, few, seen = np.linspace(0, 120, 121), [1.0, 10.0, 40.0], ["log_norm", "log_distance"]
    times = np.concatenate([grid, LATE])
    curves: dict[str, Any] = {"time": grid}
    apart, compared, ends = {}, 0.0, {}
    for name, flow in FLOWS.items():
        truth = exact(model, flow, state, times, seen, states=True)
        run = simulate(model, flow, state, few, seen, states=True)
        assert run.states is not None and truth.states is not None
        place = [int(t) for t in few]
        passed = jax.tree.map(lambda leaf, place=place: leaf[np.array(place)], truth.states)
        compared = max(compared, *state_errors(run.states, passed).values())
        ends[name] = _whole(jax.tree.map(lambda leaf: leaf[1], passed))
        curves[f"distance {name}"] = truth["log_distance"][: grid.size]
        top, rival = GROWTHS[name](first), GROWTHS[name](second)
        found = _slope(truth["log_norm"]), -_slope(truth["log_distance"])
        known = limit(model, flow, state)
        expected = top, top - rival
        apart[name] = max(abs(one / two - 1) for one, two in zip(found, expected, strict=True))
        apart[name] = max(apart[name], abs(float(known.exponent) / top - 1), abs(float(known.rate) / (top - rival) - 1))
    method = [relative(_nesterov_method(model, state, rate, 10.0), ends["Nesterov"]) for rate in RATES]
    order = np.polyfit(np.log(RATES), np.log(method), 1)[0]

    seen_late = np.geomspace(1, 400, 60)
    plain = exact(model, Flow(), state, seen_late, ["log_norm"])["log_norm"]
    lag = {}
    for name, memory in {"mean": PolyakAverage(), "moving": MovingAverage(KEEP)}.items():
        lag[name] = exact(model, Flow(memory=memory), state, seen_late, ["log_norm"])["log_norm"] - plain
    forgets = -np.log(KEEP)
    beta, eta = 0.9, 0.0025
    heavy = exact(model, Descent(eta, momentum=beta), state, [2000], ["log_norm"])["log_norm"][0]
    mu, c = first, (1 - beta) / eta**0.5
    s = mu / (c / 2 + (c**2 / 4 + mu) ** 0.5)
    grown = exact(model, Descent(eta, momentum=beta), state, [4000], ["log_norm"])["log_norm"][0] - heavy
    checks = (
        Check("exact from simulated, all three flows, relative", compared, 1e-8),
        Check("late rates without inertia, from μ and μ₁ − μ₂, relative", apart["no inertia"], 1e-9),
        Check("late rates of the heavy ball, from s² + cs = μ, relative", apart["heavy ball"], 1e-9),
        Check("late rates of Nesterov's flow, from √μ, up to a power of t, relative", apart["Nesterov"], 1e-3),
        Check("Nesterov's method from his flow, order in √η, from 1", abs(2 * order - 1), 0.05),
        Check("growth of momentum descent from that at c = (1 − β)/√η", abs(grown / (2000 * eta**0.5 * s) - 1), 0.01),
        Check("mean over time over the state, from 1/(μt)", abs(np.exp(lag["mean"][-1]) * first * 400 - 1), 1e-3),
        Check("moving average over the state, from κ/(μ + κ)",
              abs(np.exp(lag["moving"][-1]) * (first + forgets) / forgets - 1), 1e-9),
    )  # fmt: skip
    return checks, {**curves, "seen": seen_late, "lag mean": lag["mean"], "lag moving": lag["moving"]}


def _whole(state: State) -> np.ndarray:
    both = np.vstack([_memory.read(state.H), _memory.read(state.W)])
    found: np.ndarray = both * np.exp(float(state.log_scale))
    return found


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    for name in FLOWS:
        left.plot(curves["time"], np.exp(curves[f"distance {name}"]), label=name)
    left.set(yscale="log", xlabel="time", ylabel="distance")
    head(left, "Distance from the limit direction", "with inertia and without")
    left.legend()
    right.plot(curves["seen"], np.exp(curves["lag mean"]), label="mean over time")
    right.plot(curves["seen"], np.exp(curves["lag moving"]), label=f"moving average, {KEEP:g} kept")
    late = curves["seen"][curves["seen"] > 20]
    right.plot(late, 1.5 * np.exp(curves["lag mean"][-1]) * 400 / late, color="0.3", lw=1, ls=":", label="∝ 1/t")
    right.set(xscale="log", yscale="log", xlabel="time", ylabel="ratio of norms")
    head(right, "Norm of averages", "over the norm of the state itself")
    right.legend()


THEORY = Theory(
    name="acceleration",
    title="Inertia and averages, exactly",
    loss="unhinged",
    case="regularised",
    predicted=(
        "a mode grows like `e^{μt}` without inertia, like `e^{st}` with `s² + cs = μ` in a heavy-ball flow, which is "
        "faster where `μ + c < 1`, and like `e^{√μ t}` in Nesterov's, which is faster where `μ < 1`; a mean over time "
        "lags by `1/(μt)`, a moving average by `κ/(μ + κ)`"
    ),
    assumptions="a loss linear in the logits; a constant rate; from rest",
    references=("su2016differential", "polyak1964some", "polyak1992acceleration"),
    libraries=("kidger2021on",),
    account=(
        "A flow with inertia replaces `e^{Kt}` by another function of the same 2×2 blocks: `2I₁(√μ t)/(√μ t)` for "
        "Nesterov's (Su, Boyd & Candès), a sum of two exponentials for the heavy ball (Polyak). Growth `μ` becomes "
        "`√μ`, which is larger for `μ < 1`; with the rate `η` in place of 1 the modes of a descent have `ημ`, and an "
        "update takes the time `√η`, so inertia wins at every rate at which descent is near its flow. The direction "
        "is approached at the difference of two roots, which is larger in Nesterov's flow as long as `√μ₁ + √μ₂ < 1`. "
        "A mode that decays oscillates instead, and in Nesterov's flow falls only like a power of time. Averages of "
        "a run that grows (Polyak & Juditsky study those of noisy runs that settle) have its direction and lag in "
        "their norm."
    ),
    caption="Left: distance to the limit direction over time. Right: norms of averages over the norm of the state.",
    compute=_compute,
    draw=_draw,
)
