"""Gradients whose norm decides: sharpness-aware, clipped and normalised, of any loss in its dense form.

    g = grad(Z + rho grad(Z)/||grad(Z)||),    Z' = -g,    or -g min(1, c/||g||),    or -g/||g||

The gradient is that of the objective, decay included, and its norm runs over everything that moves, except features of
samples that are held out. A gradient of 0 has no direction: nothing is ascended along it, and it stays 0.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from unhinged_jax.dynamics import Dynamics
from unhinged_jax.labels import Labels
from unhinged_jax.labels.held_out import of_training
from unhinged_jax.simulation.columns import ColumnSystem
from unhinged_jax.simulation.system import Body, System, Wrapping
from unhinged_jax.special import safe_norm


class PacedSystem(Wrapping):
    """A system whose velocity is that of `system` at the ascended point, shortened or normalised.

    Attributes:
        system: The system with plain gradients, whose body holds H, W and b as they are.
        labels: Those of the model, which say what is held out.
        sam_radius, clip_norm, normalized: Those of the dynamics.
    """

    labels: Labels
    sam_radius: Any
    clip_norm: Any
    normalized: bool = eqx.field(static=True)

    def at_update(self, k: jax.Array) -> PacedSystem:
        return dataclasses.replace(self, system=self.system.at_update(k))

    def velocity(self, body: Body) -> Body:
        velocity = self.system.velocity(body)
        if self.sam_radius is not None:
            norm = self._norm(velocity)
            ascent = jnp.asarray(self.sam_radius, norm.dtype) * _inverse(norm)
            velocity = self.system.velocity({name: part - ascent * velocity[name] for name, part in body.items()})
        if not self.normalized and self.clip_norm is None:
            return velocity
        norm = self._norm(velocity)
        factor = _inverse(norm)
        if not self.normalized:
            factor = jnp.where(norm > self.clip_norm, jnp.asarray(self.clip_norm, norm.dtype) * factor, 1.0)
        return {name: factor * part for name, part in velocity.items()}

    def _norm(self, velocity: Body) -> jax.Array:
        samples = 1 if isinstance(self.system, ColumnSystem) else 0
        parts = {**velocity, "H": of_training(self.labels, velocity["H"], samples)}
        return safe_norm(*parts.values())


def _inverse(norm: jax.Array) -> jax.Array:
    """1/norm, and 0 for a norm of 0."""
    return jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1.0), 0.0)


def paced(system: System, dynamics: Dynamics, labels: Labels) -> System:
    """The system with the gradients that the dynamics asks for."""
    if not dynamics.paced:
        return system
    return PacedSystem(system, labels, dynamics.sam_radius, dynamics.clip_norm, dynamics.normalized)


def why_not_paced(model: Any, dynamics: Dynamics) -> str | None:
    """Why a problem has no gradient whose norm could decide, in words, or None."""
    if not dynamics.paced:
        return None
    what = "a feature kernel" if model.kernel is not None else "rescaling by the feature norm"
    if model.kernel is not None or model.rescale or model.exponent is not None:
        return (
            f"{what} turns the gradient of the features into another vector, whose norm says nothing about the step; "
            "leave out sam_radius, clip_norm and normalized, or the setting of the model."
        )
    return None
