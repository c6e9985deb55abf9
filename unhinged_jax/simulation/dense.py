"""Any loss in any case: the plain gradient with respect to dense features, prototypes and biases, without reduction.

    H' = -dL/dH - lambda_1 H,    W' = -dL/dW - lambda_2 W,    b' = -dL/db - lambda_b b

This form shares only the observables with the faster ones, which are tested against it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from unhinged_jax.model import LayerPeeled
from unhinged_jax.observables import View
from unhinged_jax.observables.features import DenseFeatures
from unhinged_jax.simulation.system import Body, System


class DenseSystem(System):
    """The moving arrays are "H" (n, p), "W" (C, p) and "b" (C,); the attributes hold their start."""

    model: LayerPeeled
    H: jax.Array
    W: jax.Array
    b: jax.Array

    def body(self) -> Body:
        return {"H": self.H, "W": self.W, "b": self.b}

    def velocity(self, body: Body) -> Body:
        H, W, b = self.model.velocity(body["H"], body["W"], body["b"])
        return {"H": H, "W": W, "b": b}

    @property
    def stays(self) -> tuple[str, ...]:
        return tuple(name for name, moves in self.model.moves._asdict().items() if not moves)

    @property
    def guarded(self) -> tuple[tuple[str, ...], ...]:
        return ("H",), ("W",)

    @property
    def squares(self) -> bool:
        return self.model.spherical

    def pack(self, velocity: Body) -> Body:
        return velocity

    def unpack(self, velocity: Body, logs: list[jax.Array], log_scale: jax.Array) -> Body:
        return velocity

    def view(self, body: Body, logs: list[jax.Array], still: jax.Array) -> View:
        return View(self.model, DenseFeatures(body["H"]), body["W"], body["b"], jnp.zeros((), body["W"].dtype))
