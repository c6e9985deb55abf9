"""The plan of the width sweep of the tangent-kernel prediction, and what it measures."""

from __future__ import annotations

import dataclasses

import numpy as np

_LOOKS = 31
FACTS = ("features", "class_kernel", "prototypes", "loss", "loss_predicted", "accuracy", "accuracy_predicted", "moved")


@dataclasses.dataclass(frozen=True)
class KernelSection:
    """[kernel]: the problem, the widths, and how long to train."""

    data: str = "digits"
    classes: int = 5
    per_class: int = 6
    features: int = 6
    widths: list = dataclasses.field(default_factory=lambda: [64, 128, 256])
    seeds: int = 5
    rate: float = 0.05
    updates: int = 150
    fixed: int = 50


def times_of(asked: KernelSection) -> np.ndarray:
    """Numbers of updates at which network and prediction are compared."""
    spread = np.round(np.linspace(0, asked.updates, _LOOKS)).astype(int)
    return np.unique(np.append(spread, asked.fixed))
