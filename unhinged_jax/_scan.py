"""A compiled loop of steps that reads values at chosen steps, in memory that grows like the root of its length."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any


def slots_of(times: np.ndarray, start: int) -> np.ndarray:
    """For every number of updates since `start`, the position in `times` to save at, or len(times)."""
    slots = np.full(int(times[-1]) - start + 1, len(times), dtype=np.int32)
    slots[np.asarray(times, dtype=int) - start] = np.arange(len(times))
    return slots


def run(
    step: Callable[[Tree, jax.Array], Tree],
    carry: Tree,
    slots: jax.Array,
    count: int,
    read: Callable[[Tree], Tree],
    settle: Callable[[Tree, Tree], tuple[Tree, jax.Array]] | None = None,
) -> tuple[Tree, Tree, jax.Array]:
    """Repeat carry = step(carry, k) for k = 0, 1, ... and read the carry wherever `slots` says so.

    Args:
        step: One update; k counts from 0.
        carry: Start.
        slots: Slot to save in after k updates, shape (updates + 1,); `count` or more means none.
        count: Number of slots.
        read: carry -> values to save.
        settle: After each block of steps, (carry before, carry after) -> (carry to go on with, whether to go on). A
            block after which it says no is undone, and the loop ends there.

    Returns:
        The last carry, the saved values with a leading axis of slots, and which slots were filled.
    """
    updates = slots.shape[0] - 1
    block = max(1, math.isqrt(max(updates, 1)))
    whole, rest = divmod(updates, block)
    blank = jax.tree.map(
        lambda leaf: jnp.full((count, *leaf.shape), _blank(leaf.dtype), leaf.dtype), jax.eval_shape(read, carry)
    )
    saved = (blank, jnp.zeros(count, bool))

    def save(carry: Tree, saved: Tree, slot: jax.Array) -> Tree:
        def write() -> Tree:
            values, filled = saved
            written = jax.tree.map(lambda buffer, value: buffer.at[slot].set(value), values, read(carry))
            return written, filled.at[slot].set(True)

        return jax.lax.cond(slot < count, write, lambda: saved)

    def one(both: Tree, k: jax.Array) -> tuple[Tree, None]:
        carry, saved = both
        carry = step(carry, k)
        return (carry, save(carry, saved, slots[k + 1])), None

    @jax.checkpoint
    def many(both: Tree, ks: jax.Array) -> Tree:
        return jax.lax.scan(one, both, ks)[0]

    def guarded(state: Tree, ks: jax.Array) -> tuple[Tree, None]:
        both, going = state
        after, saved = many(both, ks)
        if settle is None:
            return ((after, saved), going), None
        settled, fine = settle(both[0], after)
        # A choice, not a branch: vmapped, a branch would batch k and with it every branch inside the step.
        going = going & fine
        return (jax.tree.map(lambda new, old: jnp.where(going, new, old), (settled, saved), both), going), None

    state = ((carry, save(carry, saved, slots[0])), jnp.asarray(True))
    ks = jnp.arange(updates)
    if whole:
        state = jax.lax.scan(guarded, state, ks[: whole * block].reshape(whole, block))[0]
    if rest:
        state = guarded(state, ks[whole * block :])[0]
    (carry, (values, filled)), _ = state
    return carry, values, filled


def _blank(dtype: Any) -> Any:
    return jnp.nan if jnp.issubdtype(dtype, jnp.inexact) else 0
