"""MSE with decay: within-class variability falls at rates that the minimiser determines; features tethered to given
ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _check, _numbers
from unhinged_jax.collapse import class_statistics, nc1
from unhinged_jax.dynamics import Flow
from unhinged_jax.labels import balanced
from unhinged_jax.model import regularized
from unhinged_jax.plots.looks import head, key_under
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.drawing import pair
from unhinged_jax.theories.theory import Check, Curves, Theory, worst

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def variability_rates(classes: int, per_class: int, decay_H: float, decay_W: float) -> tuple[float, float]:
    """Late exponential rates of within-class residuals under MSE with decay, no bias, rates 1.

    Residuals obey R' = -R (W^T W / n + lambda_1) exactly. At the minimiser W^T W / n is lambda_1 (1 - c)/c on the span
    of the prototypes, c = C sqrt(N lambda_1 lambda_2), so residuals fall at lambda_1 / c inside it and at lambda_1
    outside.

    Returns:
        (inside, outside).

    Raises:
        ValueError: if c >= 1, where the prototypes vanish.

    Source: beyond the papers; Tirer & Bruna 2022 for the minimiser, Tirer et al. 2023 for the question.

    Example:
        >>> rates = variability_rates(classes=4, per_class=25, decay_H=0.01, decay_W=0.01)
        >>> [round(rate, 6) for rate in rates]
        [0.05, 0.01]
    """
    _check.positive("decay_H", decay_H)
    _check.positive("decay_W", decay_W)
    c = classes * math.sqrt(per_class * decay_H * decay_W)
    if c >= 1:
        raise ValueError(f"C sqrt(N lambda_1 lambda_2) is {c:g}; the prototypes vanish from 1 on, use less decay.")
    return decay_H / c, decay_H


def tethered(
    H0: ArrayLike, index: ArrayLike, classes: int, tether: float, decay_W: float, times: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Gradient flow of features on the central path, tethered to their start.

    The objective is (1/2) mean ||W h - y||^2 + (tether/2) ||H - H0||^2 + (decay_W/2) ||W||^2, minimised over W at every
    instant.

    Args:
        H0: Features at the start, shape (n, p).
        index: Labels, shape (n,).
        classes: C.
        tether: Strength that holds features near H0, above 0.
        decay_W: Decay on W, above 0.
        times: From 0 on, shape (T,).

    Returns:
        Features, shape (T, n, p), and prototypes, shape (T, C, p).

    Source: Tirer, Huang & Niles-Weed 2023.

    Example:
        >>> H0 = jax.random.normal(jax.random.key(0), (4, 3))
        >>> [part.shape for part in tethered(H0, [0, 0, 1, 1], 2, 0.1, 0.1, [0.0, 1.0])]
        [(2, 4, 3), (2, 2, 3)]
    """
    _check.positive("tether", tether)
    _check.positive("decay_W", decay_W)
    H0 = jnp.asarray(H0, jnp.result_type(float))
    n, p = H0.shape
    targets = jax.nn.one_hot(jnp.asarray(index), classes, dtype=H0.dtype)

    def fitted(H: jax.Array) -> jax.Array:
        return jnp.linalg.solve(H.T @ H / n + decay_W * jnp.eye(p), H.T @ targets / n).T

    def velocity(_time: ArrayLike, H: jax.Array, _args: None) -> jax.Array:
        W = fitted(H)
        return (targets - H @ W.T) @ W / n - tether * (H - H0)

    tolerance = 1e-10 if H0.dtype == jnp.float64 else 1e-6
    times = jnp.asarray(_numbers.real("times", times), H0.dtype)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity), diffrax.Dopri8(), t0=times[0], t1=times[-1], dt0=None, y0=H0,
        saveat=diffrax.SaveAt(ts=times), max_steps=100_000,
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
    )  # fmt: skip
    assert solution.ys is not None
    return solution.ys, jax.vmap(fitted)(solution.ys)


CLASSES, PER_CLASS, DIM = 3, 6, 8
DECAY = (4e-2, 6e-2)


def _residuals(H: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Features less their class means, over a leading axis of times."""
    means = np.stack([H[:, index == c].mean(axis=1) for c in range(CLASSES)], axis=1)
    return H - means[:, index]


def _free(curves: dict[str, Any]) -> tuple[Check, ...]:
    """Variability inside and outside of the span of the final prototypes, along the regularised flow."""
    labels = balanced(CLASSES, PER_CLASS)
    model = regularized(labels, DIM, decay=DECAY, loss="mse")
    state = model.init(jax.random.key(2), precision="float64")
    times = np.linspace(0, 240, 121)
    run = simulate(model, Flow(rtol=1e-11, atol=1e-15), state, times, ["loss"], states=True)
    assert run.states is not None
    within = _residuals(np.asarray(run.states.H), np.asarray(labels.index))
    _, _, axes = np.linalg.svd(np.asarray(run.final.W))
    inside = np.linalg.norm(within @ axes[:CLASSES].T, axis=(1, 2))
    outside = np.linalg.norm(within @ axes[CLASSES:].T, axis=(1, 2))
    total = np.linalg.norm(within, axis=(1, 2))
    late = (inside > 1e-11 * inside[0]) & (times > 120)
    rates = [-np.polyfit(times[late], np.log(part[late]), 1)[0] for part in (inside, outside)]
    predicted = variability_rates(CLASSES, PER_CLASS, *DECAY)
    shown = inside > 1e-11 * inside[0]
    curves.update(time=times, inside=np.where(shown, inside, np.nan), outside=outside, rates=np.array(predicted))
    return (
        Check("rate inside the span of the prototypes, from λ₁/c, relative", abs(rates[0] / predicted[0] - 1), 0.01),
        Check("rate outside it, from λ₁, relative", abs(rates[1] / predicted[1] - 1), 0.01),
        Check("largest increase of the variability between two times", worst(np.diff(total)), 0.0),
    )


def _held(curves: dict[str, Any]) -> tuple[Check, ...]:
    """Variability of features tethered to a noisy start, on the central path."""
    draws = np.random.default_rng(3)
    index = np.repeat(np.arange(CLASSES), PER_CLASS)
    H0 = draws.standard_normal((CLASSES, DIM))[index] + 0.6 * draws.standard_normal((index.size, DIM))
    times, tether = np.linspace(0, 1500, 101), 0.02
    H, W = (np.asarray(part) for part in tethered(H0, index, CLASSES, tether, 0.01, times))
    within = _residuals(H, index)
    fixed = np.linalg.solve((tether * np.eye(DIM) + W[-1].T @ W[-1] / index.size), tether * within[0].T).T
    measured = np.asarray(jax.jit(jax.vmap(lambda Z: nc1(class_statistics(Z, index, CLASSES))))(H))
    curves.update(held_time=times, held_nc1=measured, held_total=np.sum(within**2, axis=(1, 2)) / index.size)
    return (
        Check("tethered: residuals at the end from κ(κ + WᵀW/n)⁻¹ of the first",
              worst(np.abs(within[-1] - fixed)), 1e-8),
        Check("tethered: NC1 over its start, largest after it", worst(measured[1:] / measured[0]), 1.0),
        Check("tethered: NC1 over its start, at the end", measured[-1] / measured[0], 0.9),
    )  # fmt: skip


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    curves: dict[str, Any] = {}
    return _free(curves) + _held(curves), curves


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    t, rates = curves["time"], curves["rates"]
    for number, (name, label) in enumerate((("inside", "in the span of the prototypes"), ("outside", "outside of it"))):
        values = curves[name]
        left.plot(t, values, label=label)
        k = 60
        line = values[k] * np.exp(-rates[number] * (t - t[k]))
        left.plot(t, np.where(line > 1e-11, line, np.nan), ls=":", color="0.2",
                  label="rates λ₁/c and λ₁" if number else None)  # fmt: skip
    left.set(yscale="log", xlabel="time", ylabel="norm of residuals")
    head(left, "Within-class residuals of features with decay")
    right.plot(curves["held_time"], curves["held_nc1"] / curves["held_nc1"][0], label="NC1")
    right.plot(curves["held_time"], curves["held_total"] / curves["held_total"][0], label=r"$\mathrm{tr}\,\Sigma_W$")
    right.set(xlabel="time", ylabel="over its start", ylim=(0, 1.05))
    head(right, "Variability of features tethered to their start", "it falls, but not to zero")
    key_under(left)
    key_under(right, columns=2)


THEORY = Theory(
    name="within-class",
    title="MSE with decay: within-class variability",
    loss="MSE",
    case="regularised",
    predicted=(
        "residuals fall for all times, at `λ₁/c` inside the span of the prototypes and `λ₁` outside; tethered features "
        "lose variability, but not all"
    ),
    assumptions="late times for the rates; tethered features: prototypes always ridge-optimal (central path)",
    references=("tirer2023perturbation", "tirer2022extended"),
    libraries=("kidger2021on",),
    account=(
        "Under the MSE, within-class residuals obey `R' = −R(WᵀW/n + λ₁)`, whatever the class means do, so the "
        "residuals never grow. Near the minimiser `WᵀW/n` is `λ₁(1 − c)/c` on the span of the prototypes, and they "
        "fall at `λ₁/c` there and at `λ₁` elsewhere. Real features cannot move freely: Tirer, Huang & Niles-Weed "
        "tether them to given ones and prove that gradient flow on the central path reduces their within-class "
        "variability. With a tether `κ`, the residuals end at `κ(κ + WᵀW/n)⁻¹` times those at the start: they are "
        "smaller in the span of the prototypes and unchanged elsewhere."
    ),
    caption="Left: residuals of free features with decay. Right: NC1 and within-class trace of tethered features.",
    compute=_compute,
    draw=_draw,
)
