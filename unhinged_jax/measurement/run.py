"""Every metric of features that are at hand (`measure`)."""

from __future__ import annotations

from typing import Any

from unhinged_jax.measurement import evaluate, inputs, moments
from unhinged_jax.measurement.measurement import Measurement
from unhinged_jax.measurement.streaming import result, with_ood


def measure(features: Any, labels: Any, prototypes: Any = None, bias: Any = None, *, ood: Any = None) -> Measurement:
    """Every metric of neural collapse of a trained network, each beside its ideal value.

    Sums are in float64 whatever the type of the features. Samples are taken in tiles, so that beside the features
    themselves little memory is needed.

    Args:
        features: (n, p) features of the last layer: NumPy, JAX, a PyTorch tensor, or anything that NumPy can read.
        labels: (n,) integers from 0 to C - 1, or `Labels`. Every class needs a sample.
        prototypes: (C, p) weight of the last layer. Without them, the metrics that need them are left out.
        bias: (C,) bias of the last layer; default zeros. Only logits depend on it.
        ood: (m, p) features of samples from outside the training distribution, such as another data set. Only NC5 needs
            them, and only their mean counts. Without them it is left out.

    Returns:
        A `Measurement`; print it for a table.

    Raises:
        ValueError: for shapes that do not match, NaN, masked or traced arrays, labels that are not class numbers, and
            classes without a sample.
        MemoryError: for more classes than (C, C) matrices of them fit into the memory.

    Source: beyond the paper; each metric names its own paper.

    Example:
        >>> import numpy as np
        >>> labels = np.arange(30) % 3
        >>> found = measure(np.eye(3)[labels], labels, prototypes=np.eye(3) - 1 / 3)
        >>> found["nc1"], found["accuracy"], round(found["nc3_self_duality"], 6)
        (0.0, 1.0, 0.0)
    """
    H = inputs.features(features)
    y = inputs.labels(labels, len(H))
    W = inputs.prototypes(prototypes, None, H.shape[1])
    classes = inputs.classes_of(labels, y, W)
    W = inputs.prototypes(W, classes, H.shape[1])
    b = inputs.bias(bias, W)
    outside = moments.empty(1, H.shape[1], scatter=False)
    if ood is not None:
        outside = with_ood(outside, ood)
    found, tally = moments.empty(classes, H.shape[1], scatter=False), evaluate.Tally()
    found = found._replace(unit=moments.unit_for(found, H))
    for rows in evaluate.tiles(H, classes):
        found = moments.absorbed(found, H[rows], y[rows])
    geometry = evaluate.geometry(found)
    for rows in evaluate.tiles(H, classes):
        tally = evaluate.tallied(tally, geometry, H[rows], y[rows], W, b)
    return result(found, geometry, tally, W, outside)
