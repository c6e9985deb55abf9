"""What a run remembers beside its state: averages and other memories that are linear in past states.

A memory holds several states, its slots. An update looks at a combination y of them, makes there the change d that the
descent would make, by whatever optimiser, and combines again:

    y = E s,    s <- A s + B d(y),    and what is observed is the first slot.

Under a linear loss every mode is therefore multiplied by a product of small matrices.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unhinged_jax import _check
from unhinged_jax._values import Value
from unhinged_jax.dynamics.rates import is_number


class Combination(NamedTuple):
    """How an update combines m slots.

    Attributes:
        look: E, (m,).
        keep: A, (m, m).
        push: B, (m,).
    """

    look: jax.Array
    keep: jax.Array
    push: jax.Array

    def seen(self, slots: Any) -> Any:
        """y, from a tree of arrays with a leading axis of slots."""
        return jax.tree.map(lambda s: jnp.tensordot(self.look.astype(s.dtype), s, 1), slots)

    def moved(self, slots: Any, change: Any) -> Any:
        """The slots after the update, for a change of y."""

        def moved(s: jax.Array, d: jax.Array) -> jax.Array:
            return jnp.tensordot(self.keep.astype(s.dtype), s, 1) + jnp.tensordot(self.push.astype(s.dtype), d, 0)

        return jax.tree.map(moved, slots, change)


class Memory(Value):
    """States that a run keeps beside the one that is observed, and combines with it in every update."""

    def share_at(self, time: jax.Array) -> jax.Array:
        """The rate at which the average of a flow approaches its state; infinite for one that begins."""
        raise TypeError("this memory has no counterpart in a flow.")

    @property
    @abc.abstractmethod
    def first(self) -> tuple[int, ...]:
        """Which slots begin as the start, 1, and which as zeros, 0; the first one is observed."""

    @abc.abstractmethod
    def combined(self, k: jax.Array) -> Combination:
        """How update k = 0, 1, ... combines the slots."""

    def check(self) -> None:
        """Raise a ValueError for what is known and is not a number that is allowed."""
        for name, value in self._numbers().items():
            if _check.concrete(value):
                entries = _check.real(name, value)
                if not ((entries >= 0) & (entries <= 1)).all():
                    raise ValueError(f"{name} must lie between 0 and 1, but got {_check.given(value)}.")

    def _numbers(self) -> dict[str, Any]:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {field.name: getattr(self, field.name) for field in fields if not field.metadata.get("static")}

    def __post_init__(self) -> None:
        # What JAX and equinox may put in place of numbers passes; `check_dynamics` looks again.
        if all(is_number(value) for value in jax.tree.leaves(self._numbers(), is_leaf=lambda value: value is None)):
            self.check()
