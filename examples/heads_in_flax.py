"""The practical heads in a training loop of flax and optax: an ordinary last layer, anchored by the optimiser.

python examples/heads_in_flax.py
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from unhinged_jax.losses import unhinged
from unhinged_jax.training import anchor, feature_penalty, initial_prototypes

CLASSES, INPUTS, FEATURES = 4, 8, 5


class Classifier(nn.Module):
    """Two dense layers and a last one without a bias."""

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = nn.Dense(FEATURES)(nn.relu(nn.Dense(16)(x)))
        return nn.Dense(CLASSES, use_bias=False, name="head")(features), features


def images(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Points around one centre a class, in place of a data set."""
    centres, noise = jax.random.normal(jax.random.key(1), (CLASSES, INPUTS)), jax.random.normal(key, (64, INPUTS))
    labels = jnp.arange(64) % CLASSES
    return centres[labels] + 0.3 * noise, labels


def main() -> float:
    """Train, and return the accuracy."""
    model = Classifier()
    params = model.init(jax.random.key(0), jnp.zeros((1, INPUTS)))["params"]
    prototypes = initial_prototypes(jax.random.key(2), CLASSES, FEATURES)
    params["head"]["kernel"] = prototypes.T
    # PAL: neither gradient, nor momentum, nor weight decay reaches the last layer.
    inner = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.02, momentum=0.9))
    optimizer = anchor(inner, lambda path: "['head']" in path)

    def loss(params: dict, x: jax.Array, y: jax.Array) -> jax.Array:
        logits, features = model.apply({"params": params}, x)
        return jnp.mean(unhinged(logits, y)) + feature_penalty(features, 1e-4)

    @jax.jit
    def step(params: dict, state: optax.OptState, x: jax.Array, y: jax.Array) -> tuple:
        updates, state = optimizer.update(jax.grad(loss)(params, x, y), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for k in range(60):
        params, state = step(params, state, *images(jax.random.key(k)))
    assert jnp.array_equal(params["head"]["kernel"], prototypes.T)
    x, y = images(jax.random.key(1000))
    return float(jnp.mean(jnp.argmax(model.apply({"params": params}, x)[0], axis=1) == y))


if __name__ == "__main__":
    print(f"accuracy {main():.3f}")
