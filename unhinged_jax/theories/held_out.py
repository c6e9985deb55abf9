"""A linearised network on its test set: what it learns first carries over, what it learns most need not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.linalg import expm
from scipy.optimize import brentq, minimize_scalar

from unhinged_jax.closed_form import exact
from unhinged_jax.comparison import verify
from unhinged_jax.dynamics import Flow
from unhinged_jax.labels import balanced
from unhinged_jax.model import LayerPeeled, State, ntk_invariant
from unhinged_jax.plots.looks import head, key_under
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.drawing import THRESHOLD, pair
from unhinged_jax.theories.theory import Check, Curves, Theory, relative, worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES, TRAIN, TEST, INPUTS = 4, 10, 20, 16
CORE, SHORTCUT, NOISE = 1.5, 1.25, 0.35
SHOWN = (0.2, 0.4, 0.6)
SHARES = np.arange(13) / TEST
LAST = 60.0


class Modes(NamedTuple):
    """Modes of the training set: their growth rates, (C,), and how much of each carries over to the test set, (C,)."""

    rates: np.ndarray
    carried: np.ndarray

    def loss(self, t: float) -> float:
        """The test loss, from features 0 and orthonormal prototypes."""
        return float(-np.sum(self.carried * np.sinh(2 * self.rates * t)) / 2)

    def fall(self, t: float) -> float:
        """How steeply it falls, over the growth of the strongest mode."""
        top = self.rates.max()
        growth = (np.exp(2 * (self.rates - top) * t) + np.exp(-2 * (self.rates + top) * t)) / 2
        return float(np.sum(self.carried * self.rates * growth))

    @property
    def best(self) -> float:
        """When the test loss is least: infinite if it falls in the end."""
        if self.carried[np.argmax(self.rates)] >= 0:
            return np.inf
        if self.fall(0.0) <= 0:
            return 0.0
        return float(brentq(self.fall, 0.0, 1e4, xtol=1e-12))


def _inputs(share: float) -> np.ndarray:
    """Two classes differ along one core coordinate and two along another; which two, a shortcut says: in training
    always, in this share of the test samples, and in the others it says the opposite."""
    labels = balanced(CLASSES, TRAIN + TEST)
    y, place = np.asarray(labels.index), np.tile(np.arange(TRAIN + TEST), CLASSES)
    x = NOISE * np.random.default_rng(0).normal(size=(len(y), INPUTS))
    x[np.arange(len(y)), y // 2] += CORE * np.where(y % 2 == 0, 1, -1)
    holds = (place < TRAIN) | (place - TRAIN < round(share * TEST))
    x[:, 2] += SHORTCUT * np.where(y < 2, 1, -1) * np.where(holds, 1, -1)
    return x


def _problem(x: np.ndarray, decay: float = 0.0) -> tuple[LayerPeeled, State]:
    """A network that is linear in its parameters, from parameters 0 and orthonormal prototypes."""
    labels = balanced(CLASSES, TRAIN + TEST).hold_out(per_class=TEST)
    model = ntk_invariant(labels, CLASSES, x, decay=decay)
    return model, State(np.zeros((len(x), CLASSES)), np.eye(CLASSES))


def _modes(x: np.ndarray) -> Modes:
    """From the kernel alone: the eigenvectors of its training part, and its part between training and test."""
    y, n = np.repeat(np.arange(CLASSES), TRAIN + TEST), CLASSES * TRAIN
    M = CLASSES / (CLASSES - 1) * (np.eye(CLASSES)[y] - 1 / CLASSES)
    test = np.tile(np.arange(TRAIN + TEST) >= TRAIN, CLASSES)
    kernel = x @ x.T
    train, both = M[~test] / n, M[test] / np.sum(test)
    squares, vectors = np.linalg.eigh(train.T @ kernel[np.ix_(~test, ~test)] @ train)
    rates = np.sqrt(np.maximum(squares, 0))
    across = np.diagonal(vectors.T @ train.T @ kernel[np.ix_(~test, test)] @ both @ vectors)
    alive = rates > 1e-6 * rates.max()
    return Modes(rates[alive], across[alive] / rates[alive])


def _by_parameters(x: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The test loss, from the exponential of the flow of parameters and prototypes: no kernel, no modes."""
    y = np.repeat(np.arange(CLASSES), TRAIN + TEST)
    M = CLASSES / (CLASSES - 1) * (np.eye(CLASSES)[y] - 1 / CLASSES)
    test = np.tile(np.arange(TRAIN + TEST) >= TRAIN, CLASSES)
    moment = x[~test].T @ M[~test] / (CLASSES * TRAIN)
    none = np.zeros((CLASSES, CLASSES)), np.zeros((INPUTS, INPUTS))
    generator = np.block([[none[1], moment], [moment.T, none[0]]])
    losses = []
    for t in times:
        theta, W = np.split(expm(t * generator) @ np.vstack([np.zeros((INPUTS, CLASSES)), np.eye(CLASSES)]), [INPUTS])
        losses.append(-np.sum(M[test] * (x[test] @ theta @ W.T)) / np.sum(test))
    return np.array(losses)


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    times = np.linspace(0.0, 12.0, 121)
    curves: dict[str, Any] = {"time": times, "shown": np.array(SHOWN), "shares": SHARES}
    apart, from_network = [], []
    for share in SHOWN:
        x = _inputs(share)
        model, state = _problem(x)
        run = exact(model, Flow(), state, times, ["loss", "test_loss"])
        curves["loss"], curves[f"test_{share:g}"] = run["loss"], run["test_loss"]
        modes = _modes(x)
        apart.append(relative(run["test_loss"], [modes.loss(t) for t in times]))
        from_network.append(relative(run["test_loss"][::30], _by_parameters(x, times[::30])))
    model, state = _problem(_inputs(SHOWN[0]))
    few, seen = np.array([0.5, 2.0, 5.0]), ["loss", "test_loss", "test_margin_mean"]
    compared = verify(simulate(model, Flow(rtol=1e-11), state, few, seen), exact(model, Flow(), state, few, seen)).worst

    found, predicted = [], []
    for share in SHARES:
        x = _inputs(share)
        predicted.append(_modes(x).best)
        model, state = _problem(x)

        def height(t: float, model: LayerPeeled = model, state: State = state) -> float:
            run = exact(model, Flow(), state, [t], ["test_loss_sign", "test_log_abs_loss"])
            return float(run["test_loss_sign"][0] * np.arcsinh(np.exp(run["test_log_abs_loss"][0])))

        lowest = minimize_scalar(height, bounds=(0.0, LAST), method="bounded", options={"xatol": 1e-9})
        found.append(lowest.x if lowest.x < LAST - 1e-3 else np.inf)
    finite = np.isfinite(predicted)
    gaps = np.abs(np.array(found)[finite] / np.array(predicted)[finite] - 1)
    wrong = int(np.sum(np.isfinite(found) != finite))

    modes = _modes(_inputs(SHOWN[0]))
    model, state = _problem(_inputs(SHOWN[0]), decay=float(np.mean(np.sort(modes.rates)[-2:])))
    ended = exact(model, Flow(), state, [400.0], ["test_loss_sign"])
    checks = (
        Check("exact test loss from −½ Σ b_k sinh 2σ_k t, relative", worst(apart), 1e-12),
        Check("exact test loss from the network's own parameters, relative", worst(from_network), 1e-10),
        Check("exact from the simulated flow, relative", compared, 1e-8),
        Check("time of the least test loss from the prediction, relative", worst(gaps), 1e-5),
        Check("test sets that turn although b_k ≥ 0 of the strongest mode, or the reverse", wrong, 0.0),
        Check("sign of the test loss if decay leaves only the strongest mode", ended["test_loss_sign"][0], 1.0, True),
    )
    return checks, {**curves, "found": np.array(found), "predicted": np.array(predicted)}


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    left.plot(curves["time"], curves["loss"], color="0.3", label="all of the training set")
    for share in curves["shown"]:
        left.plot(curves["time"], curves[f"test_{share:g}"], label=f"{100 * share:.0f} % of a test set")
    left.set_yscale("symlog", linthresh=1.0)
    left.set_yticks([0, *(sign * 10.0**power for power in (2, 4, 6, 8) for sign in (-1, 1))])
    left.set(xlabel="time", ylabel="loss")
    head(left, "Loss on the training set and three test sets")
    key_under(left, 2, title="the shortcut is right in")
    turns = np.isfinite(curves["predicted"])
    right.plot(curves["shares"][turns], curves["predicted"][turns], label="predicted")
    right.plot(curves["shares"][turns], curves["found"][turns], "o", label="least test loss of the run")
    right.axvline(curves["shares"][turns].max() + 0.5 / TEST, label="to its right: never", **THRESHOLD)
    right.set(xlabel="share of test samples with the shortcut", ylabel="best time")
    head(right, "When to stop")
    key_under(right, 2)


THEORY = Theory(
    name="held-out",
    title="A linearised network on its test set, exactly",
    loss="unhinged",
    case="NTK-invariant",
    predicted=(
        "test loss `−½ Σ b_k sinh(2σ_k t)`, with the modes `σ_k², v_k` of `MᵀΘM` in training and `b_k σ_k = "
        "v_kᵀ MᵀΘ_{ts} M_s v_k` between training and test; if `b_k < 0` for the largest `σ_k`, it is least where "
        "`Σ b_k σ_k cosh(2σ_k t) = 0`"
    ),
    assumptions="constant kernel; features start at 0, prototypes orthonormal",
    references=("advani2020high", "geirhos2020shortcut", "pezeshki2021gradient", "saxe2014exact"),
    libraries=("kidger2021on",),
    account=(
        "Advani, Saxe & Sompolinsky solve the test error of linear networks under squared error: noise is learned "
        "last, so stopping early is best. Under the unhinged loss a network that is linear in its parameters has the "
        "same kind of solution for any kernel, with C modes: `exact` knows the course of its features on samples that"
        " are held out. From features 0 and orthonormal prototypes, mode k adds `−½ σ_k sinh(2σ_k t)` to the training"
        " loss and `−½ b_k sinh(2σ_k t)` to the test loss, where `b_k` says how much of it carries over. The loss of "
        "the training set falls forever; that of the test set turns if and only if the strongest mode carries over "
        "with the wrong sign, `b_k < 0`. Here that mode is a shortcut (Geirhos et al.; Pezeshki et al. on how the "
        "stronger feature wins): a coordinate that tells two pairs of classes apart in training, always, and on the "
        "test set in a share of the samples. The time at which it is best to stop follows from the kernel alone, and "
        "grows without bound as the shortcut becomes right in half of the test set. Decay does not take the place of "
        "stopping: it removes the weakest modes first, so what it leaves is the shortcut."
    ),
    caption=(
        "Left: training loss, and the loss on three test sets. Right: the best time to stop, over the share of the "
        "test set in which the shortcut holds."
    ),
    compute=_compute,
    draw=_draw,
    size=(8.0, 4.6),
)
