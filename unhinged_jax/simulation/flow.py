"""Gradient flow x' = eta(t) r (-dL/dx) by diffrax.

A homogeneous system x' = f(x) is integrated at unit norm, together with the logarithm of its norm. With x = e^s z and
|z| = 1,

    z' = f(z) - <z, f(z)> z,    s' = <z, f(z)>.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import DTypeLike
from jaxtyping import PyTree

from unhinged_jax import _loop
from unhinged_jax.dynamics import RATES, Flow, PartRates, bare_rates, rates_at
from unhinged_jax.model import settled
from unhinged_jax.simulation.choose import Choice, tolerance
from unhinged_jax.simulation.endings import code_of, events_of
from unhinged_jax.simulation.large_states import DecayingTerm, Force, Time, Unrolled
from unhinged_jax.simulation.system import Body, Reader, System
from unhinged_jax.special import safe_norm

_SMALL = 1 << 15  # numbers; a state of no more is one array for the solver


class Scaled(NamedTuple):
    """What is integrated: the arrays that move, each group at unit norm at first, and the logarithm of its scale."""

    body: Body
    logs: list[jax.Array]


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
    body = system.body()
    dtype = next(iter(body.values())).dtype
    sizes = [jnp.where(size > 0, size, 1.0) for size in system.sizes(body)]
    entries = [sum(body[name].size for name in names) ** 0.5 for names in system.groups]
    # Entries have a root mean square of 1, so that tolerances mean the same for every problem.
    units = [size / count for size, count in zip(sizes, entries, strict=True)]
    scaled = system.scale(body, [1 / unit for unit in units])
    begin = Scaled(scaled, [jnp.log(unit) + system.log_unit() for unit in units])

    backsolve = isinstance(adjoint, diffrax.BacksolveAdjoint)
    split = isinstance(choice.solver, Unrolled) and not system.groups and not backsolve
    pack, unpack = packing = _packing(begin, choice.late and not backsolve and not split)
    leaves, field, force, bare = _velocities(system, flow, dtype, packing)

    def moment(y: Scaled) -> tuple[Body, list[jax.Array], jax.Array]:
        unmoved = jax.tree.map(lambda now, start: jnp.all(now == start), y, begin)
        return system.clean(y.body), y.logs, jnp.all(jnp.stack(jax.tree.leaves(unmoved)))

    def read(y: Scaled) -> dict:
        return look(*moment(y))

    rtol = tolerance(flow, dtype)
    atol = flow.atol if flow.atol is not None else rtol
    solution = diffrax.diffeqsolve(
        DecayingTerm(force) if split else diffrax.ODETerm(field),
        choice.solver,
        t0=first.astype(dtype),
        t1=times[-1],
        dt0=None,
        y0=pack(begin),
        args=leaves,
        saveat=diffrax.SaveAt(ts=times)
        if backsolve
        else _saved_at(times, (lambda y: y) if choice.late else read, adjoint),
        stepsize_controller=_controller(system, flow, rtol, atol, dtype, packing),
        max_steps=flow.max_steps,
        throw=False,
        # Backsolve supports neither events nor functions of what is saved.
        event=None if backsolve else events_of(system, flow, (field, bare), rtol, atol, lambda y: unpack(y).body),
        adjoint=diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
    )
    if "paused" in solution.stats:
        return solution.stats["paused"]
    saved, times_reached, final, elapsed = _solved(solution, times, backsolve)
    reached = jnp.isfinite(times_reached)
    if choice.late:  # inside the solver's loop diffrax would trace, and XLA compile, the reading several times
        # For a time that was not reached the start is read, where every value and derivative is finite.
        saved = jax.tree.map(lambda kept, start: jnp.where(_loop.along(reached, kept), kept, start), saved, pack(begin))
        saved = _loop.read_each(lambda y: read(unpack(y)), saved, choice.together)
    return {
        **_loop.blanked(saved, reached),
        **_ended(system, *moment(unpack(jax.tree.map(lambda leaf: leaf[-1], final)))),
        "reached": reached,
        "steps": solution.stats["num_steps"],
        "elapsed": elapsed,
        "code": code_of(solution, flow),
    }


class Packing(NamedTuple):
    """Functions from a tree of arrays to what the solver is given, and back."""

    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]


def _packing(y: Scaled, wanted: bool) -> Packing:
    """A tree like `y` as one array if that is wanted and it is small, else as it is.

    diffrax traces, and XLA compiles, every operation on a state once per array of the state.
    """
    if not wanted or sum(leaf.size for leaf in jax.tree.leaves(y)) > _SMALL:
        return Packing(lambda y: y, lambda y: y)
    return Packing(lambda y: ravel_pytree(y)[0], ravel_pytree(y)[1])


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


def _velocities(system: System, flow: Flow, dtype: DTypeLike, packing: Packing) -> tuple[list[Any], Any, Any, Any]:
    """The arguments of the velocity, and the velocity in three forms.

    Everything that may be differentiated enters through `args`, because the backsolve adjoint sees nothing else. They
    are a list of leaves, because diffrax replaces some by zeros, which a Flow would refuse.

    Returns:
        The leaves `args`; (time, y, args) -> velocity; the same with push and decay separate; and the same without
        schedules.
    """
    leaves, structure = jax.tree.flatten((system, flow))
    pack, unpack = packing

    def problem(time: Time, args: list[Any]) -> tuple[System, PartRates]:
        system, flow = jax.tree.unflatten(structure, args)
        return system.at_time(jnp.asarray(time, dtype)), rates_at(flow, time, dtype)

    def field(time: Time, y: Any, args: list[Any]) -> Any:
        system, rates = problem(time, args)
        body = unpack(y).body
        return pack(_at_unit_norm(system, body, system.driven(body, rates)))

    def force(time: Time, y: Scaled, args: list[Any]) -> Force:
        system, rates = problem(time, args)
        push, decay = system.split(y.body, rates)
        return Force(Scaled(push, []), Scaled(decay, []), y)

    def bare(time: Time, y: Any, args: list[Any]) -> Any:
        """The velocity with 1 in place of every schedule, so that a plateau of rate 0 does not count as steady."""
        system, flow = jax.tree.unflatten(structure, args)
        system, rates, body = system.at_time(jnp.asarray(time, dtype)), bare_rates(flow, dtype), unpack(y).body
        return pack(_at_unit_norm(system, body, system.driven(body, rates)))

    return leaves, field, force, bare


def _saved_at(times: jax.Array, read: Callable[[Any], Any], adjoint: diffrax.AbstractAdjoint | None) -> diffrax.SaveAt:
    """What is read at the times, and the last state.

    With a single time the direct adjoint reads in every step, far outside that step, where the derivative is not
    finite. A single time is therefore repeated for that adjoint.
    """
    lone = isinstance(adjoint, diffrax.DirectAdjoint) and times.shape[0] == 1
    asked = jnp.repeat(times, 2) if lone else times
    saved = diffrax.SubSaveAt(ts=asked, fn=lambda time, y, args: read(y))
    return diffrax.SaveAt(subs=[saved, diffrax.SubSaveAt(t1=True)])


def _at_unit_norm(system: System, body: Body, velocity: Body) -> Scaled:
    """The velocities of body / norm and of log norm, group by group: an exact change of variables."""
    moved, growth = dict(velocity), []
    for names in system.groups:
        square = sum(jnp.sum(body[name] ** 2) for name in names)
        inner = sum(jnp.sum(body[name] * velocity[name]) for name in names)
        rate = inner / jnp.where(square > 0, square, 1.0)
        growth.append(rate)
        moved.update({name: velocity[name] - rate * body[name] for name in names})
    return Scaled(system.clean(moved), growth)


class _RelativeController(diffrax.PIDController):
    """Measures tolerances for H and W in units of their current root-mean-square entry once that is below 1.

    A state that shrinks, and its logarithm, are then solved as accurately as a state that does not.
    """

    packing: Packing = eqx.field(kw_only=True, static=True)

    # Overrides the method of diffrax, with the same arguments.
    def adapt_step_size(
        self, t0: Time, t1: Time, y0: PyTree, y1_candidate: PyTree, args: PyTree, y_error: PyTree, error_order: Time,
        controller_state: PyTree,
    ) -> Any:  # fmt: skip
        pack, unpack = self.packing
        if not isinstance(unpack(y0), Scaled):  # the backsolve adjoint goes back with the state and its cotangents
            return super().adapt_step_size(t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state)
        body = unpack(y0).body
        parts = [body[name] for name in ("H", "W") if name in body]
        entry = safe_norm(*parts) / sum(part.size for part in parts) ** 0.5
        unit = jax.lax.stop_gradient(jnp.where((entry > 0) & (entry < 1), entry, 1.0))

        def over(y: Any) -> Any:
            # Biases stay as they are: their drive is as large as the targets and does not shrink with the state.
            y = unpack(y)
            return pack(y._replace(body={name: part if name == "b" else part / unit for name, part in y.body.items()}))

        error = None if y_error is None else over(y_error)
        return super().adapt_step_size(t0, t1, over(y0), over(y1_candidate), args, error, error_order, controller_state)


def _controller(
    system: System, flow: Flow, rtol: float, atol: float, dtype: DTypeLike, packing: Packing
) -> diffrax.AbstractStepSizeController:
    """The step size controller; steps end at every break of the schedule and the rates."""
    kind = partial(_RelativeController, packing=packing) if system.guarded else diffrax.PIDController
    controller: Any = kind(rtol=rtol, atol=atol, pcoeff=0.2, icoeff=0.5, dcoeff=0.0)
    # The ends of steps are chosen by the solver and are not differentiated.
    jumps = [jax.lax.stop_gradient(jnp.ravel(jnp.asarray(jump, dtype))) for jump in _breaks(flow)]
    if jumps:
        controller = diffrax.ClipStepSizeController(controller, jump_ts=jnp.sort(jnp.concatenate(jumps)))
    return controller


def _breaks(flow: Flow) -> list[Any]:
    """Arrays of the times at which the schedule or a rate is not smooth."""
    rates = [rate for rate in (getattr(flow, name) for name in RATES) if callable(rate)]
    return [point for schedule in (flow.schedule, *rates) for point in schedule.breaks]
