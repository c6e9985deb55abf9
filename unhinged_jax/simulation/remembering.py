"""A run with a memory: the slots of any system, of which the first is observed."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from unhinged_jax.dynamics import Combination, Memory, PartRates
from unhinged_jax.observables import View
from unhinged_jax.simulation.system import Body, System, Wrapping


class Remembering(Wrapping):
    """A system several states of which are kept. Every array of the body has a leading axis of slots.

    Attributes:
        system: One state, and the forces on it.
        memory: How the slots are combined.
        others: The slots after the first with which the run begins, arrays of `system` with a leading axis; None for
            the memory of a fresh start.
        goes_on: Whether what the run carries can be handed over to another run.
        update: The number of updates before this one, or the time of a flow, (); None until it is known.
    """

    memory: Memory
    others: Body | None
    goes_on: bool = eqx.field(static=True)
    update: jax.Array | None = None

    @property
    def capped(self) -> bool:
        return self.system.capped

    @property
    def powers(self) -> jax.Array:
        return self.system.powers

    def at_update(self, k: jax.Array) -> Remembering:
        return dataclasses.replace(self, system=self.system.at_update(k), update=k)

    def at_time(self, time: jax.Array) -> Remembering:
        return dataclasses.replace(self, system=self.system.at_time(time), update=time)

    def driven(self, body: Body, rates: PartRates) -> Body:
        """The velocity of an average a and of its state x, a' = share (x - a); of one that begins a' = x'/2."""
        assert self.update is not None
        moved = self.system.driven({name: slots[1] for name, slots in body.items()}, rates)
        share = self.memory.share_at(self.update)
        begins = jnp.isinf(share)
        share = jnp.where(begins, 0.0, share)
        return {
            name: jnp.stack([jnp.where(begins, moved[name] / 2, share * (x - a)), moved[name]])
            for name, (a, x) in body.items()
        }

    @property
    def combination(self) -> Combination:
        assert self.update is not None
        return self.memory.combined(self.update)

    def body(self) -> Body:
        body = self.system.body()
        if self.others is not None:
            return {name: jnp.concatenate([part[None], self.others[name]]) for name, part in body.items()}
        return {name: jnp.stack([begins * part for begins in self.memory.first]) for name, part in body.items()}

    def looked_at(self, body: Body) -> Body:
        return self.combination.seen(body)

    def moved(self, body: Body, change: Body) -> Body:
        return self.combination.moved(body, change)

    def velocity(self, body: Body) -> Body:
        return self.system.velocity(body)

    def velocity_at(self, body: Body, powers: jax.Array) -> Body:
        return self.system.velocity_at(body, powers)

    def clean(self, body: Body) -> Body:
        return jax.vmap(self.system.clean)(body)

    def clean_velocity(self, velocity: Body) -> Body:
        return self.system.clean_velocity(velocity)

    def view(self, body: Body, logs: list[jax.Array], still: jax.Array) -> View:
        return self.system.view({name: slots[0] for name, slots in body.items()}, logs, still)

    def carried(self, body: Body, logs: list[jax.Array], log_scale: jax.Array) -> Body | None:
        if not self.goes_on:
            return None
        others = {name: slots[1:] for name, slots in body.items()}
        return jax.vmap(lambda one: self.system.unpacked(one, logs, log_scale))(others)


def remembering(system: System, dynamics: Any, memory: Body | None) -> Remembering:
    """The system with the memory of a run; `memory` holds the dense slots after the first of the run before."""
    others = None if memory is None else jax.vmap(system.packed)(memory)
    beside = ("momentum", "optimizer", "damping")
    plain = all(getattr(dynamics, name, None) is None for name in beside)
    return Remembering(system, dynamics.memory, others, plain)
