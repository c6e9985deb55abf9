"""Boundaries for pictures, from the numbers of a store alone."""

from __future__ import annotations

from unhinged_jax.config import NotHeld
from unhinged_jax.sweeps.boundaries import Boundary, boundaries
from unhinged_jax.sweeps.lanes import Plan
from unhinged_jax.sweeps.plan import SweepPlan


def lines(plan: Plan, x: str, y: str, places: dict[str, int]) -> list[Boundary]:
    """`boundaries`, or none if they would need numbers that the store does not hold, such as those of a large file."""
    if not isinstance(plan, SweepPlan):  # theory knows nothing of a function
        return []
    try:
        return boundaries(plan, x, y, places)
    except NotHeld:
        return []
