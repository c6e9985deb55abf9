"""A dense flow that carries its logits, for losses and accuracies at many times.

Between two steps a solver puts every array that is asked for together from all of its stages. Logits (C, n) are fewer
than features (p, n) where C < p, and what is asked of them needs no product: so they and the norm of H obey equations
of their own beside those of H and W. The force is that of the logits carried, so that a stage costs three products, as
without them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from unhinged_jax.features import ScoredFeatures
from unhinged_jax.observables import Plan, View
from unhinged_jax.simulate.columns import ColumnSystem
from unhinged_jax.simulate.system import Body, rated
from unhinged_jax.special import safe_norm

_MANY = 100  # times; for fewer the plain system is as fast
_READABLE = frozenset(
    [
        "loss", "loss_sign", "log_abs_loss", "objective", "accuracy", "margin_min", "margin_mean", "norm_b",
        *(f"{log}norm{part}" for log in ("", "log_") for part in ("", "_H", "_W")),
    ]
)


def worthwhile(system: ColumnSystem, plan: Plan, times: int) -> bool:
    """Whether logits and norms alone are asked for, so often that it pays to carry them."""
    asked = all(function is None and name in _READABLE for name, function in plan)
    return asked and times >= _MANY and 2 * system.model.classes <= system.model.dim


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogitSystem(ColumnSystem):
    """Arrays "H" (p, n), "W" (p, C) and "b" (C,), with "scores" W^T H (C, n) and "norm_H"."""

    def body(self) -> Body:
        norm = jnp.linalg.norm(jnp.linalg.norm(self.H, axis=0))
        return {**super().body(), "scores": self.W.T @ self.H, "norm_H": norm}

    def driven(self, body: Body, rate_H: jax.Array, rate_W: jax.Array) -> Body:
        model, H, W, scores = self.model, body["H"], body["W"], body["scores"]
        pull = self.pull(body, scores)
        force = self.forces(body, pull)
        move_scores = jnp.zeros_like(scores)
        if model.features_move:
            # W^T (W pull) by way of W^T W, which is small.
            move_scores += rate_H * ((W.T @ W) @ pull - model.decay_H * scores)
        if model.prototypes_move:
            move_scores += rate_W * (jax.lax.optimization_barrier(force["W"].T) @ H - model.decay_W * scores)
        moved = rated(self.moving(force, body), rate_H, rate_W)
        growth = jnp.zeros_like(body["norm_H"])
        if model.features_move:
            # <H, W pull> = <scores, pull>: no pass over H.
            growth = _growth(rate_H, jnp.sum(scores * pull), model.decay_H, body["norm_H"], moved["H"])
        return {**moved, "scores": move_scores, "norm_H": growth}

    def view(self, body: Body, logs: list[jax.Array]) -> View:
        features = ScoredFeatures(body["H"].T, body["scores"], body["norm_H"])
        return View(self.model, features, body["W"].T, body["b"], jnp.zeros((), body["W"].dtype))


def _growth(rate: jax.Array, along: jax.Array, decay: Any, length: jax.Array, moved: jax.Array) -> jax.Array:
    """||H||' = rate (<H, force> / ||H|| - decay ||H||) from `along` = <H, force>; ||H'|| at H = 0."""
    steady = rate * (along / jnp.where(length > 0, length, 1.0) - decay * length)
    return jax.lax.cond(length > 0, lambda: steady, lambda: safe_norm(moved))
