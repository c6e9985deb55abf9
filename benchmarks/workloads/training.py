"""A training step of a network with the practical heads."""

from __future__ import annotations

from benchmarks import reference
from benchmarks.case import Case
from benchmarks.contender import Workload
from benchmarks.workloads.sizes import SHAPES

TRAINING = Workload(
    name="training",
    title="A training step with the practical heads",
    unit="steps",
    case=lambda size, precision: Case("training", size, precision, **SHAPES["small"]),
    sizes=("small",),
    reference=reference.linear,
    contenders=(),
    skips={"training": "the library has no training module yet"},
)
