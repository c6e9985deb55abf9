"""What is given to `measure` and `Collapse`, as checked NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from unhinged_jax import _check, _memory, _numbers
from unhinged_jax.labels import Labels


def array(name: str, value: object) -> np.ndarray:
    """Real numbers as a NumPy array of float32 or float64, also those of a PyTorch tensor on any device.

    Raises:
        ValueError: for anything else, for traced arrays, and for NaN and infinity.
    """
    value = _off_torch(value)
    _refuse_traced(name, value)
    found = np.asarray(_numbers.array(name, value))
    _check.finite(name, found, array=True)
    return found


def features(value: object, dim: int | None = None) -> np.ndarray:
    """Features (n, p), with p = `dim` if that is known.

    Raises:
        ValueError: for another shape, no samples or no features, and as for `array`.
    """
    found = array("features", value)
    if found.ndim != 2:
        raise ValueError(
            f"features must have shape (n, p), one row per sample, but got {found.shape}; reshape each sample to a "
            "row, as in features.reshape(n, -1)."
        )
    if found.shape[1] == 0 or (dim is None and found.shape[0] == 0):
        raise ValueError(f"features must hold samples and dimensions, but got shape {found.shape}; give at least one.")
    if dim is not None and found.shape[1] != dim:
        raise ValueError(f"features must have {dim} columns, one per dimension, but got shape {found.shape}.")
    return found


def outside(value: object, dim: int) -> np.ndarray:
    """Features (m, p) of samples from outside the training distribution.

    Raises:
        ValueError: for another shape, and as for `array`.
    """
    found = array("ood", value)
    if found.ndim != 2 or found.shape[1] != dim:
        raise ValueError(f"ood must have shape (m, {dim}), one row of features per sample, but got {found.shape}.")
    return found


def labels(value: object, samples: int, classes: int | None = None) -> np.ndarray:
    """Labels (n,) from 0 to C - 1; of unknown C, at least 0.

    Raises:
        ValueError: for labels that are not integers, for another shape, and for labels out of range.
    """
    value = value.index if isinstance(value, Labels) else _off_torch(value)
    _refuse_traced("labels", value)
    found = np.asarray(_numbers.whole("labels", value))
    if found.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers, one class number per sample, but got {_check.given(value)}.")
    if found.shape != (samples,):
        one_hot = "; give class numbers, as in labels.argmax(axis=1)." if found.ndim == 2 else "."
        raise ValueError(
            f"labels must have shape ({samples},), one per row of features, but got {found.shape}{one_hot}"
        )
    if classes is not None:
        _check.labels("labels", found, classes)
    elif found.size and found.min() < 0:
        raise ValueError(
            f"labels must be class numbers from 0, but the smallest is {found.min()}; leave out samples without "
            "a class."
        )
    return found


def classes_of(given: object, found: np.ndarray, prototypes: np.ndarray | None) -> int:
    """The number of classes: that of `Labels`, else of the prototypes, else one more than the largest label.

    Raises:
        ValueError: for fewer than 2 classes, classes without a sample, and labels beyond the prototypes.
        MemoryError: for more classes than (C, C) matrices of them fit into the memory.
    """
    known = given.classes if isinstance(given, Labels) else None
    if known is None:
        known = int(found.max()) + 1 if prototypes is None else len(prototypes)
    if known < 2:
        raise ValueError(f"collapse is measured between classes, so at least 2 are needed, but there is {known}.")
    _check.labels("labels", found, known)
    refuse_empty(np.unique(found), known)
    refuse_many(known)
    return known


def refuse_many(classes: int) -> None:
    """Raise if matrices (C, C) do not fit into the memory.

    Raises:
        MemoryError: saying how much they would take.
    """
    _memory.refuse(32 * classes**2, f"the angles between {classes} classes")


def refuse_empty(present: np.ndarray, classes: int) -> None:
    """Raise unless every class is present.

    Raises:
        ValueError: naming the first classes without a sample.
    """
    missing = classes - present.size
    if missing:
        few = np.setdiff1d(np.arange(min(classes, present.size + 3)), present)[:3]
        names = ", ".join(map(str, few)) + (", ..." if missing > few.size else "")
        raise ValueError(
            f"every class needs a sample for its mean, but {missing} of {classes} have none ({names}); add samples of "
            "them, or drop these classes, their prototypes too, and number the others from 0."
        )


def prototypes(value: object, classes: int | None, dim: int) -> np.ndarray | None:
    """Prototypes (C, p) in float64, or None if there are none.

    Raises:
        ValueError: for another shape, and as for `array`.
    """
    if value is None:
        return None
    found = array("prototypes", value)
    rows = "C" if classes is None else classes
    if found.ndim != 2 or found.shape[1] != dim or (classes is not None and len(found) != classes):
        turned = found.ndim == 2 and found.shape[0] == dim and classes in (None, found.shape[1])
        hint = "give their transpose." if turned else "give one row per class, as in the weight of a linear layer."
        raise ValueError(f"prototypes must have shape ({rows}, {dim}), but got {found.shape}; {hint}")
    return found.astype(np.float64)


def bias(value: object, prototypes: np.ndarray | None) -> np.ndarray | None:
    """Biases (C,) in float64; zeros if there are prototypes only, None without prototypes.

    Raises:
        ValueError: for biases without prototypes or of another shape, and as for `array`.
    """
    if prototypes is None:
        if value is not None:
            raise ValueError("a bias was given without prototypes, but logits need both; give the prototypes as well.")
        return None
    if value is None:
        return np.zeros(len(prototypes))
    found = array("bias", value)
    _check.shape("bias", found, (len(prototypes),), "one per class")
    return found.astype(np.float64)


def _off_torch(value: Any) -> Any:
    """A PyTorch tensor without its graph, on the CPU, in a type that NumPy has; everything else unchanged."""
    if not (hasattr(value, "detach") and hasattr(value, "cpu")):
        return value
    value = value.detach().cpu()
    return value.float() if "bfloat16" in str(value.dtype) else value


def _refuse_traced(name: str, value: object) -> None:
    if not _check.concrete(value):
        raise ValueError(
            f"{name} must hold known numbers, but got {_check.given(value)}; inside jax.jit and the like, use "
            "`unhinged_jax.collapse.collapse_metrics`."
        )
