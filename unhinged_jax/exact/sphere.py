"""Spherical features with anchored prototypes: every sample's angle to its target, exactly.

Source: Zhou et al. 2023, Theorem 7; flow with decay, rescaling and exact descent are beyond the paper.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from unhinged_jax import _scan
from unhinged_jax.dynamics import Descent, Flow, rate_at
from unhinged_jax.features import PlaneFeatures, plane_features, row_lengths
from unhinged_jax.model import LayerPeeled
from unhinged_jax.observables import View
from unhinged_jax.special import phi1


class Sphere:
    """The start: planes, angles theta_i and lengths rho_i of the samples, and ||g_i||."""

    def __init__(self, model: LayerPeeled, H: jax.Array, W: jax.Array, b: jax.Array) -> None:
        G = model.signal().times(W)
        self.model, self.W, self.b = model, W, b
        self.plane = plane_features(H, G)
        self.pull = row_lengths(G)[:, 0]
        self.angle = jnp.arctan2(self.plane.across, self.plane.along)
        self.length = jnp.hypot(self.plane.along, self.plane.across)

    def view(self, angle: jax.Array, length: jax.Array) -> View:
        """The state with these angles and lengths."""
        features = PlaneFeatures(
            length * jnp.cos(angle), length * jnp.sin(angle), self.plane.target, self.plane.transverse
        )
        return View(self.model, features, self.W, self.b, jnp.zeros((), self.W.dtype))


def flow_at(sphere: Sphere, flow: Flow, tau: jax.Array) -> View:
    """tan(theta/2) = tan(theta_0/2) exp(-r1 kappa I(tau)), rho = rho_0 e^{-a tau}."""
    a = flow.rate_H * sphere.model.decay_H
    slack = 2 - sphere.model.rescale
    # (e^{slack a tau} - 1) / (slack a) = tau phi1(-slack a tau)
    turned = flow.rate_H * sphere.pull * sphere.length ** (-slack) * tau * phi1(jnp.asarray(-slack * a * tau))
    angle = 2 * jnp.arctan2(jnp.sin(sphere.angle / 2) * jnp.exp(-turned), jnp.cos(sphere.angle / 2))
    return sphere.view(angle, sphere.length * jnp.exp(-a * tau))


def descent_values(
    sphere: Sphere, descent: Descent, slots: jax.Array, count: int, first: jax.Array, read: Any
) -> tuple[Any, Any, jax.Array]:
    """theta <- theta - arctan(alpha sin theta), rho <- rho (1 - r1 eta l1) sqrt(1 + alpha^2 sin^2 theta)."""
    model, dtype = sphere.model, sphere.W.dtype

    def step(carry: tuple[jax.Array, jax.Array], k: jax.Array) -> tuple[jax.Array, jax.Array]:
        angle, length = carry
        time = (first + k).astype(dtype)
        eta = jnp.asarray(descent.schedule(time) * rate_at(descent.rate_H, time), dtype)
        fade = 1 - eta * model.decay_H
        alpha = eta * sphere.pull * length ** (model.rescale - 2) / fade
        sine = jnp.sin(angle)
        push = alpha * sine
        return angle - jnp.arctan(push), length * fade * jnp.sqrt(1 + push * push)

    return _scan.run(step, (sphere.angle, sphere.length), slots, count, read)
