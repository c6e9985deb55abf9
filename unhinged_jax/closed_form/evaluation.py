"""One evaluation of a closed form: what it is given, what is saved of a moment, and the trajectory that it makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from unhinged_jax import _check, _loop, _request
from unhinged_jax.closed_form.timeline import Clock
from unhinged_jax.dynamics import Flow
from unhinged_jax.linear.compression import compressible
from unhinged_jax.model import LayerPeeled, State, settled
from unhinged_jax.observables import ObservablePlan, View, evaluate
from unhinged_jax.schedules.elapsed import elapsed
from unhinged_jax.trajectory import RunResult, Trajectory


class Job(NamedTuple):
    """One evaluation: the problem, its start, when it is read, and what is read.

    Attributes:
        model, dynamics, state, plan, states, target: As given to `exact`, checked; `plan` holds the observables.
        clock: When the run is read.
        first_start: The start of the first run in a chain of runs, if distances refer to it, else None.
        memory: What the run begins with beside the state, as a trajectory holds it, or None.
    """

    model: LayerPeeled
    dynamics: Any
    state: State
    clock: Clock
    plan: ObservablePlan
    states: bool
    target: str
    first_start: State | None
    memory: dict[str, jax.Array] | None


def carried_on(job: Job) -> list[dict[str, jax.Array]]:
    """What the run begins with beside the state: a velocity, or the other slots of a memory; none for a fresh start."""
    memory, kept = job.memory, job.dynamics.memory
    if memory is None or kept is None:
        return [] if memory is None else [memory]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], memory) for i in range(len(kept.first) - 1)]


def handed_on(job: Job, beside: list[dict[str, jax.Array]]) -> dict[str, jax.Array]:
    """What a run ends with beside the state, as a trajectory holds it."""
    return beside[0] if job.dynamics.memory is None else jax.tree.map(lambda *slots: jnp.stack(slots), *beside)


def evaluated(job: Job, view_at: Callable[[Any], View], moments: PyTree) -> Trajectory:
    """Evaluate the observables moment by moment, with one state at a time in memory unless states are kept."""
    # A derivative computes a moment again instead of keeping it.
    # A function of one's own may be one that JAX cannot map.
    together = _loop.at_once(job.model.samples, job.model.classes) if compressible(job.plan) else 1
    saved = _loop.read_each(lambda moment: saved_of(job, view_at(moment)), moments, together)
    return trajectory_of(saved, view_at(end_of(moments)), job.clock.times)


def saved_of(job: Job, view: View) -> dict[str, Any]:
    """What is saved at a moment: the observables, and the state if states are kept."""
    saved = {"values": evaluate(job.plan, view)}
    return {**saved, "states": settled(view.state())} if job.states else saved


def end_of(moments: PyTree) -> Any:
    """The last moment."""
    return jax.tree.map(lambda leaf: leaf[-1], moments)


def trajectory_of(saved: dict, last: View, times: jax.Array, reached: jax.Array | None = None) -> Trajectory:
    """The trajectory of what was saved at the times, and of the last view."""
    return Trajectory(
        times=times,
        observables=saved["values"],
        reached=jnp.ones(times.shape[0], bool) if reached is None else reached,
        final=settled(last.state()),
        elapsed=times[-1],
        code=jnp.asarray(RunResult.COMPLETED),
        steps=jnp.asarray(0),
        states=saved.get("states"),
        kind="exact",
    )


def ended_at(found: Trajectory, times: jax.Array, task: _request.Task) -> jax.Array:
    """The time, or the number of updates, at the final state of a run that may not reach the last time."""
    ended = found.elapsed.astype(times.dtype)
    if isinstance(task.dynamics, Flow) and task.dynamics.paced and _check.concrete((found.reached, times)):
        if not bool(found.reached[-1]):
            ended = jnp.asarray(_time_of(float(found.elapsed), task, int(jnp.sum(found.reached))), times.dtype)
    elif isinstance(task.dynamics, Flow):  # whose clock may be zeta
        count = jnp.sum(found.reached)
        ended = jnp.where(count > 0, jnp.asarray(times)[count - 1], jnp.asarray(task.first, times.dtype))
    return jnp.where(found.reached[-1], times[-1], ended)


def _time_of(zeta: float, task: _request.Task, reached: int) -> float:
    """The time at which the integral of the schedule since the start is zeta, after so many of the requested times."""
    from scipy.optimize import brentq  # which few runs need, and which takes a while to import

    schedule, times = task.dynamics.schedule, np.append(task.first, task.times).astype(float)
    before, after = times[reached], times[reached + 1]

    def behind(time: float) -> float:
        return float(elapsed(schedule, task.first, np.asarray([time]))[0]) - zeta

    return brentq(behind, before, after) if behind(before) < 0 < behind(after) else float(before)
