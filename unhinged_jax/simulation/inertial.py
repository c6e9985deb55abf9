"""A flow of second order, Z'' + c Z' = f(Z): the positions Z of any system, and beside them their velocities.

The body of such a system holds pairs. With a unit of time 1/omega

    Z' = omega u,    u' = f(Z)/omega - c u,

so that tolerances mean the same for positions and velocities: omega^2 is how large the first force is beside the start.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from unhinged_jax.dynamics import PartRates, resistance
from unhinged_jax.observables import View
from unhinged_jax.simulation.system import Body, System, Wrapping
from unhinged_jax.special import safe_norm


class Inertial(Wrapping):
    """A system whose force accelerates.

    Every array of the body has a leading axis of two: the position as in `system`, and the velocity over `omega`.

    Attributes:
        system: The positions, and the forces on them.
        damping: c, a number or `Nesterov()`.
        velocity_at_start: The velocity with which the run begins, an array for each of `system`; None at rest.
        omega: The unit of frequency, ().
        time: When it is looked at, (); None until it is known.
    """

    damping: Any
    velocity_at_start: Body | None
    omega: Float[jax.Array, ""]
    time: Float[jax.Array, ""] | None = None

    def at_time(self, time: jax.Array) -> Inertial:
        return dataclasses.replace(self, time=time)

    def body(self) -> Body:
        body, moving = self.system.body(), self.velocity_at_start
        if moving is None:
            moving = jax.tree.map(jnp.zeros_like, body)
        return {name: jnp.stack([body[name], moving[name] / self.omega]) for name in body}

    def velocity(self, body: Body) -> Body:
        raise TypeError("the velocity of a system with inertia depends on the time and the rates: see `driven`.")

    def driven(self, body: Body, rates: PartRates) -> Body:
        assert self.time is not None
        resisting, yielding = resistance(self.damping, self.time)
        force = self.system.driven(_positions(body), rates)
        return {
            name: jnp.stack([self.omega * u, (yielding / self.omega) * force[name] - resisting * u])
            for name, (_, u) in body.items()
        }

    def clean(self, body: Body) -> Body:
        return jax.vmap(self.system.clean)(body)

    def view(self, body: Body, logs: list[jax.Array], still: jax.Array) -> View:
        return self.system.view(_positions(body), logs, still)

    def pack(self, velocity: Body) -> Body:
        raise TypeError("the velocity of a system with inertia is part of its start.")

    def unpack(self, velocity: Body, logs: list[jax.Array], log_scale: jax.Array) -> Body:
        raise TypeError("the velocity of a system with inertia is part of its body: see `carried`.")

    def carried(self, body: Body, logs: list[jax.Array], log_scale: jax.Array) -> Body:
        moving = {name: self.omega * u for name, (_, u) in body.items()}
        return self.system.unpacked(moving, logs, log_scale)


def inertial(system: System, damping: Any, rates: PartRates, memory: Body | None) -> Inertial:
    """The system with inertia; `rates` are those at a schedule of 1, and `memory` the dense velocity at the start."""
    body = system.body()
    force = system.driven(body, rates)
    parts = [name for name in body if name != "b"]
    size, pull = (safe_norm(*(arrays[name] for name in parts)) for arrays in (body, force))
    there = (size > 0) & (pull > 0)
    omega = jnp.sqrt(jnp.where(there, pull, 1.0) / jnp.where(there, size, 1.0))
    moving = None if memory is None else system.packed(memory)
    return Inertial(system, damping, moving, jax.lax.stop_gradient(omega))


def _positions(body: Body) -> Body:
    return {name: pair[0] for name, pair in body.items()}
