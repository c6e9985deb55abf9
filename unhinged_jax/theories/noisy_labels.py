"""Labels drawn at each update: noise of order eta around the unhinged path, and a drift along zero squared error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np
import numpy.typing as npt
import scipy.integrate

from unhinged_jax.closed_form import exact
from unhinged_jax.comparison import verify
from unhinged_jax.dynamics import Descent
from unhinged_jax.ensembles import Agreement, ensemble
from unhinged_jax.labels import balanced
from unhinged_jax.model import LayerPeeled, State, unconstrained
from unhinged_jax.plots.looks import head, key_under
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.drawing import THRESHOLD, pair
from unhinged_jax.theories.theory import Check, Curves, Theory, relative
from unhinged_jax.trajectory import Trajectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES, PER_CLASS, RATE = 3, 2, 0.2
ETAS = (0.2, 0.1, 0.05, 0.025)  # unhinged
HORIZON = 4.0  # of the sum of rates
SQUARED_ETAS = (0.2, 0.05)
LENGTH = 120.0  # eta^2 k
LARGER = 2.0  # features, and smaller prototypes, than at the least norm


def drift(modes: npt.ArrayLike, larger: float, noise: float, samples: int, times: npt.ArrayLike) -> np.ndarray:
    r"""Squared norm of (H, W) along the minima H W^T = Y of the squared error, whose labels are drawn at each update.

    Mode j of Y is a product h w = S of features and prototypes, in which a plain update leaves q = h^2 - w^2. The noise
    does not: dq/ds = (n a w^2 - t h^2) / n^2 with s = eta^2 k, where t is the trace of the covariance of a label, and
    a = t/(C-1) of the contrasts between classes, of their common mean 0, because every label has the sum 1.

    Args:
        modes: Singular values S of Y, the first of which belongs to the common mean, (C,).
        larger: h / w at the start is its square.
        noise: t.
        samples: n.
        times: s, increasing from 0, (T,).

    Returns:
        h^2 + w^2, summed over the modes, (T,).

    Source: beyond the papers, to the first order in eta; the effect is that of Blanc et al. 2020.

    Example:
        >>> drift([1.0, 1.0], 2.0, 0.3, 4, [0.0, 1e9])[0].round(3).tolist()
        8.5
    """
    S = np.asarray(modes, float)
    across = np.where(np.arange(len(S)) == 0, 0.0, noise / (len(S) - 1))

    def squares(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        root = np.sqrt(q**2 + 4 * S**2)
        return (root + q) / 2, (root - q) / 2

    def slope(_: float, q: np.ndarray) -> np.ndarray:
        of_H, of_W = squares(q)
        return (samples * across * of_W - noise * of_H) / samples**2

    start = S * (larger**2 - 1 / larger**2)
    times = np.asarray(times, float)
    found = scipy.integrate.solve_ivp(
        slope, (0.0, times[-1]), start, method="LSODA", t_eval=times, rtol=1e-10, atol=1e-12
    )
    return np.array([sum(np.sum(part) for part in squares(q)) for q in found.y.T])


def _squared_error() -> tuple[list[Check], dict[str, np.ndarray]]:
    labels = balanced(CLASSES, PER_CLASS).symmetric_noise(RATE)
    Y = np.asarray(labels.probabilities(), float)
    U, S, V = np.linalg.svd(Y, full_matrices=False)
    state = State(U * np.sqrt(S) * LARGER, V.T * np.sqrt(S) / LARGER)
    model = unconstrained(labels, CLASSES, loss="mse")
    clock = np.linspace(0, LENGTH, 13)
    noise = 1 - float(np.sum(Y[0] ** 2))
    line = drift(S, LARGER, noise, len(Y), clock)
    checks, curves = [], {"clock": clock, "line": line}
    gaps = []
    for eta in SQUARED_ETAS:
        times = np.round(clock / eta**2).astype(int)
        runs = _many(model, Descent(eta, fresh_labels=True), state, times, 64, "square_norm")
        summary = ensemble(runs)["square_norm"]
        mean, error = (summary.sel(statistic=name).values for name in ("mean", "error"))
        curves |= {f"mean_{eta}": mean, f"error_{eta}": error}
        gaps.append(relative(mean, line))
    plain = simulate(model, Descent(SQUARED_ETAS[0]), state, [0, 2000], ["square_norm"])["square_norm"]
    checks.append(Check("squared error: norm against the drift at η = 0.05, relative", gaps[1], 0.05))
    checks.append(Check("the same gap over that at η = 0.2", gaps[1] / gaps[0], 0.5))
    checks.append(Check("change of the norm without noise, relative", relative(plain[1], plain[0]), 1e-12))
    return checks, curves


def _unhinged() -> tuple[list[Check], dict[str, np.ndarray]]:
    labels = balanced(CLASSES, PER_CLASS).symmetric_noise(RATE)
    model = unconstrained(labels, CLASSES)
    start = model.init(jax.random.key(0), precision="float64")
    means = np.asarray(start.H).reshape(CLASSES, PER_CLASS, -1).mean(axis=1)
    state = start.replace(H=np.repeat(means, PER_CLASS, axis=0))  # collapsed: all of the scatter is noise
    expected, mean, error, apart, worst = [], [], [], [], 0.0
    for eta in ETAS:
        times, descent = [round(HORIZON / eta)], Descent(eta, fresh_labels=True)
        observed = ["within_scatter", "square_norm"]
        runs = _many(model, descent, state, times, 4000, observed)
        truth = exact(model, descent, state, times, observed)
        found = verify(runs, truth)
        assert isinstance(found, Agreement)
        worst = max(worst, found.worst / found.bound)
        summary = ensemble(runs, "within_scatter")["within_scatter"]
        expected.append(float(truth["within_scatter"][0]))
        mean.append(float(summary.sel(statistic="mean")[0]))
        error.append(float(summary.sel(statistic="error")[0]))
        path = exact(model, Descent(eta), state, times, (), states=True).final
        apart.append(relative(np.asarray(truth.final.W), np.asarray(path.W)))
    slope = float(np.polyfit(np.log(ETAS), np.log(expected), 1)[0])
    checks = [
        Check("unhinged: mean of 4,000 runs against the expectation, largest deviation over its bound", worst, 1.0),
        Check("expected prototypes against the descent on expected labels, relative", max(apart), 1e-12),
        Check("slope of the expected within-class scatter in η, from 1", abs(slope - 1), 0.05),
    ]
    return checks, {"etas": np.array(ETAS), "expected": np.array(expected), "mean": np.array(mean),
                    "error": np.array(error)}  # fmt: skip


def _many(
    model: LayerPeeled, descent: Descent, state: State, times: npt.ArrayLike, members: int, observed: str | list[str]
) -> Trajectory:
    """Runs with one key each."""
    keys = jax.random.split(jax.random.key(1), members)
    return jax.vmap(lambda key: simulate(model, descent, state, times, observed, key=key))(keys)


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    checks, curves = _unhinged()
    more, others = _squared_error()
    return (*checks, *more), curves | others


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    left.loglog(curves["etas"], curves["expected"], label="expectation, closed form")
    left.errorbar(curves["etas"], curves["mean"], 2 * curves["error"], fmt="o", ms=4, label="4,000 runs")
    left.set(xlabel="rate η", ylabel="within-class scatter")
    head(left, "Unhinged: scatter at ηk = 4", "of order η; bars: two standard errors")
    left.set_xticks(curves["etas"], [f"{eta:g}" for eta in curves["etas"]])
    left.set_yticks([0.02, 0.05, 0.1], ["0.02", "0.05", "0.1"])
    left.minorticks_off()
    key_under(left)
    right.plot(curves["clock"], curves["line"], color="black", label="drift, first order in η")
    for eta in SQUARED_ETAS:
        mean, error = curves[f"mean_{eta}"], curves[f"error_{eta}"]
        right.errorbar(curves["clock"], mean, 2 * error, fmt="o", ms=4, label=f"64 runs, η = {eta:g}")
    right.axhline(curves["line"][0], **THRESHOLD, label="without noise")
    right.set(xlabel="η²k", ylabel="‖H‖² + ‖W‖²")
    head(right, "Squared error: a drift along its minima", "the points lie on the drift as η falls")
    key_under(right, columns=2)


THEORY = Theory(
    name="noisy-labels",
    title="Labels drawn at each update: noise around a line, or a drift along the minima",
    loss="unhinged, squared error",
    case="unconstrained",
    predicted=(
        "the mean of unhinged runs is the descent on expected labels, with a scatter of order `η`; under squared error "
        "the noise moves runs along the minima, where plain descent stays"
    ),
    assumptions="labels independent from update to update; drift to the first order in `η`",
    references=("blanc2020implicit", "damian2021label"),
    libraries=("virtanen2020scipy",),
    account=(
        "If each update draws the labels again, an unhinged run is linear in its draws: its mean is *exactly* the "
        "descent on the expected labels, and its covariance is known in closed form. From a collapsed start all "
        "within-class scatter is noise, and it is proportional to `η`. A squared error has a manifold of minima, "
        "`HWᵀ = Y`. Plain descent stays where it reaches it. Label noise does not: Blanc et al. (2020) and Damian "
        "et al. (2021) show that it drifts towards minima with smaller gradients, in about `1/η²` updates. Here "
        "the drift is one scalar equation per mode: `h² − w²` is kept by plain updates, and changes by `(n a w² − "
        "t h²)/n²` per unit of `η²k`. This first shrinks the norm of an unbalanced start. Later the norm grows "
        "slowly, because labels always sum to 1: the noise shrinks the features of the common mean, but not its "
        "prototypes."
    ),
    caption=(
        "Left: expected scatter, and the mean of runs with two standard errors. Right: the squared norm along the "
        "minima."
    ),
    compute=_compute,
    draw=_draw,
)
