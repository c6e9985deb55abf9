"""Floating-point operations and bytes by an explicit model, and by XLA's own count.

The model counts what a way of computing cannot avoid: products, and arrays that must be read or written once a step.
Temporaries, and reading twice what a cache may hold, are not in it; so a share of a peak is a lower bound.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from benchmarks.case import Case


@dataclasses.dataclass(frozen=True)
class Cost:
    """Floating-point operations, and bytes moved between processor and memory (or cache, if all fits)."""

    flops: float
    bytes: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, count: float) -> Cost:
        """The cost of doing it `count` times."""
        return Cost(count * self.flops, count * self.bytes)


Model = Callable[[Case, int], "Cost"]
"""(case, evaluations of the vector field, or 0) -> what cannot be avoided."""


def state_size(case: Case) -> int:
    """Numbers in H and W."""
    return (case.samples + case.classes) * case.dim


def logged_dense(case: Case) -> Cost:
    """One logged point of a dense state: logits for the accuracy, and three sums over the state."""
    return Cost(
        2 * case.samples * case.classes * case.dim + 6 * state_size(case), state_size(case) * case.dtype.itemsize
    )


def _whole(case: Case, evaluations: int, step: Cost, logged: Cost) -> Cost:
    """All steps (or evaluations of a vector field) and logged points of all runs."""
    return (step.times(evaluations or case.steps) + logged.times(len(case.times))).times(case.runs)


def dense_linear(case: Case, evaluations: int = 0) -> Cost:
    """Plain updates by class sums: one multiply-add for H, one for the sums, one for W; the state read and written."""
    size = state_size(case)
    return _whole(case, evaluations, Cost(4 * size, 2 * size * case.dtype.itemsize), logged_dense(case))


def dense_products(case: Case, evaluations: int = 0) -> Cost:
    """Three products a step, logits and two gradients; the state read and written, the logits too."""
    product, size = 2 * case.samples * case.classes * case.dim, state_size(case)
    moved = (2 * size + 2 * case.samples * case.classes) * case.dtype.itemsize
    return _whole(case, evaluations, Cost(3 * product + 4 * size, moved), logged_dense(case))


def drawn_rows(case: Case, evaluations: int = 0) -> Cost:
    """Two products over the rows of a batch; these rows read and written, and the decay of all of them."""
    rows = (case.batch + case.classes) * case.dim
    flops = 4 * case.batch * case.classes * case.dim + 2 * state_size(case)
    step = Cost(flops, 2 * max(rows, state_size(case)) * case.dtype.itemsize)
    return _whole(case, evaluations, step, logged_dense(case))


def class_sums(case: Case, evaluations: int = 0) -> Cost:
    """Class sums and prototypes, in the span of both if that is smaller than p; logged at the size of the classes.

    The accuracy is counted as one product of n rows a logged point, over the classes' span.
    """
    rank = min(case.dim, 2 * case.classes)
    size = 2 * case.classes * rank
    logged = Cost(2 * case.samples * case.classes * rank, size * case.dtype.itemsize)
    return _whole(case, evaluations, Cost(4 * size, 2 * size * case.dtype.itemsize), logged)


def closed_form(case: Case, _evaluations: int = 0) -> Cost:
    """No steps: coefficients of every logged point on class sums, and one product of n rows for the accuracy."""
    rank = min(case.dim, 2 * case.classes)
    logged = Cost(2 * case.samples * case.classes * rank, 2 * case.classes * rank * case.dtype.itemsize)
    return logged.times(len(case.times)).times(case.runs)


def dense_spherical(case: Case, evaluations: int = 0) -> Cost:
    """Features normalised, moved and written; prototypes read. About ten operations an entry."""
    size = case.samples * case.dim
    return _whole(case, evaluations, Cost(10 * size, 2 * size * case.dtype.itemsize), logged_dense(case))


def spherical_products(case: Case, evaluations: int = 0) -> Cost:
    """As an autograd of the dense loss: logits and one gradient product a step besides."""
    product = 2 * case.samples * case.classes * case.dim
    moved = (2 * case.samples * case.dim + 2 * case.samples * case.classes) * case.dtype.itemsize
    step = Cost(2 * product + 10 * case.samples * case.dim, moved)
    return _whole(case, evaluations, step, logged_dense(case))


def planes(case: Case, evaluations: int = 0) -> Cost:
    """Two coordinates a sample, about ten operations; dense features only for the accuracy."""
    size = 2 * case.samples
    return _whole(case, evaluations, Cost(10 * size, 2 * size * case.dtype.itemsize), logged_dense(case))


def of_xla(lowered: Any) -> dict[str, float] | None:
    """XLA's count of a compiled program; it counts the body of a loop once, whatever its number of iterations."""
    analysis = lowered.compile().cost_analysis()
    if isinstance(analysis, (list, tuple)):  # one a device, in some releases
        analysis = analysis[0] if analysis else None
    if not analysis or "flops" not in analysis:
        return None
    return {"flops": float(analysis["flops"]), "bytes": float(analysis.get("bytes accessed", float("nan")))}
