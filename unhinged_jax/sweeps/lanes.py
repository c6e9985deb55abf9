"""What one lane of a block computes, for either kind of plan."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import unhinged_jax as uj
from unhinged_jax.config import Config
from unhinged_jax.sweeps import functions, groups, stiffness
from unhinged_jax.sweeps.function_plan import FunctionPlan
from unhinged_jax.sweeps.grouping import Grouping
from unhinged_jax.sweeps.plan import SweepPlan, set_key

Plan = SweepPlan | FunctionPlan


@dataclasses.dataclass(frozen=True)
class Lane:
    """One point of a block.

    Attributes:
        run: Values by key -> observables, why and where the point ended, how many steps it took.
        dtypes: Number types of the values.
        precision: "float32" or "float64".
        structure: What its program depends on, as a text; lanes that share it share a program.
        vmap: Whether it can be traced and mapped.
    """

    run: Callable[[dict[str, Any]], dict[str, Any]]
    dtypes: dict[str, np.dtype]
    precision: str
    structure: str
    vmap: bool = True


def grouping_of(plan: Plan) -> Grouping:
    """How a plan is divided into programs."""
    return functions.function_grouping(plan) if isinstance(plan, FunctionPlan) else groups.grouping_of(plan)


def in_order(plan: Plan, grouping: Grouping) -> tuple[Plan, tuple[int, ...]]:
    """The plan, its random points sorted, and the order in which blocks fill dimensions."""
    if isinstance(plan, FunctionPlan):
        return plan, tuple(reversed(range(len(plan.dims))))
    return stiffness.by_stiffness(plan, grouping)


def lane_of(
    plan: Plan, places: Mapping[str, int], keys: tuple[tuple[str, ...], ...], inputs: dict[str, str], source: str | None
) -> Lane:
    """The lane of a group.

    Args:
        places: Index of its first point along the dimensions that separate groups.
        keys: Keys that vary inside it, for each dimension.
        inputs: SHA-256 of the files with which the sweep began.
        source: Plan file that the user gave; None if the plan came from elsewhere.
    """
    if isinstance(plan, FunctionPlan):
        fixed = {name: int(place) for name, place in places.items()}
        # Not shared between calls of `sweep`: what a function reads may have changed. The lane keeps the plan alive.
        shown = json.dumps([id(plan), fixed, keys])
        return Lane(
            lambda values: functions.call(plan, fixed, values), functions.dtypes_of(plan), plan.precision, shown,
            plan.vmap,
        )  # fmt: skip
    config, method = plan.config_at(places), plan.sweep.method
    if source is None:
        _refuse_names(config.as_dict())
    folder = None if source is None else str(Path(source).parent)
    return Lane(
        lambda values: _point(config, method, values, inputs),
        {key: groups.dtype_of(key, plan.precision) for names in keys for key in names},
        plan.precision,
        json.dumps([_structure(config, keys), inputs, folder, method]),
    )


def _point(config: Config, method: str, values: dict[str, Any], inputs: dict[str, str]) -> dict[str, Any]:
    problem = groups.build_traced(config, values)
    for name, found in problem.inputs.items():
        if inputs.get(name) != found:
            raise ValueError(
                f"{config.path.parent / name} is not the file with which this sweep began; restore it, or choose "
                "another --store."
            )
    solve: Callable[..., Any] = uj.exact if method == "exact" else partial(uj.simulate, **problem.drawn)
    run = solve(
        problem.model, problem.dynamics, problem.state, problem.times, problem.observe,
        target=problem.target, precision=problem.precision,
    )  # fmt: skip
    return {
        "observables": run.observables, "code": run.code, "elapsed": run.elapsed, "steps": run.steps,
        "reached": run.reached,
    }  # fmt: skip


def _structure(config: Config, keys: tuple[tuple[str, ...], ...]) -> list[Any]:
    """What a program depends on: the configuration without the values of its data, and the names of its data."""
    tables = config.as_dict()
    for key in (key for names in keys for key in names):
        set_key(tables, key, None)
    return [tables, keys]


def _refuse_names(given: object) -> None:
    """Raise ValueError if a configuration names a file or a function, because the author of the plan is unknown
    here."""
    if isinstance(given, str) and (":" in given or given.endswith((".npy", ".npz"))):
        raise ValueError(f"the store names {given!r}, but a store is data; run it with the plan that names it.")
    for one in given.values() if isinstance(given, dict) else given if isinstance(given, list) else ():
        _refuse_names(one)
