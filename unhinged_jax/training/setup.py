"""From settings and data to the arguments of the compiled programs."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax.config.tables import call, name_and_arguments
from unhinged_jax.losses import NAMED, Loss
from unhinged_jax.training.data import Dataset
from unhinged_jax.training.learner import Learner, Material, Recipe, new_learner
from unhinged_jax.training.penalties import class_weights, effective_number_weights
from unhinged_jax.training.settings import HeadSection, Settings


def loss_of(settings: Settings) -> Loss:
    """The loss of the settings: a name, or a table with `name` and its parameters.

    Raises:
        ValueError: for a parameter that the loss does not have.
    """
    name, arguments = name_and_arguments(settings.head.loss, "name", "[head] loss")
    loss: Loss = call(NAMED[name], arguments, f"[head] loss {name!r}")
    return loss


def mesh_of(settings: Settings) -> jax.sharding.Mesh | None:
    """Devices that share a batch; None if there is one. Raises ValueError if they cannot share it."""
    devices = jax.local_devices()
    count = settings.train.devices or len(devices)
    if count > len(devices):
        raise ValueError(f"[train] devices is {count}, but there are {len(devices)} here; lower it or drop the key.")
    if settings.train.batch % count:
        raise ValueError(
            f"[train] a batch of {settings.train.batch} cannot be shared among {count} devices; make it a multiple, or "
            "set devices."
        )
    return None if count == 1 else jax.sharding.Mesh(np.asarray(devices[:count]), ("batch",))


def recipe_of(settings: Settings, data: Dataset, mesh: jax.sharding.Mesh | None) -> Recipe:
    """Numbers of the training that are arrays in programs."""
    head, opt = settings.head, settings.train
    updates = opt.epochs * max(data.train_y.size // opt.batch, 1)
    flip = data.flips if opt.flip is None else opt.flip
    number = jnp.result_type(float)
    loss = jax.tree.map(lambda leaf: jnp.asarray(leaf, number), loss_of(settings))
    return Recipe(
        loss=loss,
        penalty=jnp.asarray(head.feature_penalty, number),
        rate=jnp.asarray(opt.rate, number),
        momentum=jnp.asarray(opt.momentum, number),
        decay=jnp.asarray(opt.weight_decay, number),
        updates=jnp.asarray(updates, number),
        largest=jnp.asarray(opt.largest_norm, number),
        rescale=head.rescale,
        batch=opt.batch,
        shift=opt.shift,
        flip=flip,
        nesterov=opt.nesterov,
        schedule=opt.schedule,
        compute=opt.precision,
        mesh=mesh,
    )


def material_of(settings: Settings, data: Dataset, room: int | None) -> Material:
    """Training images, labels and class weights on the devices, with room for `room` images."""
    head, number = settings.head, jnp.result_type(float)
    counts = data.counts()
    if (head.effective_number is not None or head.weight_exponent) and np.any(counts == 0):
        raise ValueError("class weights need an image of every class in the training part; lower the ratio.")
    if head.effective_number is not None:
        weights = effective_number_weights(counts, head.effective_number)
    else:
        weights = class_weights(np.maximum(counts, 1), head.weight_exponent)
    spare = max((room or 0) - data.train_y.size, 0)
    images = np.concatenate([data.train_x, np.zeros((spare, *data.train_x.shape[1:]), np.uint8)])
    labels = np.concatenate([data.train_y, np.zeros(spare, data.train_y.dtype)])
    mean, deviation = (jnp.asarray(part, number) for part in data.scale())
    return Material(
        jnp.asarray(images), jnp.asarray(labels), jnp.asarray(weights, number), mean, deviation,
        jnp.asarray(data.train_y.size),
    )  # fmt: skip


def shape_of(settings: Settings) -> Settings:
    """The settings that determine the start of the learners, and no others, so that one program serves all other
    settings."""
    head = settings.head
    same = HeadSection(kind=head.kind, prototypes=head.prototypes, scale=head.scale, bias=head.bias)
    return Settings(network=settings.network, head=same)


@eqx.filter_jit
def start(seeds: jax.Array, settings: Settings, image: tuple[int, int, int], classes: int) -> Learner:
    """Learners of all seeds before the first update."""
    return eqx.filter_vmap(lambda seed: new_learner(seed, settings, image, classes))(seeds)
