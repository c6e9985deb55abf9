"""A perceptron of one hidden layer under the anchored, feature-normalised head: NumPy by hand, plain JAX, PyTorch.

Everybody takes full-batch steps of SGD with momentum on the unhinged loss and logs the loss, the accuracy and the norm
of the features. The inputs are as many and as long as the features of the case; the hidden layer is twice as wide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.case import Case
from benchmarks.contender import Run
from benchmarks.peers.by_jax import in_precision
from benchmarks.peers.by_torch import synchronise, torch_device

MOMENTUM = 0.9
Logits = Callable[[Any, Any], Any]
"""(features, prototypes) -> logits."""


def problem(case: Case) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Inputs (n, p), prototypes (C, p), and the weights of the two layers at the start."""
    inputs, prototypes = case.start()
    draws, width = np.random.default_rng(7), 2 * case.dim
    weights = {
        "in": draws.standard_normal((width, case.dim)) * np.sqrt(2 / case.dim),
        "out": draws.standard_normal((case.dim, width)) / np.sqrt(width),
    }
    return inputs, prototypes, {name: value.astype(case.dtype) for name, value in weights.items()}


def _targets(case: Case, W: np.ndarray) -> np.ndarray:
    gamma = W.dtype.type(case.gammas[0])
    return ((1 + gamma) * W - gamma * W.sum(axis=0))[case.index]


def by_hand(case: Case, dtype: Any = None) -> Run:
    """Backpropagation written out."""
    inputs, W, start = problem(case)
    dtype = dtype or case.dtype
    inputs, W = inputs.astype(dtype), W.astype(dtype)
    targets, n = _targets(case, W), case.samples

    def run() -> dict[str, np.ndarray]:
        weights = {name: value.astype(dtype) for name, value in start.items()}
        velocity, saved = {name: np.zeros_like(value) for name, value in weights.items()}, []
        for k in range(case.steps + 1):
            hidden = np.maximum(inputs @ weights["in"].T, 0)
            H = hidden @ weights["out"].T
            length = np.linalg.norm(H, axis=1, keepdims=True)
            unit = H / length
            pulls = np.sum(unit * targets, axis=1, keepdims=True)
            if k % case.every == 0:
                right = np.argmax(unit @ W.T, axis=1) == case.index
                saved.append((-np.mean(pulls), np.mean(right), np.sqrt(np.sum(length**2))))
            uphill_H = (pulls * unit - targets) / (n * length)
            uphill_hidden = (uphill_H @ weights["out"]) * (hidden > 0)
            uphill = {"in": uphill_hidden.T @ inputs, "out": uphill_H.T @ hidden}
            for name, value in weights.items():
                velocity[name] = MOMENTUM * velocity[name] + uphill[name]
                weights[name] = value - dtype_of(case.rate, dtype) * velocity[name]
        return dict(zip(("loss", "accuracy", "norm"), np.array(saved).T, strict=True))

    return run


def dtype_of(value: float, dtype: Any) -> Any:
    """A number that does not widen arrays."""
    return np.dtype(dtype).type(value)


def in_jax(
    logits_of: Logits, loss_of: Callable[[Any, Any], Any], precision: str | None = None
) -> Callable[[Case], Run]:
    """A scan of `jax.grad` and `optax.sgd`; logits of (features, prototypes), losses of (logits, labels).

    `precision` is that of products, JAX's default unless given.
    """

    def build(case: Case) -> Run:
        with in_precision(case):
            inputs, W, start = jax.device_put(problem(case))
            labels, optimizer = jnp.asarray(case.index), optax.sgd(case.rate, MOMENTUM)

        def features(weights: Any, inputs: Any) -> Any:
            return jax.nn.relu(inputs @ weights["in"].T) @ weights["out"].T

        def objective(weights: Any, inputs: Any, W: Any) -> Any:
            return jnp.mean(loss_of(logits_of(features(weights, inputs), W), labels))

        def observe(weights: Any, inputs: Any, W: Any) -> dict[str, Any]:
            H = features(weights, inputs)
            logits = logits_of(H, W)
            right = jnp.mean((jnp.argmax(logits, axis=1) == labels).astype(H.dtype))
            return {"loss": jnp.mean(loss_of(logits, labels)), "accuracy": right, "norm": jnp.linalg.norm(H)}

        @jax.jit
        def train(weights: Any, inputs: Any, W: Any) -> dict[str, Any]:
            def step(carry: Any, _: None) -> tuple[Any, None]:
                weights, memory = carry
                change, memory = optimizer.update(jax.grad(objective)(weights, inputs, W), memory)
                return (optax.apply_updates(weights, change), memory), None

            def log(carry: Any, _: None) -> tuple[Any, dict[str, Any]]:
                carry = jax.lax.scan(step, carry, length=case.every)[0]
                return carry, observe(carry[0], inputs, W)

            begin = (weights, optimizer.init(weights))
            saved = jax.lax.scan(log, begin, length=case.steps // case.every)[1]
            first = observe(weights, inputs, W)
            return jax.tree.map(lambda start, rest: jnp.concatenate([start[None], rest]), first, saved)

        def run() -> dict[str, Any]:
            with in_precision(case), jax.default_matmul_precision(precision):
                return train(start, inputs, W)

        return run

    return build


def plain_logits(features: Any, prototypes: Any) -> Any:
    """The head in plain JAX."""
    return features / jnp.linalg.norm(features, axis=1, keepdims=True) @ prototypes.T


def plain_losses(case_gamma: float) -> Callable[[Any, Any], Any]:
    """The unhinged loss in plain JAX."""

    def losses(logits: Any, labels: Any) -> Any:
        own = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        return -((1 + case_gamma) * own - case_gamma * jnp.sum(logits, axis=1))

    return losses


def in_torch(case: Case) -> Run:
    """`torch.nn` layers, autograd and `torch.optim.SGD`."""
    import torch
    from torch.nn import functional

    device, gamma = torch_device(), case.gammas[0]
    inputs, W, start = problem(case)
    inputs, W = (torch.as_tensor(part, device=device) for part in (inputs, W))
    index = torch.as_tensor(case.index, device=device)

    def observe(H: Any) -> tuple[Any, Any, Any]:
        logits = functional.normalize(H, dim=1) @ W.T
        own = logits.gather(1, index[:, None])[:, 0]
        loss = -((1 + gamma) * own - gamma * logits.sum(dim=1)).mean()
        return loss, (logits.argmax(dim=1) == index).to(H.dtype).mean(), torch.linalg.norm(H)

    def run() -> dict[str, np.ndarray]:
        layers = [torch.nn.Linear(*start[name].shape[::-1], bias=False) for name in ("in", "out")]
        for layer, name in zip(layers, ("in", "out"), strict=True):
            layer.weight = torch.nn.Parameter(torch.tensor(start[name], device=device))
        network = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1])
        optimizer = torch.optim.SGD(network.parameters(), lr=case.rate, momentum=MOMENTUM)
        with torch.no_grad():
            saved = [observe(network(inputs))]
        for k in range(1, case.steps + 1):
            optimizer.zero_grad()
            observe(network(inputs))[0].backward()
            optimizer.step()
            if k % case.every == 0:
                with torch.no_grad():
                    saved.append(observe(network(inputs)))
        synchronise(device)
        columns = zip(*saved, strict=True)
        return {
            name: np.array([float(x) for x in column])
            for name, column in zip(("loss", "accuracy", "norm"), columns, strict=True)
        }

    return run
