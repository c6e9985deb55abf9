"""A moment of a run as the samples to train on have it, or those that are held out."""

from __future__ import annotations

import dataclasses
import math
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


def of_test_in_run(view: View) -> View:
    """The same of a run, NaN if they are lost: only a kernel moves them, and without one the others may grow away."""
    seen = of_test(view)
    if view.model.kernel is not None or view.model.spherical:
        return seen
    return _unless_lost(seen, seen.features.norm())


def in_run(view: View) -> View:
    """The moment of a run, with NaN for a part that stays and is lost, because the other one has grown away from it."""
    moves = view.model.moves
    if not (moves.H or view.model.spherical):
        view = _unless_lost(view, view.features.norm())
    if not (moves.W or view.model.spherical):
        view = _unless_lost(view, view.norm_W(), of_W=True)
    return view


def _unless_lost(view: View, size: jax.Array, of_W: bool = False) -> View:
    """The moment with NaN in place of features, or prototypes, whose size is below what their type resolves only
    because the scale of the view is that of something larger."""
    info = jnp.finfo(view.W.dtype)
    least, one = 2.0**6 * float(info.tiny), jnp.ones((), info.dtype)
    lost = (size < least) & (view.log_scale > -math.log(least))
    by = jax.lax.stop_gradient(jnp.where(lost, jnp.nan, one))
    features = view.features.scaled(*((one, by) if of_W else (by, one)))
    both = by if view.unless_lost is None else by * view.unless_lost
    if of_W:
        known = None if view.known_norm_W is None else by * view.known_norm_W
        view = dataclasses.replace(view, W=by * view.W, known_norm_W=known)
    return dataclasses.replace(view, features=features, unless_lost=both)


def _of(view: View, labels: Labels, features: Features) -> View:
    """The same moment of other samples; no observable looks at a kernel."""
    return dataclasses.replace(
        view, model=dataclasses.replace(view.model, labels=labels, kernel=None), features=features
    )


def _take(rows: Any) -> Callable[..., jax.Array]:
    def take(array: jax.Array, axis: int = 0) -> jax.Array:
        return jnp.take(array, jnp.asarray(rows), axis)

    return take
