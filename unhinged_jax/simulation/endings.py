"""Why a flow ends: the conditions that are watched while it is solved, and the `RunResult` of a solution."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import optimistix
from jaxtyping import PyTree

from unhinged_jax.dynamics import RATES, Flow
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
    parts: Callable[[Any], Scaled],
) -> dict[str, Callable[..., jax.Array]]:
    """The conditions that end a run early: it is steady, or it leaves the floating-point range.

    Args:
        system, flow, rtol, atol: As in the solution.
        velocities: (time, y, args) -> velocity, as it is and without schedules.
        parts: What is integrated, of what the solver is given.
    """
    field, bare = velocities
    conditions: dict[str, Any] = {}
    if flow.steady:

        def steady(t: Time, y: Any, args: PyTree, *, t0: Time, **kwargs: Any) -> jax.Array:
            # A run does not end before its first step, so that the start is read.
            norm = optimistix.rms_norm
            return (t > t0) & (norm(bare(t, y, args)) < atol + rtol * norm(y))

        conditions["steady"] = steady
    # An array that stays while the rest of its group grows shrinks by the growth rate times its share of the group. If
    # that product underflows, the share stays and growth goes on at its rate.
    may_stay = system.stays or tuple(chain(*system.groups)) * any(callable(getattr(flow, name)) for name in RATES)
    shrinking = [(i, name) for i, names in enumerate(system.groups) for name in names if name in may_stay]
    if shrinking:

        def vanishes(t: Time, y: Any, args: PyTree, **kwargs: Any) -> jax.Array:
            body, rates = parts(y).body, [jnp.abs(rate) for rate in parts(field(t, y, args)).logs]
            info = jnp.finfo(rates[0].dtype)
            least, grown = 8 * float(info.tiny), 64 * float(info.eps)
            shares = [(largest(body[name]), rates[i]) for i, name in shrinking]
            lost = [(share > 0) & (rate * share < least) & (rate * jnp.abs(t) > grown) for share, rate in shares]
            return jnp.any(jnp.stack(lost))

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
