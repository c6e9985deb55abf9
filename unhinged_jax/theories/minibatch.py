"""Minibatches under the unhinged loss: the mean is the descent of all samples, and the second moment is closed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax.closed_form import exact
from unhinged_jax.dynamics import Descent
from unhinged_jax.labels import balanced
from unhinged_jax.model import LayerPeeled, State, regularized
from unhinged_jax.plots import PALETTE
from unhinged_jax.plots.looks import head, key_under
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.drawing import pair
from unhinged_jax.theories.theory import Check, Curves, Theory, relative, worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCHES = (1, 2, 5, 20)
UPDATES, RATE, DECAY, RUNS = 60, 0.5, 0.1, 2000


def every_path(
    model: LayerPeeled, state: State, rate: float, batch: int, updates: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(H, W) at the end of every path of batches drawn with replacement; all paths are equally likely.

    Args:
        model: A regularised model with a linear loss, without a bias.
        state: The start.
        rate: The rate eta of each update.
        batch: Samples of a batch, m.
        updates: Length of a path; there are n^(m updates) paths.

    Source: the definition of the update.

    Example:
        >>> model = regularized(balanced(classes=2, per_class=1), dim=2, decay=0.1)
        >>> len(list(every_path(model, model.init(jax.random.key(0)), rate=0.5, batch=1, updates=3)))
        8
    """
    n, M = model.samples, np.asarray(model.signal().dense(jnp.result_type(float)), float)
    draws = [np.bincount(one, minlength=n) * n / batch for one in itertools.product(range(n), repeat=batch)]
    for path in itertools.product(draws, repeat=updates):
        H, W = np.asarray(state.H, float), np.asarray(state.W, float)
        for times in path:
            drawn = times[:, None] * M
            H, W = H + rate * (drawn @ W - model.decay_H * H), W + rate * (drawn.T @ H - model.decay_W * W)
        yield H, W


def _enumerated() -> tuple[float, float]:
    """Relative errors of the mean and of the second moment, over all paths of a small problem."""
    model = regularized(balanced(classes=2, per_class=2), dim=3, gamma=0.4, decay=(0.3, 0.2))
    state = model.init(jax.random.key(2), precision="float64")
    ends = [np.concatenate(end) for end in every_path(model, state, 0.5, 2, 3)]
    plain = simulate(model, Descent(0.5), state, [3], []).final
    second = exact(model, Descent(0.5, batch=2), state, [3], ["square_norm"])["square_norm"][0]
    mean = relative(np.mean(ends, axis=0), np.concatenate([plain.H, plain.W]))
    return mean, relative(np.mean([np.sum(end**2) for end in ends]), second)


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    of_mean, of_square = _enumerated()
    model = regularized(balanced(classes=4, per_class=5), dim=8, decay=DECAY)
    state = model.init(jax.random.key(0), precision="float64")
    times = np.arange(0, UPDATES + 1, 5)
    mean = np.asarray(exact(model, Descent(RATE), state, times, ["square_norm"])["square_norm"])
    curves: dict[str, np.ndarray] = {"times": times, "mean": mean}
    away, apart = [], []
    for number, batch in enumerate(BATCHES):
        descent = Descent(RATE, batch=batch)
        expected = np.asarray(exact(model, descent, state, times, ["square_norm"])["square_norm"])
        keys = jax.random.split(jax.random.key(number + 1), RUNS)
        ensemble = jax.vmap(lambda key, descent=descent: _path(model, descent, state, times, key))(keys)
        squares, finals = np.asarray(ensemble[0]), np.asarray(ensemble[1]).reshape(RUNS, -1)
        error = squares.std(axis=0) / np.sqrt(RUNS)
        away.append(np.max(np.abs(squares.mean(axis=0) - expected)[1:] / error[1:]))
        plain = simulate(model, Descent(RATE), state, [UPDATES], []).final
        distance = finals.mean(axis=0) - np.concatenate([plain.H, plain.W]).ravel()
        apart.append(np.max(np.abs(distance) / (finals.std(axis=0) / np.sqrt(RUNS))))
        curves |= {f"runs_{batch}": squares[:12], f"expected_{batch}": expected, f"found_{batch}": squares.mean(axis=0)}
    checks = (
        Check("mean of all paths of a small problem against descent, relative", of_mean, 1e-13),
        Check("squared norm, all paths against closed form, relative", of_square, 1e-13),
        Check(f"mean squared norm of {RUNS} runs, from closed form, in standard errors", worst(away), 4.0),
        # The largest of 4 x 192 normal numbers exceeds 5 with a chance of 0.05 %.
        Check(f"mean of {RUNS} runs from descent, entry by entry, in standard errors", worst(apart), 5.0),
    )
    return checks, curves


def _path(model: LayerPeeled, descent: Descent, state: State, times: np.ndarray, key: jax.Array) -> tuple:
    run = simulate(model, descent, state, times, ["square_norm"], key=key)
    return run["square_norm"], jnp.concatenate([run.final.H, run.final.W])


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    times = curves["times"]
    left.plot(times, curves["runs_1"].T, color="0.8", lw=0.7)
    left.plot([], [], color="0.8", label="single runs, m = 1")
    left.plot(times, curves["expected_1"], color=PALETTE[1], label="expectation, closed form")
    left.plot(times, curves["found_1"], "k.", label=f"mean of {RUNS} runs")
    left.plot(times, curves["mean"], color=PALETTE[0], label="descent of all samples")
    left.set(xlabel="updates", yscale="log")
    head(left, "Squared norm of (H, W)", "square_norm")
    key_under(left)
    for number, batch in enumerate(BATCHES):
        spread = {name: curves[f"{name}_{batch}"] / curves["mean"] - 1 for name in ("expected", "found")}
        right.plot(times[1:], spread["expected"][1:], color=PALETTE[number], label=f"m = {batch}")
        right.plot(times[1:], spread["found"][1:], ".", color=PALETTE[number])
    right.set(xlabel="updates", yscale="log")
    head(right, "Variance over the square of the mean", "lines: closed form; dots: runs")
    key_under(right, 2)


THEORY = Theory(
    name="minibatch",
    title="Minibatches: the mean is descent, and the second moment is closed",
    loss="unhinged",
    case="regularised, batches",
    predicted=(
        "the mean over all batches is the descent of all samples, exactly, and `E‖(H, W)‖²` is a linear recursion of "
        "seven numbers"
    ),
    assumptions="independent batches; balanced classes for seven numbers",
    references=("zhou2023unhinged", "mandt2017stochastic"),
    account=(
        "An update under a linear loss multiplies `(H, W)` by a random matrix that is independent of the past. So the "
        "mean follows the mean matrix, which is descent on all samples, and the second moments follow a linear map, "
        "whatever the rate. Mandt, Hoffman & Blei describe descent near the minimum of a quadratic loss, with noise "
        "that does not depend on the state, as a diffusion; here noise is multiplied by the state and nothing is "
        "approximated. Every path of a small problem is enumerated, and thousands of runs of a larger one are "
        "averaged."
    ),
    caption=(
        "Left: single runs with batches of one sample, their mean, and the closed form. Right: how far runs are spread "
        "around the mean, closed form (lines) and runs (dots)."
    ),
    compute=_compute,
    draw=_draw,
    size=(8.0, 4.6),
)
