"""A network of your own: trained in PyTorch, flax or equinox, measured, and followed from there.

python examples/own_network.py equinox

PyTorch and flax come separately: `pip install torch --index-url https://download.pytorch.org/whl/cpu`,
`pip install flax`.
"""

import sys

import jax
import numpy as np
import optax

import unhinged_jax as uj

CLASSES, INPUTS, FEATURES, STEPS = 4, 8, 6, 300


def clusters() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points around one centre per class, their labels, and points of a class that no network here is trained on."""
    rng = np.random.default_rng(0)
    centres, labels = 2 * rng.normal(size=(CLASSES + 1, INPUTS)), np.arange(240) % CLASSES
    points = centres[labels] + rng.normal(size=(240, INPUTS))
    unseen = centres[-1] + rng.normal(size=(60, INPUTS))
    return points.astype(np.float32), labels, unseen.astype(np.float32)


def in_pytorch() -> dict:
    """Features by a hook on the last layer."""
    import torch

    torch.manual_seed(0)
    points, labels, unseen = (torch.from_numpy(part) for part in clusters())
    network = torch.nn.Sequential(
        torch.nn.Linear(INPUTS, 32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, FEATURES),
        torch.nn.ReLU(),
        torch.nn.Linear(FEATURES, CLASSES),
    )
    settings = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
    optimizer = torch.optim.SGD(network.parameters(), **settings)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(points), labels).backward()
        optimizer.step()

    head = network[-1]  # the last linear layer; of a ResNet, `network.fc`

    def entering(batches: list) -> np.ndarray:
        """What enters the last layer."""
        seen: list = []

        def keep(_layer: torch.nn.Module, inputs: tuple) -> None:
            seen.append(inputs[0].detach().cpu())

        hook = head.register_forward_pre_hook(keep)
        network.eval()
        with torch.no_grad():
            for batch in batches:  # of a DataLoader that does not shuffle
                network(batch)
        hook.remove()
        return torch.cat(seen).numpy()

    return {
        "features": entering(points.split(64)),
        "labels": labels.numpy(),
        "prototypes": head.weight.detach().cpu().numpy(),
        "bias": head.bias.detach().cpu().numpy(),
        "ood": entering(unseen.split(64)),
    }


def in_flax() -> dict:
    """Features by `sow`, which keeps what a layer sees."""
    import flax.linen as nn

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.relu(nn.Dense(FEATURES)(nn.relu(nn.Dense(32)(x))))
            self.sow("intermediates", "features", x)
            return nn.Dense(CLASSES, name="head")(x)

    points, labels, unseen = clusters()
    network = Network()
    params = network.init(jax.random.key(0), points[:1])["params"]

    def loss(params: dict) -> jax.Array:
        logits = network.apply({"params": params}, points)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    params = _trained(loss, params)

    def entering(batch: np.ndarray) -> jax.Array:
        """What enters the last layer."""
        _, seen = network.apply({"params": params}, batch, mutable=["intermediates"])
        return seen["intermediates"]["features"][0]

    head = params["head"]  # flax keeps the transpose of the prototypes
    return {
        "features": entering(points),
        "labels": labels,
        "prototypes": head["kernel"].T,
        "bias": head["bias"],
        "ood": entering(unseen),
    }


def in_equinox() -> dict:
    """Features by a body that is a function of its own."""
    import equinox as eqx

    points, labels, unseen = clusters()
    first, second = jax.random.split(jax.random.key(0))
    body = eqx.nn.MLP(INPUTS, FEATURES, width_size=32, depth=1, final_activation=jax.nn.relu, key=first)
    params, rest = eqx.partition((body, eqx.nn.Linear(FEATURES, CLASSES, key=second)), eqx.is_array)

    def loss(params: tuple) -> jax.Array:
        body, head = eqx.combine(params, rest)
        logits = jax.vmap(lambda x: head(body(x)))(points)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    body, head = eqx.combine(_trained(loss, params), rest)
    return {
        "features": jax.vmap(body)(points),
        "labels": labels,
        "prototypes": head.weight,
        "bias": head.bias,
        "ood": jax.vmap(body)(unseen),
    }


def _trained(loss, params):
    """Parameters after STEPS updates of gradient descent with momentum and weight decay."""
    optimizer = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.05, momentum=0.9))

    def update(carry: tuple, _: None) -> tuple[tuple, None]:
        params, memory = carry
        changes, memory = optimizer.update(jax.grad(loss)(params), memory, params)
        return (optax.apply_updates(params, changes), memory), None

    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(update, carry, length=STEPS))((params, optimizer.init(params)))
    return params


def follow(features, labels, prototypes, bias, ood) -> tuple:
    """Metrics of a network, and how its features and its last layer would go on if all of them moved freely.

    Returns:
        The metrics now, a run under cross-entropy, and a simulated and an exact run under the unhinged loss.
    """
    found = uj.measure(features, labels, prototypes, bias, ood=ood)

    state = uj.State(*(np.asarray(part, np.float64) for part in (features, prototypes, bias)))
    classes, times = uj.from_labels(labels), [0, 1, 10, 100]
    observe = ["accuracy", "nc1", "etf_distance_means", "nc3_self_duality"]

    decay = (1e-5, 5e-3)  # of the features, which a network does not have by itself, and of the prototypes
    model = uj.regularized(classes, FEATURES, decay=decay, loss="cross_entropy", bias=True)
    later = uj.simulate(model, uj.Flow(), state, times, observe)

    unhinged = uj.regularized(classes, FEATURES, decay=decay, bias=True)
    simulated = uj.simulate(unhinged, uj.Flow(), state, times, observe)
    solved = uj.exact(unhinged, uj.Flow(), state, times, observe)
    return found, later, simulated, solved


if __name__ == "__main__":
    chosen = {"pytorch": in_pytorch, "flax": in_flax, "equinox": in_equinox}
    for result in follow(**chosen[sys.argv[1]]()):
        print(result)
