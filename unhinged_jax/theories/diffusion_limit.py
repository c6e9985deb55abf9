"""Stochastic descent at small rates: a diffusion, whose expectations differ by a multiple of the rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax.closed_form import exact
from unhinged_jax.dynamics import Descent, Diffusion, Dynamics, Flow
from unhinged_jax.labels import balanced
from unhinged_jax.model import LayerPeeled, State, regularized
from unhinged_jax.plots.looks import head
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.drawing import pair
from unhinged_jax.theories.theory import Check, Curves, Theory, worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES, PER_CLASS, DIM, DECAY = 4, 5, 8, 0.16
BATCH, UNTIL = 8, 20.0
RATES, DRAWN = (0.2, 0.1, 0.05, 0.025, 0.0125), (0.8, 0.2)
SHOWN = ("objective", "square_norm", "within_scatter")
STEP, RUNS = 0.25, 4000
ENTROPY_RATES, ENTROPY_RUNS = (0.5, 0.25), 20_000


def first_order_gap(model: LayerPeeled, state: State, until: float) -> float:
    """The limit of (E |Z|^2 of descent - E |Z|^2 of the diffusion) / eta for eta -> 0: -tau |K Z(tau)|^2, of the flow.

    A descent is the flow of K - eta K^2/2 up to order eta^2, while the noise of both has one covariance. So the gap of
    first order is the one between descent and flow without noise, whatever the batches are.

    Args:
        model: A problem whose loss is linear in the logits, with features and prototypes that both move.
        state: The start.
        until: tau, the rate times the time, with rates r_1 = r_2 = 1.

    Raises:
        ValueError: if a part does not move, which makes K another matrix.

    Source: Li, Tai & E 2019 (the term of the second-order equation), for the second moment.

    Example:
        >>> from unhinged_jax.model import unconstrained
        >>> model = unconstrained(balanced(classes=2, per_class=1), dim=1, gamma=1.0)
        >>> start = State(jnp.ones((2, 1)), jnp.zeros((2, 1)), jnp.zeros(2))
        >>> first_order_gap(model, start, 0.0)
        -0.0
    """
    if not model.moves.coupled:
        raise ValueError("the gap of first order is that of features and prototypes that both move.")
    end = exact(model, Flow(), state, [until], ()).final
    moved = model.velocity(*(jnp.asarray(part) for part in (end.H, end.W, end.b)))  # its scale is that of H and W
    return -until * float(sum(jnp.sum(part**2) for part in moved[:2]) * np.exp(2 * float(end.log_scale)))


def _gaps(model: LayerPeeled, state: State, rates: tuple[float, ...]) -> np.ndarray:
    """Expectations of the descent minus those of the diffusion, (rates, observables)."""
    rows = []
    for eta in rates:
        descent = exact(model, Descent(eta, batch=BATCH), state, [round(UNTIL / eta)], SHOWN)
        diffusion = exact(model, Diffusion(eta, batch=BATCH), state, [UNTIL / eta], SHOWN)
        rows.append([float(descent[name][0] - diffusion[name][0]) for name in SHOWN])
    return np.array(rows)


def _order(gaps: np.ndarray, sizes: tuple[float, ...]) -> Any:
    """The power of the size with which gaps fall between the last two."""
    return np.log(np.abs(gaps[-2] / gaps[-1])) / np.log(sizes[-2] / sizes[-1])


def _of_steps(model: LayerPeeled, state: State, eta: float) -> float:
    """The order of Euler-Maruyama. A step h has the moments of an update at the rate h eta with a batch of h m."""
    want = exact(model, Diffusion(eta, batch=BATCH), state, [UNTIL / eta], SHOWN)
    sizes, gaps = (0.1, 0.05), []
    for step in sizes:
        stepped = exact(model, Descent(step * eta, batch=step * BATCH), state, [round(UNTIL / eta / step)], SHOWN)
        gaps.append([float(stepped[name][0] - want[name][0]) for name in SHOWN])
    return worst(np.abs(_order(np.array(gaps), sizes) - 1))


def _of_runs(model: LayerPeeled, state: State, eta: float) -> float:
    """How many standard errors the mean of simulated diffusions is off the moments of its steps, at most."""
    times = np.array([2.0, 5.0, 10.0, 20.0])
    diffusion, keys = Diffusion(eta, batch=BATCH, step=STEP), jax.random.split(jax.random.key(3), RUNS)
    run = jax.jit(jax.vmap(lambda key: simulate(model, diffusion, state, times, SHOWN, key=key).observables))(keys)
    want = exact(model, Descent(STEP * eta, batch=STEP * BATCH), state, np.round(times / STEP).astype(int), SHOWN)
    off = [np.abs(np.mean(run[name], axis=0) - want[name]) / (np.std(run[name], axis=0) / RUNS**0.5) for name in SHOWN]
    return worst(np.concatenate(off))


def _of_cross_entropy() -> tuple[np.ndarray, np.ndarray]:
    """Means of |Z|^2 of descents minus those of diffusions under cross-entropy, and their standard errors."""
    model = regularized(balanced(2, 2), 2, decay=0.1, loss="cross_entropy")
    state = model.init(jax.random.key(5), precision="float64")
    gaps, errors = [], []
    for place, eta in enumerate(ENTROPY_RATES):
        means, squares = [], []
        dynamics: tuple[Dynamics, ...] = (Descent(eta, batch=2), Diffusion(eta, batch=2, step=0.125))
        for which, one in enumerate(dynamics):
            keys = jax.random.split(jax.random.fold_in(jax.random.key(17 + which), place), ENTROPY_RUNS)

            def last(key: jax.Array, one: Dynamics = one, eta: float = eta) -> jax.Array:
                run = simulate(model, one, state, [round(4 / eta)], ["square_norm"], key=key, precision="float64")
                values: jax.Array = run["square_norm"][0]
                return values

            values = np.asarray(jax.jit(jax.vmap(last))(keys))
            means.append(values.mean())
            squares.append(values.var() / ENTROPY_RUNS)
        gaps.append(means[0] - means[1])
        errors.append(sum(squares) ** 0.5)
    return np.array(gaps), np.array(errors)


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    model = regularized(balanced(CLASSES, PER_CLASS), DIM, decay=DECAY)
    state = model.init(jax.random.key(0), precision="float64")
    gaps = _gaps(model, state, RATES)
    predicted = first_order_gap(model, state, UNTIL)
    measured = gaps[:, SHOWN.index("square_norm")] / RATES
    beyond = 2 * measured[-1] - measured[-2]  # without the term of second order
    entropy, errors = _of_cross_entropy()
    slope = _order(entropy, ENTROPY_RATES)
    checks = (
        Check(
            "order in η of the gap between descent and diffusion, from 1", worst(np.abs(_order(gaps, RATES) - 1)), 0.05
        ),
        Check("gap of E‖Z‖² over η at small η against −τ‖KZ(τ)‖², relative", abs(beyond / predicted - 1), 0.02),
        Check("order in the step of Euler–Maruyama, from 1", _of_steps(model, state, RATES[0]), 0.05),
        Check("mean of 4,000 simulated diffusions, in standard errors", _of_runs(model, state, RATES[0]), 4.0),
        Check("cross-entropy: order of the gap between 20,000 runs each, from 1", abs(slope - 1), 0.25),
    )
    times = np.linspace(0, UNTIL, 51)
    curves: dict[str, Any] = {"rates": np.array(RATES), "tau": times, "drawn": np.array(DRAWN)}
    for eta in DRAWN:
        updates = np.arange(0, round(UNTIL / eta) + 1, max(round(0.8 / eta), 1))
        flows = [_along(model, state, Flow(), tau) for tau in (updates * eta, times)]
        curves[f"updates_{eta:g}"] = updates * eta
        curves[f"descent_{eta:g}"] = _along(model, state, Descent(eta, batch=BATCH), updates) / flows[0]
        curves[f"diffusion_{eta:g}"] = _along(model, state, Diffusion(eta, batch=BATCH), times / eta) / flows[1]
    curves |= {f"gap_{name}": np.abs(gaps[:, i]) for i, name in enumerate(SHOWN)}
    return checks, curves | {"entropy_rates": np.array(ENTROPY_RATES), "entropy": entropy, "entropy_errors": errors}


def _along(model: LayerPeeled, state: State, dynamics: Dynamics, times: np.ndarray) -> np.ndarray:
    return np.asarray(exact(model, dynamics, state, times, ["square_norm"])["square_norm"])


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    rates = curves["rates"]
    names = {"objective": "objective", "square_norm": "‖Z‖²", "within_scatter": "within-class scatter"}
    for name, shown in names.items():
        left.plot(rates, curves[f"gap_{name}"], "o-", label=f"{shown}, exact")
    bars = 2 * curves["entropy_errors"]
    left.errorbar(
        curves["entropy_rates"], np.abs(curves["entropy"]), bars, fmt="s", color="0.3", capsize=3,
        label="‖Z‖² of cross-entropy, simulated",
    )  # fmt: skip
    ends = np.array([rates.min(), curves["entropy_rates"].max()])
    left.plot(ends, curves["gap_square_norm"][-1] * ends / rates[-1], color="0.3", lw=0.8, ls=":", label="slope 1")
    left.set(xscale="log", yscale="log", xlim=(0.01, 1), ylim=(1e-5, 0.3))
    left.set(xlabel="rate η", ylabel="|E of descent − E of diffusion|")
    head(left, "Gap between descent and its diffusion", "in expectation")
    left.legend(fontsize=8, loc="lower right")
    for number, eta in enumerate(curves["drawn"]):
        right.plot(curves["tau"], curves[f"diffusion_{eta:g}"], color=f"C{number}", label=f"diffusion, η = {eta:g}")
        right.plot(curves[f"updates_{eta:g}"], curves[f"descent_{eta:g}"], "o", ms=3.5, color=f"C{number}",
                   label=f"descent, η = {eta:g}")  # fmt: skip
    right.set(xlabel="τ = η · updates", ylabel="ratio of E‖Z‖²")
    head(right, "Expected squared norm", "over that of the flow without noise")
    right.legend(fontsize=8)


THEORY = Theory(
    name="diffusion-limit",
    title="Stochastic descent at small rates is a diffusion",
    loss="unhinged, cross-entropy",
    case="regularised",
    predicted=(
        "`dZ = KZ dτ + √η B(Z) dw` with `BBᵀ` the covariance of the gradient of a batch; expectations of descent "
        "differ by `O(η)`, `E‖Z‖²` by `−ητ‖KZ(τ)‖²`"
    ),
    assumptions="`η → 0` at a fixed `τ = η · updates`",
    references=("li2017stochastic", "li2019stochastic"),
    libraries=("deepmind2020jax",),
    account=(
        "Li, Tai & E approximate stochastic gradient descent by the stochastic differential equation whose "
        "drift is the gradient and whose noise has the covariance of the gradient of a batch, times the rate: "
        "expectations agree up to a multiple of the rate at a fixed `τ = η · updates`. For a linear loss both "
        "sides are known exactly, the descent by a recursion of its second moments and the diffusion by the "
        "exponential of their linear equation, so the gap is measured without sampling. At first order it has "
        "nothing to do with the noise: a descent is the flow of `K − ηK²/2`, the drift of Li, Tai & E's "
        "equation of second order, so the expected squared norm differs by `−ητ‖KZ(τ)‖²`, with Z of the flow, "
        "whatever the size of the batches. Steps of Euler–Maruyama have an error of first order as well, and "
        "steps of length 1 have the very moments of the descent. Under cross-entropy, means of simulated runs "
        "show the same order."
    ),
    caption=(
        "Left: gaps between expectations of descent and diffusion at τ = 20, and at τ = 4 for cross-entropy "
        "(bars: two standard errors). Right: expected squared norm over that of the flow without noise, "
        "for batches of 8 of 20 samples."
    ),
    compute=_compute,
    draw=_draw,
)
