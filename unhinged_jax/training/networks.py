"""Feature extractors in equinox: an MLP, a small CNN and the residual networks of the paper.

Every network maps one image (c, h, w) and its state to a feature (p,) and the new state; batch normalisation needs the
axis name "batch" (`features_of`). There is no rectifier before the last layer, so that features can reach prototypes in
every direction (Zhou et al. 2023, Appendix C.2).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from unhinged_jax import _check

KINDS = ("mlp", "cnn", "resnet18", "resnet34")
BATCH = "batch"

_STAGES = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}


def _norm(size: int) -> eqx.nn.BatchNorm:
    return eqx.nn.BatchNorm(size, BATCH, mode="batch", momentum=0.9)


def _normed(norm: eqx.nn.BatchNorm, x: jax.Array, state: eqx.nn.State, inference: bool) -> tuple[jax.Array, Any]:
    """Batch normalisation in at least float32, because sums over a batch lose too much in half precision."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    out, state = norm(wide, state, inference=inference)
    return out.astype(x.dtype), state


def _convolution(inputs: int, outputs: int, size: int, stride: int, key: jax.Array) -> eqx.nn.Conv2d:
    layer = eqx.nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, use_bias=False, key=key)
    return eqx.tree_at(lambda it: it.weight, layer, _he(key, layer.weight))


def _he(key: jax.Array, weight: jax.Array) -> jax.Array:
    draw = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal", in_axis=1, out_axis=0)
    return draw(key, weight.shape, weight.dtype)


class MLP(eqx.Module):
    """Dense layers, each with batch normalisation, and rectifiers between them."""

    layers: list[eqx.nn.Linear]
    norms: list[eqx.nn.BatchNorm]

    def __init__(self, key: jax.Array, inputs: int, width: int, depth: int, features: int) -> None:
        sizes = [inputs, *[width] * depth, features]
        keys = jax.random.split(key, depth + 1)
        self.layers = [
            eqx.nn.Linear(a, b, use_bias=False, key=k) for a, b, k in zip(sizes[:-1], sizes[1:], keys, strict=True)
        ]
        self.norms = [_norm(size) for size in sizes[1:]]

    def __call__(self, x: jax.Array, state: eqx.nn.State, inference: bool = False) -> tuple[jax.Array, Any]:
        x = x.reshape(-1)
        for place, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = layer(jax.nn.relu(x) if place else x)
            x, state = _normed(norm, x, state, inference)
        return x, state


class CNN(eqx.Module):
    """Two convolutions of `width` and 2 `width` channels, each halving the image, and a dense layer."""

    convolutions: list[eqx.nn.Conv2d]
    dense: eqx.nn.Linear
    norms: list[eqx.nn.BatchNorm]

    def __init__(self, key: jax.Array, channels: int, side: int, width: int, features: int) -> None:
        first, second, third = jax.random.split(key, 3)
        self.convolutions = [
            _convolution(channels, width, 3, 2, first), _convolution(width, 2 * width, 3, 2, second)
        ]  # fmt: skip
        small = -(-side // 4)
        self.dense = eqx.nn.Linear(2 * width * small * small, features, use_bias=False, key=third)
        self.norms = [_norm(width), _norm(2 * width), _norm(features)]

    def __call__(self, x: jax.Array, state: eqx.nn.State, inference: bool = False) -> tuple[jax.Array, Any]:
        for layer, norm in zip(self.convolutions, self.norms[:-1], strict=True):
            x, state = _normed(norm, layer(x), state, inference)
            x = jax.nn.relu(x)
        return _normed(self.norms[-1], self.dense(x.reshape(-1)), state, inference)


class Block(eqx.Module):
    """A basic residual block; the last one of a network leaves out its final rectifier."""

    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    shortcut: eqx.nn.Conv2d | None
    norms: list[eqx.nn.BatchNorm]
    last: bool = eqx.field(static=True)

    def __init__(self, key: jax.Array, inputs: int, outputs: int, stride: int, last: bool) -> None:
        a, b, c = jax.random.split(key, 3)
        self.first = _convolution(inputs, outputs, 3, stride, a)
        self.second = _convolution(outputs, outputs, 3, 1, b)
        plain = stride == 1 and inputs == outputs
        self.shortcut = None if plain else _convolution(inputs, outputs, 1, stride, c)
        self.norms = [_norm(outputs) for _ in range(2 if plain else 3)]
        self.last = last

    def __call__(self, x: jax.Array, state: eqx.nn.State, inference: bool = False) -> tuple[jax.Array, Any]:
        y, state = _normed(self.norms[0], self.first(x), state, inference)
        y, state = _normed(self.norms[1], self.second(jax.nn.relu(y)), state, inference)
        if self.shortcut is not None:
            x, state = _normed(self.norms[2], self.shortcut(x), state, inference)
        y = x + y
        return y if self.last else jax.nn.relu(y), state


class ResNet(eqx.Module):
    """The residual network for small images: a 3x3 stem, four stages, the mean over the image."""

    stem: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    blocks: list[Block]

    def __init__(self, key: jax.Array, channels: int, stages: tuple[int, ...], width: int) -> None:
        stem, *keys = jax.random.split(key, 1 + sum(stages))
        self.stem = _convolution(channels, width, 3, 1, stem)
        self.norm = _norm(width)
        plan, inputs = [], width
        for stage, count in enumerate(stages):
            for place in range(count):
                outputs = width * 2**stage
                plan.append((inputs, outputs, 2 if stage and not place else 1))
                inputs = outputs
        self.blocks = [
            Block(k, *shape, last=i == len(plan) - 1) for i, (k, shape) in enumerate(zip(keys, plan, strict=True))
        ]

    def __call__(self, x: jax.Array, state: eqx.nn.State, inference: bool = False) -> tuple[jax.Array, Any]:
        x, state = _normed(self.norm, self.stem(x), state, inference)
        x = jax.nn.relu(x)
        for block in self.blocks:
            x, state = block(x, state, inference)
        return jnp.mean(x, axis=(1, 2)), state


def make_network(
    key: jax.Array,
    kind: str,
    image: tuple[int, int, int],
    features: int = 64,
    width: int | None = None,
    depth: int = 2,
) -> tuple[eqx.Module, Any]:
    """A feature extractor and its state (the running statistics of batch normalisation).

    Args:
        key: JAX key.
        kind: "mlp", "cnn", "resnet18" or "resnet34".
        image: Shape (c, h, w) of an image; square ones for the "cnn".
        features: Dimension p of the features; a residual network has 8 `width` features.
        width: Hidden units (default 256), channels of the first convolution (32), or of the first stage (64).
        depth: Hidden layers of the MLP.

    Returns:
        (network, state).

    Raises:
        ValueError: for an unknown kind, a size below 1, or features that a residual network cannot have.

    Source: Zhou et al. 2023, Appendix C.2 (He et al. 2016); the MLP and the CNN beyond the paper.

    Example:
        >>> network, state = make_network(jax.random.key(0), "mlp", (1, 8, 8), features=5, width=7)
        >>> features_of(network, state, jnp.zeros((3, 1, 8, 8)))[0].shape
        (3, 5)
    """
    _check.choice("kind of network", kind, KINDS)
    width = width or {"mlp": 256, "cnn": 32}.get(kind, 64)
    for name, value in (("width", width), ("depth", depth), ("features", features)):
        _check.whole(name, value, 1)
    channels, height, across = image
    if kind == "mlp":
        return eqx.nn.make_with_state(MLP)(key, channels * height * across, width, depth, features)
    if kind == "cnn":
        if height != across:
            raise ValueError(f"the CNN takes square images, but got {height} x {across}; crop or pad them.")
        return eqx.nn.make_with_state(CNN)(key, channels, height, width, features)
    if features != 8 * width:
        raise ValueError(
            f"a {kind} of width {width} has {8 * width} features, but {features} were requested; set features = "
            f"{8 * width}, or another width."
        )
    return eqx.nn.make_with_state(ResNet)(key, channels, _STAGES[kind], width)


def features_of(
    network: PyTree, state: eqx.nn.State, images: jax.Array, inference: bool = False
) -> tuple[jax.Array, Any]:
    """Features (n, p) of a batch of images (n, c, h, w), and the new state.

    Args:
        network, state: From `make_network`.
        images: Shape (n, c, h, w).
        inference: Normalise by the running statistics instead of those of the batch.

    Returns:
        (features, state).

    Source: beyond the paper.
    """

    def one(image: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, Any]:
        return network(image, state, inference)

    return jax.vmap(one, axis_name=BATCH, in_axes=(0, None), out_axes=(0, None))(images, state)


def parameter_count(network: PyTree) -> int:
    """Number of trained numbers in a network.

    Example:
        >>> parameter_count(make_network(jax.random.key(0), "mlp", (1, 2, 2), features=3, width=5)[0])
        86
    """
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array)))
