"""Training steps of a network with the practical heads."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import reference
from benchmarks.case import Case
from benchmarks.contender import Contender, Run, Workload
from benchmarks.costs import Cost
from benchmarks.peers import by_perceptron, by_torch
from benchmarks.workloads.sizes import SHAPES


def _case(size: str, precision: str) -> Case:
    # Spherical: the prototypes are a simplex ETF that stays, and unit features meet them.
    return Case("training", size, precision, **SHAPES[size], spherical=True, rate=5.0, steps=100, every=10)


def _reference(case: Case) -> reference.Curves:
    """Backpropagation by hand, in extended precision where that takes seconds, else in float64."""
    wide = np.longdouble if case.size == "small" else np.float64
    return dict(by_perceptron.by_hand(case, wide)())


def _cost(case: Case, _evaluations: int = 0) -> Cost:
    """Two layers of width 2p: a product forward and two backward each, but none for the gradient of the inputs."""
    layer, weights = 2 * case.samples * case.dim * 2 * case.dim, 4 * case.dim**2
    step = Cost(5 * layer, 4 * weights * case.dtype.itemsize)
    return (step.times(case.steps) + Cost(2 * layer, 0).times(len(case.times))).times(case.runs)


def _ours(case: Case) -> Run:
    from unhinged_jax.losses import unhinged
    from unhinged_jax.training import fnpal_logits

    def losses(logits: Any, labels: Any) -> Any:
        return unhinged(logits, labels, case.gammas[0])

    return by_perceptron.in_jax(fnpal_logits, losses, "highest")(case)


def _plain(case: Case) -> Run:
    return by_perceptron.in_jax(by_perceptron.plain_logits, by_perceptron.plain_losses(case.gammas[0]))(case)


TRAINING = Workload(
    name="training",
    title="Training steps of a perceptron with the anchored, feature-normalised head: 100 of SGD with momentum",
    unit="steps",
    case=_case,
    sizes=("small", "paper"),
    reference=_reference,
    contenders=(
        Contender("unhinged_jax heads", _ours, _cost, ours=True),
        Contender("NumPy by hand", by_perceptron.by_hand, _cost),
        Contender("naive JAX", _plain, _cost),
        Contender("PyTorch", by_perceptron.in_torch, _cost, needs=("torch",), refuses=by_torch.refuses),
    ),
    skips={"bfloat16": "an update is far below bfloat16's rounding of the weights"},
)
