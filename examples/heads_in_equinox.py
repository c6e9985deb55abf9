"""The practical heads in a training loop of equinox and optax: anchored prototypes on normalised features.

python examples/heads_in_equinox.py
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from unhinged_jax.losses import unhinged
from unhinged_jax.training import feature_penalty, fnpal_logits, initial_prototypes, rescaled_loss

CLASSES, INPUTS, FEATURES = 4, 8, 5


def images(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Points around one centre a class, in place of a data set."""
    centres, noise = jax.random.normal(jax.random.key(1), (CLASSES, INPUTS)), jax.random.normal(key, (64, INPUTS))
    labels = jnp.arange(64) % CLASSES
    return centres[labels] + 0.3 * noise, labels


def main() -> float:
    """Train, and return the accuracy."""
    network = eqx.nn.MLP(INPUTS, FEATURES, 16, 1, key=jax.random.key(0))
    prototypes = initial_prototypes(jax.random.key(2), CLASSES, FEATURES)  # a simplex ETF that stays
    optimizer = optax.sgd(0.05, momentum=0.9)

    def loss(network: eqx.Module, x: jax.Array, y: jax.Array) -> jax.Array:
        h = jax.vmap(network)(x)
        losses = unhinged(fnpal_logits(h, prototypes), y)  # FNPAL
        losses = rescaled_loss(losses, h, exponent=1)  # RLR: the gradient times ||h||, the value as it is
        return jnp.mean(losses) + feature_penalty(h, 1e-5)  # EFR

    @eqx.filter_jit
    def step(network: eqx.Module, state: optax.OptState, x: jax.Array, y: jax.Array) -> tuple:
        updates, state = optimizer.update(eqx.filter_grad(loss)(network, x, y), state, network)
        return eqx.apply_updates(network, updates), state

    state = optimizer.init(eqx.filter(network, eqx.is_inexact_array))
    for k in range(60):
        network, state = step(network, state, *images(jax.random.key(k)))
    x, y = images(jax.random.key(1000))
    return float(jnp.mean(jnp.argmax(fnpal_logits(jax.vmap(network)(x), prototypes), axis=1) == y))


if __name__ == "__main__":
    print(f"accuracy {main():.3f}")
