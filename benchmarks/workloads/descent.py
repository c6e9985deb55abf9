"""Gradient descent: unconstrained, spherical, cross-entropy."""

from __future__ import annotations

import numpy as np

import unhinged_jax as uj
from benchmarks import costs, ours, reference
from benchmarks.case import Case
from benchmarks.contender import Contender, Workload
from benchmarks.peers import by_c, by_jax, by_numpy, by_torch
from benchmarks.workloads.sizes import SHAPES, pace

_BFLOAT16 = (
    "an update is about 1e-3 of the state and less, below bfloat16's rounding of 4e-3, "
    "so a state in bfloat16 does not move"
)


def _unconstrained(size: str, precision: str) -> Case:
    steps, every = (200, 20) if size == "large" else (50_000, 100)
    # The paper's rate at its size; elsewhere the one that grows as far, a factor of e^16.
    rate = 0.1 * pace(size) * 50_000 / steps
    return Case("descent", size, precision, **SHAPES[size], rate=rate, steps=steps, every=every)


UNCONSTRAINED = Workload(
    name="descent",
    title="Gradient descent of the unconstrained model, 50,000 updates (200 at the large size)",
    unit="steps",
    case=_unconstrained,
    sizes=("small", "paper", "large"),
    reference=reference.linear,
    contenders=(
        Contender(
            "unhinged_jax exact", ours.one(uj.exact), costs.closed_form, ours=True, lowered=ours.lowered(uj.exact)
        ),
        Contender(
            "unhinged_jax simulate", ours.one(uj.simulate), costs.class_sums, ours=True,
            lowered=ours.lowered(uj.simulate),
        ),
        Contender("C by hand", by_c.descent, costs.dense_linear, share={"paper": 0.1}, refuses=by_c.refuses),
        Contender(
            "NumPy by hand", by_numpy.descent, costs.dense_linear, share={"small": 0.1, "paper": 0.04, "large": 0.1}
        ),
        Contender(
            "naive JAX", by_jax.descent, costs.dense_products, share={"paper": 0.01, "large": 0.1},
            lowered=by_jax.lowered_descent,
        ),
        Contender(
            "PyTorch", by_torch.descent, costs.dense_products, share={"small": 0.05, "paper": 0.004, "large": 0.1},
            needs=("torch",), refuses=by_torch.refuses,
        ),
        Contender(
            "torch.compile", by_torch.descent_compiled, costs.dense_products, patient=True,
            share={"small": 0.05, "paper": 0.004, "large": 0.1}, needs=("torch",), refuses=by_torch.refuses,
        ),
    ),
    skips={"bfloat16": _BFLOAT16},
)  # fmt: skip


def _spherical(size: str, precision: str) -> Case:
    # The plain rule of Theorem 7 (q = 0). The pull on a feature is 1/n and its squared length p, so angles shrink by
    # e^-10 in 50,000 updates at this rate (100 at the paper's size); the step condition holds with a wide margin.
    shape, steps = SHAPES[size], 50_000
    rate = 10 * shape["dim"] * shape["classes"] * shape["per_class"] / steps
    return Case("spherical", size, precision, **shape, spherical=True, rate=rate, steps=steps, every=100)


SPHERICAL = Workload(
    name="spherical",
    title="Gradient descent of spherical features with a fixed simplex ETF, 50,000 updates",
    unit="steps",
    case=_spherical,
    sizes=("small", "paper"),
    reference=reference.spherical,
    contenders=(
        Contender("unhinged_jax exact", ours.one(uj.exact), costs.planes, ours=True, lowered=ours.lowered(uj.exact)),
        Contender(
            "unhinged_jax simulate", ours.one(uj.simulate), costs.planes, ours=True, lowered=ours.lowered(uj.simulate)
        ),
        Contender("NumPy by hand", by_numpy.spherical, costs.dense_spherical, share={"small": 0.05, "paper": 0.01}),
        Contender(
            "naive JAX", by_jax.descent, costs.spherical_products, share={"paper": 0.02}, lowered=by_jax.lowered_descent
        ),
        Contender(
            "PyTorch", by_torch.descent, costs.spherical_products, share={"small": 0.05, "paper": 0.004},
            needs=("torch",), refuses=by_torch.refuses,
        ),
    ),
    skips={"bfloat16": _BFLOAT16},
)  # fmt: skip


def _entropy(size: str, precision: str) -> Case:
    # The whole is 50,000 updates; everybody is timed on a share of them, logged as often.
    return Case("ce", size, precision, **SHAPES[size], loss="cross_entropy", steps=50_000, every=100)


def _shares(small: float, paper: float) -> dict[str, float]:
    return {"small": small, "paper": paper}


def _float32_only(case: Case) -> str | None:
    return None if case.precision == "float32" else "bfloat16 products belong to the float32 state"


def _entropy_reference(case: Case) -> reference.Curves:
    """In extended precision where that takes seconds, else in float64."""
    wide = np.longdouble if case.size == "small" else np.float64
    return reference.entropy_descent(case.share(_ENTROPY_SHARES[case.size]), wide)


_ENTROPY_SHARES = _shares(0.1, 0.01)

ENTROPY = Workload(
    name="ce",
    title="Gradient descent of cross-entropy, 50,000 updates",
    unit="steps",
    case=_entropy,
    sizes=("small", "paper"),
    reference=_entropy_reference,
    contenders=(
        Contender(
            "unhinged_jax simulate", ours.one(uj.simulate), costs.dense_products, ours=True, share=_ENTROPY_SHARES,
            lowered=ours.lowered(uj.simulate),
        ),
        Contender("NumPy by hand", by_numpy.entropy, costs.dense_products, share=_shares(0.02, 0.004)),
        Contender(
            "naive JAX", by_jax.descent, costs.dense_products, share=_ENTROPY_SHARES, lowered=by_jax.lowered_descent
        ),
        Contender(
            "naive JAX, bfloat16 products", by_jax.descent_bfloat16, costs.dense_products, share=_shares(0.02, 0.004),
            refuses=_float32_only,
        ),
        Contender(
            "PyTorch", by_torch.descent, costs.dense_products, share=_shares(0.05, 0.004), needs=("torch",),
            refuses=by_torch.refuses,
        ),
        Contender(
            "torch.compile", by_torch.descent_compiled, costs.dense_products, patient=True, share=_shares(0.05, 0.004),
            needs=("torch",), refuses=by_torch.refuses,
        ),
    ),
    skips={"bfloat16 states": _BFLOAT16},
)  # fmt: skip
