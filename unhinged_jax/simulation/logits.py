"""A dense flow that carries its logits, for losses and accuracies at many times.

    (W^T H)' = W'^T H + W^T H',    |H|' = <H, H'> / |H|

Between two steps a solver assembles every array that is asked for from all of its stages. Logits (C, n) are fewer than
features (p, n) where C < p, and what is asked of them needs no product: so they and the norm of H obey equations of
their own beside those of H and W. The force is that of the logits carried, so that a stage costs three products, as it
does without them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from unhinged_jax.observables import View
from unhinged_jax.observables.features import ScoredFeatures
from unhinged_jax.simulation.columns import ColumnSystem
from unhinged_jax.simulation.system import Body
from unhinged_jax.special import safe_norm


class LogitSystem(ColumnSystem):
    """Arrays "H" (p, n), "W" (p, C) and "b" (C,), with "scores" W^T H (C, n) and "norm_H"."""

    def body(self) -> Body:
        return {**super().body(), "scores": self.W.T @ self.H, "norm_H": safe_norm(self.H)}

    def split(self, body: Body, rate_H: float | jax.Array, rate_W: float | jax.Array) -> tuple[Body, Body]:
        H, W, scores = body["H"], body["W"], body["scores"]
        pull = self.pull(body, scores)
        push, decay = self.pushed(body, pull, rate_H, rate_W), self.decays(rate_H, rate_W)
        move_scores, growth = jnp.zeros_like(scores), jnp.zeros_like(body["norm_H"])
        if self.model.moves.H:
            # W^T (W pull) by way of W^T W, which is small; <H, W pull> = <scores, pull> without a pass over H.
            move_scores += (W.T @ W) @ (rate_H * pull)
            growth = _growth(rate_H * jnp.sum(scores * pull), body["norm_H"], push["H"])
        if self.model.moves.W:
            move_scores += jax.lax.optimization_barrier(push["W"].T) @ H
        push |= {"scores": move_scores, "norm_H": growth}
        # Products decay with both of their factors.
        return push, decay | {"scores": decay["H"] + decay["W"], "norm_H": decay["H"]}

    def view(self, body: Body, logs: list[jax.Array], still: jax.Array) -> View:
        features = ScoredFeatures(body["H"].T, None, body["scores"], body["norm_H"])
        return View(self.model, features, body["W"].T, body["b"], jnp.zeros((), body["W"].dtype))


def _growth(along: jax.Array, length: jax.Array, push: jax.Array) -> jax.Array:
    """||H||' but for decay: <H, push> / ||H||, with `along` = <H, push>; ||push|| at H = 0."""
    steady = along / jnp.where(length > 0, length, 1.0)
    return jax.lax.cond(length > 0, lambda: steady, lambda: safe_norm(push))
