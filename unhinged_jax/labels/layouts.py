"""Constructors: how many samples each class has, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _check, _memory, _numbers
from unhinged_jax.labels.balance import locked
from unhinged_jax.labels.labels import Labels
from unhinged_jax.labels.sparse import is_sparse, sparse_rows

Order = Literal["blocks", "cyclic"]


def from_labels(index: ArrayLike | Sequence[int], classes: int | None = None) -> Labels:
    """Labels from one integer per sample.

    Args:
        index: Labels 0 ... C-1 in any order, shape (n,).
        classes: C; default: the largest label + 1.

    Returns:
        `Labels` with one-hot targets and equal weights.

    Raises:
        ValueError: for labels that are not integers in range, or a class without a sample.

    Source: beyond the paper.

    Example:
        >>> from_labels([0, 1, 1]).counts().tolist()
        [1, 2]
    """
    array = _check.real("labels", index, array=True)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        got = _check.given(index)
        raise ValueError(f"labels must be a one-dimensional, non-empty array of integers, but got {got}.")
    classes = int(array.max()) + 1 if classes is None else _check.whole("classes", classes, 2)
    if array.min() < 0 or array.max() >= classes:
        raise ValueError(
            f"labels must lie in 0 ... {classes - 1} for {classes} classes, but range from {array.min()} to "
            f"{array.max()}; renumber them or raise `classes`."
        )
    _check.whole("classes", classes, 2)
    array = _numbers.whole("labels", array)
    present = np.unique(array)
    if present.size < classes:
        missing = int(np.argmax(np.append(present, -1) != np.arange(present.size + 1)))
        raise ValueError(
            f"every class needs at least one sample, but class {missing} has none; renumber "
            "the labels or lower `classes`."
        )
    return Labels(
        index=locked(array.astype(np.int32)),
        weights=locked(np.full(array.size, 1.0 / array.size)),
        classes=classes,
    )


def balanced(classes: int, per_class: int, order: Order = "blocks") -> Labels:
    """C classes of N samples each.

    Args:
        classes: C, at least 2.
        per_class: N, at least 1.
        order: "blocks" (default): all samples of class 0, then class 1, ...; "cyclic": label of row i is
            i mod C, as in the paper's own runs.

    Returns:
        `Labels` with one-hot targets and equal weights.

    Raises:
        ValueError: for numbers that are too small or not whole, or an unknown order.

    Source: Zhou et al. 2023, Eq. 3 (with the samples in class blocks).

    Example:
        >>> balanced(classes=3, per_class=2, order="cyclic").index.tolist()
        [0, 1, 2, 0, 1, 2]
    """
    classes = _check.whole("classes", classes, 2, most=2**31 - 1)
    per_class = _check.whole("per_class", per_class, 1)
    _check.choice("order", order, ("blocks", "cyclic"))
    _refuse_many(classes * per_class)
    row = np.arange(classes)
    return from_labels(np.repeat(row, per_class) if order == "blocks" else np.tile(row, per_class), classes)


def from_counts(counts: ArrayLike | Sequence[int]) -> Labels:
    """Classes with the given numbers of samples, in class blocks.

    Args:
        counts: n_c of each class, at least 1, shape (C,).

    Returns:
        `Labels` with one-hot targets and equal weights.

    Raises:
        ValueError: unless there are at least two counts, all whole numbers of at least 1.

    Source: beyond the paper.

    Example:
        >>> from_counts([2, 1]).index.tolist()
        [0, 0, 1]
    """
    array = _check.real("counts", counts, array=True)
    counted = (array == np.round(array)) & (array >= 1) & (array < 2**63)
    if array.ndim != 1 or array.size < 2 or not np.all(counted):
        raise ValueError(f"counts must be two or more whole numbers of at least 1, but got {_check.given(counts)}.")
    _refuse_many(sum(int(count) for count in array))
    return from_labels(np.repeat(np.arange(array.size), array.astype(int)), array.size)


def _refuse_many(samples: int) -> None:
    """Raise MemoryError if there are too many samples for their labels and weights to fit into memory."""
    _memory.refuse(12 * samples, f"labels of {samples:,} samples")


def _ratio(ratio: float) -> float:
    value = _check.real("ratio", ratio)
    if value.shape or not np.isfinite(value) or value < 1:
        raise ValueError(f"ratio is the largest count over the smallest, at least 1, but got {_check.given(ratio)}.")
    return float(ratio)


def long_tailed(classes: int, largest: int, ratio: float) -> Labels:
    """Counts that fall geometrically from `largest` to `largest / ratio` (rounded, at least 1).

    Args:
        classes: C, at least 2.
        largest: Samples of class 0, at least 1.
        ratio: Largest count over smallest, at least 1.

    Returns:
        `Labels` in class blocks, with one-hot targets and equal weights.

    Raises:
        ValueError: for a number out of range.

    Source: beyond the paper's theory; the imbalance of its Tables 4 and 5 (Cui et al. 2019).

    Example:
        >>> long_tailed(classes=3, largest=100, ratio=100).counts().tolist()
        [100, 10, 1]
    """
    classes = _check.whole("classes", classes, 2)
    largest = _check.whole("largest", largest, 1)
    _refuse_many(classes)
    powers = np.arange(classes) / (classes - 1)
    return from_counts(np.maximum(1, np.round(largest * _ratio(ratio) ** -powers)))


def step_imbalanced(classes: int, largest: int, ratio: float, majority: int | None = None) -> Labels:
    """`majority` classes of `largest` samples; the others have `largest / ratio` (rounded, at least 1).

    Args:
        classes: C, at least 2.
        largest: Samples of each large class, at least 1.
        ratio: Largest count over smallest, at least 1.
        majority: How many of the first classes are large; default half of them, rounded up.

    Returns:
        `Labels` in class blocks, with one-hot targets and equal weights.

    Raises:
        ValueError: for a number out of range.

    Source: beyond the paper's theory; the step imbalance of its Tables 4 and 5 (Buda et al. 2018).

    Example:
        >>> step_imbalanced(classes=4, largest=10, ratio=5).counts().tolist()
        [10, 10, 2, 2]
    """
    classes = _check.whole("classes", classes, 2)
    largest = _check.whole("largest", largest, 1)
    majority = (classes + 1) // 2 if majority is None else _check.whole("majority", majority, 0)
    _refuse_many(classes)
    small = max(1, round(largest / _ratio(ratio)))
    return from_counts(np.where(np.arange(classes) < majority, largest, small))


def soft(targets: ArrayLike | Sequence[Sequence[float]], truth: ArrayLike | Sequence[int] | None = None) -> Labels:
    """Soft targets: one distribution over the classes for every sample (mixup, distillation).

    Args:
        targets: Rows that are non-negative and sum to 1, shape (n, C).
        truth: Labels to measure accuracy against, shape (n,); default: the largest target of each row.

    Returns:
        `Labels` with one target per sample and equal weights.

    Raises:
        ValueError: for a wrong shape, negative entries, rows that do not sum to 1, or a truth that is not an
            integer in 0 ... C-1.

    Source: beyond the paper.

    Example:
        >>> labels = soft([[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]])
        >>> labels.classes, labels.truth.tolist()
        (2, [0, 0, 1])
    """
    if is_sparse(targets):
        raise ValueError(
            "soft takes dense rows; give a sparse matrix to `targets`, with the classes as `truth`, or its .toarray()."
        )
    targets = _numbers.array("targets", targets)
    if np.ndim(targets) != 2 or np.shape(targets)[1] < 2:
        raise ValueError(f"targets must have shape (n, C) with C >= 2, but got {np.shape(targets)}.")
    if not isinstance(targets, jax.Array):
        targets = np.asarray(targets)  # nested lists would be a pytree of numbers
    samples, classes = np.shape(targets)
    _check.non_negative("targets", targets, array=True)
    if _check.concrete(targets) and not np.allclose(np.sum(np.asarray(targets, np.float64), axis=1), 1.0, atol=1e-6):
        raise ValueError("every row of targets must sum to 1; divide each row by its sum.")
    if truth is None:
        # The numbers are compared unrounded: float64 targets must not tie because JAX is in float32.
        index = (np if _check.concrete(targets) else jnp).argmax(targets, axis=1)
    else:
        index = truth if isinstance(truth, jax.Array) else _check.real("truth", truth, array=True)
        _check.shape("truth", index, (samples,), "one label per sample")
        _check.labels("truth", index, classes)
    return Labels(
        index=index,
        weights=np.full(samples, 1.0 / samples),
        targets=targets,
        classes=classes,
        kind="soft",
    )


def _dense_rows(values: ArrayLike | Sequence[Sequence[float]]) -> Any:
    """Rows of numbers, (n, C), one column of them for (n,)."""
    array = _numbers.array("targets", values)
    array = array if isinstance(array, jax.Array) else np.asarray(array)
    array = array[:, None] if np.ndim(array) == 1 else array
    if np.ndim(array) != 2 or 0 in np.shape(array):
        raise ValueError(f"targets must have shape (n, C), or (n,) for one output, but got {np.shape(array)}.")
    return array


def targets(values: Any, truth: ArrayLike | Sequence[int] | None = None) -> Labels:
    """Any real targets, one row per sample: regression, several labels for a sample, codes of classes.

    The model has one prototype per output. Losses take the rows as they are; those that need distributions refuse them.

    Args:
        values: Finite numbers, shape (n, C), or (n,) for one output; or a matrix of scipy.sparse, of which only the
            entries are kept: reduced runs of the unhinged loss then make no (n, C) array. Every other run makes one.
        truth: The class of each sample, 0 ... C-1, shape (n,), if outputs stand for classes. Without it there is no
            accuracy, margin or metric of neural collapse, and a run refuses them.

    Returns:
        `Labels` of kind "values" with equal weights.

    Raises:
        ValueError: for a wrong shape, numbers that are not finite, or a truth that is not an integer in 0 ... C-1.
        MemoryError: for a sparse matrix with a row so long that all rows of that length do not fit into memory.

    Source: beyond the paper.

    Example:
        >>> labels = targets([[0.5, -1.0], [2.0, 0.0], [1.0, 1.0]])
        >>> labels.classes, labels.samples, labels.classified
        (2, 3, False)
    """
    rows = sparse_rows("targets", values) if is_sparse(values) else _dense_rows(values)
    samples, outputs = np.shape(rows)
    index: ArrayLike = np.zeros(samples, np.int32)
    if truth is not None:
        index = truth if isinstance(truth, jax.Array) else _check.real("truth", truth, array=True)
        _check.shape("truth", index, (samples,), "one label per sample")
        _check.labels("truth", index, outputs)
    return Labels(
        index=index,
        weights=np.full(samples, 1.0 / samples),
        targets=rows,
        clean=None if truth is None else index,
        classes=outputs,
        kind="values",
    )
