"""A dense flow that carries its logits, for losses and accuracies at many times.

    (W^T H)' = W'^T H + W^T H',    |H|' = <H, H'> / |H|

To read a state between two steps, a solver assembles every array that is needed from all of its stages. If C < p, the
logits (C, n) are smaller than the features (p, n), and loss and accuracy follow from them without a product. The logits
and the norm of H therefore have differential equations of their own, in addition to those of H and W. The force is
computed from the carried logits, so that a stage still costs three products.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from unhinged_jax.dynamics import PartRates
from unhinged_jax.observables import View
from unhinged_jax.observables.features import ScoredFeatures
from unhinged_jax.simulation.columns import ColumnSystem
from unhinged_jax.simulation.system import Body
from unhinged_jax.special import safe_norm, safe_sqrt


class LogitSystem(ColumnSystem):
    """The moving arrays are "H" (p, n), "W" (p, C), "b" (C,), "scores" = W^T H (C, n) and "norm_H" = ||H|| ()."""

    def body(self) -> Body:
        return {**super().body(), "scores": self.W.T @ self.H, "norm_H": safe_norm(self.H)}

    def split(self, body: Body, rates: PartRates) -> tuple[Body, Body]:
        H, W, scores = body["H"], body["W"], body["scores"]
        pull = self.pull(body, scores)
        push, decay = self.pushed(body, pull, rates), self.decays(rates)
        move_scores, growth = jnp.zeros_like(scores), jnp.zeros_like(body["norm_H"])
        if self.model.moves.H:
            # (W^T W) pull instead of W^T (W pull): W^T W is small. <H, W pull> = <scores, pull> and
            # |W pull|^2 = <pull, (W^T W) pull> avoid passes over H.
            pull = rates.H * pull
            through = (W.T @ W) @ pull
            move_scores += through
            growth = _growth(jnp.sum(scores * pull), body["norm_H"], safe_sqrt(jnp.sum(pull * through)))
        if self.model.moves.W:
            move_scores += jax.lax.optimization_barrier(push["W"].T) @ H
        push |= {"scores": move_scores, "norm_H": growth}
        # Products decay with both of their factors.
        return push, decay | {"scores": decay["H"] + decay["W"], "norm_H": decay["H"]}

    def view(self, body: Body, logs: list[jax.Array], still: jax.Array) -> View:
        features = ScoredFeatures(body["H"].T, None, body["scores"], body["norm_H"])
        W, zero = body["W"], jnp.zeros((), body["W"].dtype)
        # Of the transpose, which is never needed, the norm would be a copy with a stride.
        return View(self.model, features, W.T, body["b"], zero, known_norm_W=safe_norm(W))


def _growth(along: jax.Array, length: jax.Array, first: jax.Array) -> jax.Array:
    """||H||' without decay: along / ||H|| with `along` = <H, push>, and ||push||, which is `first`, at H = 0."""
    return jnp.where(length > 0, along / jnp.where(length > 0, length, 1.0), first)
