"""A stack of more than two factors, with any loss: the plain gradient with respect to every factor.

With samples as rows and s the identity or ReLU,

    F_1 = H,    F_l = s(F_{l-1} W_l^T),    S = F_{L-1} W_L^T + b,    W_l' = -dL/dW_l - lambda W_l
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.model.deep import deep_velocity, inner_names
from unhinged_jax.model.state import with_scale
from unhinged_jax.observables import View
from unhinged_jax.observables.features import DenseFeatures
from unhinged_jax.simulation.system import Body, System
from unhinged_jax.special import faint, largest


class DeepSystem(System):
    """The moving arrays are "H" (n, p), "W" (C, p), "b" (C,) and "inner_2", ..., "inner_{L-1}", (p, p) each."""

    model: LayerPeeled
    start: Body

    def body(self) -> Body:
        return self.start

    def velocity(self, body: Body) -> Body:
        return deep_velocity(self.model, body)

    @property
    def stays(self) -> tuple[str, ...]:
        return () if self.model.moves.b else ("b",)

    @property
    def guarded(self) -> tuple[tuple[str, ...], ...]:
        return ("H",), ("W",), *((name,) for name in inner_names(self.model))

    @property
    def bursts(self) -> bool:
        return self.model.loss.linear

    def pack(self, velocity: Body) -> Body:
        return velocity

    def unpack(self, velocity: Body, logs: list[jax.Array], log_scale: jax.Array) -> Body:
        return velocity

    def view(self, body: Body, logs: list[jax.Array], still: jax.Array) -> View:
        inner = jnp.stack([body[name] for name in inner_names(self.model)])
        zero = jnp.zeros((), body["W"].dtype)
        return View(self.model, DenseFeatures(body["H"]), body["W"], body["b"], zero, inner=inner)


def deep_system(model: LayerPeeled, state: State) -> DeepSystem:
    """The system, with the scale of the state multiplied in; NaN where a trace finds that this does not fit."""
    factors = state.factors()
    names = [name for name in factors if name != "b"]
    moved = with_scale(state, [factors[name] for name in names])
    least = faint(state.W.dtype)
    for name, part in zip(names, moved, strict=True):
        lost = (largest(factors[name]) >= least) & (largest(part) < least)
        factors[name] = jnp.where(lost, jnp.nan, part)
    return DeepSystem(model, factors)
