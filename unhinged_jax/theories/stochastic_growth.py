"""Where noise alone makes runs grow: the exact line in batch size and rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from unhinged_jax.closed_form import exact
from unhinged_jax.dynamics import Descent
from unhinged_jax.labels import balanced
from unhinged_jax.limits import Limit, limit
from unhinged_jax.model import LayerPeeled, State, regularized
from unhinged_jax.plots import PALETTE
from unhinged_jax.plots.looks import head, key_under
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.drawing import logarithmic, pair
from unhinged_jax.theories.theory import Check, Curves, Theory, least, relative, worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXCESSES = (1.05, 1.2, 1.5, 2.0)
"""Decays over the one at which descent on all samples neither grows nor dies."""
RATE, UPDATES, RUNS = 1.0, 400, 1000


def second_growth(M: npt.ArrayLike, decay: float, rate: float, batch: float) -> float:
    """The growth of E ||(H, W)||^2 under one update, from all eigenvalues of E A (x) A for the update A of (H, W).

    Args:
        M: The signal matrix, (n, C).
        decay: The decay of H and of W.
        rate: The rate eta.
        batch: m, the size of the batch, drawn with replacement; any positive number.

    Returns:
        The logarithm of the spectral radius, per update.

    Source: beyond the paper.

    Example:
        >>> round(second_growth([[0.0, 0.0]], decay=0.5, rate=1.0, batch=1), 6)
        -1.386294
    """
    M = np.asarray(M, float)
    n, C = M.shape
    rows = np.zeros((n, n + C, n + C))
    for i, row in enumerate(M):
        rows[i, i, n:] = rows[i, n:, i] = rate * row
    signal = rows.sum(axis=0)
    mean = (1 - rate * decay) * np.eye(n + C) + signal
    # Cov(D_ii, D_jj) = (n [i = j] - 1)/m for the number of times n/m that samples i and j are drawn
    noise = (n * sum(np.kron(one, one) for one in rows) - np.kron(signal, signal)) / batch
    return float(np.log(np.max(np.abs(np.linalg.eigvalsh(np.kron(mean, mean) + noise)))))


def problem(excess: float) -> tuple[LayerPeeled, State]:
    """Four classes of five samples with a decay above the threshold of growth by a factor, and a start."""
    model = regularized(balanced(classes=4, per_class=5), dim=8, decay=excess / (3 * np.sqrt(5)))
    return model, model.init(jax.random.key(0), precision="float64")


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    _, state = problem(EXCESSES[0])
    batches, decays = np.geomspace(1, 100, 41), np.array([float(problem(excess)[0].decay_H) for excess in EXCESSES])

    def at(decay: jax.Array, batch: jax.Array, rate: jax.Array) -> Limit:
        model = regularized(balanced(classes=4, per_class=5), dim=8, decay=decay)
        return limit(model, Descent(rate, batch=batch), state)

    def critical(decay: jax.Array, batch: jax.Array) -> jax.Array:
        return at(decay, batch, jnp.asarray(RATE)).critical_rate

    lines = np.asarray(jax.jit(jax.vmap(jax.vmap(critical, (None, 0)), (0, None)))(decays, batches))
    model, _ = problem(EXCESSES[0])
    M = np.asarray(model.signal().dense(jnp.float64))
    spots = [(i, j) for i in (0, 2, 3) for j in (0, 15, 30)]
    on_line = [abs(second_growth(M, decays[i], lines[i, j], batches[j])) / lines[i, j] for i, j in spots]
    found = limit(model, Descent(RATE, batch=1), state)
    back = limit(model, Descent(lines[0, 20], batch=1), state).critical_batch
    times = np.arange(0, UPDATES + 1, 10)
    runs = _ensemble(model, state, times)
    expected = np.asarray(exact(model, Descent(RATE, batch=1), state, times, ["log_square_norm"])["log_square_norm"])
    late = exact(model, Descent(RATE, batch=1), state, [4000, 5000], ["log_square_norm"])["log_square_norm"]
    middle = UPDATES // 20
    typical = (runs[:, -1] - runs[:, middle]).mean() / (times[-1] - times[middle])
    second, mean = float(found.second_moment_growth), float(found.mean_growth)
    checks = (
        Check("growth on the line, from all eigenvalues, per unit of rate", worst(on_line), 1e-12),
        Check("batch that is critical at the rate critical for a batch, relative", relative(back, batches[20]), 1e-9),
        Check("late growth of the expectation against the predicted, relative", relative((late[1] - late[0]) / 1000,
              second), 1e-9),
        Check("growth of the second moment at batches of one", second, 1e-3, at_least=True),
        Check("growth of the mean there", mean, -1e-3),
        Check(f"growth of the logarithm in {RUNS} runs there", typical, -1e-3),
        Check("critical rate over that of the next smaller batch, least", least(lines[:, 1:] / lines[:, :-1]), 1.0,
              at_least=True),
    )  # fmt: skip
    full = [float(limit(problem(x)[0], Descent(RATE, batch=20, replacement=False), state).critical_rate)
            for x in EXCESSES]  # fmt: skip
    curves = {
        "batches": batches, "lines": lines, "full": np.array(full), "times": times, "runs": runs[:25],
        "median": np.median(runs, axis=0), "expected": expected, "growths": np.array([second, mean]),
    }  # fmt: skip
    return checks, curves


def _ensemble(model: LayerPeeled, state: State, times: np.ndarray) -> np.ndarray:
    """log ||(H, W)||^2 of runs with batches of one, (runs, T)."""

    def path(key: jax.Array) -> jax.Array:
        return simulate(model, Descent(RATE, batch=1), state, times, ["log_norm"], key=key)["log_norm"]

    return 2 * np.asarray(jax.vmap(path)(jax.random.split(jax.random.key(1), RUNS)))


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    batches = curves["batches"]
    for number, excess in enumerate(EXCESSES):
        left.plot(batches, curves["lines"][number], color=PALETTE[number], label=f"{excess:g}")
        left.axhline(curves["full"][number], color=PALETTE[number], lw=0.8, ls=":")
    left.fill_between(batches, curves["lines"][0], curves["full"][0], color=PALETTE[0], alpha=0.12, lw=0)
    left.plot(1, RATE, "k*", ms=9, label="right panel", ls="none")
    logarithmic(left, "batch size m", "rate η", both=True)
    ticks = [0.3, 0.5, 1.0, 2.0, 4.0, 7.0]
    left.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    left.set_yticks([], minor=True)
    left.set_xticks([1, 10, 100], ["1", "10", "100"])
    head(left, "Critical rates", "above a line E‖(H, W)‖² grows; above its dots the mean, too")
    key_under(left, 2, title="decay over threshold")
    times = curves["times"]
    right.plot(times, curves["runs"].T, color="0.82", lw=0.7)
    right.plot([], [], color="0.82", label="single runs")
    right.plot(times, curves["expected"], color=PALETTE[1], label="log of the expectation, closed form")
    right.plot(times, curves["median"], "k", label=f"median of {RUNS} runs")
    right.plot(times, curves["expected"][0] + curves["growths"][1] * times, color=PALETTE[0], ls="--",
               label="growth of the mean")  # fmt: skip
    right.set(xlabel="updates", ylabel="log ‖(H, W)‖²")
    head(right, "Runs at the star", "m = 1, η = 1, decay 1.05 times the threshold")
    key_under(right)


THEORY = Theory(
    name="stochastic-growth",
    title="Growth by noise alone: the exact line in batch size and rate",
    loss="unhinged",
    case="regularised, batches",
    predicted=(
        "`E‖(H, W)‖²` grows, although the mean dies, above a rate `η_*(m)` that is the smallest solution of an "
        "eigenvalue problem of seven numbers; at each rate there is one critical batch size"
    ),
    assumptions="independent batches; balanced classes for seven numbers",
    references=("hodgkinson2021multiplicative", "gurbuzbalaban2021heavy", "zhou2023unhinged"),
    account=(
        "With decay above its threshold, descent on all samples dies. Batches multiply the state by random matrices, "
        "and the second moment may grow nevertheless: a few runs carry it, while a typical run dies, which is how "
        "multiplicative noise makes the heavy tails of Hodgkinson & Mahoney and of Gurbuzbalaban, Simsekli & Zhu. For "
        "a loss that is linear in the logits the line is exact. In the right units the map of the second moment is "
        "symmetric and keeps positive matrices positive, so its growth is convex in the rate and falls with the batch "
        "size: there is one critical rate for each batch and one critical batch for each rate, and Newton's method "
        "finds them. `limit` gives both, with their derivatives. Where runs end is left open: in the shaded region "
        "typical runs may grow or die."
    ),
    caption=(
        "Left: critical rates of the second moment (lines) and of the mean (dots) for four decays; shaded is where "
        "noise alone grows at the smallest. Right: runs at the star."
    ),
    compute=_compute,
    draw=_draw,
    size=(8.0, 4.8),
)
