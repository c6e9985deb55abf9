"""Whether classes are balanced: computed from labels and weights wherever their values are known, never taken on trust.

Compiled code does not know the values, so the answer is static data of the pytree. It is computed again whenever an
object is built, replaced or taken apart with arrays in it. If an array is replaced by a traced one, the answer is
unknown.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any, Protocol

import jax
import numpy as np

from unhinged_jax._check import differentiated


class Weighted(Protocol):
    """What has labels and weights of samples, and keeps what is known of them."""

    index: Any
    weights: Any
    classes: int
    _known: Known


class Known:
    """Whether classes are known to be balanced, and the leaves (index, weights) of which that is known."""

    __slots__ = ("of", "value")

    def __init__(self, value: bool, of: tuple[Any, ...] = ()) -> None:
        self.value, self.of = value, of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Known) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __reduce__(self) -> tuple[Any, ...]:
        return Known, (self.value,)

    def __repr__(self) -> str:
        return "balanced" if self.value else "not known to be balanced"


def look(index: object, weights: object, classes: int) -> bool | None:
    """Whether every class has the same number of samples and every weight is 1/n; None if these are traced.

    Leading axes are batches, all of which must be balanced.
    """
    if not (_is_array(index) and _is_array(weights)) or _traced(index) or _traced(weights):
        return None
    q, labels = np.asarray(weights), np.asarray(index)
    samples = labels.shape[-1] if labels.ndim else 0
    if not samples or samples % classes or q.shape[-1:] != (samples,) or q.dtype.kind != "f":
        return False
    tolerance = max(float(np.finfo(q.dtype).eps), 7e-15)
    if not all(abs(float(end(q)) * samples - 1) <= tolerance for end in (np.min, np.max)):
        return False
    return all(_even(row, classes) for row in labels.reshape(-1, samples))


def _even(labels: np.ndarray, classes: int) -> bool:
    if labels.dtype.kind not in "iu" or int(labels.min()) < 0:
        return False
    counts = np.bincount(labels, minlength=classes)
    return len(counts) == classes and bool(np.all(counts == labels.size // classes))


def known(index: object, weights: object, classes: int, carried: Known) -> Known:
    """What is known of these leaves, with `carried` from the object that they come from, by JAX or from its builder."""
    leaves = (index, weights)
    same = [before() is leaf for before, leaf in zip(carried.of, leaves, strict=False)]
    if same and all(same) and all(map(_constant, leaves)):
        return carried  # looked at before
    seen = look(index, weights, classes)
    if seen is not None:
        return Known(seen, _references(leaves) if all(map(_constant, leaves)) else ())
    if not all(_is_array(leaf) for leaf in leaves):
        return carried  # JAX and equinox put these into leaves while they rebuild trees
    if not carried.value or not all(_traced(leaf) for leaf in leaves) or differentiated(leaves):
        return Known(False)
    # Both leaves differ where a traced function begins. If only one differs, it has been replaced.
    return Known(not same or all(same) or not any(same), _references(leaves))


def _references(leaves: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(weakref.ref(leaf) for leaf in leaves)


def _constant(leaf: object) -> bool:
    """Whether an array is immutable: a JAX array, or a NumPy array that is locked and owns its numbers."""
    if isinstance(leaf, np.ndarray):
        return not leaf.flags.writeable and leaf.base is None
    return isinstance(leaf, jax.Array) and not _traced(leaf)


def locked(array: object) -> Any:
    """A new, immutable NumPy array."""
    if isinstance(array, np.ndarray):
        array.setflags(write=False)
    return array


def _is_array(leaf: object) -> bool:
    return isinstance(leaf, (np.ndarray, jax.Array))


def _traced(leaf: object) -> bool:
    return isinstance(leaf, jax.core.Tracer)


def register(cls: type, data: tuple[str, ...], meta: tuple[str, ...]) -> None:
    """Make a pytree of a frozen dataclass with `index`, `weights`, `classes` and, not a field, `_known`."""

    def static(thing: Weighted) -> tuple[Any, ...]:
        found = known(thing.index, thing.weights, thing.classes, thing._known)
        object.__setattr__(thing, "_known", found)  # a run takes its model apart several times
        return (*(getattr(thing, name) for name in meta), found)

    def flatten(thing: Weighted) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(thing, name) for name in data), static(thing)

    def flatten_with_keys(thing: Weighted) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        keyed = tuple((jax.tree_util.GetAttrKey(name), getattr(thing, name)) for name in data)
        return keyed, static(thing)

    def unflatten(fixed: tuple[Any, ...], leaves: Iterable[object]) -> Any:
        thing: Any = object.__new__(cls)
        for name, value in (*zip(data, leaves, strict=True), *zip(meta, fixed[:-1], strict=True)):
            object.__setattr__(thing, name, value)
        found = known(thing.index, thing.weights, thing.classes, fixed[-1]) if _any_traced(thing) else fixed[-1]
        object.__setattr__(thing, "_known", found)
        return thing

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)


def _any_traced(thing: Weighted) -> bool:
    return _traced(thing.index) or _traced(thing.weights)
