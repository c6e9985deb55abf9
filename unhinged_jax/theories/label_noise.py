"""Random label noise: the unhinged direction does not change, that of cross-entropy does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np
import numpy.typing as npt
import scipy.optimize

from unhinged_jax import _check
from unhinged_jax.dynamics import Flow
from unhinged_jax.labels import Labels, from_labels
from unhinged_jax.model import frozen
from unhinged_jax.plots.looks import head, key_of
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.clock import in_log_time
from unhinged_jax.theories.drawing import pair
from unhinged_jax.theories.theory import Check, Curves, Theory, least, relative, worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)
MARGIN = 1 / 50


def boosters_family(margin: float) -> tuple[np.ndarray, Labels]:
    """Long & Servedio's points that random label noise makes hard for every convex potential.

    Signed by their labels: (1, 0) with mass 1/4, the puller (m, 5m) with 1/4 and the penaliser (m, -m) with 1/2; the
    vertical line separates them with margin m. Each point comes once for each label.

    Args:
        margin: m, above 0 and below 1/6.

    Returns:
        Features, shape (6, 2), and labels with the masses as weights.

    Raises:
        ValueError: for a margin out of range.

    Source: Long & Servedio 2010.

    Example:
        >>> H, labels = boosters_family(0.1)
        >>> H[3:].tolist(), labels.weights.tolist()[3:]
        ([[1.0, 0.0], [0.1, 0.5], [0.1, -0.1]], [0.125, 0.125, 0.25])
    """
    _check.positive("margin", margin)
    if margin >= 1 / 6:
        raise ValueError(f"margin must be below 1/6, but is {margin}; larger points leave the unit disc.")
    signed = np.array([[1.0, 0.0], [margin, 5 * margin], [margin, -margin]])
    labels = from_labels(np.repeat([0, 1], 3), classes=2).weighted(samples=[1.0, 1.0, 2.0] * 2)
    return np.concatenate([-signed, signed]), labels


def noisy_minimiser(signed: npt.ArrayLike, masses: npt.ArrayLike, rate: float) -> np.ndarray:
    """Minimiser of cross-entropy on signed points whose label is flipped with a probability, by BFGS.

    Source: beyond the paper; the problem of Long & Servedio 2010 for the logistic loss.

    Example:
        >>> noisy_minimiser([[1.0]], [1.0], rate=0.25).round(4).tolist()
        [1.0986]
    """
    z, q = np.asarray(signed, float), np.asarray(masses, float)

    def risk(w: np.ndarray) -> tuple[float, np.ndarray]:
        u = z @ w
        value = q @ ((1 - rate) * np.logaddexp(0, -u) + rate * np.logaddexp(0, u))
        return float(value), (q * (np.exp(-np.logaddexp(0, -u)) - (1 - rate))) @ z

    return np.asarray(scipy.optimize.minimize(risk, np.zeros(z.shape[1]), jac=True, method="BFGS", tol=1e-12).x)


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    H, labels = boosters_family(MARGIN)
    signed, masses = H[3:], 2 * np.asarray(labels.weights)[3:]
    normals: dict[str, list[np.ndarray]] = {"unhinged": [], "cross_entropy": []}
    clocks = {"unhinged": (Flow(rtol=1e-10), np.array([0.0, 1.0, 10.0])), "cross_entropy": in_log_time(8, 4)}
    for rate in RATES:
        noisy = labels.symmetric_noise(rate)
        for loss, found in normals.items():
            model = frozen(noisy, 2, loss=None if loss == "unhinged" else loss)
            state = model.init(jax.random.key(0), features=H, prototypes=np.zeros((2, 2)), precision="float64")
            flow, times = clocks[loss]
            final = simulate(model, flow, state, times, ["accuracy"]).final
            found.append(np.asarray(final.W)[1] - np.asarray(final.W)[0])
    accuracy = {loss: [float(masses @ (signed @ w > 0)) for w in found] for loss, found in normals.items()}
    angles = {loss: np.array([_angle(w, found[0]) for w in found]) for loss, found in normals.items()}
    shrunk = [np.linalg.norm(w) / np.linalg.norm(normals["unhinged"][0]) for w in normals["unhinged"]]
    bfgs = [
        relative(w, noisy_minimiser(signed, masses, r))
        for w, r in zip(normals["cross_entropy"][1:], RATES[1:], strict=True)
    ]
    checks = (
        Check("angle that noise turns unhinged by (rad)", worst(angles["unhinged"]), 1e-12),
        Check("smallest accuracy of unhinged, noise up to 0.4", least(accuracy["unhinged"]), 1.0, at_least=True),
        Check("speed of unhinged against 1 − 2ρ, relative", relative(shrunk, [1 - 2 * r for r in RATES]), 1e-9),
        Check("accuracy of cross-entropy without noise", accuracy["cross_entropy"][0], 1.0, at_least=True),
        Check("largest accuracy of cross-entropy with noise", worst(accuracy["cross_entropy"][1:]), 0.5 + 1e-12),
        Check("end of the cross-entropy flow against BFGS, relative", worst(bfgs), 1e-5),
    )
    arrays = {f"{name}_{loss}": np.asarray(values[loss]) for loss in normals for name, values in
              (("angle", angles), ("accuracy", accuracy))}  # fmt: skip
    directions = {f"normals_{loss}": np.stack(found) for loss, found in normals.items()}
    return checks, {"rates": np.array(RATES), "points": signed, **arrays, **directions}


def _angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(abs(np.arctan2(a[0] * b[1] - a[1] * b[0], a @ b)))


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    for loss, name, marker in (("unhinged", "unhinged", "o"), ("cross_entropy", "cross-entropy", "s")):
        left.plot(curves["rates"], np.degrees(curves[f"angle_{loss}"]), marker, label=name)
        right.plot(curves["rates"], curves[f"accuracy_{loss}"], marker)
    left.set(xlabel="label noise ρ", ylabel="angle (degrees)")
    right.set(xlabel="label noise ρ", ylabel="share of samples classified correctly", ylim=(0, 1.05))
    head(left, "Turn away from the direction without noise", "cross-entropy jumps as soon as there is noise")
    head(right, "Accuracy on clean labels", "without noise, both are right")
    key_of(figure)


THEORY = Theory(
    name="label-noise",
    title="Random label noise leaves the unhinged direction alone",
    loss="unhinged, cross-entropy",
    case="frozen features",
    predicted=(
        "symmetric noise `ρ` scales the unhinged velocity by `1 − ρC/(C−1)` and keeps its direction; cross-entropy is "
        "led astray"
    ),
    assumptions="noise in expectation, `γ = 1/(C−1)`",
    references=("vanrooyen2015unhinged", "long2010random"),
    libraries=("kidger2021on", "virtanen2020scipy"),
    account=(
        "Flipping labels at random with rate `ρ` multiplies the signal matrix at `γ = 1/(C−1)` by `1 − ρC/(C−1)`, so "
        "the unhinged path is the same line, but the motion along it is slower. This is van Rooyen et al.'s reason "
        "for the loss. The data are those of Long & Servedio (2010), on which any noise defeats every convex "
        "potential: without noise, cross-entropy classifies all of them correctly; with 5 % of noise, the minimiser "
        "gives up the half of the mass that lies at `(m, −m)`. These data and those of the perils above are mirror "
        "images: for each loss there are separable data that defeat it."
    ),
    caption="Left: angle between the direction learned with and without noise. Right: accuracy on the clean labels.",
    compute=_compute,
    draw=_draw,
)
