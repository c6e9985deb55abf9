"""Losses of the logits alone, with features and prototypes as the columns of H (p, n) and W (p, C), as the paper writes
them.

All three products of a step then read and write along memory. CPUs do them near the rate of a large product; where
samples are rows, they lose a fifth of it in float64.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from unhinged_jax.features import DenseFeatures
from unhinged_jax.losses import AdjustedMargin
from unhinged_jax.model import LayerPeeled
from unhinged_jax.observables import View
from unhinged_jax.simulate.system import Body, System


def suits(model: LayerPeeled) -> bool:
    """Whether the force is that of the logits H W^T + b and nothing else."""
    return not (model.spherical or model.rescale or model.kernel is not None or isinstance(model.loss, AdjustedMargin))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ColumnSystem(System):
    """Arrays "H" (p, n), "W" (p, C) and "b" (C,); `targets` (C, n) stay."""

    model: LayerPeeled
    H: jax.Array
    W: jax.Array
    b: jax.Array
    targets: jax.Array

    def body(self) -> Body:
        return {"H": self.H, "W": self.W, "b": self.b}

    def velocity(self, body: Body) -> Body:
        # Behind a barrier, because the product would otherwise read W across memory.
        scores = jax.lax.optimization_barrier(body["W"].T) @ body["H"]
        return self.moving(self.forces(body, self.pull(body, scores)), body)

    def pull(self, body: Body, scores: jax.Array) -> jax.Array:
        """Minus the gradient of the loss in the scores W^T H; both (C, n)."""
        weights = jnp.asarray(self.model.labels.weights, scores.dtype)
        pull = self.model.loss.pull(scores + body["b"][:, None], self.targets, weights)
        # Behind a barrier, because XLA would work the softmax out again for every product that it enters.
        return jax.lax.optimization_barrier(pull)

    def forces(self, body: Body, pull: jax.Array) -> Body:
        """Minus the gradients of the loss in H, W and b."""
        return {"H": body["W"] @ pull, "W": body["H"] @ pull.T, "b": jnp.sum(pull, axis=1)}

    def moving(self, force: Body, body: Body) -> Body:
        """Forces less decay; 0 for what stays."""
        model = self.model
        moves = {
            "H": model.features_move, "W": model.prototypes_move, "b": model.prototypes_move and model.bias,
        }  # fmt: skip
        decays = {"H": model.decay_H, "W": model.decay_W, "b": model.decay_W}
        return {
            name: force[name] - decays[name] * body[name] if moves[name] else jnp.zeros_like(body[name])
            for name in force
        }

    def pack(self, velocity: Body) -> Body:
        return _turned(velocity)

    def unpack(self, velocity: Body, logs: list[jax.Array], log_scale: jax.Array) -> Body:
        return _turned(velocity)

    def view(self, body: Body, logs: list[jax.Array]) -> View:
        return View(self.model, DenseFeatures(body["H"].T), body["W"].T, body["b"], jnp.zeros((), body["W"].dtype))


def column_system(model: LayerPeeled, H: jax.Array, W: jax.Array, b: jax.Array) -> ColumnSystem:
    """The system of a state given by rows, H (n, p) and W (C, p)."""
    return ColumnSystem(model, H.T, W.T, b, model.labels.probabilities().T.astype(H.dtype))


def _turned(velocity: Body) -> Body:
    return {**velocity, "H": velocity["H"].T, "W": velocity["W"].T}
