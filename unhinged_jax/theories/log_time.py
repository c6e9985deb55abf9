"""Cross-entropy on separable frozen features: the direction converges to the maximal margin like 1 / log t."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.optimize

from unhinged_jax.labels import balanced
from unhinged_jax.model import frozen
from unhinged_jax.plots import EXACT, SIMULATED
from unhinged_jax.plots.looks import head, key_under
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.clock import in_log_time
from unhinged_jax.theories.drawing import logarithmic, pair
from unhinged_jax.theories.theory import Check, Curves, Theory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DECADES = 10


@dataclasses.dataclass(frozen=True)
class MaxMargin:
    """The hard-margin multi-class SVM without bias: minimise ||W||^2 / 2 with w_y.h - w_k.h >= 1 for every k != y.

    Attributes:
        W: Minimiser, shape (C, p).
        multipliers: alpha_ik of the constraint of sample i against class k, shape (n, C); 0 at k = y. W is the sum of
            alpha_ik (e_y - e_k) h_i^T.
    """

    W: np.ndarray
    multipliers: np.ndarray


def max_margin(H: npt.ArrayLike, index: npt.ArrayLike, classes: int) -> MaxMargin:
    """Solve the hard-margin SVM as a least-distance problem, by non-negative least squares.

    Args:
        H: Features, shape (n, p).
        index: Labels, shape (n,).
        classes: C.

    Raises:
        ValueError: if the data are not linearly separable (without bias).

    Source: Lawson & Hanson's reduction of least distance to non-negative least squares; Soudry et al. 2018 for its part
    in the limit.

    Example:
        >>> max_margin([[2.0], [-2.0]], [0, 1], classes=2).W.round(9).tolist()
        [[0.25], [-0.25]]
    """
    H, index = np.asarray(H, float), np.asarray(index)
    gaps, pairs = _gaps(H, index, classes)
    system = np.vstack([gaps.T, np.ones(len(gaps))])
    aim = np.r_[np.zeros(gaps.shape[1]), 1.0]
    weights, distance = scipy.optimize.nnls(system, aim, maxiter=100 * len(gaps))
    if distance < 1e-12:
        raise ValueError("no linear classifier without bias separates these features; move the classes apart.")
    residual = system @ weights - aim
    multipliers = np.zeros((len(H), classes))
    multipliers[pairs[:, 0], pairs[:, 1]] = -weights / residual[-1]
    return MaxMargin((-residual[:-1] / residual[-1]).reshape(classes, -1), multipliers)


def _gaps(H: np.ndarray, index: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(e_y - e_k) h_i^T as rows, and the pairs (i, k)."""
    pairs = np.array([(i, k) for i, y in enumerate(index) for k in range(classes) if k != y])
    frame = np.eye(classes)
    signs = frame[index[pairs[:, 0]]] - frame[pairs[:, 1]]
    return (signs[:, :, None] * H[pairs[:, 0], None, :]).reshape(len(pairs), -1), pairs


def offset(
    H: npt.ArrayLike, index: npt.ArrayLike, weights: npt.ArrayLike, solution: MaxMargin, start: npt.ArrayLike
) -> np.ndarray:
    """The constant of the asymptote W(t) = W_svm log t + offset + o(1) of cross-entropy flow at unit rate.

    Each support constraint (i, k) keeps the probability of k at e^(-score of the offset) / t, together they
    pull W_svm: sum over them of q_i e^(-score) (e_y - e_k) h_i^T = W_svm, the stationarity of a strictly convex
    function on their span. What no support constraint sees depends on the whole path, so they must span all that the
    data span.

    Args:
        H, index, weights: Features (n, p), labels and sample weights q_i (n,).
        solution: Of `max_margin`.
        start: W at t = 0, shape (C, p).

    Returns:
        Shape (C, p).

    Raises:
        ValueError: if the support constraints span less than all constraints: the offset then depends on the whole
        path.

    Source: Soudry et al. 2018, with several classes.

    Example:
        >>> found = max_margin([[2.0], [-2.0]], [0, 1], classes=2)
        >>> offset([[2.0], [-2.0]], [0, 1], [0.5, 0.5], found, np.zeros((2, 1))).round(4).tolist()
        [[0.5199], [-0.5199]]
    """
    H, index, start = np.asarray(H, float), np.asarray(index), np.asarray(start, float)
    classes = start.shape[0]
    gaps, pairs = _gaps(H, index, classes)
    supports = gaps @ solution.W.ravel() < 1 + 1e-9
    active, shares = gaps[supports], np.asarray(weights, float)[pairs[supports, 0]]
    if np.linalg.matrix_rank(active) < np.linalg.matrix_rank(gaps):
        raise ValueError("the support constraints span less than the data, so the offset depends on the whole path.")
    span = scipy.linalg.orth(active.T)
    seen, aim = active @ span, span.T @ solution.W.ravel()

    def pull(x: np.ndarray) -> np.ndarray:
        return aim - (shares * np.exp(-seen @ x)) @ seen

    def curvature(x: np.ndarray) -> np.ndarray:
        return (seen.T * (shares * np.exp(-seen @ x))) @ seen

    x = scipy.optimize.minimize(
        lambda x: shares @ np.exp(-seen @ x) + aim @ x, np.zeros(span.shape[1]), jac=pull, hess=curvature,
        method="trust-exact", options={"gtol": 1e-9},
    ).x  # fmt: skip
    x = x - np.linalg.solve(curvature(x), pull(x))
    if not np.abs(pull(x)).max() < 1e-9 * np.abs(aim).max():
        raise ValueError("no offset balances the support constraints: one of them has no pull in the limit.")
    unmoved = start.ravel() - span @ (span.T @ start.ravel())
    return (span @ x + unmoved).reshape(classes, -1)


def data() -> np.ndarray:
    """Twelve points of the plane in three classes whose four support constraints span everything."""
    draws = np.random.default_rng(14)
    angles = 2 * np.pi * np.repeat(np.arange(3), 4) / 3
    return 1.2 * np.stack([np.cos(angles), np.sin(angles)], axis=1) + 0.35 * draws.standard_normal((12, 2))


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    flow, times = in_log_time(DECADES)
    t, labels, H = np.expm1(times[1:]), balanced(3, 4), data()
    model = frozen(labels, 2, loss="cross_entropy")
    state = model.init(jax.random.key(1), features=H, prototypes="normal", precision="float64")
    run = simulate(model, flow, state, times, ["loss", "accuracy"], states=True)
    assert run.states is not None
    index, weights = np.asarray(labels.index), np.asarray(labels.weights)
    limit = max_margin(H, index, 3)
    constant = offset(H, index, weights, limit, state.W)
    W = np.asarray(run.states.W)[1:]
    predicted = limit.W * np.log(t)[:, None, None] + constant
    simulated, expected = (_distance(path, limit.W) for path in (W, predicted))
    residual = np.linalg.norm((W - predicted).reshape(len(t), -1), axis=1)
    last_loss = float(run["loss"][-1]) * t[-1] / np.sum(limit.W**2)
    size, along = np.linalg.norm(W[-1]), limit.W / np.linalg.norm(limit.W)
    aside = np.linalg.norm(constant - np.sum(constant * along) * along)
    checks = (
        Check("distance to the limit direction at t = 1e10, relative", abs(simulated[-1] / expected[-1] - 1), 1e-4),
        Check("W − Ŵ log t − W̃ at t = 1e10", residual[-1], 1e-4),
        Check("t · loss over ‖Ŵ‖², from 1, at t = 1e10", abs(last_loss - 1), 1e-4),
        Check("distance · ‖W‖ over the part of W̃ aside from Ŵ, from 1", abs(simulated[-1] * size / aside - 1), 1e-3),
        Check("distance still left after ten decades", simulated[-1], 1e-2, at_least=True),
    )
    return checks, {"time": t, "simulated": simulated, "predicted": expected, "residual": residual}


def _distance(path: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """|| W/||W|| - L/||L|| || along a path."""
    flat, aim = path.reshape(len(path), -1), limit.ravel() / np.linalg.norm(limit)
    return np.linalg.norm(flat / np.linalg.norm(flat, axis=1, keepdims=True) - aim, axis=1)


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    t = curves["time"]
    late = t > 30
    left.plot(t[late], curves["predicted"][late], **EXACT, label="Ŵ log t + W̃, nothing fitted")
    left.plot(t, curves["simulated"], **SIMULATED, color="0.1", label="simulated")
    logarithmic(left, "time", "distance of directions", both=True)
    head(left, "Distance to the maximal margin", "the asymptote from t = 30 on")
    right.plot(t, curves["residual"])
    logarithmic(right, "time", "‖W − Ŵ log t − W̃‖", both=True)
    head(right, "What the asymptote leaves out", "a power of time")
    key_under(left)


THEORY = Theory(
    name="log-time",
    title="Cross-entropy approaches the maximal margin like 1/log t",
    loss="cross-entropy",
    case="frozen features",
    predicted=(
        "`W(t) = Ŵ log t + W̃ + o(1)` with `Ŵ` the hard-margin SVM, so the direction converges like `1/log t`; the "
        "loss times `t` tends to `‖Ŵ‖²`"
    ),
    assumptions="separable data; support vectors that span the data, for `W̃`",
    references=("soudry2018implicit",),
    libraries=("kidger2021on", "virtanen2020scipy"),
    account=(
        "On separable data cross-entropy has no minimiser: its prototypes grow like `log t` along the hard-margin "
        "SVM, and the direction trails behind like `1/log t` (Soudry et al.). Where the support constraints span the "
        "data even the constant `W̃` of the asymptote follows from the multipliers of the SVM, so the distance to the "
        "limit is predicted and not fitted. The flow is integrated in `log t` through ten decades; the distance that "
        "remains at the end shows how slow this is compared with the exponential rate of the unhinged loss with free "
        "features."
    ),
    caption=(
        "Left: distance of the normalised prototypes from the SVM's. Right: the remainder that the asymptote leaves "
        "out, which is a power of t."
    ),
    compute=_compute,
    draw=_draw,
)
