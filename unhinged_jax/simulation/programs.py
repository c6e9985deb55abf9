"""The programs that are compiled for a simulation: a descent or a flow, in the form that was chosen."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _loop
from unhinged_jax._request.compiling import compiled, read_off
from unhinged_jax.dynamics import Descent, Diffusion, Flow, bare_rates, carried_by
from unhinged_jax.linear.leading_part import leading_parts
from unhinged_jax.model import LayerPeeled, State, multiplied, settled
from unhinged_jax.model.state import with_scale
from unhinged_jax.observables import ObservablePlan
from unhinged_jax.simulation import descent as _descent
from unhinged_jax.simulation import flow as _flow
from unhinged_jax.simulation.choose import Choice, moving_numbers
from unhinged_jax.simulation.columns import ColumnSystem, column_system
from unhinged_jax.simulation.crossing import Crossing, Heights, first_crossing
from unhinged_jax.simulation.deep import deep_system
from unhinged_jax.simulation.dense import DenseSystem
from unhinged_jax.simulation.diffused import DiffusedSystem
from unhinged_jax.simulation.group import group_system
from unhinged_jax.simulation.inertial import inertial
from unhinged_jax.simulation.linear import LinearSystem, linear_system
from unhinged_jax.simulation.logits import LogitSystem
from unhinged_jax.simulation.paced import paced
from unhinged_jax.simulation.remembering import remembering
from unhinged_jax.simulation.sampled import SampledSystem, Sampling, spanning
from unhinged_jax.simulation.spherical import plane_system
from unhinged_jax.simulation.system import Reader, System, reader
from unhinged_jax.special import faint, largest
from unhinged_jax.trajectory import Trajectory

_VELOCITIES = 1 << 12  # that a solver asks for in some hundreds of steps


class Job(NamedTuple):
    """One simulation: the problem, its start, what is read, and how it is simulated.

    Attributes:
        model, dynamics, state, plan, states, target: As given to `simulate`, checked; `plan` holds the observables.
        first: The time, or the number of updates, at the start, ().
        memory: What the run begins with in addition to the state, or None.
        first_start: The start of the first run in a chain of runs, if distances refer to it, else None.
        choice: How the problem is simulated.
        sampling: What each update draws, or None.
        keys: Words of the three keys from which it is drawn, or None.
    """

    model: LayerPeeled
    dynamics: Any
    state: State
    first: jax.Array
    memory: Any
    plan: ObservablePlan
    states: bool
    target: str
    first_start: State | None
    choice: Choice
    sampling: Sampling | None
    keys: Any


def _work(job: Job, times: Any, steps: int) -> float:
    """About how many numbers are computed in a run."""
    if job.sampling is not None:
        return math.inf  # what is drawn is one path bit for bit, also inside `jax.jit`, where all is optimized
    return read_off(job.model, np.size(times)) + steps * moving_numbers(job.model, job.choice)


@compiled(work=lambda job, times, reads, *_, **__: _work(job, times, reads.updates))
def descend(
    job: Job, times: jax.Array, reads: _loop.Reads, to_the_last: bool, piece: _loop.Piece | None = None
) -> Trajectory | _loop.Paused:
    """Run a descent in the form that was chosen; or do one piece of it, and give back where it pauses."""
    system, memory, reads = _system(job), job.memory, reads._replace(together=job.choice.together)
    if isinstance(memory, dict):
        memory = _over_the_scale(system, job.state, memory)
    if job.dynamics.memory is not None:
        system, memory = remembering(system, job.dynamics, memory), None
    out = _descent.run(system, job.dynamics, reads, job.first, _reader(job, system), memory, to_the_last, piece=piece)
    if isinstance(out, _loop.Paused):
        return out
    return Trajectory(
        times=times,
        observables=out["values"],
        reached=out["reached"],
        final=settled(out["view"].state()),
        elapsed=(job.first + out["updates"]) * (1 if isinstance(job.dynamics, Descent) else job.dynamics.step),
        code=out["code"],
        steps=out["updates"],
        states=out.get("states"),
        memory=out["memory"],
    )


@compiled(
    work=lambda job, times, *_: _work(job, times, _VELOCITIES),
    reversible=lambda _job, _times, adjoint: adjoint is None or isinstance(adjoint, diffrax.RecursiveCheckpointAdjoint),
)
def integrate(job: Job, times: ArrayLike, adjoint: diffrax.AbstractAdjoint | None) -> Any:
    """Integrate a flow in the form that was chosen; or do a piece of it (`InPieces`), and give back where it pauses."""
    system, dtype = _flow_system(job), job.state.W.dtype
    times, first = jnp.asarray(times, dtype), jnp.asarray(job.first, dtype)
    out = _flow.run(system, job.dynamics, times, first, _reader(job, system), job.choice, adjoint)
    if not isinstance(out, dict):
        return out
    return Trajectory(
        times=times,
        observables=out["values"],
        reached=out["reached"],
        final=settled(out["view"].state()),
        elapsed=out["elapsed"],
        code=out["code"],
        steps=out["steps"],
        states=out.get("states"),
        memory=out["memory"],
    )


def find(job: Job, times: ArrayLike, heights: Heights) -> Crossing:
    """Integrate a flow in the form that was chosen until a condition holds."""
    dtype = job.state.W.dtype
    times, first = jnp.asarray(times, dtype), jnp.asarray(job.first, dtype)
    system = _flow_system(job)
    return first_crossing(system, job.dynamics, times, first, _reader(job, system), heights, job.choice)


def _reader(job: Job, system: System) -> Reader:
    return reader(system, job.plan, job.states, job.choice.compressed)


def _system(job: Job) -> System:
    """The system of the job, in the form that was chosen, with the gradients that its dynamics asks for."""
    return paced(_with_plain_gradients(job), job.dynamics, job.model.labels)


def _flow_system(job: Job) -> System:
    """The system of the job, with what a flow carries in addition to the state."""
    system, dtype = _system(job), job.state.W.dtype
    memory = None if job.memory is None else _over_the_scale(system, job.state, job.memory)
    if job.dynamics.damping is not None:
        given = None if job.dynamics.memory is not None else memory
        system = inertial(system, job.dynamics.damping, bare_rates(job.dynamics, dtype), given)
    if job.dynamics.memory is not None:
        system = remembering(system, job.dynamics, memory)
    return system


def _with_plain_gradients(job: Job) -> System:
    model, dynamics, state, choice = job.model, job.dynamics, job.state, job.choice
    if choice.form == "linear":
        part, origin = None, None
        if choice.leading:
            part, origin = leading_parts(model, dynamics, state, job.first_start, job.target)
        per_rate = carried_by(dynamics) == "momentum"
        return linear_system(model, state, part, choice, job.memory, origin, per_rate)
    if choice.form == "group":
        return group_system(model, state, choice.group, scaled=isinstance(dynamics, Descent))
    if choice.form == "deep":
        return deep_system(model, state)
    if choice.form in ("columns", "logits"):
        columns = column_system(model, state, scaled=isinstance(dynamics, Descent) and not dynamics.paced)
        if choice.form == "columns":
            return columns
        return LogitSystem(model, columns.H, columns.W, columns.b, columns.targets, columns.power)
    if choice.form == "sampled" and choice.scaled:
        return _sampled(job, state.H, state.W, jnp.asarray(state.log_scale, state.W.dtype))
    # An array that the scale makes too small for its type becomes NaN, because a trace cannot raise an error about it.
    H, W = (
        jnp.where((largest(part) >= faint(part.dtype)) & (largest(moved) < faint(part.dtype)), jnp.nan, moved)
        for part, moved in zip((state.H, state.W), multiplied(state), strict=True)
    )
    if choice.form == "sphere":
        return plane_system(model, H, W, state.b, logarithmic=isinstance(dynamics, Flow))
    if isinstance(dynamics, Diffusion):
        assert job.sampling is not None
        return DiffusedSystem(model, H, W, state.b, job.keys, job.sampling.generator, dynamics, job.first)
    return _sampled(job, H, W) if choice.form == "sampled" else DenseSystem(model, H, W, state.b)


def _sampled(job: Job, H: jax.Array, W: jax.Array, log_scale: jax.Array | None = None) -> SampledSystem:
    """The system of a descent that draws, from H and W divided by the scale that is carried separately, if any."""
    assert job.sampling is not None
    model, basis = job.model, None
    if job.choice.spanned:
        basis = spanning(H, W)
        H, W, model = H @ basis, W @ basis, dataclasses.replace(model, dim=basis.shape[1])
    return SampledSystem(model, H, W, job.state.b, job.keys, job.sampling, job.first, log_scale, basis)


def _over_the_scale(system: System, state: State, memory: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """A velocity given in units of the scale of the state, converted to the units of the arrays of the system."""
    if isinstance(system, LinearSystem) or (system.groups and isinstance(system, SampledSystem)):
        return memory
    power = system.power if isinstance(system, ColumnSystem) else 0
    names = [name for name in memory if name != "b"]
    return {**memory, **dict(zip(names, with_scale(state, [memory[name] for name in names], power), strict=True))}
