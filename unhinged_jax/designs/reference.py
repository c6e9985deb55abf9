"""The reference of a design: a known optimum, or the best point of a grid."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax.designs.plan import DesignPlan, counts_of
from unhinged_jax.designs.sections import FreeSection

_LARGEST = 3  # numbers that brute force can choose


@dataclasses.dataclass(frozen=True)
class Reference:
    """An optimum: its objective, its values (None if only the objective is known), and its origin."""

    objective: float
    values: dict[str, np.ndarray] | None
    source: str


def reference_of(plan: DesignPlan) -> Reference | None:
    """The reference of a plan.

    Raises:
        ValueError: if brute force would have to choose more than three numbers, or an analytic optimum does not apply.
    """
    section = plan.design.reference
    if section is None:
        return None
    if section.kind == "value":
        return Reference(float(section.value or 0.0), None, section.why or "known optimum")
    if section.kind == "grid":
        return _brute_force(plan, section.points, section.zooms)
    if len(plan.free) != 1 or next(iter(plan.free.values())).kind != "simplex":
        raise ValueError(f"a reference of kind {section.kind!r} requires one free simplex; use 'grid'.")
    ((key, domain),) = plan.free.items()
    size = plan.start[key].size
    shape = np.ones(size) if section.kind == "equal" else counts_of(plan) ** section.exponent
    best = {key: domain.total * shape / shape.sum()}
    value = float(plan.compiled("objective", plan.objective)({key: jnp.asarray(x) for key, x in best.items()}))
    default = "equal steps" if section.kind == "equal" else f"n_c^{section.exponent:g}"
    return Reference(value, best, section.why or default)


@dataclasses.dataclass(frozen=True)
class _Axis:
    """One number of the grid: its key, its place in the parameter, and its range in grid coordinates."""

    key: str
    place: int | None
    low: float
    high: float
    log: bool

    def points(self, count: int, centre: float | None, width: float) -> np.ndarray:
        """Grid coordinates: all of the range, or the part of relative width `width` around a centre."""
        low, high = np.log([self.low, self.high]) if self.log else (self.low, self.high)
        if centre is not None:
            middle, half = (np.log(centre) if self.log else centre), width * (high - low) / 2
            low, high = max(low, middle - half), min(high, middle + half)
        values = np.linspace(low, high, count)
        return np.exp(values) if self.log else values


def _axes(plan: DesignPlan) -> list[_Axis]:
    axes = []
    for key, domain in plan.free.items():
        section: FreeSection = plan.sections[key]
        size, log = plan.start[key].size, section.spacing == "log"
        if domain.kind == "simplex":
            axes += [_Axis(key, i, domain.total * 1e-3, domain.total * (1 - 1e-3), False) for i in range(size - 1)]
        elif size == 1 and section.low is not None and section.high is not None:
            axes.append(_Axis(key, None, section.low, section.high, log))
        else:
            raise ValueError(f"brute force needs `low` and `high` for one number at {key!r}, or a simplex.")
    if len(axes) > _LARGEST:
        raise ValueError(f"brute force chooses at most {_LARGEST} numbers, but here there are {len(axes)}.")
    return axes


def _brute_force(plan: DesignPlan, points: int, zooms: int) -> Reference:
    axes = _axes(plan)
    evaluate = plan.compiled("objectives", lambda stack: jax.lax.map(plan.objective, stack, batch_size=64))
    best: np.ndarray | None = None
    value, tried, width = np.inf, 0, 1.0
    for _ in range(zooms + 1):
        lines = [axis.points(points, None if best is None else best[i], width) for i, axis in enumerate(axes)]
        corners = np.asarray(list(itertools.product(*lines)))
        stack, fits = _assembled(plan, axes, corners)
        found = np.asarray(evaluate({key: jnp.asarray(x) for key, x in stack.items()}))
        found = np.where(fits & np.isfinite(found), found, np.inf)
        tried += int(fits.sum())
        if not np.any(np.isfinite(found)):
            raise ValueError("brute force found no point with a finite objective; check the ranges of the free keys.")
        if found.min() <= value:
            value, best = float(found.min()), corners[int(found.argmin())]
        width *= 4 / (points - 1)
    assert best is not None
    chosen, _ = _assembled(plan, axes, best[None])
    return Reference(value, {key: x[0] for key, x in chosen.items()}, f"brute force, {tried:,} points")


def _assembled(plan: DesignPlan, axes: list[_Axis], corners: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Parameters at grid points, and which points lie in their domains. Points outside are put at the middle."""
    fits = np.ones(len(corners), bool)
    stack: dict[str, Any] = {}
    for key, domain in plan.free.items():
        columns = corners[:, [i for i, axis in enumerate(axes) if axis.key == key]]
        if domain.kind == "simplex":
            last = domain.total - columns.sum(axis=1, keepdims=True)
            inside = last[:, 0] >= domain.total * 1e-3
            equal = np.full((len(corners), columns.shape[1] + 1), domain.total / (columns.shape[1] + 1))
            stack[key] = np.where(inside[:, None], np.concatenate([columns, last], axis=1), equal)
            fits &= inside
        else:
            stack[key] = columns[:, 0]
    return stack, fits
