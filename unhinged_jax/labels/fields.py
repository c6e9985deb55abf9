"""Fields of labels as they are given, read: lists and numbers as arrays, labels as integers, kinds from shapes."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike

from unhinged_jax import _check, _numbers
from unhinged_jax.labels.sparse import SparseRows, is_sparse, sparse_rows

PER_SAMPLE = ("soft", "values")
"""Kinds of labels with one row of targets per sample."""


class Fields(Protocol):
    """The fields of `Labels`, which only can be read."""

    @property
    def index(self) -> Any:
        """Labels, (n,)."""

    @property
    def weights(self) -> Any:
        """q_i, (n,)."""

    @property
    def targets(self) -> Any:
        """None, (C, C) or (n, C)."""

    @property
    def clean(self) -> Any:
        """None or labels, (n,)."""

    @property
    def classes(self) -> int:
        """C."""

    @property
    def kind(self) -> str:
        """How `targets` is read."""

    @property
    def held_out(self) -> Any:
        """None or the numbers of the samples that are held out, (m,)."""

    @property
    def samples(self) -> int:
        """n."""

    @property
    def classified(self) -> bool:
        """Whether every sample has a class."""

    @property
    def truth(self) -> Any:
        """The class of every sample, (n,)."""

    @property
    def by_class(self) -> Any:
        """The class that the targets of every sample belong to, (n,)."""


def as_array(name: str, value: object) -> Any:
    """Lists and numbers as NumPy arrays; unchanged, they would be trees of numbers."""
    return value if value is None or hasattr(value, "dtype") else _check.real(name, value, array=True)


def as_targets(value: Any) -> Any:
    """Targets as native floating-point numbers that are finite; sparse ones by their entries."""
    if is_sparse(value):
        return sparse_rows("targets", value)
    if isinstance(value, SparseRows):
        value = dataclasses.replace(value, values=_numbers.real("targets", value.values))
    elif value is not None:
        value = _numbers.real("targets", as_array("targets", value))
    if value is not None:
        _check.finite("targets", entries_of(value), array=True)
    return value


def dense_targets(targets: Any) -> jax.Array:
    """One row of targets per sample as an array, (n, C)."""
    return targets.dense() if isinstance(targets, SparseRows) else jnp.asarray(targets)


def entries_of(targets: Any) -> Any:
    """The numbers of targets, of sparse ones those that may differ from 0."""
    return targets.values if isinstance(targets, SparseRows) else targets


def as_labels(name: str, value: npt.ArrayLike, classes: int) -> Any:
    """Integer labels in 0 ... C-1, in a signed type that can count samples."""
    value = as_array(name, value)
    _check.labels(name, value, classes)
    if np.ndim(value) == 0:
        raise ValueError(f"{name} must hold one label per sample, shape (n,), but is a single number.")
    return _numbers.whole(name, value)


def why_not_drawn(labels: Any) -> str | None:
    """Why labels cannot be drawn from the targets, in words, or None."""
    if labels.kind == "hard":
        return (
            "fresh_labels draws from the targets, but these are one-hot; describe the noise, as symmetric_noise does."
        )
    if labels.kind == "values":
        return "fresh_labels draws from the targets, but these are values and no distributions."
    if _check.concrete(labels.targets):
        rows = np.asarray(labels.targets, float)
        if np.any(rows < 0) or not np.allclose(rows.sum(axis=-1), 1, atol=1e-5):
            return "fresh_labels draws from the targets, whose rows must be at least 0 and sum to 1, but one does not."
    return None


def kind_of(targets: Any, samples: int, classes: int) -> str:
    """How targets are read, from their shape."""
    if targets is None:
        return "hard"
    if isinstance(targets, SparseRows):
        return "values"
    if samples == classes:
        raise ValueError(
            f"targets of shape {np.shape(targets)} may be one row per class or one row per sample; say which with "
            "kind='table' or kind='soft'."
        )
    return "table" if np.shape(targets)[-2:] == (classes, classes) else "soft"


def largest_again(index: npt.ArrayLike, targets: npt.ArrayLike, changed: npt.ArrayLike) -> Any:
    """The largest of the changed targets of each row, if `index` was that of the targets before; else `index`."""
    xp = np if _check.concrete((index, targets, changed)) else jnp
    was = xp.all(xp.argmax(xp.asarray(targets), axis=-1) == xp.asarray(index))
    return xp.where(was, xp.argmax(xp.asarray(changed), axis=-1), xp.asarray(index)).astype(xp.int32)


def wide(name: str, rate: ArrayLike) -> Any:
    """A rate as a Python number, so that 1 - rate is not rounded to its narrower type; a traced one as it is."""
    if not _check.concrete(rate):
        return rate
    value = _check.real(name, rate)
    if value.shape or not 0 <= value <= 1:
        raise ValueError(f"{name} must be one number between 0 and 1, but got {_check.given(rate)}.")
    return float(value)


def check_fields(labels: Fields) -> None:
    """Raise unless shapes, kind and numbers match, both when labels are built and when a tree was changed."""
    samples, classes = labels.samples, labels.classes
    for name in ("index", "clean", "weights"):
        value = getattr(labels, name)
        if value is not None and name != "weights":
            _check.labels(name, value, classes)
        if value is not None and np.shape(value)[-1:] != (samples,):
            raise ValueError(
                f"{name} must have shape {(samples,)} (one per sample), but got {np.shape(value)}; for another number "
                "of samples, build new labels."
            )
    _check.non_negative("weights", labels.weights, array=True)
    if _check.concrete(labels.weights) and not np.any(np.asarray(labels.weights) != 0):
        raise ValueError("all sample weights are 0, so there is nothing to learn; leave some samples a weight.")
    _check.choice("kind", labels.kind, ("hard", "table", *PER_SAMPLE))
    if (labels.targets is None) != (labels.kind == "hard"):
        given = "no targets" if labels.targets is None else f"targets of shape {np.shape(labels.targets)}"
        raise ValueError(
            f"labels of kind {labels.kind!r} cannot have {given}; 'hard' labels have no targets, all others do."
        )
    if labels.targets is not None:
        expected = (classes if labels.kind == "table" else samples, classes)
        if np.shape(labels.targets)[-2:] != expected:
            raise ValueError(
                f"targets of kind {labels.kind!r} must have shape {expected}, but got {np.shape(labels.targets)}."
            )
        if isinstance(labels.targets, SparseRows) and labels.kind != "values":
            raise ValueError(
                f"sparse rows are targets of kind 'values', but kind is {labels.kind!r}; give them to `targets`, with "
                "the classes as `truth`, or as a dense array."
            )
    _check_held_out(labels)


def _check_held_out(labels: Fields) -> None:
    """Raise unless the numbers of the samples that are held out are valid, and the weights of these are 0."""
    held = labels.held_out
    if held is None:
        return
    shape, n = np.shape(held), labels.samples
    if not shape or not np.issubdtype(jnp.result_type(held), np.integer) or not 0 < shape[-1] < n:
        raise ValueError(
            f"held_out must be the numbers of some of the {n} samples, but not of all, shape (m,); got "
            f"{_check.given(held)}."
        )
    if not _check.concrete(held):
        return
    for row in np.asarray(held).reshape(-1, shape[-1]):
        if row[0] < 0 or row[-1] >= n or np.any(np.diff(row) <= 0):
            raise ValueError(
                f"held_out must be increasing numbers from 0 to {n - 1}, each once, but got {_check.given(held)}."
            )
    if _check.concrete(labels.weights) and np.any(np.take_along_axis(*_batched(labels), -1) != 0):
        raise ValueError("samples that are held out must have weight 0; `hold_out` sets it, and `weighted` keeps it.")


def _batched(labels: Fields) -> tuple[np.ndarray, np.ndarray]:
    """Weights and numbers of what is held out, with the same leading axes."""
    weights, held = np.asarray(labels.weights), np.asarray(labels.held_out)
    lead = np.broadcast_shapes(weights.shape[:-1], held.shape[:-1])
    return np.broadcast_to(weights, (*lead, weights.shape[-1])), np.broadcast_to(held, (*lead, held.shape[-1]))
