"""One network during training: its parameters, and the step that changes them."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from unhinged_jax.losses import Loss
from unhinged_jax.training.augment import flipped, shifted
from unhinged_jax.training.heads import Head, feature_norms, make_head
from unhinged_jax.training.networks import features_of, make_network
from unhinged_jax.training.penalties import feature_penalty, rescaled_loss
from unhinged_jax.training.settings import Settings


class Classifier(eqx.Module):
    """A feature extractor and a head."""

    network: Any
    head: Head


class Learner(eqx.Module):
    """What a training run carries from step to step.

    Attributes:
        model: The classifier.
        stats: Running statistics of batch normalisation.
        velocity: Memory of the optimiser.
        key: Data of the JAX key that draws batches and augmentation.
        step: Updates made.
        halted: Whether it stopped because something was about to overflow.
    """

    model: Classifier
    stats: Any
    velocity: Any
    key: jax.Array
    step: jax.Array
    halted: jax.Array


class Recipe(eqx.Module):
    """How to train: numbers that may change without compiling again, and structure that may not."""

    loss: Loss
    penalty: Any
    rate: Any
    momentum: Any
    decay: Any
    updates: Any
    largest: Any
    rescale: int = eqx.field(static=True)
    batch: int = eqx.field(static=True)
    shift: int = eqx.field(static=True)
    flip: bool = eqx.field(static=True)
    nesterov: bool = eqx.field(static=True)
    schedule: str = eqx.field(static=True)
    compute: str = eqx.field(static=True)
    mesh: jax.sharding.Mesh | None = eqx.field(static=True, default=None)

    def optimizer(self) -> optax.GradientTransformation:
        """Momentum on the gradient with its weight decay; the rate is applied later."""
        return optax.chain(optax.add_decayed_weights(self.decay), optax.trace(self.momentum, nesterov=self.nesterov))

    def rate_at(self, step: jax.Array) -> jax.Array:
        """Learning rate of an update: constant, or half a cosine down to zero."""
        if self.schedule == "constant":
            return jnp.asarray(self.rate)
        return self.rate * (1 + jnp.cos(math.pi * step / self.updates)) / 2


class Material(eqx.Module):
    """Training images on the device: the first `count` rows, shape (N, c, h, w), with labels and class weights."""

    images: jax.Array
    labels: jax.Array
    weights: jax.Array
    mean: jax.Array
    deviation: jax.Array
    count: jax.Array


def new_learner(seed: jax.Array, settings: Settings, image: tuple[int, int, int], classes: int) -> Learner:
    """A learner at its start; the same seed gives the same learner, alone or together with others."""
    net, head = settings.network, settings.head
    keys = jax.random.split(jax.random.key(seed), 3)
    network, stats = make_network(keys[0], net.kind, image, net.features, net.width, net.depth)
    last = make_head(keys[1], head.kind, classes, net.features, head.prototypes, head.scale, head.bias)
    model = Classifier(network, last)
    zeros = jax.tree.map(jnp.zeros_like, split(model)[0])
    velocity = (optax.EmptyState(), optax.TraceState(zeros))
    return Learner(model, stats, velocity, jax.random.key_data(keys[2]), jnp.zeros((), jnp.int32), jnp.zeros((), bool))


def split(model: Classifier) -> tuple[Any, Any]:
    """The parameters that are trained, and the rest: anchored prototypes are kept away from the optimiser."""
    trained = jax.tree.map(eqx.is_inexact_array, model)
    if model.head.anchored:
        trained = eqx.tree_at(lambda it: it.head.prototypes, trained, False)
    return eqx.partition(model, trained)


def normalised(images: jax.Array, material: Material, compute: str) -> jax.Array:
    """Bytes as numbers of mean 0 and deviation 1 in the precision of the network."""
    scaled = (images.astype(material.mean.dtype) / 255 - material.mean) / material.deviation
    return scaled.astype(compute)


def cast(tree: PyTree, dtype: str) -> Any:
    """Floating-point leaves in another precision."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, tree)


def forward(
    model: Classifier, stats: eqx.nn.State, images: jax.Array, compute: str, inference: bool
) -> tuple[jax.Array, Any]:
    """Features (n, p) in the precision of the head, and the new running statistics."""
    features, stats = features_of(cast(model.network, compute), stats, images, inference)
    return features.astype(model.head.prototypes.dtype), stats


def train_epoch(recipe: Recipe, learner: Learner, material: Material, epoch: jax.Array) -> tuple[Learner, dict]:
    """One pass over the training images in a new order; the last incomplete batch is left out.

    Returns:
        The learner, and means over the updates of the epoch: loss, accuracy and norm of the features as trained.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(learner.key), epoch)
    drawn = jax.random.uniform(key, material.labels.shape)
    order = jnp.argsort(jnp.where(jnp.arange(drawn.size) < material.count, drawn, jnp.inf))
    updates = jnp.maximum(material.count // recipe.batch, 1)
    arrays, static = eqx.partition(learner, eqx.is_array)
    dtype = learner.model.head.prototypes.dtype
    none = {name: jnp.zeros((), dtype) for name in ("loss", "train_accuracy", "feature_norm", "made")}

    def update(place: jax.Array, carry: tuple[Any, dict]) -> tuple[Any, dict]:
        arrays, sums = carry
        rows = order[(place * recipe.batch + jnp.arange(recipe.batch)) % material.count]
        learner, facts = _update(recipe, eqx.combine(arrays, static), material, rows, jax.random.fold_in(key, place))
        return eqx.filter(learner, eqx.is_array), {name: sums[name] + facts[name] for name in sums}

    arrays, sums = jax.lax.fori_loop(0, updates, update, (arrays, none))
    made = jnp.maximum(sums.pop("made"), 1)
    return eqx.combine(arrays, static), {name: value / made for name, value in sums.items()}


def _update(
    recipe: Recipe, learner: Learner, material: Material, rows: jax.Array, key: jax.Array
) -> tuple[Learner, dict[str, jax.Array]]:
    """One step, or no step if it would leave the range of numbers."""
    move_key, flip_key = jax.random.split(key)
    images = shifted(move_key, material.images[rows], recipe.shift)
    if recipe.flip:
        images = flipped(flip_key, images)
    images, labels = normalised(images, material, recipe.compute), material.labels[rows]
    if recipe.mesh is not None:
        spec = jax.sharding.PartitionSpec(*recipe.mesh.axis_names)
        images = jax.lax.with_sharding_constraint(images, jax.sharding.NamedSharding(recipe.mesh, spec))
    moving, still = split(learner.model)

    def objective(moving: Classifier) -> tuple[jax.Array, tuple[Any, dict]]:
        model = eqx.combine(moving, still)
        features, stats = forward(model, learner.stats, images, recipe.compute, inference=False)
        losses = model.head.losses(recipe.loss, features, labels) * material.weights[labels]
        value = jnp.mean(rescaled_loss(losses, features, recipe.rescale)) + feature_penalty(features, recipe.penalty)
        norms = feature_norms(jax.lax.stop_gradient(features))
        right = jnp.argmax(model.head(features), axis=-1) == labels
        facts = {"loss": value, "train_accuracy": jnp.mean(right.astype(value.dtype)), "feature_norm": jnp.mean(norms)}
        return value, (stats, facts | {"largest": jnp.max(norms)})

    (value, (stats, facts)), gradient = jax.value_and_grad(objective, has_aux=True)(moving)
    changes, velocity = recipe.optimizer().update(gradient, learner.velocity, moving)
    rate = recipe.rate_at(learner.step)
    moved = jax.tree.map(lambda now, change: now - (rate * change).astype(now.dtype), moving, changes)
    fine = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(moved)) & (facts.pop("largest") <= recipe.largest)
    fine &= ~learner.halted
    after = Learner(eqx.combine(moved, still), stats, velocity, learner.key, learner.step + 1, learner.halted)
    chosen = _either(fine, after, learner)
    chosen = eqx.tree_at(lambda it: it.halted, chosen, ~fine)
    facts = {name: jnp.where(fine, fact, 0) for name, fact in facts.items()}
    return chosen, facts | {"made": fine.astype(value.dtype)}


def _either(condition: jax.Array, yes: PyTree, no: PyTree) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b) if eqx.is_array(a) else a, yes, no)
