"""Sizes that workloads share."""

from __future__ import annotations

from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    # 110 x 64 numbers: fits a first- or second-level cache.
    "small": {"classes": 10, "per_class": 10, "dim": 64},
    # The paper's Figure 1.
    "paper": {"classes": 100, "per_class": 10, "dim": 512},
    # 82 million numbers, 330 MB in float32: beyond the last-level cache of any processor of today.
    "large": {"classes": 100, "per_class": 400, "dim": 2048},
}


def growth(size: str) -> float:
    """sigma_1 = (1 + gamma)/(C sqrt N) at gamma = 1/(C-1): how fast the contrasts grow."""
    shape = SHAPES[size]
    return 1 / ((shape["classes"] - 1) * shape["per_class"] ** 0.5)


def pace(size: str) -> float:
    """How much slower than at the paper's size the clock must tick for the same curves; 1 there."""
    return growth("paper") / growth(size)
