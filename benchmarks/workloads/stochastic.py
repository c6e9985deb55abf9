"""Many runs whose updates draw batches."""

from __future__ import annotations

import unhinged_jax as uj
from benchmarks import costs, ours, reference
from benchmarks.case import Case
from benchmarks.contender import Contender, Workload
from benchmarks.peers import by_jax
from benchmarks.workloads.sizes import SHAPES

RUNS = 1024
# The paper's width with few samples; and more samples and classes than half of the dimensions, where nothing is saved.
_SHAPES = {"paper": {"classes": 4, "per_class": 4, "dim": 512}, "small": SHAPES["small"]}


def _case(size: str, precision: str) -> Case:
    batch, rate = {"paper": (4, 0.05), "small": (10, 0.1)}[size]
    return Case(
        "stochastic", size, precision, **_SHAPES[size], rate=rate, decay=0.01, steps=100, every=10, seeds=RUNS,
        batch=batch,
    )  # fmt: skip


STOCHASTIC = Workload(
    name="stochastic",
    title="1,024 runs x 100 updates with batches of m, from one start: C=4, N=4, p=512, m=4 (small: 10, 10, 64, 10)",
    unit="runs",
    case=_case,
    sizes=("small", "paper"),
    reference=reference.stochastic,
    contenders=(
        Contender("unhinged_jax simulate", ours.ensemble(uj.simulate), costs.drawn_rows, ours=True),
        Contender("plain JAX SGD, vmap, rows", by_jax.stochastic_by_rows, costs.drawn_rows),
        Contender("plain JAX SGD, 32 at a time", by_jax.stochastic_by_rows_in_groups, costs.drawn_rows),
        Contender("plain JAX SGD, vmap, weights", by_jax.stochastic_by_weights, costs.dense_products),
    ),
    precisions=("float32",),
    skips={"float64": "as for the sweep", "bfloat16": "as for descent"},
)
