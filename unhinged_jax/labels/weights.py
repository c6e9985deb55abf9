"""Weights of samples, from factors on those of classes and of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _check
from unhinged_jax.labels.fields import Fields


def weights_of(
    labels: Fields,
    classes: ArrayLike | Sequence[float] | None,
    samples: ArrayLike | Sequence[float] | None,
    normalise: bool,
) -> Any:
    """q_i * classes[y_i] * samples[i], (n,), with sum 1 if they are to `normalise`; as in `Labels.weighted`."""
    xp = np if _check.concrete((labels.weights, labels.index, classes, samples)) else jnp
    # Factors in float32 are widened, not the weights narrowed.
    wide = np.float64 if xp is np else jnp.result_type(float)
    weights = xp.asarray(labels.weights, wide)
    if classes is not None:
        _check.shape("class weights", classes, (labels.classes,), "one per class")
        _check.positive("class weights", classes, array=True)
        weights = weights * xp.asarray(classes, wide)[xp.asarray(labels.by_class)]
    if samples is not None:
        _check.shape("sample weights", samples, (labels.samples,), "one per sample")
        _check.non_negative("sample weights", samples, array=True)
        weights = weights * xp.asarray(samples, wide)
    if normalise:
        largest = xp.max(weights)
        _check.positive("the largest of the resulting weights", largest, "leave some samples a weight")
        weights = weights / largest  # first, so that their sum is in range
        weights = weights / xp.sum(weights)
    return weights
