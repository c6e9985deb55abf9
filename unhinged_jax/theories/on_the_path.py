"""The central path as a row of the comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import scipy.integrate

from unhinged_jax import _numbers
from unhinged_jax.plots import EXACT, SIMULATED
from unhinged_jax.plots.looks import head, key_under
from unhinged_jax.theories import central_path
from unhinged_jax.theories.drawing import THRESHOLD, logarithmic, pair
from unhinged_jax.theories.theory import Check, Curves, Theory, relative, worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES, PER_CLASS, DIM = 4, 6, 7


def by_scipy(X: npt.ArrayLike, index: npt.ArrayLike, classes: int, times: npt.ArrayLike) -> np.ndarray:
    """SNR singular values of the projected flow by NumPy and scipy alone: lstsq, loops over classes, DOP853.

    Returns:
        Shape (T, C-1).
    """
    X, index = np.asarray(X, float), np.asarray(index)
    n, p = X.shape
    targets = np.eye(classes)[index]
    groups = [np.flatnonzero(index == c) for c in range(classes)]

    def residuals(Z: np.ndarray) -> np.ndarray:
        out = Z.copy()
        for group in groups:
            out[group] -= Z[group].mean(axis=0)
        return out

    def velocity(_time: float, flat: np.ndarray) -> np.ndarray:
        Z = flat.reshape(n, p)
        extended = np.column_stack([Z, np.ones(n)])
        fitted = np.linalg.lstsq(extended, targets, rcond=None)[0]
        force = (targets - extended @ fitted) @ fitted[:p].T / n
        within = residuals(Z)
        cross = within.T @ residuals(force)
        return (force - within @ (cross + cross.T) / (2 * n)).ravel()

    times = _numbers.counts("times", times).astype(float)
    found = scipy.integrate.solve_ivp(
        velocity, (0, times[-1]), X.ravel(), method="DOP853", t_eval=times, rtol=1e-12, atol=1e-12
    )
    means = [[Z[group].mean(axis=0) for group in groups] for Z in found.y.T.reshape(-1, n, p)]
    return np.linalg.svd(np.array(means), compute_uv=False)[:, : classes - 1]


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    index = np.arange(CLASSES * PER_CLASS) % CLASSES
    draws = np.random.default_rng(12)
    H = draws.standard_normal((index.size, DIM)) + draws.standard_normal((CLASSES, DIM))[index]
    X = central_path.normalised(H, index, CLASSES)
    times = np.concatenate([[0.0], np.geomspace(1e-1, 1e5, 49)])
    closed = central_path.exact(X, index, CLASSES, times)
    flow = central_path.simulate(X, index, CLASSES, times)
    other = by_scipy(X, index, CLASSES, times[:41])
    multiplied = [solve(X, index, CLASSES, times[:41], "multiplied").omega
                  for solve in (central_path.exact, central_path.simulate)]  # fmt: skip
    within = np.asarray(flow.features) - np.asarray(_means(flow.features, index))[:, index]
    covariance = np.einsum("tip,tiq->tpq", within, within) / index.size
    checks = (
        Check("ω(t), closed form against the integrated flow, relative", relative(flow.omega, closed.omega), 1e-8),
        Check("ω(t), closed form against NumPy and scipy, relative", relative(other, closed.omega[:41]), 1e-8),
        Check("all features, singular vectors included, relative", relative(flow.features, closed.features), 1e-8),
        Check("within-class covariance from I along the flow", worst(np.abs(covariance - np.eye(DIM))), 1e-8),
        Check("loss ½ Σ 1/(C + ω²) against least squares", _loss_gap(flow, index), 1e-10),
        Check("renormalised by multiplication: its own law, relative", relative(*multiplied[::-1]), 1e-8),
    )
    far = np.geomspace(1e-1, 1e9, 81)
    long = np.asarray(central_path.exact(X, index, CLASSES, far).omega)
    curves = {"time": times[1:], "flow": np.asarray(flow.omega)[1:], "far": far, "exact": long}
    return checks, curves


def _means(features: npt.ArrayLike, index: np.ndarray) -> np.ndarray:
    features = np.asarray(features)
    return np.stack([features[:, index == c].mean(axis=1) for c in range(CLASSES)], axis=1)


def _loss_gap(path: central_path.Path, index: np.ndarray) -> float:
    """Largest difference between the loss in terms of omega and the loss of an actual least-squares fit."""
    targets, gaps = np.eye(CLASSES)[index], []
    for X, omega in zip(np.asarray(path.features), np.asarray(path.omega), strict=True):
        extended = np.column_stack([X, np.ones(index.size)])
        left = targets - extended @ np.linalg.lstsq(extended, targets, rcond=None)[0]
        loss = float(central_path.least_squares_loss(jnp.asarray(omega), CLASSES))
        gaps.append(abs(0.5 * np.sum(left**2) / index.size - loss))
    return worst(gaps)


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    omega = curves["exact"]
    for j in range(omega.shape[1]):
        left.plot(curves["far"], omega[:, j], **EXACT, color=f"C{j}", label=f"$\\omega_{j + 1}$, closed form")
        label = "simulated to $t = 10^5$" if j == 0 else None
        left.plot(curves["time"], curves["flow"][:, j], **SIMULATED, color="0.1", label=label)
    left.plot(curves["far"], (4 * curves["far"] / PER_CLASS) ** 0.25, **THRESHOLD, label="$(4t/N)^{1/4}$")
    logarithmic(left, "time", "singular value ω", both=True)
    head(left, "Singular values of the signal-to-noise ratio", "late, all of them grow like $(4t/N)^{1/4}$")
    right.plot(curves["far"], omega[:, 0] / omega[:, -1] - 1, label="NC2: largest over smallest ω, less 1")
    right.plot(curves["far"], np.mean(1 / omega**2, axis=1), label="NC1: mean of $1/\\omega^2$")
    logarithmic(right, "time", "distance from collapse", both=True)
    head(right, "How fast they collapse", "only by powers of time")
    key_under(left, columns=2)
    key_under(right)


THEORY = Theory(
    name="central-path",
    title="MSE on the central path",
    loss="MSE",
    case="unconstrained, features renormalised",
    predicted=(
        "`N(C² ln ω + Cω² + ω⁴/4) = a + t` for every SNR singular value, singular vectors fixed; hence neural collapse"
    ),
    assumptions="prototypes always least-squares optimal; features renormalised to `Σ_W = I`; balanced classes",
    references=("han2022neural",),
    libraries=("kidger2021on", "optimistix2024", "virtanen2020scipy"),
    account=(
        "Han, Papyan & Donoho keep the classifier at its least-squares optimum and renormalise features so that their "
        "within-class covariance stays `I`. The centred class means in that scale have `C−1` singular values `ω`, the "
        "loss is `½ Σ 1/(C + ω²)`, and projecting the gradient onto the tangent space of `Σ_W = I` leaves residuals "
        "and singular vectors unchanged, while `ω' = ω / (N (C + ω²)²)`, whose integral is the predicted law, which "
        "is solved for `ω` by bisection. All values grow like `(4t/N)^¼` and thus become equal, which is collapse, but "
        "only at the rate of a fourth root. Multiplying by `Σ_W^(−½)` after each step, instead of projecting, also "
        "scales the means and obeys another law, `NC(C ln ω + ω²/2) = a + t`, which grows like a square root; both "
        "are checked."
    ),
    caption="Left: singular values, closed form (bands) and integrated flow (dashes). Right: how fast they collapse.",
    compute=_compute,
    draw=_draw,
)
