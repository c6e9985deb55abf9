"""Tangent kernels of a network at its start: J J^T of all coordinates, or its mean within classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import PyTree

from unhinged_jax import _check
from unhinged_jax.kernel import Kernel
from unhinged_jax.labels import Labels

_ROWS = 32  # rows of the Jacobian computed at a time

Network = Callable[[Any, jax.Array], jax.Array]


def ntk_network(key: jax.Array, inputs: int, width: int, features: int, depth: int = 1) -> tuple[Network, Any]:
    """A rectifier network in NTK parametrisation: standard normal weights, layers divided by sqrt(fan-in).

    Args:
        key: JAX key.
        inputs: Length d of an input; inputs of shape (n, ...) are flattened.
        width: Hidden units m of each hidden layer.
        features: p.
        depth: Hidden layers, at least 1.

    Returns:
        (network, parameters), with network(parameters, inputs) of shape (n, p).

    Source: beyond the paper (Jacot et al. 2018); the setting of Section 3.5.

    Example:
        >>> network, parameters = ntk_network(jax.random.key(0), inputs=4, width=8, features=3)
        >>> network(parameters, jnp.ones((2, 4))).shape
        (2, 3)
    """
    for name, value in (("inputs", inputs), ("width", width), ("features", features), ("depth", depth)):
        _check.whole(name, value, 1)
    sizes = [inputs, *[width] * depth, features]
    keys = jax.random.split(key, depth + 1)
    parameters = [jax.random.normal(k, (b, a)) for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)]
    return _rectifier_network, parameters


def _rectifier_network(parameters: PyTree, inputs: jax.Array) -> jax.Array:
    x = inputs.reshape(inputs.shape[0], -1)
    for place, weight in enumerate(parameters):
        # sqrt(2) keeps the mean square of what passes a rectifier.
        scale = math.sqrt((2 if place else 1) / weight.shape[1])
        x = scale * (jax.nn.relu(x) if place else x) @ weight.T
    return x


def _jacobian(network: Callable[[Any], jax.Array], parameters: PyTree) -> jax.Array:
    """Derivatives of every output, flattened row by row, with respect to every parameter, shape (outputs,
    parameters)."""
    flat, restore = ravel_pytree(parameters)
    value, pull = jax.vjp(lambda theta: network(restore(theta)).reshape(-1), flat)
    basis = jnp.eye(value.size, dtype=value.dtype)
    return jax.lax.map(lambda row: pull(row)[0], basis, batch_size=min(_ROWS, value.size))


@eqx.filter_jit
def _gram(network: Network, parameters: PyTree, inputs: jax.Array, pooling: jax.Array | None) -> jax.Array:
    def outputs(parameters: PyTree) -> jax.Array:
        features = network(parameters, inputs)
        return features if pooling is None else pooling @ features

    J = _jacobian(outputs, parameters)
    return jnp.matmul(J, J.T, precision=jax.lax.Precision.HIGHEST)


def empirical_kernel(network: Network, parameters: PyTree, inputs: ArrayLike) -> Kernel:
    """Empirical tangent kernel J J^T of the features of all inputs.

    Args:
        network: Maps (parameters, inputs) to features (n, p).
        parameters: A pytree of arrays.
        inputs: Shape (n, ...).

    Returns:
        A `Kernel` between feature coordinates, (n p, n p).

    Source: Zhou et al. 2023, Section 3.5, Eq. 22; of the form K kron I, as Theorem 8 has it, only at infinite width.

    Example:
        >>> linear = lambda theta, x: x @ theta
        >>> empirical_kernel(linear, jnp.ones((2, 1)), jnp.eye(2)).matrix.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    return Kernel(np.asarray(_gram(network, parameters, jnp.asarray(inputs), None)), "coordinates")


def class_mean_kernel(network: Network, parameters: PyTree, inputs: ArrayLike, labels: Labels) -> Kernel:
    """Empirical tangent kernel of the class means of the features: only C p gradients, whatever n.

    It suffices for class means and prototypes under a loss that is linear in the logits.

    Args:
        network, parameters, inputs: As `empirical_kernel`.
        labels: Labels of the inputs, one-hot, with equal weights within each class.

    Returns:
        A `Kernel` between feature coordinates of the class means, (C p, C p).

    Raises:
        ValueError: for soft targets, weights that differ within a class, or a class without a sample.

    Source: beyond the paper.
    """
    pooling = jnp.asarray(class_averages(labels), jnp.asarray(inputs).dtype)
    return Kernel(np.asarray(_gram(network, parameters, jnp.asarray(inputs), pooling)), "coordinates")


def per_sample(kernel: Kernel, dim: int) -> Kernel:
    """The kernel between samples that is closest to a kernel between coordinates: Theta_ij = tr(K_ij) / p.

    For class means this is C x C. It is exact in the limit of infinite width.

    Args:
        kernel: Between feature coordinates, (n p, n p).
        dim: p.

    Returns:
        A `Kernel` between samples, (n, n).

    Raises:
        ValueError: for a kernel of another kind.

    Source: Zhou et al. 2023, Section 3.5 (the kernel K kron I of Theorem 8, corrected).

    Example:
        >>> per_sample(Kernel(np.eye(6), "coordinates"), 2).matrix.tolist()[0]
        [1.0, 0.0, 0.0]
    """
    if kernel.kind != "coordinates":
        raise ValueError(f"per_sample takes a kernel between coordinates, but got one of kind {kernel.kind!r}.")
    blocks = np.asarray(kernel.matrix).reshape(-1, dim, kernel.matrix.shape[0] // dim, dim)
    return Kernel(np.einsum("iaja->ij", blocks) / dim, "samples")


def class_averages(labels: Labels) -> np.ndarray:
    """Rows that average the samples of each class, shape (C, n)."""
    if labels.kind != "hard":
        raise ValueError(f"class means need one-hot labels, but these are of kind {labels.kind!r}.")
    if labels.held_out is not None:
        raise ValueError(
            "samples that are held out are not in the mean of their class; use the form 'coordinates' or 'samples', or "
            "labels without them."
        )
    index = np.asarray(labels.index)
    members = index == np.arange(labels.classes)[:, None]
    empty = np.flatnonzero(~members.any(axis=1))
    if empty.size:
        raise ValueError(
            f"every class needs a sample for its mean, but class {empty[0]} has none (drawn label noise can empty a "
            "small class); draw again, or use the form 'coordinates' or 'samples'."
        )
    _check_weights(labels)
    return members / members.sum(axis=1, keepdims=True)


def _check_weights(labels: Labels) -> None:
    """Raise unless the weights are equal within each class: only then do class means need nothing else."""
    index, q = np.asarray(labels.index), np.asarray(labels.weights, float)
    for c in range(labels.classes):
        own = q[index == c]
        if own.size and np.ptp(own) > 1e-6 * np.max(np.abs(own)):
            raise ValueError(
                f"class means need equal weights within each class, but those of class {c} range from {own.min():g} to "
                f"{own.max():g}; use the form 'coordinates' or 'samples', or equal weights."
            )
