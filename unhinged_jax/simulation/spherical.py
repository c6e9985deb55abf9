"""Spherical features with anchored prototypes: every sample stays in the plane of its start and its target.

The plain update in Cartesian coordinates of that plane, u along the target and v across it, with l^2 = u^2 + v^2, is

    u' = kappa l^(q-3) v^2 - lambda_1 u,    v' = v (-kappa l^(q-3) u - lambda_1)

The component v is only multiplied and never the result of a subtraction, so an angle of 1e-200 is as accurate as one of
1e-2.
"""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp

from unhinged_jax.model import LayerPeeled
from unhinged_jax.observables import View
from unhinged_jax.observables.features import row_lengths
from unhinged_jax.observables.plane_features import PlaneFeatures, plane_features, with_products
from unhinged_jax.simulation.system import Body, System
from unhinged_jax.special import power_of_two


class PlaneSystem(System):
    """The moving arrays are "along" and "across" (or "log_across"), (n,), with h_i = along_i e_i + across_i f_i.

    Each entry of "across" has a scale of its own, because it may shrink to nothing while "along" stays, and grow again.

    Attributes:
        model: The problem.
        W, b: Prototypes (C, p) and biases (C,), which stay.
        plane: The start, with the unit vectors e_i along the targets and f_i across them.
        pull: ||g_i|| for the targets g_i = (M W)_i, (n,).
        logarithmic: Whether "log_across" is carried instead of "across".
    """

    model: LayerPeeled
    W: jax.Array
    b: jax.Array
    plane: PlaneFeatures
    pull: jax.Array
    logarithmic: bool = eqx.field(default=False, static=True)

    @property
    def compensated(self) -> bool:
        return True

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        return () if self.logarithmic else (("across",),)

    @property
    def powers(self) -> jax.Array:
        return jnp.zeros((len(self.groups), *self.pull.shape), jnp.int32)

    def sizes(self, body: Body) -> list[jax.Array]:
        return [jnp.abs(body[name]) for (name,) in self.groups]

    def heights(self, body: Body) -> list[jax.Array]:
        return self.sizes(body)

    @property
    def guarded(self) -> tuple[tuple[str, ...], ...]:
        return () if self.logarithmic else (("along",),)

    @property
    def squares(self) -> bool:
        return True

    def body(self) -> Body:
        if not self.logarithmic:
            return {"along": self.plane.along, "across": self.plane.across}
        return {"along": self.plane.along, "log_across": jnp.log(jnp.where(self._off, self.plane.across, 1.0))}

    @property
    def _off(self) -> jax.Array:
        """Which samples are not parallel to their targets, (n,). The others stay parallel and have no logarithm."""
        return self.plane.across > 0

    def velocity(self, body: Body) -> Body:
        return self.velocity_at(body, self.powers)

    def velocity_at(self, body: Body, powers: jax.Array) -> Body:
        u = body["along"]
        if self.logarithmic:
            unit, v = jnp.ones((), u.dtype), jnp.where(self._off, jnp.exp(body["log_across"]), 0.0)
        else:
            info, v = jnp.finfo(u.dtype), body["across"]
            unit = power_of_two(jnp.clip(powers[0], info.minexp, info.maxexp - 1), u.dtype)
        length = jnp.sqrt(u * u + (unit * v) ** 2)
        turn = self.pull * length ** (self.model.rescaling - 3)
        # Not the square from above, which would be an array of its own between two loops.
        along, log_across = turn * unit * v * unit * v - self.model.decay_H * u, -turn * u - self.model.decay_H
        if self.logarithmic:
            return {"along": along, "log_across": log_across}
        return {"along": along, "across": log_across * v}

    def pack(self, velocity: Body) -> Body:
        H = velocity["H"]
        return {"along": jnp.sum(H * self.plane.target, axis=1), "across": jnp.sum(H * self.plane.transverse, axis=1)}

    def unpack(self, velocity: Body, logs: list[jax.Array], log_scale: jax.Array) -> Body:
        across = jnp.exp(logs[0]) * velocity["across"]
        moved = dataclasses.replace(self.plane, along=velocity["along"], across=across)
        return {"H": moved.dense(), "W": jnp.zeros_like(self.W), "b": jnp.zeros_like(self.b)}

    def view(self, body: Body, logs: list[jax.Array], still: jax.Array) -> View:
        if self.logarithmic:
            across, log_unit = self._off.astype(self.W.dtype), body["log_across"]
        else:
            across, log_unit = body["across"], logs[0]
        features = dataclasses.replace(self.plane, along=body["along"], across=across, log_unit=log_unit)
        return View(self.model, features, self.W, self.b, jnp.zeros((), self.W.dtype))


def plane_system(model: LayerPeeled, H: jax.Array, W: jax.Array, b: jax.Array, logarithmic: bool) -> PlaneSystem:
    """The system of a state in the planes of its samples.

    It is `logarithmic` for solvers of flows, whose tolerances are absolute near zero. A sample without pull (g_i = 0)
    keeps its direction: it lies across a target of zero.
    """
    G = model.signal().times(W)
    return PlaneSystem(model, W, b, with_products(plane_features(H, G), W), row_lengths(G)[:, 0], logarithmic)
