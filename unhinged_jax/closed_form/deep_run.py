"""The run of a stack of more than two factors in closed form: until its last time, or until a mode is infinite."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from unhinged_jax import _loop
from unhinged_jax._request.compiling import compiled
from unhinged_jax.closed_form.deep import alive_at, descent_values, moment, start_of
from unhinged_jax.closed_form.evaluation import Job, saved_of, trajectory_of
from unhinged_jax.trajectory import RunResult, Trajectory


@compiled()
def run(job: Job, known: bool) -> Trajectory:
    """Evaluate a stack of more than two factors from a balanced spectral start."""
    start, dtype = start_of(job.model, job.dynamics, job.state, known), job.state.W.dtype
    reads, first, times = job.clock.reads, job.clock.first, job.clock.times
    if isinstance(reads, _loop.Reads):
        last, updates, saved, reached = descent_values(
            start, job.dynamics, reads, first, lambda view: saved_of(job, view)
        )
        found, whole = trajectory_of(saved, last, times, reached), updates == reads.updates
        code = jnp.where(whole, RunResult.COMPLETED, RunResult.OVERFLOW)
        return dataclasses.replace(found, elapsed=first + updates, code=code)
    schedule = job.dynamics.schedule
    taus = (schedule.integral(times.astype(dtype)) - schedule.integral(first)).astype(dtype)
    reached = jax.lax.stop_gradient(alive_at(start, taus))
    # For a time that is not reached the start is evaluated, where every value and derivative is finite.
    taus = jnp.where(reached, taus, 0.0)
    saved = jax.lax.map(jax.checkpoint(lambda tau: saved_of(job, moment(start, tau))), taus)
    last = taus[jnp.maximum(jnp.sum(reached) - 1, 0)]
    found = trajectory_of(_loop.blanked(saved, reached), moment(start, last), times, reached)
    return dataclasses.replace(found, code=jnp.where(reached[-1], RunResult.COMPLETED, RunResult.OVERFLOW))
