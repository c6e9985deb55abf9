"""The exact prediction of a network's training: `exact` with the tangent kernel at the start.

H' = r1 eta J J^T vec(M W),    W' = r2 eta M^T H
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import PyTree

from unhinged_jax import _check
from unhinged_jax.closed_form import exact
from unhinged_jax.dynamics import Descent, Flow
from unhinged_jax.kernel import Kernel
from unhinged_jax.labels import Labels, from_counts
from unhinged_jax.model import LayerPeeled, State, ntk_invariant
from unhinged_jax.observables import Observe
from unhinged_jax.training.ntk.kernels import Network, class_averages, class_mean_kernel, empirical_kernel, per_sample
from unhinged_jax.trajectory import Trajectory

FORMS = ("coordinates", "samples", "class_means", "class_kernel")


def class_mean_problem(labels: Labels, dim: int, kernel: Kernel, gamma: ArrayLike | None = None) -> LayerPeeled:
    """The layer-peeled model of the class means: one sample per class, weighted by the weight of its class.

    Its data loss, prototypes and rows of H are those of the full problem, class by class.

    Args:
        labels: One-hot labels of the full problem, with equal weights within each class.
        dim: p.
        kernel: From `class_mean_kernel`, or `per_sample` of it (C x C).
        gamma: Trade-off; default 1/(C-1).

    Raises:
        ValueError: for soft targets, weights that differ within a class, or a class without a sample.

    Source: beyond the paper.
    """
    class_averages(labels)  # checks them
    index, q = np.asarray(labels.index), np.asarray(labels.weights)
    shares = np.bincount(index, q, labels.classes)
    means = from_counts(np.ones(labels.classes, int)).weighted(samples=labels.classes * shares, normalise=False)
    return ntk_invariant(means, dim, kernel, gamma=gamma)


def predict(
    network: Network,
    parameters: PyTree,
    prototypes: ArrayLike,
    inputs: ArrayLike,
    labels: Labels,
    dynamics: Flow | Descent,
    times: ArrayLike,
    *,
    gamma: ArrayLike | None = None,
    form: str = "coordinates",
    observe: Observe = ("loss", "accuracy"),
) -> Trajectory:
    """The exact prediction of how this network trains under the unhinged loss while its kernel is constant.

    Args:
        network, parameters, inputs: As `empirical_kernel`; `parameters` at the start of training.
        prototypes: W at the start, shape (C, p); trained with rate r2.
        labels: Labels of the inputs.
        dynamics: The dynamics of training: full-batch descent, or gradient flow.
        times: Updates or times to predict.
        gamma: Trade-off; default 1/(C-1).
        form: "coordinates" (the whole kernel), "samples" (n x n), "class_means" (C p x C p: predicts class means) or
            "class_kernel" (C x C: the same, isotropic).
        observe: Observables of the prediction.

    Returns:
        A `Trajectory` with states; of the class means in the last two forms.

    Raises:
        ValueError: for an unknown form or shapes that do not fit; of the last two forms, for soft targets, weights that
            differ within a class, or a class without a sample.

    Source: Zhou et al. 2023, Theorem 8 (corrected).
    """
    _check.choice("form", form, FORMS)
    x, W = jnp.asarray(inputs), jnp.asarray(prototypes)
    H, dim = network(parameters, x), W.shape[1]
    if form in ("coordinates", "samples"):
        kernel = empirical_kernel(network, parameters, x)
        model = ntk_invariant(labels, dim, kernel if form == "coordinates" else per_sample(kernel, dim), gamma=gamma)
    else:
        kernel = class_mean_kernel(network, parameters, x, labels)
        kernel = kernel if form == "class_means" else per_sample(kernel, dim)
        model = class_mean_problem(labels, dim, kernel, gamma)
        H = jnp.asarray(class_averages(labels), H.dtype) @ H
    state = State(H=H, W=W, b=jnp.zeros(labels.classes, W.dtype))
    return exact(model, dynamics, state, times, observe, states=True)
