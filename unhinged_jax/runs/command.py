"""`unhinged simulate`: run or resume the problem of a file, and write the results into a folder."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unhinged_jax import _interrupt, _memory
from unhinged_jax._terminal import spinner
from unhinged_jax.closed_form import exact as solve_exactly
from unhinged_jax.config import Config, Problem, build, read_config
from unhinged_jax.runs import files
from unhinged_jax.runs.identity import refuse_other
from unhinged_jax.simulation import simulate
from unhinged_jax.trajectory import RunResult, Trajectory, concat

STOPPED_EARLY = 3

# What a resumed run may change: the times, and the number of solver steps.
_MAY_CHANGE = {"run": ("until", "points", "spacing", "first", "times", "precision"), "dynamics": ("max_steps",)}


def run(config: Path, out: Path, *, force: bool, resume: bool, precision: str | None, exact: bool) -> int:
    """Run the problem of a file into a folder; see `unhinged simulate --help`."""
    with spinner("Loading"):
        read = read_config(config)
        problem = build(read, precision)
        identity = _identity(read, problem, exact)
    started = time.perf_counter()
    with files.workspace(out, force=force, resume=resume) as place:
        before = None
        if resume:
            stored = files.read_run(out, problem.dynamics)
            refuse_other(stored.identity, identity, out)
            before = stored.trajectory
        with spinner("Solving") if exact else nullcontext(), _named(config):
            trajectory = _run(problem, exact, before)
        facts = {
            "run": read.as_dict()["run"],
            "continued_from": None if before is None else np.asarray(before.elapsed).item(),
            "seconds": round(time.perf_counter() - started, 3),
        }
        kept = _interrupt.UNCHANGED
        with _interrupt.left(lambda: kept), _interrupt.held(), spinner("Writing"):
            files.write_run(out, place, trajectory, identity, facts)
            kept = _kept(trajectory, out)
    print(trajectory)
    return _status(trajectory)


def _kept(trajectory: Trajectory, out: Path) -> str:
    reached = _memory.read(trajectory.reached)
    more = "" if reached.all() else "; the same with --resume continues"
    return f"{np.sum(reached):,} of {reached.size:,} times are kept in {out}{more}."


@contextmanager
def _named(config: Path) -> Iterator[None]:
    """Name the file in the library's messages about its values."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{config}: {error}") from error


def _run(problem: Problem, exact: bool, before: Trajectory | None) -> Trajectory:
    times = problem.times
    start: Any = problem.state
    if before is not None:
        times, start = times[times > before.elapsed], before
        if not times.size:
            raise ValueError(f"the run has reached {before.elapsed:g} already; raise `until` in [run] to continue.")
    solve: Callable[..., Trajectory] = solve_exactly if exact else partial(simulate, progress=True, **problem.drawn)
    after = solve(
        problem.model, problem.dynamics, start, times, problem.observe,
        states=problem.states, target=problem.target, precision=problem.precision,
    )  # fmt: skip
    after = _memory.read_all(after)
    # JAX sorts the keys of a dictionary; here they get back the requested order.
    order = [name for name in problem.observe if name in after.observables]
    after = dataclasses.replace(after, observables={name: after[name] for name in order})
    return after if before is None else concat([before, after])


def _identity(config: Config, problem: Problem, exact: bool) -> dict[str, Any]:
    """What two commands must have in common to be parts of one run."""
    sections = config.as_dict()
    for section, keys in _MAY_CHANGE.items():
        sections[section] = {k: v for k, v in sections[section].items() if k not in keys}
    return {"config": sections, "inputs": problem.inputs, "precision": problem.precision, "exact": exact}


def _status(trajectory: Trajectory) -> int:
    if trajectory.result in (RunResult.COMPLETED, RunResult.STEADY):
        return 0
    print(f"unhinged: stopped early: {trajectory.result.message}", file=sys.stderr)
    return STOPPED_EARLY
