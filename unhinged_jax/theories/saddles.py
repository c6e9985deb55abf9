"""Strict saddles: at critical points of cross-entropy that are not minima, the Hessian has a negative direction."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.optimize

from unhinged_jax.labels import balanced
from unhinged_jax.model import LayerPeeled, regularized
from unhinged_jax.plots import PALETTE
from unhinged_jax.plots.looks import head, key_under
from unhinged_jax.theories.drawing import THRESHOLD, pair
from unhinged_jax.theories.theory import Check, Curves, Theory, worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES, PER_CLASS, DIM = 4, 2, 8
DECAY = (2e-2, 3e-2)


def descending_curvature(slope: float, decay_H: float, decay_W: float) -> float:
    """Curvature of the objective along H + a u e^T, W - b v e^T at its best a, b, e orthogonal to all rows of H and W.

    u, v are the top singular vectors of G = dL/dS and `slope` its top singular value: the smaller eigenvalue of
    [[lambda_1, -|G|], [-|G|, lambda_2]]. It is negative exactly where |G|^2 > lambda_1 lambda_2.

    Source: Zhu et al. 2021; Ji et al. 2022 without decay.

    Example:
        >>> descending_curvature(0.5, 0.0, 0.0)
        -0.5
    """
    mean, half = (decay_H + decay_W) / 2, (decay_H - decay_W) / 2
    return float(mean - np.hypot(half, slope))


@dataclasses.dataclass(frozen=True)
class CriticalPoint:
    """One critical point: its name, gradient norm, |G|, predicted curvature and smallest Hessian eigenvalue."""

    name: str
    decay: tuple[float, float]
    gradient: float
    slope: float
    predicted: float
    smallest: float


class _Landscape:
    """Objective, gradient and Hessian over the stacked rows of H and W, with decays as arguments."""

    def __init__(self, model: LayerPeeled) -> None:
        self.model, self.split = model, model.samples * model.dim

        def objective(z: jax.Array, decay: jax.Array) -> jax.Array:
            H, W = self.parts(z)
            data = model.data_loss(H, W, jnp.zeros(model.classes, z.dtype))
            return data + decay[0] / 2 * jnp.sum(H**2) + decay[1] / 2 * jnp.sum(W**2)

        self.gradient = jax.jit(jax.value_and_grad(objective))
        self.hessian = jax.jit(jax.hessian(objective))

    def parts(self, z: np.ndarray | jax.Array) -> tuple[Any, Any]:
        return z[: self.split].reshape(-1, self.model.dim), z[self.split :].reshape(-1, self.model.dim)

    def critical(self, basis: np.ndarray, decay: tuple[float, float], start: npt.ArrayLike) -> np.ndarray:
        """Minimum over an invariant subspace, which is a critical point of the whole: BFGS, then Newton."""
        rates = np.array(decay)

        def reduced(y: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = self.gradient(basis @ y, rates)
            return float(value), basis.T @ np.asarray(slope)

        y = scipy.optimize.minimize(reduced, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x
        for _ in range(5):
            curved = basis.T @ np.asarray(self.hessian(basis @ y, rates)) @ basis
            y = y - np.linalg.pinv(curved, rcond=1e-7, hermitian=True) @ reduced(y)[1]
        return basis @ y

    def look(self, name: str, z: np.ndarray, decay: tuple[float, float]) -> CriticalPoint:
        H, W = self.parts(z)
        logits = H @ W.T
        p = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
        targets = np.eye(self.model.classes)[np.asarray(self.model.labels.index)]
        slope = float(np.linalg.norm((p - targets) / len(H), 2))
        rates = np.array(decay)
        return CriticalPoint(
            name, decay, float(np.linalg.norm(self.gradient(z, rates)[1])), slope, descending_curvature(slope, *decay),
            float(scipy.linalg.eigvalsh(np.asarray(self.hessian(z, rates)), subset_by_index=[0, 0])[0]),
        )  # fmt: skip


def _merged(groups: Sequence[Sequence[int]], model: LayerPeeled) -> np.ndarray:
    """Orthonormal basis of the states in which classes of a group share prototype and features."""
    index, n, C = np.asarray(model.labels.index), model.samples, model.classes
    columns = []
    for group in groups:
        for rows in (np.isin(index, group), np.isin(np.arange(C), group)):
            shared = rows / np.sqrt(rows.sum())
            place = np.r_[shared, np.zeros(C)] if rows.size == n else np.r_[np.zeros(n), shared]
            columns.append(np.kron(place[:, None], np.eye(model.dim)))
    return np.hstack(columns)


def _flat(rank: int, model: LayerPeeled) -> np.ndarray:
    """Orthonormal basis of the states that use the first `rank` coordinates of feature space only."""
    return np.kron(np.eye(model.samples + model.classes), np.eye(model.dim)[:, :rank])


def critical_points(model: LayerPeeled) -> Iterator[CriticalPoint]:
    """Critical points: merged classes, low rank, zero and the ETF with decay, and three without decay.

    Without decay the class means are zero and the prototypes are all equal, so nothing distinguishes the classes.
    Minima over a subspace that a symmetry of the objective fixes are critical points of the whole objective.
    """
    land, draws = _Landscape(model), np.random.default_rng(2)
    size = (model.samples + model.classes) * model.dim
    yield land.look("zero", np.zeros(size), DECAY)
    for groups in ([[0, 1], [2], [3]], [[0, 1], [2, 3]], [[0, 1, 2], [3]]):
        basis = _merged(groups, model)
        z = land.critical(basis, DECAY, draws.standard_normal(basis.shape[1]))
        yield land.look("merged " + "|".join("".join(str(c + 1) for c in group) for group in groups), z, DECAY)
    for rank in range(1, model.classes - 1):
        basis = _flat(rank, model)
        z = land.critical(basis, DECAY, draws.standard_normal(basis.shape[1]))
        yield land.look(f"rank {rank}", z, DECAY)
    basis = np.eye(size)
    yield land.look("minimum", land.critical(basis, DECAY, 0.3 * draws.standard_normal(size)), DECAY)
    for name, shared in (("no decay, W = 0", 0.0), ("no decay, W equal", 1.0)):
        H = draws.standard_normal((model.samples, model.dim))
        index = np.asarray(model.labels.index)
        H -= np.stack([H[index == c].mean(axis=0) for c in range(model.classes)])[index]
        W = shared * np.tile(draws.standard_normal(model.dim), (model.classes, 1))
        yield land.look(name, np.r_[H.ravel(), W.ravel()], (0.0, 0.0))
    yield land.look("no decay, zero", np.zeros(size), (0.0, 0.0))


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    model = regularized(balanced(CLASSES, PER_CLASS), DIM, decay=DECAY, loss="cross_entropy")
    points = list(critical_points(model))
    saddles = [point for point in points if point.name != "minimum"]
    (least,) = (point for point in points if point.name == "minimum")
    excess = [saddle.smallest - saddle.predicted for saddle in saddles]
    checks = (
        Check("largest of the smallest Hessian eigenvalues at saddles", worst([s.smallest for s in saddles]), -1e-3),
        Check("smallest eigenvalue less predicted curvature, largest", worst(excess), 1e-9),
        Check("norm of the gradient at the points tried", worst([point.gradient for point in points]), 1e-10),
        Check("at the minimum: Hessian eigenvalue below 0", -least.smallest, 1e-9),
        Check("at the minimum: ‖G‖ from √(λ₁λ₂), relative", abs(least.slope / np.sqrt(np.prod(DECAY)) - 1), 1e-9),
    )  # fmt: skip
    curves = {name: np.array([getattr(point, name) for point in points]) for name in ("name", "smallest", "predicted")}
    return checks, curves


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    place = np.arange(curves["name"].size)[::-1]
    left.barh(place, curves["smallest"], height=0.6, color=PALETTE[5], label="smallest eigenvalue")
    left.plot(curves["predicted"], place, "|", color=PALETTE[1], ms=12, mew=2, label="predicted curvature")
    left.set_yticks(place, curves["name"])
    left.axvline(0, color="0.2", lw=0.8)
    left.set_xlabel("eigenvalue of the Hessian")
    left.locator_params(axis="x", nbins=4)
    head(left, "Critical points: smallest curvature", "merged 12|34: classes 1 and 2, and 3 and 4, are one; "
         "only the minimum has no negative curvature")  # fmt: skip
    slopes = np.linspace(0, 0.2, 201)
    for decay in (DECAY, (0.0, 0.0)):
        label = "with decay" if any(decay) else "without decay"
        right.plot(slopes, [descending_curvature(slope, *decay) for slope in slopes], label=label)
    right.axvline(np.sqrt(np.prod(DECAY)), **THRESHOLD, label="at the minimum: ‖G‖ = √(λ₁λ₂)")
    right.axhline(0, color="0.2", lw=0.8)
    right.set(xlabel="‖G‖, top singular value of dL/dS", ylabel="curvature")
    right.locator_params(axis="x", nbins=5)
    head(right, "Curvature along the top singular pair", "negative to the right of the threshold")
    for axes in (left, right):
        key_under(axes)


THEORY = Theory(
    name="saddles",
    title="Strict saddles of cross-entropy",
    loss="cross-entropy",
    case="regularised; unconstrained",
    predicted=(
        "every critical point but the global minima has a direction of curvature `(λ₁+λ₂)/2 − √((λ₁−λ₂)²/4 + ‖G‖²) < 0`"
    ),
    assumptions="a free direction in feature space (`p` large enough)",
    references=("zhu2021geometric", "ji2022unconstrained"),
    libraries=("virtanen2020scipy",),
    account=(
        "Zhu et al. (with decay) and Ji et al. (without) prove that cross-entropy over features and prototypes has no "
        "bad minima: a critical point that is not a global minimum has a direction of negative curvature, so that "
        "descent leaves it. The direction is explicit: the top singular pair of `G = dL/dS` times a direction of "
        "feature space that no feature or prototype uses. Here critical points are found as minima over subspaces "
        "that a symmetry fixes (merged classes, low rank, zero), and the whole Hessian is diagonalised at each of "
        "them. At the minimum `‖G‖ = √(λ₁λ₂)`, and no eigenvalue is negative."
    ),
    caption="Left: smallest eigenvalue of the Hessian, and the predicted curvature. Right: the curvature against ‖G‖.",
    compute=_compute,
    draw=_draw,
    size=(8.0, 4.8),
)
