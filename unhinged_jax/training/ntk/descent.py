"""The network itself, trained by full-batch descent on the unhinged loss: what its tangent kernel predicts."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import PyTree

from unhinged_jax.labels import Labels
from unhinged_jax.model import LayerPeeled, ntk_invariant
from unhinged_jax.training.ntk.kernels import Network


def descend(
    network: Network,
    parameters: PyTree,
    prototypes: ArrayLike,
    inputs: ArrayLike,
    labels: Labels,
    rate: ArrayLike,
    times: ArrayLike,
    *,
    gamma: ArrayLike | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Train the network itself by full-batch gradient descent on the unhinged loss, prototypes included.

    Args:
        network, parameters, prototypes, inputs, labels, gamma: As `predict`.
        rate: Learning rate eta of every update.
        times: Numbers of updates at which to record, increasing whole numbers.

    Returns:
        Features (times, n, p), prototypes (times, C, p), and which times were reached: the unhinged loss of a real
        network can grow without bound in finite time, and an update that would overflow is not made.

    Raises:
        ValueError: for times that do not increase.

    Source: Zhou et al. 2023, Eq. 22 by small steps.
    """
    marks = np.asarray(times)
    if marks.ndim != 1 or not np.issubdtype(marks.dtype, np.integer) or np.any(np.diff(marks, prepend=-1) <= 0):
        raise ValueError(f"times must be increasing whole numbers of updates, but got {times}.")
    W = jnp.asarray(prototypes)
    model = ntk_invariant(labels, W.shape[1], np.eye(labels.samples), gamma=gamma)
    out = _descend(network, parameters, W, jnp.asarray(inputs), model, jnp.asarray(rate, W.dtype), jnp.asarray(marks))
    H, seen, reached = (np.asarray(part) for part in out)
    return H, seen, reached


@eqx.filter_jit
def _descend(
    network: Network,
    parameters: PyTree,
    W: jax.Array,
    inputs: jax.Array,
    model: LayerPeeled,
    rate: jax.Array,
    marks: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    bias, largest = jnp.zeros(model.classes, W.dtype), jnp.sqrt(jnp.finfo(W.dtype).max)

    def loss(parts: tuple[Any, jax.Array]) -> jax.Array:
        return model.data_loss(network(parts[0], inputs), parts[1], bias)

    def update(_: jax.Array, carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
        parts, fine = carry
        moved = jax.tree.map(lambda value, slope: value - rate * slope, parts, jax.grad(loss)(parts))
        sizes = jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(moved)])
        fine &= jnp.all(sizes < largest)  # NaN compares below nothing
        return jax.tree.map(lambda new, old: jnp.where(fine, new, old), moved, parts), fine

    def until(carry: PyTree, count: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array, jax.Array]]:
        parts, fine = jax.lax.fori_loop(0, count, update, carry)
        return (parts, fine), (network(parts[0], inputs), parts[1], fine)

    start = ((parameters, W), jnp.ones((), bool))
    return jax.lax.scan(until, start, jnp.diff(marks, prepend=0))[1]
