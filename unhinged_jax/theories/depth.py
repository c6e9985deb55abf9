"""Depth turns decay into a threshold on the start: which modes of a stack live, and when they are infinite."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax.closed_form import exact
from unhinged_jax.comparison import state_errors
from unhinged_jax.dynamics import Descent, Flow
from unhinged_jax.labels import balanced
from unhinged_jax.limits import limit
from unhinged_jax.model import LayerPeeled, State, regularized
from unhinged_jax.plots import PALETTE
from unhinged_jax.plots.looks import head, key_under
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.drawing import THRESHOLD, logarithmic, pair
from unhinged_jax.theories.theory import Check, Curves, Theory, relative, worst
from unhinged_jax.trajectory import RunResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES, PER_CLASS, DIM = 4, 3, 5
SIGMA = CLASSES / (CLASSES - 1) / (CLASSES * math.sqrt(PER_CLASS))  # of M at gamma = 1/(C-1), C-1 times
DEPTHS, SHARES = (3, 4, 6), (0.05, 0.2, 0.6, 1.5)  # decays in units of sigma
SHOWN, SHARE, SIZES = 4, 0.25, (0.3, 0.45, 0.499, 0.501, 0.55, 0.7)


def threshold(depth: int, share: float) -> float:
    """The size a_0 above which a mode of a stack of factors lives, with decay `share` times its singular value.

    Example:
        >>> threshold(3, 0.25), threshold(4, 0.25)
        (0.25, 0.5)
    """
    return share ** (1 / (depth - 2))


def problem(depth: int, share: ArrayLike, size: ArrayLike) -> tuple[LayerPeeled, State]:
    """A stack with decay in units of sigma, and a start whose modes with this singular value have one size."""
    model = regularized(balanced(CLASSES, PER_CLASS), DIM, decay=share * SIGMA, depth=depth)
    return model, model.init(jax.random.key(1), spectral=size * np.ones(CLASSES - 1), precision="float64")


def _found(depth: int, shares: np.ndarray) -> np.ndarray:
    """The thresholds of simulated flows, by bisection.

    A run lives if it grows in a time in which a deviation of 1e-8 from the threshold becomes one of 1.
    """

    @jax.jit
    @jax.vmap
    def lives(share: jax.Array, size: jax.Array) -> jax.Array:
        model, state = problem(depth, share, size)
        until = 20 / ((depth - 2) * share * SIGMA)
        run = simulate(model, Flow(rtol=1e-9), state, jnp.stack([0 * until, until]), ["norm_W"])
        return (run.code == RunResult.OVERFLOW) | (run["norm_W"][1] > run["norm_W"][0])

    low, high = np.full(len(shares), 0.03), np.full(len(shares), 3.0)
    for _ in range(20):
        middle = np.sqrt(low * high)
        alive = np.asarray(lives(shares, middle))
        low, high = np.where(alive, low, middle), np.where(alive, middle, high)
    return np.sqrt(low * high)


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    found = np.array([_found(depth, np.array(SHARES)) for depth in DEPTHS])
    predicted = np.array([[threshold(depth, share) for share in SHARES] for depth in DEPTHS])
    ends, errors = [], []
    for depth in DEPTHS:
        model, state = problem(depth, SHARE, 1.2 * threshold(depth, SHARE))
        end = float(limit(model, Flow(), state).blow_up)
        whole = simulate(model, Flow(rtol=1e-10), state, [2 * end], ["norm_W"])
        assert whole.result is RunResult.OVERFLOW
        ends.append(abs(float(whole.elapsed) / end - 1))
        descent = Descent(0.3)
        moves: list[tuple[Any, Any]] = [(Flow(rtol=1e-10), [0.3 * end, 0.6 * end]), (descent, [1, int(2 * end)])]
        for dynamics, times in moves:
            run, truth = (way(model, dynamics, state, times, (), states=True).states for way in (simulate, exact))
            assert run is not None and truth is not None
            errors.append(worst(list(state_errors(run, truth).values())))
    below = []
    for depth in DEPTHS:
        model, state = problem(depth, SHARE, 0.8 * threshold(depth, SHARE))
        logs = simulate(model, Flow(rtol=1e-10), state, [600.0, 610.0], ["log_norm"])["log_norm"]
        below.append(relative((logs[1] - logs[0]) / 10, limit(model, Flow(), state).exponent))
    checks = (
        Check("threshold of simulated flows, by bisection, relative", worst(np.abs(found / predicted - 1)), 1e-5),
        Check("time at which simulated flows end, from the predicted, relative", worst(ends), 1e-6),
        Check("all factors, exact against simulated", worst(errors), 1e-8),
        Check("exponent below the threshold, from that of decay alone, relative", worst(below), 1e-6),
    )
    shown = np.linspace(0, 60, 241)
    paths, dots = [], []
    for size in SIZES:
        model, state = problem(SHOWN, SHARE, size)
        paths.append(np.asarray(exact(model, Flow(), state, shown, ["norm_W"])["norm_W"]))
        dots.append(np.asarray(simulate(model, Flow(rtol=1e-10), state, shown[::24], ["norm_W"])["norm_W"]))
    return checks, {"found": found, "times": shown, "paths": np.array(paths), "dots": np.array(dots)}


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    shares = np.geomspace(0.03, 3, 200)
    left.axvline(1.0, color="0.1", label="L = 2")
    for place, depth in enumerate(DEPTHS):
        left.plot(shares, [threshold(depth, x) for x in shares], color=PALETTE[place], label=f"L = {depth}")
        left.plot(SHARES, curves["found"][place], "o", color=PALETTE[place], ms=4.5)
    left.plot([], [], "o", color="0.4", ms=4.5, label="simulated")
    logarithmic(left, "decay λ/σ", "size a₀ of the start", both=True)
    left.set(xlim=(0.03, 3), ylim=(0.03, 3))
    head(left, "Smallest start that lives", "modes above their line live; L = 2: left of it")
    key_under(left, 3)
    shades: Any = np.linspace(0.0, 0.85, len(SIZES))
    for place, size in enumerate(SIZES):
        color = (1 - shades[place], 0.3, shades[place])
        right.plot(curves["times"], curves["paths"][place], color=color, label=f"{size:g}")
        right.plot(curves["times"][::24], curves["dots"][place], "o", color=color, ms=3.5)
    right.axhline(0.5 * math.sqrt(CLASSES - 1), **THRESHOLD)
    right.set(xlabel="time", ylabel="norm of W", yscale="log", ylim=(0.03, 30))
    head(right, "Flows of depth 4, λ/σ = 1/4", "lines exact, dots simulated; dotted: a₀ = 1/2")
    key_under(right, 3, title="a₀")


THEORY = Theory(
    name="depth",
    title="Depth turns decay into a threshold on the start",
    loss="unhinged",
    case="regularised, depth L",
    predicted=(
        "a mode of `L > 2` factors lives only if `σ a₀^(L−2) > λ`, and is infinite at "
        "`τ = −log(1 − λ/(σ a₀^(L−2)))/((L−2)λ)`; at `L = 2` it lives only if `σ > λ`, whatever the start"
    ),
    assumptions="balanced spectral start, equal decays, linear factors",
    references=("saxe2014exact", "arora2018optimization", "sukenik2023deep", "zhou2023unhinged"),
    account=(
        "Saxe, McClelland & Ganguli solve stacks of linear factors mode by mode, from starts that share the singular "
        "vectors of the data and are balanced in the sense of Arora, Cohen & Hazan. Under a loss that is linear in the "
        "logits the size of a mode follows `a' = σ a^(L−1) − λ a`. With two factors both terms are linear, and decay "
        "is beaten or not whatever the start. With more, the pull vanishes faster than the decay as the mode shrinks, "
        "so decay kills small starts at any `σ`, and from large ones the mode is infinite at a finite time; between "
        "them is the unstable point `a₀ = (λ/σ)^(1/(L−2))`. It is where the deep model of Súkeník, Mondelli & Lampert "
        "loses its layers under this loss. The thresholds of simulated flows were found by bisection, without the "
        "formula."
    ),
    caption=(
        "Left: the threshold of the start (lines) and where simulated flows turn from death to life (dots). Right: "
        "flows from starts on both sides."
    ),
    compute=_compute,
    draw=_draw,
    size=(8.0, 4.6),
)
