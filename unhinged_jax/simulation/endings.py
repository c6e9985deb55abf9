"""Why a flow ends: the conditions that are watched while it is solved, and the `RunResult` of a solution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import optimistix
from jaxtyping import PyTree

from unhinged_jax.dynamics import Flow
from unhinged_jax.simulation.large_states import Time
from unhinged_jax.simulation.system import Body, Scaled, System
from unhinged_jax.special import faint, largest, safe_norm
from unhinged_jax.trajectory import RunResult


def endings_of(
    system: System,
    flow: Flow,
    velocities: tuple[Callable[[Time, Any, list[Any]], Any], Callable[[Time, Any, list[Any]], Any]],
    rtol: float,
    atol: float,
    begin: Scaled,
    parts: Callable[[Any], Scaled],
) -> dict[str, Callable[..., jax.Array]]:
    """The conditions that end a run early: it is steady, or it leaves the floating-point range.

    Args:
        system, flow, rtol, atol: As in the solution.
        velocities: (time, y, args) -> velocity, as it is and without schedules.
        begin: The start.
        parts: The same of what the solver is given.
    """
    field, bare = velocities
    conditions: dict[str, Any] = {}
    if flow.steady:

        def steady(t: Time, y: Any, args: PyTree, *, t0: Time, **kwargs: Any) -> jax.Array:
            # A run does not end before its first step, so that the start is read.
            norm = optimistix.rms_norm
            return (t > t0) & (norm(bare(t, y, args)) < atol + rtol * norm(y))

        conditions["steady"] = steady
    # While one array of a group grows, the share of another that stays shrinks, and its velocity is that share squared.
    shrinking = [(i, name) for i, names in enumerate(system.groups) for name in names if name in system.stays]
    if shrinking:

        def vanishes(t: Time, y: Any, args: PyTree, **kwargs: Any) -> jax.Array:
            body, logs = parts(y)
            info = jnp.finfo(logs[0].dtype)
            shares = [(largest(body[name]), logs[i] - begin.logs[i]) for i, name in shrinking]
            least, grown = 64 * float(info.tiny) ** 0.5, 64 * float(info.eps)
            return jnp.any(jnp.stack([(share > 0) & (share < least) & (log > grown) for share, log in shares]))

        conditions["underflow"] = vanishes
    if not system.groups:

        def bodies(y: Any) -> Body:
            return parts(y).body

        def overflows(t: Time, y: Any, args: PyTree, **kwargs: Any) -> jax.Array:
            # This tests whether the square of a norm overflows; a sum of squares takes half the time of a maximum.
            return ~jnp.all(jnp.stack([jnp.isfinite(jnp.sum(part**2)) for part in bodies(y).values()]))

        def underflows(t: Time, y: Any, args: PyTree, **kwargs: Any) -> jax.Array:
            sizes = [safe_norm(*(bodies(y)[name] for name in names)) for names in system.guarded]
            return jnp.any(jnp.stack([(size > 0) & (size < faint(size.dtype)) for size in sizes]))

        def bursts(t: Time, y: Any, args: PyTree, *, t0: Time, **kwargs: Any) -> jax.Array:
            # In 256 times what two times of this size differ by at least, the state would grow by its own size.
            body, moved = bodies(y), bodies(field(t, y, args))
            least = 256 * jnp.finfo(jnp.result_type(t)).eps * jnp.abs(t)
            return overflows(t, y, args) | (least * safe_norm(*moved.values()) > safe_norm(*body.values()))

        conditions["overflow"] = bursts if system.bursts else overflows
        if system.guarded:
            conditions["underflow"] = underflows
    return conditions


def code_of(solution: diffrax.Solution, flow: Flow) -> jax.Array:
    """The `RunResult` of a solution."""
    results = diffrax.RESULTS
    stopped = solution.event_mask
    code = jnp.where(solution.result == results.successful, RunResult.COMPLETED, RunResult.SOLVER_FAILED)
    code = jnp.where(solution.result == results.max_steps_reached, RunResult.MAX_STEPS, code)
    if stopped is not None:
        for meaning in (RunResult.STEADY, RunResult.OVERFLOW, RunResult.UNDERFLOW):
            name = meaning.name.lower()
            if name in stopped:
                code = jnp.where(stopped[name], meaning, code)
    return code
