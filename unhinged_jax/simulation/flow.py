"""Gradient flow x' = eta(t) r (-dL/dx) by diffrax: what is read at the requested times, and how a run ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp

from unhinged_jax import _loop
from unhinged_jax.dynamics import Flow
from unhinged_jax.model import settled
from unhinged_jax.simulation.choose import Choice
from unhinged_jax.simulation.endings import code_of
from unhinged_jax.simulation.equation import equation
from unhinged_jax.simulation.system import Body, Reader, Scaled, System


def run(
    system: System,
    flow: Flow,
    times: jax.Array,
    first: jax.Array,
    look: Reader,
    choice: Choice,
    adjoint: diffrax.AbstractAdjoint | None = None,
) -> Any:
    """Integrate the flow and call `look` at the requested times.

    Args:
        system: The problem in the form in which it is simulated.
        flow: The dynamics.
        times: When the run is read, (T,).
        first: The time of the start, ().
        look: Reads a moment.
        choice: How the run is simulated; its `solver` and `late` are read here.
        adjoint: As in `simulate`, or `InPieces`.

    Returns:
        The state in which diffrax pauses, for a piece that does not end the run. Otherwise:
        A dictionary with the saved `values` (and `states`), `reached`, the final `view`, `memory`, `steps`, `code`,
        `elapsed`.
    """
    backsolve = isinstance(adjoint, diffrax.BacksolveAdjoint)
    asked = equation(system, flow, choice, backsolve)
    pack, unpack = asked.packing

    def read(y: Scaled) -> dict:
        return look(*asked.moment(y))

    endings = None if backsolve else asked.endings()  # backsolve supports neither events nor functions of what is saved
    solution = asked.solved(
        first,
        times[-1],
        diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
        diffrax.SaveAt(ts=times) if backsolve else _saved_at(times, (lambda y: y) if choice.late else read, adjoint),
        diffrax.Event(endings) if endings else None,
    )
    if "paused" in solution.stats:
        return solution.stats["paused"]
    saved, times_reached, final, elapsed = _solved(solution, times, backsolve)
    reached = jnp.isfinite(times_reached)
    if choice.late:  # inside the solver's loop diffrax would trace, and XLA compile, the reading several times
        # For a time that was not reached the start is read, where every value and derivative is finite.
        saved = jax.tree.map(
            lambda kept, start: jnp.where(_loop.along(reached, kept), kept, start), saved, pack(asked.begin)
        )
        saved = _loop.read_each(lambda y: read(unpack(y)), saved, choice.together)
    return {
        **_loop.blanked(saved, reached),
        **_ended(system, *asked.moment(unpack(jax.tree.map(lambda leaf: leaf[-1], final)))),
        "reached": reached,
        "steps": solution.stats["num_steps"],
        "elapsed": elapsed,
        "code": code_of(solution, flow),
    }


def _ended(system: System, body: Body, logs: list[jax.Array], still: jax.Array) -> dict[str, Any]:
    """The view of the last moment, and what the flow carries there in addition to the state."""
    view = system.view(body, logs, still)
    return {"view": view, "memory": system.carried(body, logs, settled(view.state()).log_scale)}


def _solved(solution: Any, times: jax.Array, backsolve: bool) -> tuple[Any, jax.Array, Any, jax.Array]:
    """What was saved at the times, the times that were reached (infinite for others), the last state and its time."""
    if backsolve:
        return solution.ys, solution.ts, solution.ys, times[-1]
    (saved, final), (times_reached, ended) = solution.ys, solution.ts
    saved, times_reached = jax.tree.map(lambda leaf: leaf[: times.shape[0]], (saved, times_reached))
    return saved, times_reached, final, ended[0]


def _saved_at(times: jax.Array, read: Callable[[Any], Any], adjoint: diffrax.AbstractAdjoint | None) -> diffrax.SaveAt:
    """What is read at the times, and the last state.

    With a single time the direct adjoint reads in every step, far outside that step, where the derivative is not
    finite. A single time is therefore repeated for that adjoint.
    """
    lone = isinstance(adjoint, diffrax.DirectAdjoint) and times.shape[0] == 1
    asked = jnp.repeat(times, 2) if lone else times
    saved = diffrax.SubSaveAt(ts=asked, fn=lambda time, y, args: read(y))
    return diffrax.SaveAt(subs=[saved, diffrax.SubSaveAt(t1=True)])
