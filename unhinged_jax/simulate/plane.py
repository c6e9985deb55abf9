"""Spherical features with anchored prototypes: every sample stays in the plane of its start and its target.

The plain update, written in Cartesian coordinates of that plane: along the target direction and across it. What is across
is multiplied, never subtracted from, so an error of 1e-200 is as exact as one of 1e-2.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from unhinged_jax.features import PlaneFeatures, plane_features, row_lengths, watched
from unhinged_jax.model import LayerPeeled
from unhinged_jax.observables import View
from unhinged_jax.simulate.system import Body, System


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PlaneSystem(System):
    """Arrays "along" and "across", shape (n,), of h_i = along_i e_i + across_i f_i; `pull` is ||g_i||."""

    model: LayerPeeled
    W: jax.Array
    b: jax.Array
    plane: PlaneFeatures
    pull: jax.Array

    def body(self) -> Body:
        return {"along": self.plane.along, "across": self.plane.across}

    def velocity(self, body: Body) -> Body:
        u, v = body["along"], body["across"]
        length = jnp.sqrt(u * u + v * v)
        turn = self.pull * v * length ** (self.model.rescale - 3)
        return {"along": turn * v - self.model.decay_H * u, "across": -turn * u - self.model.decay_H * v}

    def pack(self, velocity: Body) -> Body:
        H = velocity["H"]
        return {"along": jnp.sum(H * self.plane.target, axis=1), "across": jnp.sum(H * self.plane.transverse, axis=1)}

    def unpack(self, velocity: Body, logs: list[jax.Array], log_scale: jax.Array) -> Body:
        moved = dataclasses.replace(self.plane, **velocity)
        return {"H": moved.dense(), "W": jnp.zeros_like(self.W), "b": jnp.zeros_like(self.b)}

    def view(self, body: Body, logs: list[jax.Array]) -> View:
        features = dataclasses.replace(self.plane, **body)
        return View(self.model, features, self.W, self.b, jnp.zeros((), self.W.dtype))


def plane_system(model: LayerPeeled, H: jax.Array, W: jax.Array, b: jax.Array) -> PlaneSystem:
    """Bring a state into the planes of its samples.

    A sample without pull (g_i = 0) keeps its own direction: it lies across a target of zero.
    """
    G = model.signal().times(W)
    return PlaneSystem(model, W, b, watched(plane_features(H, G), W), row_lengths(G)[:, 0])
