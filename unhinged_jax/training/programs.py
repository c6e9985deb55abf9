"""The compiled programs of training: one epoch, an evaluation, the observables; each for all seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from unhinged_jax.collapse import class_statistics, collapse_metrics
from unhinged_jax.training.heads import feature_norms
from unhinged_jax.training.learner import Learner, Material, Recipe, forward, normalised, train_epoch


def _over_seeds(function: Callable[[Any], Any], arrays: PyTree, together: bool) -> Any:
    """All seeds as one batched program, or one after the other if batched convolutions would be slow."""
    return jax.vmap(function)(arrays) if together else jax.lax.map(function, arrays)


@eqx.filter_jit
def epoch_of_all(
    recipe: Recipe, learners: Learner, material: Material, epoch: jax.Array, together: bool
) -> tuple[Learner, dict[str, jax.Array]]:
    """One epoch of the learners of all seeds: the learners after it, and the measurements in it."""
    arrays, static = eqx.partition(learners, eqx.is_array)

    def one(arrays: PyTree) -> tuple[Any, dict]:
        learner, facts = train_epoch(recipe, eqx.combine(arrays, static), material, epoch)
        return eqx.filter(learner, eqx.is_array), facts

    arrays, facts = _over_seeds(one, arrays, together)
    return eqx.combine(arrays, static), facts


@eqx.filter_jit
def apply_all(
    learners: Learner, images: jax.Array, material: Material, compute: str, chunk: int, together: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Features, logits and feature norms in inference mode."""
    arrays, static = eqx.partition((learners.model, learners.stats), eqx.is_array)

    def one(arrays: PyTree) -> tuple[jax.Array, jax.Array, jax.Array]:
        model, stats = eqx.combine(arrays, static)

        def of_image(image: jax.Array) -> jax.Array:
            features, _ = forward(model, stats, normalised(image[None], material, compute), compute, inference=True)
            return features[0]

        features = jax.lax.map(of_image, images, batch_size=chunk)
        return features, model.head(features), feature_norms(features)

    return _over_seeds(one, arrays, together)


@eqx.filter_jit
def collapse_of_all(
    features: jax.Array, logits: jax.Array, prototypes: jax.Array, labels: jax.Array, classes: int
) -> dict[str, jax.Array]:
    """Collapse metrics of every seed."""

    def one(parts: tuple[jax.Array, jax.Array, jax.Array]) -> dict[str, jax.Array]:
        H, S, W = parts
        return collapse_metrics(class_statistics(H, labels, classes), W, S)

    return jax.lax.map(one, (features, logits, prototypes))
