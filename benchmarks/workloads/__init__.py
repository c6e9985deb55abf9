"""The workloads: what is computed, by whom, at which sizes."""

from __future__ import annotations

from benchmarks.contender import Workload


def all_workloads() -> dict[str, Workload]:
    """Name -> workload, in the order of the report."""
    from benchmarks.workloads import closed_form, descent, flow, gradient, stochastic, sweep, training

    every = (
        descent.UNCONSTRAINED, descent.SPHERICAL, descent.ENTROPY, flow.REGULARISED, flow.ENTROPY,
        sweep.SWEEP, stochastic.STOCHASTIC, closed_form.EXACT, gradient.GRADIENT, training.TRAINING,
    )  # fmt: skip
    return {workload.name: workload for workload in every}
