"""A moment of a run as the samples to train on have it, or those that are held out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from unhinged_jax.labels import Labels
from unhinged_jax.labels.held_out import training_rows
from unhinged_jax.observables.features import DenseFeatures, Features
from unhinged_jax.observables.plane_features import PlaneFeatures
from unhinged_jax.observables.view import View


def of_training(view: View) -> View:
    """The moment without the samples that are held out: the same one if there are none.

    Its split along the limit needs no change, because `RowSpace.metric` leaves them out.
    """
    labels = view.model.labels
    if labels.held_out is None:
        return view
    return _of(view, labels.training(), view.features.rows(_take(training_rows(labels))))


def of_test(view: View) -> View:
    """The moment of the samples that are held out."""
    labels = view.model.labels
    features = view.features.rows(_take(labels.held_out))
    if not isinstance(features, PlaneFeatures):
        features = DenseFeatures(features.dense())  # class sums are those of the others
    seen = _of(view, labels.test(), features)
    return dataclasses.replace(seen, split=None, log_start=None, beside=None, small_loss=None)


def _of(view: View, labels: Labels, features: Features) -> View:
    """The same moment of other samples; no observable looks at a kernel."""
    return dataclasses.replace(
        view, model=dataclasses.replace(view.model, labels=labels, kernel=None), features=features
    )


def _take(rows: Any) -> Callable[..., jax.Array]:
    def take(array: jax.Array, axis: int = 0) -> jax.Array:
        return jnp.take(array, jnp.asarray(rows), axis)

    return take
