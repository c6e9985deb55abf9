"""Argument checks: every message says what was given, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any

import jax
import numpy as np

from unhinged_jax import _memory

_MOST = int(np.iinfo(np.int64).max)


def concrete(value: Any) -> bool:
    """Whether `value` holds numbers that can be looked at now (it is not being traced)."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def shown(value: Any) -> str:
    """A value in a message: a number as it is, an array by its range."""
    if np.ndim(value) == 0:
        return str(value)
    return f"entries from {np.min(value):g} to {np.max(value):g}"


def real(name: str, value: Any) -> np.ndarray:
    """The entries as a NumPy array, or raise unless they are real numbers: neither truth values, complex nor text."""
    array = _memory.read(value)
    if array.dtype.kind not in "fiuV":
        raise ValueError(f"{name} must be a real number, but got {value!r:.80} ({array.dtype}).")
    return array


def non_negative(name: str, value: Any, hint: str = "use a number of at least 0") -> None:
    """Raise unless every entry is finite and at least 0. Traced values pass unchecked."""
    if concrete(value):
        array = real(name, value)
        if not np.all(np.isfinite(array)) or np.any(array < 0):
            raise ValueError(f"{name} must be finite and at least 0, but got {shown(value)}; {hint}.")


def positive(name: str, value: Any, hint: str = "use a number above 0") -> None:
    """Raise unless every entry is finite and above 0. Traced values pass unchecked."""
    if concrete(value):
        array = real(name, value)
        if not np.all(np.isfinite(array)) or np.any(array <= 0):
            raise ValueError(f"{name} must be finite and above 0, but got {shown(value)}; {hint}.")


def finite(name: str, value: Any) -> None:
    """Raise if any entry is NaN or infinite. Traced values pass unchecked."""
    if concrete(value):
        bad = int(np.sum(~np.isfinite(real(name, value))))
        if bad:
            raise ValueError(
                f"{name} must hold finite numbers, but {bad} of its {np.size(value)} entries are NaN or "
                "infinite; repair the array before the run."
            )


def shape(name: str, value: Any, expected: tuple[int, ...], meaning: str) -> None:
    """Raise unless `value` has the expected shape; `meaning` names the axes for the reader."""
    got = tuple(np.shape(value))
    if got != expected:
        raise ValueError(f"{name} must have shape {expected} ({meaning}), but got {got}.")


def nearest(name: str, known: Collection[str]) -> str:
    """What to add to a message about a name that is not there: the one that may have been meant, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raise unless `value` is one of `allowed`."""
    if value not in allowed:
        listed = ", ".join(repr(a) for a in allowed)
        raise ValueError(f"{name} must be one of {listed}, but got {value!r}.")


def whole(name: str, value: Any, least: int) -> int:
    """Return `value` as an int, or raise unless it is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, but got {value!r}.")
    if value > _MOST:
        raise ValueError(f"{name} must be at most {_MOST}, so that 64 bits hold it, but got {value!s:.30}.")
    return int(value)


def labels(name: str, value: Any, classes: int) -> None:
    """Raise unless `value` holds integers in 0 ... C-1. Traced labels pass, if they are integers."""
    kind = np.dtype(getattr(value, "dtype", None) or np.asarray(value).dtype)
    if not np.issubdtype(kind, np.integer):
        raise ValueError(f"{name} must hold integer labels, but got {kind}; give class numbers 0 ... {classes - 1}.")
    if concrete(value) and np.size(value):
        array = _memory.read(value)
        if array.min() < 0 or array.max() >= classes:
            raise ValueError(
                f"{name} must hold labels in 0 ... {classes - 1} for {classes} classes, but they range from "
                f"{array.min()} to {array.max()}; renumber them or raise the number of classes."
            )
