"""Diffusions: Euler-Maruyama steps, each with the gradient of all samples under weights that are noise around theirs.

    Z <- Z + eta h (-dL/dZ) + eta sqrt(h) B xi,    xi normal

A batch multiplies the term of sample i in the loss by D_i, with Cov(D_i, D_j) = kappa (n delta_ij - 1)/m, and a label
that is drawn again chooses among the losses of the labels, with probabilities pi_ic. Both are linear in what is drawn,
so B xi is the gradient of the loss whose terms are weighted by normal numbers of the same covariance:

    batch     sqrt(kappa n/m) (g_i - mean g)
    labels    sqrt(E D_i^2) sqrt(pi_ic) (x_ic - sqrt(pi_ic) sum_d sqrt(pi_id) x_id)

No covariance is formed or decomposed. Drift and noise are one gradient, at the weights 1 + noise/sqrt(h).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax.dynamics import Diffusion
from unhinged_jax.labels import Labels
from unhinged_jax.labels.held_out import training_rows
from unhinged_jax.model import LayerPeeled
from unhinged_jax.model.layer_peeled import Parts
from unhinged_jax.simulation.dense import DenseSystem
from unhinged_jax.simulation.sampled import forces_of
from unhinged_jax.simulation.system import Body


class DiffusedSystem(DenseSystem):
    """A dense system whose gradient is that of one step; `update` is the number of steps before this one."""

    keys: jax.Array  # words of two keys, of which the first is that of the steps
    generator: str = eqx.field(static=True)
    diffusion: Diffusion
    update: jax.Array

    def at_update(self, k: jax.Array) -> DiffusedSystem:
        return dataclasses.replace(self, update=k)

    def velocity(self, body: Body) -> Body:
        model, H, W, b = self.model, body["H"], body["W"], body["b"]
        diffusion, n, dtype = self.diffusion, self.model.labels.training_samples, W.dtype
        shares, labels = jnp.ones((n, 1), dtype), jnp.zeros((), dtype)
        of_batch, of_labels = jax.random.split(jax.random.wrap_key_data(self.keys[0], impl=self.generator))
        apart = jnp.ones((), dtype)  # E D_i^2
        if diffusion.batch is not None:
            m = jnp.asarray(diffusion.batch, dtype)
            kappa = jnp.ones((), dtype) if diffusion.replacement else (n - m) / max(n - 1, 1)
            apart = 1 + kappa * (n - 1) / m
            g = self._normal(of_batch, (n, 1), dtype)
            shares += jnp.sqrt(kappa * n / m) * (g - jnp.mean(g))
        if model.labels.held_out is not None:  # their weight is 0, whatever their share
            shares = jnp.ones((model.samples, 1), dtype).at[training_rows(model.labels)].set(shares)
        if diffusion.fresh_labels:
            chances = model.labels.probabilities().astype(dtype)
            root = jnp.sqrt(chances / jnp.sum(chances, axis=1, keepdims=True))
            x = self._normal(of_labels, (model.samples, model.classes), dtype)
            labels = jnp.sqrt(apart) * root * (x - root * jnp.sum(root * x, axis=1, keepdims=True))
            forces = _forces_of_labels(model, root**2 * shares + labels, H, W, b)
        else:
            forces = forces_of(dataclasses.replace(model, labels=_weighted(model.labels, shares[:, 0])), H, W, b)
        return dict(zip(("H", "W", "b"), model.velocity(H, W, b, forces=forces), strict=True))

    def _normal(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Increments of Brownian motion over this step, over the step itself, which is what drift and noise share.

        They are those of the key alone: in a run whose steps were halved, bridges divide the increment over the step of
        the coarsest run. Numbers are drawn in float32, so that both precisions follow one path.
        """
        times, k = self.diffusion.halvings, self.update
        key, place = jax.random.fold_in(key, k >> times), k & (2**times - 1)

        def drawn(node: Any) -> jax.Array:
            return jax.random.normal(jax.random.fold_in(key, node), shape, jnp.float32).astype(dtype)

        value = 2 ** (times / 2) * drawn(0)  # in units of the root of a step
        for level in range(times):
            length, later = 2 ** (times - level), (place >> (times - level - 1)) & 1
            bridge = length**0.5 / 2 * drawn(2**level + (place >> (times - level)))
            value = value / 2 + jnp.where(later, -bridge, bridge)
        return value / self.diffusion.step**0.5


def _weighted(labels: Labels, factors: jax.Array) -> Labels:
    """Labels whose weights are multiplied by factors of either sign, (n,)."""
    weights = jnp.asarray(labels.weights, factors.dtype) * factors
    return Labels(labels.index, weights, labels.targets, classes=labels.classes, kind=labels.kind)


def _forces_of_labels(model: LayerPeeled, shares: jax.Array, H: jax.Array, W: jax.Array, b: jax.Array) -> Parts:
    """Minus the gradients of sum_ic q_i shares_ic loss(s_i, label c)."""
    n, C, dtype = model.samples, model.classes, W.dtype
    weights = jnp.asarray(model.labels.weights, dtype)[:, None] * shares
    if model.linear:
        each = Labels(index=np.arange(C), weights=np.ones(C), classes=C)
        signal = weights @ model.loss.signal(each).dense(dtype)
        return signal @ W, signal.T @ H, jnp.sum(signal, axis=0) if model.moves.b else jnp.zeros_like(b)

    def loss(*parts: jax.Array) -> jax.Array:
        def of_label(c: jax.Array, weights: jax.Array) -> jax.Array:
            labels = Labels(index=jnp.full(n, c), weights=weights, classes=C)
            return dataclasses.replace(model, labels=labels).data_loss(*parts)

        return -jnp.sum(jax.vmap(of_label)(jnp.arange(C), weights.T))

    forces: Parts = jax.grad(loss, argnums=(0, 1, 2))(H, W, b)
    return forces
