"""The exact solution, against the same formulae written down in NumPy."""

from __future__ import annotations

import unhinged_jax as uj
from benchmarks import costs, ours, reference
from benchmarks.case import Case
from benchmarks.contender import Contender, Workload
from benchmarks.peers import by_numpy
from benchmarks.workloads.sizes import SHAPES, pace


def _case(size: str, precision: str) -> Case:
    return Case("exact", size, precision, **SHAPES[size], rate=0.1 * pace(size), steps=50_000, every=100)


EXACT = Workload(
    name="exact",
    title="Closed form of the unconstrained descent at 501 points",
    unit="solutions",
    case=_case,
    sizes=("small", "paper"),
    reference=reference.linear,
    contenders=(
        Contender(
            "unhinged_jax exact", ours.one(uj.exact), costs.closed_form, ours=True, lowered=ours.lowered(uj.exact)
        ),
        Contender("NumPy by hand", by_numpy.closed_form, costs.closed_form),
    ),
    skips={"bfloat16": "the library computes in float32 and float64"},
)
