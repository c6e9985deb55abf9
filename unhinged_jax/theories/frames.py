"""More classes than dimensions: cross-entropy of cosines spreads features and prototypes as far as they go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax

from unhinged_jax.collapse import METRICS
from unhinged_jax.dynamics import Descent
from unhinged_jax.labels import balanced
from unhinged_jax.losses import CrossEntropy
from unhinged_jax.model import spherical
from unhinged_jax.plots import SIMULATED
from unhinged_jax.plots.looks import head, key_under
from unhinged_jax.schedules import cosine
from unhinged_jax.simulation import simulate
from unhinged_jax.theories.drawing import pair
from unhinged_jax.theories.theory import Check, Curves, Theory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DIM, MOST = 3, 12
SHARP, OTHERS = (4, 6, 12), (8, 9)
"""Numbers of classes whose best code is also the minimum at every temperature, and two for which it is not."""
TEMPERATURES = (0.4, 0.2, 0.1, 0.05)
SEEDS, UPDATES = 4, 3000


def largest_cosine(classes: int, dim: int) -> float:
    """The least largest cosine of C unit vectors in p dimensions; NaN where it is not known.

    Args:
        classes, dim: C and p.

    Source: as of the ideal value of `minimal_angle_prototypes`.

    Example:
        >>> round(largest_cosine(4, 3), 6), round(largest_cosine(6, 3), 6), round(largest_cosine(12, 3), 6)
        (-0.333333, 0.0, 0.447214)
    """
    return float(np.cos(METRICS["minimal_angle_prototypes"].ideal(classes, dim)))


def _trained(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Largest cosine and misalignment (NC3) at the end, (temperatures, seeds), each from the end of the one before."""
    model = spherical(balanced(classes, 2), DIM, free_prototypes=True, unit_prototypes=True, loss="cross_entropy")
    descent = Descent(cosine(1.0, horizon=UPDATES), optimizer=optax.adam(0.03))
    seen = ["minimal_angle_prototypes", "nc3_self_duality"]
    found: list[Any] = []
    with jax.enable_x64(True):
        states = jax.vmap(model.init)(jax.random.split(jax.random.key(1), SEEDS))
        for temperature in TEMPERATURES:
            colder = model.replace(loss=CrossEntropy(temperature))
            runs = jax.vmap(lambda s, m=colder: simulate(m, descent, s, [UPDATES], seen))(states)
            states = runs.final
            found.append([np.asarray(runs[name])[:, 0] for name in seen])
    values = np.array(found)
    return np.cos(values[:, 0]), values[:, 1]


def _compute() -> tuple[tuple[Check, ...], dict[str, np.ndarray]]:
    counts = sorted((*SHARP, *OTHERS))
    runs = {classes: _trained(classes) for classes in counts}
    above = {classes: runs[classes][0] - largest_cosine(classes, DIM) for classes in counts}
    sharp = max(float(np.max(np.abs(above[classes]))) for classes in SHARP)
    last = {classes: above[classes].max(axis=1)[-2:] for classes in OTHERS}
    order = max(abs(float(np.log2(warm / cold)) - 1) for warm, cold in last.values())
    cold = max(abs(float(2 * cold - warm)) for warm, cold in last.values())
    misaligned = max(float(runs[classes][1][-1].max()) for classes in counts)
    checks = (
        Check("4, 6 and 12 classes: largest cosine from that of the best code, at any temperature", sharp, 1e-4),
        Check("8 and 9 classes: the same, carried on to temperature 0", cold, 2e-3),
        Check("the order in the temperature of what they are above, from 1", order, 0.1),
        Check("misalignment of prototypes with class means (NC3) at the lowest temperature", misaligned, 1e-4),
    )
    curves = {"classes": np.array(counts), "temperature": np.array(TEMPERATURES)}
    curves |= {f"above_{classes}": above[classes].max(axis=1) for classes in counts}
    return checks, {**curves, "cosine": np.array([runs[classes][0][-1].max() for classes in counts])}


def _draw(curves: Curves, figure: Figure) -> None:
    left, right = pair(figure)
    every = np.arange(2, MOST + 1)
    best = np.array([largest_cosine(int(classes), DIM) for classes in every])
    for name, low, high in (("simplex", 2, 4), ("orthoplex", 5, 6), ("best code", 7, 12)):
        part = (every >= low) & (every <= high)
        left.plot(every[part], best[part], "o-", ms=7, alpha=0.5, label=name)
    left.plot(curves["classes"], curves["cosine"], "x", color="0.1", ms=7, mew=1.5, label="trained")
    left.set(xlabel="classes in 3 dimensions", ylabel="largest cosine")
    head(left, "Largest cosine of two classes", f"crosses: trained at temperature {TEMPERATURES[-1]:g}")
    T = curves["temperature"]
    for classes in OTHERS:
        right.plot(T, curves[f"above_{classes}"], "o", label=f"{classes} classes")
    for classes in OTHERS:
        slope, shown = curves[f"above_{classes}"][-1] / T[-1], np.array([0.0, 0.2])
        label = "∝ temperature" if classes == OTHERS[0] else None
        right.plot(shown, slope * shown, **SIMULATED, color="0.1", label=label)
    right.set(xlabel="temperature", ylabel="largest cosine above the best")
    head(right, "Distance from the best code", "of codes that are not the minimum themselves")
    for axes in (left, right):
        key_under(axes)


THEORY = Theory(
    name="frames",
    title="More classes than dimensions: softmax codes",
    loss="cross-entropy",
    case="spherical, unit prototypes",
    predicted=(
        "the largest cosine of two classes is `−1/(C−1)` for `C ≤ p+1`, 0 for `C ≤ 2p`, and beyond that of a softmax "
        "code as the temperature falls; features align with their prototypes"
    ),
    assumptions="features and prototypes of norm 1, one temperature; a global minimum is reached",
    references=("jiang2024generalized", "cohn2007universally"),
    libraries=("deepmind2020jax",),
    account=(
        "A simplex of more than `p + 1` classes does not fit into `p` dimensions. Jiang et al. describe what training "
        "does then: features and prototypes of norm 1 under cross-entropy at a low temperature become a softmax code, "
        "which makes the least distance between a class and the hull of all others as large as it can be, and each "
        "feature lies along its prototype. Up to `2p` classes a largest cosine of 0 is the best that exists (Rankin), "
        "as for the orthoplex; beyond, best codes are known for few numbers. Some of them, the icosahedron of 12 "
        "points among them, minimise every decreasing convex energy at once (Cohn & Kumar), so that they are the "
        "minimum at any temperature. For 8 and 9 points in space the minimum moves towards the best code in "
        "proportion to the temperature. `initial.orthoplex` and `initial.softmax_code` give these frames, and `ideal` "
        "of the metric `minimal_angle_prototypes` says what is known."
    ),
    caption="Left: largest cosine over the number of classes. Right: how far it is from the best, over temperature.",
    compute=_compute,
    draw=_draw,
)
