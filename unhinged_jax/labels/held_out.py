"""Samples that are held out: which they are, and the labels of the samples to train on and of those to test on."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from unhinged_jax import _check
from unhinged_jax.labels.fields import PER_SAMPLE, Fields
from unhinged_jax.labels.sparse import SparseRows


def chosen(labels: Fields, samples: npt.ArrayLike | None, per_class: int | None) -> Any:
    """The numbers of the samples to hold out, (m,), increasing, from a mask, from numbers, or from how many per class.

    Raises:
        ValueError: for labels that hold samples out already, none or both of the two, a mask or numbers that do not
            fit, or so many per class that one has none left to train on.
    """
    if labels.held_out is not None:
        raise ValueError("these labels hold samples out already; hold all of them out at once.")
    if (samples is None) == (per_class is None):
        raise ValueError("say which samples to hold out either by `samples` or by `per_class`, one of the two.")
    if per_class is not None:
        return _last_of_classes(labels, _check.whole("per_class", per_class, 1))
    if isinstance(samples, jax.core.Tracer):
        if samples.dtype == bool or samples.ndim != 1:
            raise ValueError("a traced choice of samples must be their numbers, (m,), so that it is known how many.")
        return jnp.sort(samples.astype(jnp.int32))
    given = np.asarray(samples)
    if given.dtype == bool:
        _check.shape("the mask of samples that are held out", given, (labels.samples,), "one per sample")
        return np.flatnonzero(given).astype(np.int32)
    if given.ndim != 1 or not (given.size == 0 or np.issubdtype(given.dtype, np.integer)):
        raise ValueError(
            "samples that are held out are given by a mask, one bool per sample, or by their numbers from 0, but got "
            f"{_check.given(samples)}."
        )
    outside = given[(given < 0) | (given >= labels.samples)]
    if outside.size:
        raise ValueError(f"samples to hold out must be numbers from 0 to {labels.samples - 1}, but got {outside[0]}.")
    return np.unique(given).astype(np.int32)


def _last_of_classes(labels: Fields, count: int) -> Any:
    index = labels.truth
    if not _check.concrete(index):
        raise ValueError("`per_class` needs labels that are known; give the numbers of the samples as `samples`.")
    rows = np.asarray(index)
    members = [np.flatnonzero(rows == c) for c in range(labels.classes)]
    least = min(len(own) for own in members)
    if least <= count:
        raise ValueError(
            f"per_class={count} would leave a class without a sample to train on: the smallest has {least}; hold "
            "fewer out."
        )
    return np.sort(np.concatenate([own[-count:] for own in members])).astype(np.int32)


def without(labels: Fields, held: Any) -> Any:
    """Weights, (n,), that are 0 for the samples held out; the others grow so that their sum stays what it is.

    Raises:
        ValueError: if no other sample has a weight, or a class has no sample left to train on.
    """
    weights = labels.weights
    xp: Any = np if _check.concrete((weights, held)) else jnp
    weights = xp.asarray(weights, np.float64 if xp is np else jnp.result_type(float))
    if xp is np:
        kept = weights.copy()
        kept[..., held] = 0
        if not np.any(kept):
            raise ValueError("every sample that has a weight is held out; leave some to train on.")
        if labels.classified and _check.concrete(labels.by_class):
            index = np.asarray(labels.by_class)
            left = np.bincount(np.delete(index, held), minlength=labels.classes)
            gone = np.flatnonzero((left == 0) & (np.bincount(index, minlength=labels.classes) > 0))
            if gone.size:
                raise ValueError(f"class {gone[0]} would have no sample to train on; leave it one.")
    else:
        kept = weights.at[held].set(0)
    return kept * (xp.sum(weights) / xp.sum(kept))


def training_rows(labels: Fields) -> Any:
    """The numbers of the samples to train on, (n - m,)."""
    held, n = labels.held_out, labels.samples
    if held is None:
        return np.arange(n, dtype=np.int32)
    if _check.concrete(held):
        return np.delete(np.arange(n, dtype=np.int32), np.asarray(held))
    left = jnp.ones(n, bool).at[held].set(False)
    return jnp.nonzero(left, size=n - np.shape(held)[-1])[0].astype(jnp.int32)


def of_training(labels: Fields, array: Any, axis: int = 0) -> Any:
    """The samples to train on, of an array that has samples along this axis: the array if none is held out."""
    if labels.held_out is None:
        return array
    return array[training_rows(labels)] if axis == 0 else array[:, training_rows(labels)]


def fields_of_training(labels: Fields) -> dict[str, Any]:
    """The fields of the labels of the samples to train on."""
    rows = training_rows(labels)
    return {
        "index": _of(labels.index, rows),
        "weights": _of(labels.weights, rows),
        "targets": _of(labels.targets, rows) if labels.kind in PER_SAMPLE else labels.targets,
        "clean": None if labels.clean is None else _of(labels.clean, rows),
        "classes": labels.classes,
        "kind": labels.kind,
    }


def fields_of_test(labels: Fields) -> dict[str, Any]:
    """The fields of the labels of the samples held out: their true classes, or their own targets, in equal shares."""
    rows, m = labels.held_out, np.shape(labels.held_out)[-1]
    own = labels.kind in PER_SAMPLE
    return {
        "index": _of(labels.index if own else labels.truth, rows),
        "weights": np.full(m, 1.0 / m),
        "targets": _of(labels.targets, rows) if own else None,
        "clean": _of(labels.clean, rows) if own and labels.clean is not None else None,
        "classes": labels.classes,
        "kind": labels.kind if own else "hard",
    }


def _of(array: Any, rows: Any) -> Any:
    """Rows of an array, in NumPy where both are known."""
    if isinstance(array, SparseRows):
        return array[rows]
    return np.asarray(array)[np.asarray(rows)] if _check.concrete((array, rows)) else jnp.asarray(array)[rows]
