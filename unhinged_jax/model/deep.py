"""A stack of more than two factors: logits S = W_L W_{L-1} ... W_2 H, all of whose factors move.

With samples as rows, F_1 = H and F_l = s(F_{l-1} W_l^T) for l = 2, ..., L-1, with s the identity or ReLU; the logits
are S = F_{L-1} W^T + b. What a model of depth 2 does with features, this one does with F_{L-1}.
"""

from __future__ import annotations

from collections.abc import Iterable

import jax
from jaxtyping import Float

from unhinged_jax.model.layer_peeled import LayerPeeled

Factors = dict[str, jax.Array]
"""H (n, p), W (C, p), b (C,) and "inner_2", ..., "inner_{L-1}", (p, p) each."""


def next_features(model: LayerPeeled, features: Float[jax.Array, "n p"], factor: Float[jax.Array, "p p"]) -> jax.Array:
    """The features after one factor more, (n, p)."""
    moved = features @ factor.T
    return jax.nn.relu(moved) if model.activation == "relu" else moved


def last_features(
    model: LayerPeeled, H: Float[jax.Array, "n p"], inner: Iterable[Float[jax.Array, "p p"]]
) -> Float[jax.Array, "n p"]:
    """The features that the prototypes see, F_{L-1}."""
    for factor in inner:
        H = next_features(model, H, factor)
    return H


def inner_names(model: LayerPeeled) -> tuple[str, ...]:
    """Names of the factors between H and W: "inner_2", ..., "inner_{L-1}"."""
    return tuple(f"inner_{place}" for place in range(2, model.depth))


def velocity_of(model: LayerPeeled, factors: Factors) -> Factors:
    """`LayerPeeled.velocity` of all factors by name, for any depth."""
    if model.depth > 2:
        return deep_velocity(model, factors)
    H, W, b = model.velocity(factors["H"], factors["W"], factors["b"])
    return {"H": H, "W": W, "b": b}


def deep_velocity(model: LayerPeeled, factors: Factors) -> Factors:
    """Minus the gradient of the objective with respect to every factor, at unit rates."""
    names = inner_names(model)

    def gain(factors: Factors) -> jax.Array:
        features = last_features(model, factors["H"], (factors[name] for name in names))
        return -model.data_loss(features, factors["W"], factors["b"])

    forces, decays = jax.grad(gain)(factors), model.decays._asdict()
    moved = {name: forces[name] - decays.get(name, model.decay_W) * part for name, part in factors.items()}
    return moved if model.moves.b else {**moved, "b": 0 * moved["b"]}
