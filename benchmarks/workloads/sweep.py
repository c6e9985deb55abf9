"""Many small runs: seeds and trade-offs."""

from __future__ import annotations

import unhinged_jax as uj
from benchmarks import costs, ours, reference
from benchmarks.case import Case
from benchmarks.contender import Contender, Workload
from benchmarks.peers import by_jax, by_torch
from benchmarks.workloads.sizes import SHAPES

# Around 1/(C-1) = 1/9 and below 2/(C-2) = 1/4, beyond which another limit wins.
_GAMMAS = (0.05, 0.08, 1 / 9, 0.15, 0.2)


def _case(size: str, precision: str) -> Case:
    seeds, steps = {"small": (4, 400), "paper": (64, 2000)}[size]
    return Case("sweep", size, precision, **SHAPES["small"], gamma=_GAMMAS, seeds=seeds, steps=steps, every=steps // 20)


SWEEP = Workload(
    name="sweep",
    title="64 seeds x 5 trade-offs x 2,000 updates at p=64, C=10, N=10, 21 points per run (small: 4 x 5 x 400)",
    unit="runs",
    case=_case,
    sizes=("small", "paper"),
    reference=reference.linear,
    contenders=(
        Contender(
            "unhinged_jax exact", ours.sweep(uj.exact), costs.closed_form, ours=True,
            lowered=ours.lowered_sweep(uj.exact),
        ),
        Contender(
            "unhinged_jax simulate", ours.sweep(uj.simulate), costs.class_sums, ours=True,
            lowered=ours.lowered_sweep(uj.simulate),
        ),
        Contender("naive JAX, vmap", by_jax.sweep_by_vmap, costs.dense_products, share={"paper": 0.1}),
        Contender(
            "naive JAX, loop of jit", by_jax.sweep_by_loop, costs.dense_products, share={"paper": 0.125},
            fewer_runs=True,
        ),
        Contender(
            "torch.func.vmap", by_torch.sweep_by_vmap, costs.dense_products, share={"paper": 0.1, "small": 0.5},
            needs=("torch",), refuses=by_torch.refuses,
        ),
        Contender(
            "PyTorch", by_torch.sweep_by_loop, costs.dense_products, share={"paper": 1 / 64, "small": 0.25},
            fewer_runs=True, needs=("torch",), refuses=by_torch.refuses,
        ),
    ),
    precisions=("float32",),
    skips={"float64": "the sweep measures speed, and runs in float32", "bfloat16": "as for descent"},
)  # fmt: skip
