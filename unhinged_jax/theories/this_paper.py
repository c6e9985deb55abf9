"""The paper's own row: unhinged dynamics in closed form, in three cases, with a varying rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from unhinged_jax.closed_form import exact
from unhinged_jax.comparison import verify
from unhinged_jax.dynamics import Descent, Flow
from unhinged_jax.labels import balanced
from unhinged_jax.limits import limit
from unhinged_jax.model import LayerPeeled, regularized, spherical, unconstrained
from unhinged_jax.plots import EXACT, SIMULATED
from unhinged_jax.plots.looks import head, key_of
from unhinged_jax.schedules import cosine
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.theory import Check, Curves, Theory, worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UPDATES = 4_000


def problems() -> dict[str, LayerPeeled]:
    """The three cases of the paper's row."""
    labels = balanced(5, 4)
    return {
        "unconstrained": unconstrained(labels, 8, gamma=0.2),
        "regularised": regularized(labels, 8, gamma=0.2, decay=(0.03, 0.05)),
        "spherical": spherical(labels, 8, gamma=0.2),
    }


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    descent = Descent(cosine(0.1, horizon=2 * UPDATES))
    times = np.unique(np.round(np.linspace(0, UPDATES, 41)).astype(int))
    errors, rates, curves = [], [], dict[str, Any](time=times)
    for name, model in problems().items():
        state = model.init(jax.random.key(9), precision="float64")
        observed = "log_distance_H" if name == "spherical" else "log_distance"
        run = simulate(model, descent, state, times, [observed, "accuracy"], states=True)
        truth = exact(model, descent, state, times, [observed, "accuracy"], states=True)
        found: Any = verify(run, truth)
        errors += [found.errors["H"], found.errors["W"]]
        curves[name] = np.asarray(truth[observed])
        curves[f"{name} simulated"] = np.asarray(run[observed])
        if name != "spherical":
            predicted = float(limit(model, Flow(), state, precision="float64").rate)
            zeta = np.asarray(descent.schedule.integral(times), float)
            logs = np.asarray(run[observed])
            rates.append(abs(-(logs[-1] - logs[-6]) / (zeta[-1] - zeta[-6]) / predicted - 1))
    checks = (
        Check("H and W, simulated against exact, three cases, relative", worst(errors), 1e-11),
        Check("exponential rate in ζ(t) against predicted, relative", worst(rates), 0.02),
    )
    return checks, curves


def _draw(curves: Curves, figure: Figure) -> None:
    panels = figure.subplots(1, 3)
    for axes, name in zip(panels, problems(), strict=True):
        axes.plot(curves["time"], curves[name] / np.log(10), **EXACT, label="exact")
        axes.plot(curves["time"], curves[f"{name} simulated"] / np.log(10), **SIMULATED, color="0.1", label="simulated")
        axes.set_xlabel("update")
        axes.locator_params(axis="x", nbins=4)
        head(
            axes,
            name.capitalize(),
            "of the features; curves coincide" if name == "spherical" else "both curves coincide",
        )
    panels[0].set_ylabel("log₁₀ of the distance to the limit")
    key_of(figure)


THEORY = Theory(
    name="unhinged",
    title="The unhinged loss: closed forms",
    loss="unhinged",
    case="unconstrained, regularised, spherical",
    predicted=(
        "`H(t)` and `W(t)` in closed form for any rate `η(t)`; exponential convergence in `ζ(t) = ∫η` to a limit set "
        "by the start"
    ),
    assumptions="none",
    references=("zhou2023unhinged",),
    libraries=("deepmind2020jax",),
    account=(
        "This is the row of the paper itself. The unhinged loss is linear in the logits, so features and prototypes "
        "follow a linear differential equation with two distinct modes, and everything is known: the states at any "
        "time under any learning rate, the direction to which they converge, which depends on the start, and the "
        "exponential rate in `ζ(t) = ∫η`. Three cases are simulated with a cosine rate and compared with the closed "
        "form; `unhinged verify` covers all of them."
    ),
    caption="Distance of the direction from its limit under a cosine rate: closed form and simulation.",
    compute=_compute,
    draw=_draw,
    size=(8.0, 3.5),
)
