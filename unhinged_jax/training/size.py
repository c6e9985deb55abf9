"""The least memory that a training run takes, before anything is drawn or put on a device."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from unhinged_jax import _memory
from unhinged_jax.training.data import Dataset
from unhinged_jax.training.learner import Learner, forward, new_learner
from unhinged_jax.training.settings import Settings
from unhinged_jax.training.setup import shape_of

_PRODUCTS = ("dot_general", "conv_general_dilated")


def refuse_large(settings: Settings, data: Dataset, room: int | None, together: bool) -> None:
    """Raise MemoryError for a run that takes more memory than the machine has, in the current precision.

    It counts what every program needs: the learners of all seeds before and after an epoch, the training images, and
    the larger of an update (a batch, the products of every layer, which the gradient needs again, and the gradient) and
    of an evaluation (images, features and logits). `together`: all seeds are updated at once.
    """
    opt, seeds, image = settings.train, len(settings.seeds), math.prod(data.image)
    key = jax.ShapeDtypeStruct((), jnp.int32)
    learner: Learner = eqx.filter_eval_shape(new_learner, key, shape_of(settings), data.image, data.classes)
    trained = jax.tree.leaves(learner.velocity)
    one = jax.ShapeDtypeStruct((1, *data.image), opt.precision)
    update = _bytes(trained) + opt.batch * (_bytes(one) + _bytes(_products(learner, one, opt.precision)))
    images = len(data.test_x)
    if settings.watch.collapse:
        images = max(images, min(settings.watch.samples, len(data.train_x)))
    outputs = (settings.network.features + data.classes) * jnp.result_type(float).itemsize
    rows = max(room or 0, len(data.train_x))
    wanted = 2 * seeds * _bytes(learner) + rows * image
    wanted += max((seeds if together else 1) * update, images * (image + seeds * outputs))
    count = sum(math.prod(leaf.shape) for leaf in trained)
    networks = "a network" if seeds == 1 else f"{seeds} networks"
    _memory.refuse(wanted, f"training {networks} of {count:,} parameters in batches of {opt.batch:,}")


def _products(learner: Learner, images: jax.ShapeDtypeStruct, compute: str) -> list[Any]:
    """The results of all matrix products and convolutions on the way from images to their features."""
    arrays, static = eqx.partition(learner, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))

    def features(arrays: PyTree, images: jax.Array) -> Any:
        learner = eqx.combine(arrays, static)
        return forward(learner.model, learner.stats, images, compute, inference=False)[0]

    steps = jax.make_jaxpr(features)(arrays, images).jaxpr.eqns
    return [out.aval for step in steps if step.primitive.name in _PRODUCTS for out in step.outvars]


def _bytes(tree: PyTree) -> int:
    """Bytes of all arrays; Python's whole numbers do not overflow."""
    arrays = (leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in arrays)
