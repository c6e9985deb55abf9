"""Gradient flow by adaptive solvers: regularised unhinged loss, and cross-entropy."""

from __future__ import annotations

from collections.abc import Callable

import unhinged_jax as uj
from benchmarks import costs, ours, reference
from benchmarks.case import Case
from benchmarks.contender import Contender, Workload
from benchmarks.peers import by_solvers, by_torch
from benchmarks.workloads.sizes import SHAPES, pace

# float32 resolves no 1e-6 a step; everybody is asked for the same.
RTOL = {"float64": 1e-6, "float32": 1e-5}
TOLERANCES = {"float64": (1e-4, 3e-5, 1e-5, 1e-7), "float32": (1e-4, 6e-5, 3e-5)}
_BFLOAT16 = "a solver's error estimate would be rounding: bfloat16 resolves 4e-3 per step"


def _case(name: str, loss: str) -> Callable[[str, str], Case]:
    def case(size: str, precision: str) -> Case:
        return Case(
            name, size, precision, **SHAPES[size], loss=loss, rate=pace(size), decay=3e-3 / pace(size), horizon=5000.0,
            points=501, rtol=RTOL[precision],
        )  # fmt: skip

    return case


def _stages(case: Case) -> int:
    """Evaluations a step of the library's default solver: Tsit5 for large dense states, else Dopri8."""
    dense = case.loss == "cross_entropy" and (case.samples + case.classes) * case.dim > 100_000
    return 6 if dense else 13


def _contenders(model: costs.Model, own: costs.Model, exact: bool) -> tuple[Contender, ...]:
    closed = Contender(
        "unhinged_jax exact", ours.one(uj.exact), costs.closed_form, ours=True, lowered=ours.lowered(uj.exact)
    )
    return (
        *((closed,) if exact else ()),
        Contender(
            "unhinged_jax simulate", ours.one(uj.simulate, _stages), own, ours=True, lowered=ours.lowered(uj.simulate)
        ),
        Contender("plain diffrax", by_solvers.flow_by_diffrax, model, lowered=by_solvers.lowered_flow),
        Contender("torchdiffeq", by_torch.flow, model, needs=("torch", "torchdiffeq"), refuses=by_torch.refuses),
        Contender("SciPy solve_ivp", by_solvers.flow_by_scipy, model, refuses=by_solvers.scipy_refuses),
    )


REGULARISED = Workload(
    name="flow",
    title="Regularised gradient flow to t = 5000, 501 points, adaptive solvers at one tolerance",
    unit="solutions",
    case=_case("flow", "unhinged"),
    sizes=("small", "paper"),
    reference=reference.linear,
    contenders=_contenders(costs.dense_products, costs.class_sums, exact=True),
    tolerances=TOLERANCES,
    skips={"bfloat16": _BFLOAT16},
)

ENTROPY = Workload(
    name="ce_flow",
    title="Regularised gradient flow of cross-entropy to t = 5000, 501 points, adaptive solvers at one tolerance",
    unit="solutions",
    case=_case("ce_flow", "cross_entropy"),
    sizes=("small", "paper"),
    reference=reference.entropy_flow,
    contenders=_contenders(costs.dense_products, costs.dense_products, exact=False),
    tolerances=TOLERANCES,
    skips={"bfloat16": _BFLOAT16},
)
