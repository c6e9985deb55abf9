"""The perils of being unhinged: separable data on which the unhinged minimiser is correct on half of the mass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import scipy.optimize
from jax.typing import ArrayLike

from unhinged_jax import _check
from unhinged_jax.dynamics import Flow
from unhinged_jax.labels import balanced
from unhinged_jax.model import frozen
from unhinged_jax.plots import PALETTE
from unhinged_jax.plots.looks import head, key_under
from unhinged_jax.schedules import logspaced
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.clock import in_log_time
from unhinged_jax.theories.theory import Check, Curves, Theory, least, relative, worst

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARGINS = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
LARGEST = 1 / 3  # margins must stay below this for the shorter points to fall on the wrong side
_DECADES = 10


def family(margin: ArrayLike) -> jax.Array:
    """Four points of the unit disc, two of each class, that a line through the origin separates with a margin.

    Signed by their labels they are z_a = (m, -r/2) and z_b = (m, r) with r = sqrt(1 - m^2), half of the mass each: the
    vertical line separates them with margin m, but their mean (m, r/4) makes an obtuse angle with z_a.

    Args:
        margin: m, above 0 and below 1/3; traced values are allowed.

    Returns:
        Features, shape (4, 2), in the order of `balanced(2, 2)`: -z_a, -z_b of class 0, then z_a, z_b of class 1.
        Differentiable with respect to the margin.

    Raises:
        ValueError: for a margin outside (0, 1/3).

    Source: a family with the property that Long & Servedio 2022 prove; the construction is ours.

    Example:
        >>> [[round(float(x), 2) for x in point] for point in family(0.28)[2:]]
        [[0.28, -0.48], [0.28, 0.96]]
    """
    m = _checked(margin)
    r = jnp.sqrt(1 - m**2)
    signed = jnp.stack([jnp.stack([m, -r / 2]), jnp.stack([m, r])])
    return jnp.concatenate([-signed, signed])


def _checked(margin: ArrayLike) -> jax.Array:
    if _check.concrete(margin) and not 0 < float(np.asarray(margin)) < LARGEST:
        raise ValueError(f"margin must lie strictly between 0 and 1/3, but got {margin}.")
    return jnp.asarray(margin, jnp.result_type(float))


def minimiser(margin: ArrayLike) -> jax.Array:
    """The unhinged minimiser over the unit ball of the family: the unit vector along the mean, (m, r/4).

    It scores z_a by (m^2 - r^2/8) / |(m, r/4)|, negative for every margin below 1/3.

    Returns:
        The normal vector w, shape (2,); a point of class 1 should have w.h > 0.

    Raises:
        ValueError: for a margin outside (0, 1/3).

    Source: van Rooyen et al. 2015 (the minimiser is the mean of y x); Long & Servedio 2022 (it may be wrong).

    Example:
        >>> [round(float(x), 3) for x in minimiser(0.28)]
        [0.759, 0.651]
    """
    m = _checked(margin)
    mean = jnp.stack([m, jnp.sqrt(1 - m**2) / 4])
    return mean / jnp.linalg.norm(mean)


def in_ball(loss: str, points: npt.ArrayLike, radius: float) -> np.ndarray:
    """Minimiser of the mean loss of the scores w.z over the ball |w| <= radius, by sequential quadratic programming.

    Args:
        loss: "unhinged" -u, "hinge" max(0, 1 - u), "cross_entropy" log(1 + e^-u) or "mse" (1 - u)^2 / 2 of u = w.z.
        points: Points signed by their labels, shape (n, p).
        radius: Above 0.

    Returns:
        w, shape (p,).

    Raises:
        ValueError: for another loss or a radius that is not positive.

    Source: beyond the paper; on the unit ball hinge and unhinged agree, as van Rooyen et al. 2015 note.

    Example:
        >>> in_ball("unhinged", [[3.0, 4.0]], radius=1.0).round(6).tolist()
        [0.6, 0.8]
    """
    _check.choice("loss", loss, ("unhinged", "hinge", "cross_entropy", "mse"))
    _check.positive("radius", radius)
    z = np.asarray(points, float) * radius  # w / radius has a norm of order 1
    n, p = z.shape
    slope = {
        "unhinged": lambda u: (-u, -np.ones_like(u)),
        "cross_entropy": lambda u: (np.logaddexp(0, -u), -np.exp(-np.logaddexp(0, u))),
        "mse": lambda u: ((1 - u) ** 2 / 2, u - 1),
    }
    ball = {
        "type": "ineq",
        "fun": lambda x: 1 - x[:p] @ x[:p],
        "jac": lambda x: np.r_[-2 * x[:p], np.zeros(x.size - p)],
    }
    if loss == "hinge":  # slack variables make it smooth
        start, bounds = np.r_[np.zeros(p), np.ones(n)], [(None, None)] * p + [(0, None)] * n
        above = np.hstack([z, np.eye(n)])
        limits = [ball, {"type": "ineq", "fun": lambda x: above @ x - 1, "jac": lambda x: above}]
        weights = np.r_[np.zeros(p), np.ones(n) / n]
        target, gradient = (lambda x: weights @ x), (lambda x: weights)
    else:
        start, bounds, limits = np.zeros(p), None, [ball]
        target = lambda x: slope[loss](z @ x)[0].mean()  # noqa: E731
        gradient = lambda x: slope[loss](z @ x)[1] @ z / n  # noqa: E731
    found = scipy.optimize.minimize(
        target, start, jac=gradient, bounds=bounds, constraints=limits, method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )  # fmt: skip
    return np.asarray(found.x[:p]) * radius


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    labels = balanced(2, 2)
    clocks = {"unhinged": (Flow(rtol=1e-10), logspaced(1e-2, 1e3, 81)), "cross_entropy": in_log_time(10)}
    times = clocks["cross_entropy"][1]
    accuracy: dict[str, list[float]] = {"unhinged": [], "cross_entropy": []}
    curves: dict[str, Any] = {"time": np.expm1(times[1:]), "margins": np.array(MARGINS)}
    off = []
    for margin in MARGINS:
        H = np.asarray(family(margin))
        for loss, seen in accuracy.items():
            model = frozen(labels, 2, loss=None if loss == "unhinged" else loss)
            state = model.init(jax.random.key(0), features=H, prototypes=np.zeros((2, 2)), precision="float64")
            flow, moments = clocks[loss]
            run = simulate(model, flow, state, moments, ["accuracy"], states=True)
            assert run.states is not None
            seen.append(float(run["accuracy"][-1]))
            late = np.asarray(run.states.W)[1:]
            w = late[:, 1] - late[:, 0]
            w /= np.linalg.norm(w, axis=1, keepdims=True)
            curves[f"{loss}_{margin}"] = (w @ H[2:].T).min(axis=1) / margin
            if loss == "unhinged":
                off.append(relative(w[-1], minimiser(margin)))
    shown = np.asarray(family(0.03))[2:]
    radii = np.geomspace(0.1, 1e3, 200)
    for loss in ("unhinged", "hinge", "cross_entropy", "mse"):
        right = [shown @ in_ball(loss, shown, radius) > 0 for radius in radii]
        curves[f"ball_{loss}"] = np.mean(right, axis=1)
    hinge = [relative(in_ball("hinge", np.asarray(family(m))[2:], 1.0), minimiser(m)) for m in MARGINS]
    checks = (
        Check("largest accuracy of unhinged over margins 0.3 to 0.001", worst(accuracy["unhinged"]), 0.5 + 1e-12),
        Check("smallest accuracy of cross-entropy at t = 1e10", least(accuracy["cross_entropy"]), 1.0, at_least=True),
        Check("unhinged direction against the analytic minimiser", worst(off), 1e-9),
        Check("smallest separating margin over the stated one", _separation(), 1 - 1e-12, at_least=True),
        Check("hinge over the unit ball against the unhinged minimiser", worst(hinge), 1e-5),
    )
    return checks, {**curves, "radii": radii}


def _separation() -> float:
    """Margin with which the vertical line separates each family, over the stated margin; 0 if a point leaves the "
    "disc."""
    families = [np.asarray(family(margin))[2:] for margin in MARGINS]
    inside = all(np.all(np.linalg.norm(points, axis=1) <= 1 + 1e-12) for points in families)
    return inside * min(points[:, 0].min() / margin for points, margin in zip(families, MARGINS, strict=True))


_NAMES = {"unhinged": "unhinged", "hinge": "hinge", "cross_entropy": "cross-entropy", "mse": "MSE"}


def _draw(curves: Curves, figure: Figure) -> None:
    grid = figure.add_gridspec(2, 2)
    _draw_family(figure.add_subplot(grid[0, 0]))
    _draw_balls(figure.add_subplot(grid[0, 1]), curves)
    time = figure.add_subplot(grid[1, :])
    for number, margin in enumerate(curves["margins"]):
        time.plot(curves["time"], curves[f"cross_entropy_{margin:g}"], color=PALETTE[number % 7], label=f"{margin:g}")
        time.axhline(curves[f"unhinged_{margin:g}"][-1], color=PALETTE[number % 7], lw=0.9, ls=":")
    time.axhline(0, color="0.3", lw=0.8)
    time.set(xscale="log", yscale="symlog", ylim=(-900, 20), xlabel="time", ylabel="score over |w| · margin")
    head(time, "Smallest score along the flow: above 0 all points are right", "lines: cross-entropy; dots: where "
         "unhinged ends, which for every margin below 1/3 is below 0")  # fmt: skip
    key_under(time, columns=6, title="margin")


def _draw_family(plane: Axes) -> None:
    """The points of the family, signed by their labels, and what the unhinged minimiser decides."""
    points, w = np.asarray(family(0.1))[2:], np.asarray(minimiser(0.1))
    normal = np.array([-w[1], w[0]])
    plane.plot(*np.outer(normal, [-1.1, 1.1]), color=PALETTE[0], lw=1.2, ls="--")
    plane.annotate("", (w[0], w[1]), (0, 0), arrowprops={"arrowstyle": "->", "color": PALETTE[0], "lw": 1.8})
    plane.text(0.5 * w[0] + 0.08, 0.5 * w[1] - 0.08, "unhinged minimiser", color=PALETTE[0], fontsize=8)
    plane.text(0.55, -0.12, "where it decides", color=PALETTE[0], fontsize=8)
    plane.scatter(*points.T, color=PALETTE[1], zorder=3)
    for point, verdict in zip(points, ("wrong", "right"), strict=True):
        plane.annotate(f"half of the mass, {verdict}", point, xytext=(8, -3), textcoords="offset points", fontsize=8)
    plane.set(xlim=(-0.9, 1.5), ylim=(-0.8, 1.15), xlabel="$y\\,h_1$", ylabel="$y\\,h_2$", aspect="equal")
    head(plane, "The family at margin 0.1")


def _draw_balls(ball: Axes, curves: Curves) -> None:
    """For each loss, the radii of the ball at which the minimiser is half right and those at which it is right."""
    radii = curves["radii"]
    for place, loss in enumerate(_NAMES):
        right = curves[f"ball_{loss}"] > 0.99
        turn = radii[np.argmax(right)] if right.any() else radii[-1]
        ball.barh(place, turn - radii[0], left=radii[0], height=0.6, color=PALETTE[1], alpha=0.45,
                  label=None if place else "right on half of the mass")  # fmt: skip
        ball.barh(place, radii[-1] - turn, left=turn, height=0.6, color=PALETTE[0],
                  label="right on all of it" if place == 1 else None)  # fmt: skip
        words = f"from {turn:.2g}" if right.any() else "never all right"
        at, side, colour = (0.8 * radii[-1], "right", "white") if right.any() else (1.2 * radii[0], "left", "black")
        ball.text(at, place, words, va="center", ha=side, color=colour, fontsize=8)
    ball.set_yticks(range(len(_NAMES)), list(_NAMES.values()))
    ball.set(xscale="log", xlim=(radii[0], radii[-1]), xlabel="radius of the ball")
    ball.invert_yaxis()
    ball.grid(False)
    head(ball, "Accuracy over a ball, margin 0.03")
    key_under(ball, columns=2)


THEORY = Theory(
    name="perils",
    title="The perils of being unhinged",
    loss="unhinged",
    case="frozen features",
    predicted="on separable data the minimiser over a ball may be right on half of the mass, at every margin",
    assumptions="none",
    references=("long2022perils", "vanrooyen2015unhinged"),
    libraries=("kidger2021on", "virtanen2020scipy"),
    account=(
        "Long & Servedio show that minimising the unhinged loss over a ball can be no better than guessing on data "
        "that a line separates with a margin. The family here has one parameter, the margin `m`: signed by their "
        "labels, half of the mass sits at `(m, −r/2)` and half at `(m, r)`, `r² = 1 − m²`. The vertical line "
        "separates them, but the mean `(m, r/4)`, which is the direction of the unhinged minimiser, has a negative "
        "score on the first half whenever `m < 1/3`. Cross-entropy classifies all of the data correctly, after a time "
        "that grows like `1/m²`. Over a ball of radius 1 the hinge loss is the unhinged loss, and it needs a radius "
        "near `1/m` to do better."
    ),
    caption=(
        "Left: the family and the analytic minimiser. Right: accuracy of the minimiser over balls of growing radius. "
        "Below: smallest normalised score along the flow; above 0 all points are right."
    ),
    compute=_compute,
    draw=_draw,
    size=(8.0, 7.4),
)
