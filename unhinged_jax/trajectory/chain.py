"""Runs, each of which continues the one before, as one run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from unhinged_jax import _check, _memory
from unhinged_jax._numbers import same_times
from unhinged_jax._values import same
from unhinged_jax.trajectory.results import Remark
from unhinged_jax.trajectory.run import Trajectory


def concat(runs: Sequence[Trajectory]) -> Trajectory:
    """Join runs, each of which continues the one before, into one.

    Args:
        runs: Trajectories in order, or batches of them of one shape: the second was made by giving the first to
            `simulate` or `exact` in place of a state, and so on.

    Returns:
        A `Trajectory` with the times of all of them and the end of the last one, from which it continues like that one.
        Times that an earlier run did not reach are left out; in a batch, those that no member reached. A time at which
        one run ends and the next one is read first is kept once.

    Raises:
        ValueError: if a run does not begin where the one before ended, or if they differ in kind, clock, observables,
            precision, sizes, the shape of the batch, or whether they kept states.

    Source: beyond the paper.

    Example:
        >>> import jax, unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(classes=2, per_class=1), dim=2)
        >>> descent = uj.Descent(0.1, momentum=0.9)
        >>> first = uj.simulate(model, descent, model.init(jax.random.key(0)), [0, 5], "norm")
        >>> second = uj.simulate(model, descent, first, [10], "norm")
        >>> uj.concat([first, second]).times.tolist()
        [0, 5, 10]
    """
    if isinstance(runs, Trajectory) or not isinstance(runs, Sequence) or not runs:
        raise ValueError(f"runs must be a list of one or more trajectories, but got {_check.given(runs)}.")
    for place, run in enumerate(runs):
        _check.kind(f"runs[{place}]", run, Trajectory)
        run.check_known("`concat`")
    pieces = [runs[0]]
    for place, run in enumerate(runs[1:], start=1):
        _check_goes_on(runs[place - 1], run, place)
        pieces[-1] = _where_reached(pieces[-1])
        pieces.append(_without_repeated(pieces[-1], run))
    first, last = runs[0], runs[-1]
    joined = _rows(lambda *parts: np.concatenate(parts, axis=len(last.batch)), *pieces)
    forms = dict.fromkeys(str(run.form) for run in runs if str(run.form))
    return dataclasses.replace(
        last,
        times=joined.times,
        observables=joined.observables,
        reached=joined.reached,
        states=joined.states,
        steps=sum(_memory.read(run.steps).astype(np.int64) for run in runs),
        form=Remark("; then ".join(forms)),
        origin=first.origin,
        began=first.began,
    )


def _rows(change: Callable[..., np.ndarray], *runs: Trajectory) -> Trajectory:
    """The first of some runs, with what a function makes of the rows of all of them."""

    def of(part: Callable[[Trajectory], PyTree]) -> Any:
        return jax.tree.map(lambda *rows: change(*map(_memory.read, rows)), *map(part, runs))

    return dataclasses.replace(
        runs[0],
        times=of(lambda run: run.times),
        observables={name: of(lambda run, name=name: run[name]) for name in runs[0].observables},  # type: ignore[misc]
        reached=of(lambda run: run.reached),
        states=of(lambda run: run.states),
    )


def _where_reached(run: Trajectory) -> Trajectory:
    axes = tuple(range(len(run.batch)))
    kept = np.flatnonzero(np.any(_memory.read(run.reached), axis=axes))
    return _rows(lambda rows: np.take(rows, kept, axis=len(axes)), run)


def _without_repeated(before: Trajectory, run: Trajectory) -> Trajectory:
    """The run without its first time, if the run before ended by reading it."""
    ended, begins = (_memory.read(times) for times in (before.times, run.times))
    if ended.shape[-1] and begins.shape[-1] and np.all(same_times(ended[..., -1], begins[..., 0])):
        return _rows(lambda rows: np.delete(rows, 0, axis=len(run.batch)), run)
    return run


def _check_goes_on(before: Trajectory, run: Trajectory, place: int) -> None:
    """Raise unless a run continues the one before it."""
    names = f"runs[{place - 1}] and runs[{place}]"
    facts: dict[str, Callable[[Trajectory], object]] = {
        "in the shape of the batch": lambda run: run.batch,
        "in kind": lambda run: run.kind,
        "in precision": lambda run: _memory.read(run.final.W).dtype.name,
        "in the sizes of the state": lambda run: tuple(map(np.shape, run.final.factors().values())),
        "in what was observed": lambda run: sorted(run.observables),
        "in the shapes of observables": lambda run: {
            name: array.shape[len(run.batch) + 1 :] for name, array in run.arrays().items()
        },
        "in whether they kept states (`states=True`)": lambda run: run.states is not None,
        "in what `elapsed` counts": lambda run: run.clock,
    }
    for what, fact in facts.items():
        one, other = fact(before), fact(run)
        if one != other and "" not in (one, other):
            raise ValueError(f"{names} differ {what}, {one} and {other}, so they cannot be joined.")
    ended = _memory.read(before.elapsed)
    began = ended if run.began is None else run.began
    origins = (before.origin, run.origin)
    if not (np.all(same_times(began, ended)) and (None in origins or same(*origins))):
        raise ValueError(
            f"runs[{place}] does not continue runs[{place - 1}], which ended at {_check.shown(ended)}; give "
            f"runs[{place - 1}] itself, not its `final`, to `simulate` or `exact` in place of a state."
        )
    times = _memory.read(run.times)
    if np.any((times < ended[..., None]) & ~same_times(times, ended[..., None])):
        raise ValueError(f"runs[{place}] has times before {_check.shown(ended)}, where runs[{place - 1}] ended.")
