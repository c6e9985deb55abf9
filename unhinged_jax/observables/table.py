"""The built-in observables by name, what each needs, and the ready-made sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from unhinged_jax import collapse
from unhinged_jax.observables.accuracy import (
    accuracy,
    accuracy_margin,
    log_abs_loss,
    loss,
    loss_parts,
    objective,
    reduced_margin,
)
from unhinged_jax.observables.norms import (
    bias_ratio,
    collapse_metric,
    energy,
    gap,
    log_between_scatter,
    log_norm,
    log_norm_sum_W,
    log_norms,
    log_to_limit,
    log_within_scatter,
)
from unhinged_jax.observables.view import View
from unhinged_jax.special import safe_norm

NEEDS = {
    "": "",
    "classes": "samples that have classes",
    "every class": "samples of every class",
    "held out": "samples that are held out",
    "held out, classes": "samples that are held out and have classes",
    "balanced": "balanced classes, a linear loss, no kernel",
    "split": "a known limit",
    "free split": "a known limit, both parts free",
}
"""What an observable may need of a model, in words; `why_not` decides whether the model has it."""


@dataclasses.dataclass(frozen=True)
class Observable:
    """A named observable: how it is computed, what it is, and what it needs, a key of `NEEDS`."""

    compute: Callable[[View], jax.Array]
    meaning: str
    needs: str = ""


_BOTH, _H, _W = slice(None), slice(0, -1), slice(-1, None)


def _with_exponential(name: str, log_value: Callable[[View], jax.Array], meaning: str, needs: str = "") -> dict:
    return {
        name: Observable(lambda view: jnp.exp(log_value(view)), meaning, needs),
        f"log_{name}": Observable(log_value, f"logarithm of the {meaning}", needs),
    }


OBSERVABLES: dict[str, Observable] = {
    "loss": Observable(loss, "data term of the loss"),
    "loss_sign": Observable(lambda view: jnp.sign(view.once(loss_parts)[0]), "sign of the loss"),
    "log_abs_loss": Observable(log_abs_loss, "logarithm of the absolute loss"),
    "objective": Observable(objective, "loss plus decay terms"),
    "accuracy": Observable(accuracy, "share of samples classified correctly", "classes"),
    "accuracy_margin": Observable(
        accuracy_margin, "least margin over ‖h_i‖ max ‖w_c‖; above 0: all classified correctly", "classes"
    ),
    "margin_min": Observable(reduced_margin(jnp.min), "least margin s_y - max s_j", "classes"),
    "margin_mean": Observable(reduced_margin(jnp.mean), "mean margin s_y - max s_j", "classes"),
    **_with_exponential("norm", log_norm, "norm of (H, W)"),
    **_with_exponential("norm_H", lambda view: view.once(log_norms)[0], "norm of H"),
    **_with_exponential("norm_W", lambda view: view.once(log_norms)[1], "norm of W"),
    **_with_exponential("square_norm", lambda view: 2 * log_norm(view), "squared norm of (H, W)"),
    **_with_exponential("square_norm_H", lambda view: 2 * view.once(log_norms)[0], "squared norm of H"),
    **_with_exponential("square_norm_W", lambda view: 2 * view.once(log_norms)[1], "squared norm of W"),
    "square_norm_b": Observable(lambda view: jnp.sum(view.b**2), "squared norm of b"),
    **_with_exponential("within_scatter", log_within_scatter, "sum of squared distances of features from class means"),
    **_with_exponential(
        "between_scatter", log_between_scatter, "sum of squared distances of class means from the mean of all features"
    ),
    **_with_exponential("norm_sum_W", log_norm_sum_W, "norm of the sum of the prototypes"),
    "norm_b": Observable(lambda view: safe_norm(view.b), "norm of b"),
    "bias_ratio": Observable(bias_ratio, "largest bias over smallest"),
    **_with_exponential("distance", log_to_limit(_BOTH), "distance of the direction of (H, W) from its limit", "split"),
    **_with_exponential("distance_H", log_to_limit(_H), "distance of the direction of H from its limit", "split"),
    **_with_exponential("distance_W", log_to_limit(_W), "distance of the direction of W from its limit", "free split"),
    "gap_H": Observable(gap(_H), "norm of H minus the leading part of its start", "free split"),
    "gap_W": Observable(gap(_W), "norm of W minus the leading part of its start", "free split"),
    **{
        name: Observable(energy(name), f"share of the squared norm in subspace E_{name[7:]}", "balanced")
        for name in ("energy_1_plus", "energy_1_minus", "energy_2_plus", "energy_2_minus", "energy_3")
    },
}
_OF_TEST = ["loss", "loss_sign", "log_abs_loss", "accuracy", "accuracy_margin", "margin_min", "margin_mean"]


def _of_test(known: Observable) -> Observable:
    """The same observable of the samples that are held out."""
    needs = "held out, classes" if known.needs else "held out"
    return Observable(known.compute, f"{known.meaning}, of samples held out", needs)


OBSERVABLES.update({f"test_{name}": _of_test(OBSERVABLES[name]) for name in _OF_TEST})


def _needs(name: str) -> str:
    """What a metric of neural collapse needs: a mean of every class, unless it looks at prototypes alone."""
    return "every class" if "stats" in collapse.METRICS[name].takes else "classes"


_COLLAPSE_ONLY = [name for name in collapse.METRICS if name not in OBSERVABLES]
OBSERVABLES.update(
    {name: Observable(collapse_metric(name), collapse.METRICS[name].meaning, _needs(name)) for name in _COLLAPSE_ONLY}
)


class ObservableSet(tuple):
    """A ready-made set of names; names that have no meaning for a model are left out instead of refused."""

    __slots__ = ()


paper_observables = ObservableSet(
    [
        "loss",
        "accuracy",
        "accuracy_margin",
        "norm",
        "norm_H",
        "norm_W",
        "log_norm",
        "distance",
        "distance_H",
        "distance_W",
    ]
)
"""What the paper's figures show, and the margin that decides the accuracy."""

moment_observables = ObservableSet(
    ["loss", "objective", "square_norm", "square_norm_H", "square_norm_W", "within_scatter", "between_scatter"]
)
"""What is quadratic in the state, or its loss: what `exact` knows of a descent that draws batches or labels."""

collapse_observables = ObservableSet(_COLLAPSE_ONLY)
"""Every metric of neural collapse."""

all_observables = ObservableSet(OBSERVABLES)
"""Every built-in observable."""
