"""The sections of a design's file: what is chosen, what for, compared with what."""

from __future__ import annotations

import dataclasses

import numpy as np

from unhinged_jax import _check
from unhinged_jax import config as _config
from unhinged_jax.designs.domains import KINDS
from unhinged_jax.precision import NAMES

PLACES = ("run", "limit", "direction", "modes")


@dataclasses.dataclass(frozen=True)
class FreeSection:
    """[design.free.KEY]: a key of the configuration that the design chooses.

    Attributes:
        domain: "real", "positive", "interval", "simplex" or "sphere".
        start: The first value; default the value in the configuration.
        low, high: Ends of an interval, and of the grid of a brute-force reference.
        total: Sum (simplex) or norm (sphere); default that of the start.
        spacing: Spacing of the grid, "linear" (default) or "log".
    """

    domain: str = "real"
    start: float | list | None = None
    low: float | None = None
    high: float | None = None
    total: float | None = None
    spacing: str = "linear"


@dataclasses.dataclass(frozen=True)
class GoalSection:
    """[[design.goal]]: one term of the objective.

    Attributes:
        observe: The quantity.
        of: "run" (default): the observable at the last time. "direction": the observable of the limit direction.
            "limit": a quantity of `limit` (rate, exponent, ...). "modes": "spread", the variance of log sigma over the
            C-1 largest singular values of the signal.
        goal: "minimise" (default), "maximise", or a number to come close to, by the squared difference.
        weight: Factor on the term.
    """

    observe: str
    of: str = "run"
    goal: float | str = "minimise"
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class ReferenceSection:
    """[design.reference]: the optimum with which the design is compared.

    Attributes:
        kind: "grid": brute force over every free key, with `points` per axis, then `zooms` finer grids around the best.
            "equal": all entries equal (of one simplex). "counts": entries proportional to n_c^exponent (of one
            simplex). "value": a known least objective.
        points, zooms, exponent, value: Their settings.
        why: The origin of the reference, in words.
    """

    kind: str
    points: int = 21
    zooms: int = 3
    exponent: float = -0.5
    value: float | None = None
    why: str | None = None


@dataclasses.dataclass(frozen=True)
class DesignSection:
    """[design]: everything but the run.

    Attributes:
        free: The keys that are chosen; see [design.free.KEY].
        goal: The terms of the objective; see [[design.goal]].
        method: "exact" (default) or "simulate".
        reference: What the design is compared with; see [design.reference].
        optimizer: An optax optimiser by name, or a table with its arguments; default Adam at 0.1.
        anneal: Whether its updates fall to 0 along half a cosine (default).
        steps: Number of steps of the outer loop.
        tries: Number of starts to evaluate: the given one, and random ones around it in unconstrained coordinates. The
            loop begins at the best. Default 1; use more if there are several valleys.
        title: Title of the picture.
    """

    free: dict
    goal: list
    method: str = "exact"
    reference: ReferenceSection | None = None
    optimizer: str | dict | None = None
    anneal: bool = True
    steps: int = 300
    tries: int = 1
    title: str | None = None


def check_section(
    design: DesignSection, goals: tuple[GoalSection, ...], free: dict[str, FreeSection], precision: str
) -> None:
    """Raise ValueError for what no design can be made of."""
    _check.choice("method", design.method, ("exact", "simulate"))
    _check.choice("precision", precision, NAMES)
    _check.whole("steps", design.steps, 1)
    _check.whole("tries", design.tries, 1)
    if not goals:
        raise ValueError("give at least one [[design.goal]].")
    if not free:
        raise ValueError('give at least one key to choose, as [design.free."KEY"].')
    for goal in goals:
        _check.choice("of", goal.of, PLACES)
        if isinstance(goal.goal, str):
            _check.choice("goal", goal.goal, ("minimise", "maximise"))
    for entry in free.values():
        _check.choice("domain", entry.domain, KINDS)
        _check.choice("spacing", entry.spacing, ("linear", "log"))
    for key, entry in free.items():
        with _config.placed(f"[design.free.{key!r}]"):
            _check_range(entry, precision)
    for goal in goals:
        _check.finite("weight", goal.weight)
        if not isinstance(goal.goal, str):
            _check.finite("goal", goal.goal)
    if design.reference is not None:
        _check.choice("reference kind", design.reference.kind, ("grid", "equal", "counts", "value"))
        _check.whole("reference points", design.reference.points, 2)
        _check.whole("reference zooms", design.reference.zooms, 0)
        _check.finite("reference exponent", design.reference.exponent)
        if design.reference.kind == "value" and design.reference.value is None:
            raise ValueError("a reference of kind 'value' needs the key 'value'.")


def _check_range(entry: FreeSection, precision: str) -> None:
    """Raise unless the ends of a range are numbers that a grid and an interval can be made of."""
    for name in ("low", "high", "total"):
        if getattr(entry, name) is not None:
            _check.finite(name, getattr(entry, name))
    if entry.total is not None:
        _check.positive("total", entry.total)
    if entry.domain == "interval" and (entry.low is None or entry.high is None):
        raise ValueError("an interval needs `low` below `high`.")
    if entry.low is not None and entry.high is not None and not entry.low < entry.high:
        raise ValueError(f"`low` must be below `high`, but they are {entry.low:g} and {entry.high:g}.")
    tiny = float(np.finfo(precision).tiny)
    if entry.spacing == "log" and entry.low is not None and not entry.low >= tiny:
        raise ValueError(
            f"spacing = 'log' needs `low` above 0, and at least {tiny:.2g} in {precision}, but it is {entry.low:g}."
        )
