"""MSE with decay on classes of any size: which classes survive, in the minimum and on the way to it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from unhinged_jax import _memory
from unhinged_jax.closed_form import exact
from unhinged_jax.dynamics import Descent, Flow
from unhinged_jax.labels import from_counts
from unhinged_jax.limits import limit
from unhinged_jax.model import State, regularized
from unhinged_jax.plots.looks import head
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.drawing import pair
from unhinged_jax.theories.theory import Check, Curves, Theory, worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COUNTS, DIM = (16, 9, 4, 1), 6
DECAYS = (0.01, 0.02, 0.05, 0.08, 0.12, 0.15)
TIMED = 0.02


def _class_values(state: State) -> np.ndarray:
    """sqrt(n_c) times the mean logit of every class for its own samples, (C,): singular values, once collapsed."""
    H, W = (_memory.read(part) for part in (state.H, state.W))
    index = np.repeat(np.arange(len(COUNTS)), COUNTS)
    own = np.sum(H * W[index], axis=1) * math.exp(2 * float(state.log_scale))
    return np.array([own[index == c].mean() * math.sqrt(n) for c, n in enumerate(COUNTS)])


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    labels, samples = from_counts(list(COUNTS)), sum(COUNTS)
    roots, ended, descended, values = np.sqrt(np.array(COUNTS)), [], [], []
    minima = np.array([np.maximum(0.0, roots - samples * decay) for decay in DECAYS])
    named = []
    for decay, expected in zip(DECAYS, minima, strict=True):
        model = regularized(labels, DIM, decay=decay, loss="mse")
        state = model.init(jax.random.key(1), balanced=0.0, scale=0.3, precision="float64")
        found = limit(model, Flow(), state)
        assert found.survivors is not None
        named.append(np.abs(np.asarray(found.survivors.values) - expected).max())
        ended.append(_class_values(exact(model, Flow(), state, [1e5], ["loss"]).final))
        uneven = model.replace(decay=(2 * decay, decay / 2))
        start = uneven.init(jax.random.key(2), precision="float64")
        run = simulate(uneven, Descent(0.5, momentum=0.9), start, [20_000], ["objective"])
        descended.append(_class_values(run.final))
        least = np.sum((roots - expected) ** 2) / (2 * samples) + decay * np.sum(expected)
        values.append(abs(float(run.last("objective")) - least))
    checks = (
        Check("singular values of the logits at the end of the exact flow", worst(abs(ended - minima)), 1e-9),
        Check("the same in `limit`", worst(named), 1e-12),
        Check("after long descent from any start, λ₁ = 4λ₂", worst(abs(descended - minima)), 1e-6),
        Check("objective there, from the closed form", worst(values), 1e-10),
    )
    model, times = regularized(labels, DIM, decay=TIMED, loss="mse"), np.geomspace(1.0, 2e3, 120)
    state = model.init(jax.random.key(1), balanced=0.0, scale=1e-2, precision="float64")
    path = [_class_values(exact(model, Flow(), state, [time], ["loss"]).final) for time in times]
    curves: dict[str, Any] = {
        "decay": np.linspace(0, 0.16, 200), "at": np.array(DECAYS), "descended": np.array(descended), "time": times,
        "path": np.array(path),
    }  # fmt: skip
    return checks, curves


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    samples = sum(COUNTS)
    for place, count in enumerate(COUNTS):
        line = np.maximum(0, math.sqrt(count) - samples * curves["decay"])
        left.plot(curves["decay"], line, color=f"C{place}", label=f"{count} sample{'s' * (count > 1)}")
        left.plot(curves["at"], curves["descended"][:, place], "o", color=f"C{place}", ms=4)
        right.plot(curves["time"], curves["path"][:, place], color=f"C{place}")
        right.axhline(max(0.0, math.sqrt(count) - samples * TIMED), color=f"C{place}", lw=0.8, ls=":")
    left.set(xlabel="decay √(λ₁λ₂)", ylabel="singular value of the logits")
    head(left, "Singular values at the minimum", "lines: predicted; dots: where descent ended")
    left.legend(title="class of")
    right.set(xscale="log", xlabel="time", ylabel="√(class size) · mean own logit")
    head(right, f"Classes appear one by one, λ = {TIMED:g}", "dotted: predicted ends")


THEORY = Theory(
    name="dying-classes",
    title="MSE with decay: classes die one by one",
    loss="MSE",
    case="regularised",
    predicted="the logits at the minimum have the singular values `max(0, √(n_c) − n√(λ₁λ₂))`: small classes die first",
    assumptions="none (any class sizes, p ≥ the classes that survive)",
    references=("tirer2022extended", "fang2021exploring"),
    libraries=("deepmind2020jax",),
    account=(
        "With classes of any size the one-hot targets have the singular values `√(n_c)`, and decay takes the same "
        "amount, `n√(λ₁λ₂)`, off each: the minimiser of Tirer & Bruna for any counts. A class is given up, logits and "
        "all, once `λ₁λ₂ ≥ n_c/n²`, the smallest first; for MSE this is minority collapse at a decay that is known in "
        "advance. From a small balanced start, the exact flow learns the same classes in the same order, each in a "
        "step of its own. `limit` says in words which classes die. From any start that has a part in every class, "
        "descent with momentum ends at the same values, also where `λ₁` and `λ₂` differ."
    ),
    caption="Left: minimum (lines) and the end of long descents (dots). Right: exact flow from a start of size 0.01.",
    compute=_compute,
    draw=_draw,
)
