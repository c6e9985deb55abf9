"""A flow in the form in which diffrax solves it.

A homogeneous system x' = f(x) is integrated at unit norm, together with the logarithm of its norm. With x = e^s z and
|z| = 1,

    z' = f(z) - <z, f(z)> z,    s' = <z, f(z)>.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import DTypeLike

from unhinged_jax.dynamics import Flow, PartRates, bare_rates, rates_at
from unhinged_jax.simulation.choose import Choice, tolerance
from unhinged_jax.simulation.endings import endings_of
from unhinged_jax.simulation.large_states import DecayingTerm, Force, Time, Unrolled
from unhinged_jax.simulation.stepping import step_sizes
from unhinged_jax.simulation.system import Body, Packing, Scaled, System

_SMALL = 1 << 15  # numbers; a state of no more is one array for the solver


class Equation(NamedTuple):
    """What diffrax is given to solve a flow, and how a moment of the solution is read.

    Attributes:
        system, flow: The problem in the form in which it is simulated, and the dynamics.
        solver: A diffrax solver.
        begin: The start.
        packing: How the solver keeps a state.
        args: The arguments of the velocities.
        field, force, bare: The velocity in the three forms of `_velocities`.
        split: Whether the solver is given push and decay separately.
    """

    system: System
    flow: Flow
    solver: Any
    begin: Scaled
    packing: Packing
    args: list[Any]
    field: Callable[[Time, Any, list[Any]], Any]
    force: Callable[[Time, Any, list[Any]], Force]
    bare: Callable[[Time, Any, list[Any]], Any]
    split: bool

    def moment(self, y: Scaled) -> tuple[Body, list[jax.Array], jax.Array]:
        """What a reader is given at a state."""
        pack = self.packing.pack
        unmoved = jax.tree.map(lambda now, start: jnp.all(now == start), pack(y), pack(self.begin))
        return self.system.clean(y.body), y.logs, jnp.all(jnp.stack(jax.tree.leaves(unmoved)))

    @property
    def tolerances(self) -> tuple[float, float]:
        """The relative and the absolute tolerance."""
        rtol = tolerance(self.flow, next(iter(self.begin.body.values())).dtype)
        return rtol, rtol if self.flow.atol is None else self.flow.atol

    def endings(self) -> dict[str, Callable[..., jax.Array]]:
        """The conditions that end a run early."""
        velocities = self.field, self.bare
        return endings_of(self.system, self.flow, velocities, *self.tolerances, self.packing.unpack)

    def solved(
        self, first: jax.Array, end: jax.Array, adjoint: Any, saveat: diffrax.SaveAt, event: diffrax.Event | None,
        stops: jax.Array | None = None,
    ) -> Any:  # fmt: skip
        """The solution from a time to another; steps end at the `stops`, (T,), too."""
        dtype = next(iter(self.begin.body.values())).dtype
        return diffrax.diffeqsolve(
            DecayingTerm(self.force) if self.split else diffrax.ODETerm(self.field),
            self.solver,
            t0=first.astype(dtype),
            t1=end,
            dt0=None,
            y0=self.packing.pack(self.begin),
            args=self.args,
            saveat=saveat,
            stepsize_controller=step_sizes(self.system, self.flow, self.solver, self.tolerances, self.packing, stops),
            max_steps=self.flow.max_steps,
            throw=False,
            event=event,
            adjoint=adjoint,
        )


def equation(system: System, flow: Flow, choice: Choice, backsolve: bool = False) -> Equation:
    """A flow as diffrax is given it; with `backsolve`, for the adjoint of that name."""
    body = system.body()
    dtype = next(iter(body.values())).dtype
    sizes = [jnp.where(size > 0, size, 1.0) for size in system.sizes(body)]
    entries = [sum(body[name].size for name in names) ** 0.5 for names in system.groups]
    # Entries have a root mean square of 1, so that tolerances mean the same for every problem.
    units = [size / count for size, count in zip(sizes, entries, strict=True)]
    scaled = system.scale(body, [1 / unit for unit in units])
    begin = Scaled(scaled, [jnp.log(unit) + system.log_unit() for unit in units])
    split = isinstance(choice.solver, Unrolled) and not system.groups and not backsolve
    packing = _packing(begin, choice.late and not backsolve and not split)
    return Equation(
        system, flow, choice.solver, begin, packing, *_velocities(system, flow, dtype, packing), split
    )  # fmt: skip


def _packing(y: Scaled, wanted: bool) -> Packing:
    """A tree like `y` as one array if that is wanted and it is small, else as it is.

    diffrax traces, and XLA compiles, every operation on a state once per array of the state.
    """
    if not wanted or sum(leaf.size for leaf in jax.tree.leaves(y)) > _SMALL:
        return Packing(lambda y: y, lambda y: y)
    return Packing(lambda y: ravel_pytree(y)[0], ravel_pytree(y)[1])


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
