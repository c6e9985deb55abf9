"""A compiled loop of steps that reads values at chosen steps, in memory that grows like the root of its length."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any

_KEPT = 2**28  # bytes of what reads need that may be kept until after the loop


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
    needs: Callable[[Tree], Tree] = lambda carry: carry,
) -> tuple[Tree, Tree, jax.Array]:
    """Repeat carry = step(carry, k) for k = 0, 1, ... and read the carry wherever `slots` says so.

    Args:
        step: One update; k counts from 0.
        carry: Start.
        slots: Slot to save in after k updates, shape (updates + 1,); `count` or more means none.
        count: Number of slots.
        read: needs(carry) -> values to save.
        settle: After each block of steps, (carry before, carry after) -> (carry to go on with, whether to go on). A
            block after which it says no is undone, and the loop ends there.
        needs: carry -> the part of it that `read` uses; default all.

    Returns:
        The last carry, the saved values with a leading axis of slots, and which slots were filled.
    """
    start = needs(carry)
    # Kept and read after the loop, where they are few: the derivative of a read inside the loop would be carried, with
    # everything the read refers to, through every step.
    late = count * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(start)) <= _KEPT
    keep = (lambda needed: needed) if late else read
    carry, values, filled = _loop(step, carry, slots, count, lambda carry: keep(needs(carry)), settle)
    if late:
        # An unfilled slot is read at the start, where every value and derivative is finite.
        sound = jax.tree.map(lambda kept, begin: jnp.where(_along(filled, kept), kept, begin), values, start)
        values = jax.lax.map(jax.checkpoint(read), sound)
    blank = jax.tree.map(lambda leaf: jnp.asarray(_blank(leaf.dtype), leaf.dtype), values)
    return carry, jax.tree.map(lambda v, none: jnp.where(_along(filled, v), v, none), values, blank), filled


def _loop(
    step: Callable[[Tree, jax.Array], Tree],
    carry: Tree,
    slots: jax.Array,
    count: int,
    keep: Callable[[Tree], Tree],
    settle: Callable[[Tree, Tree], tuple[Tree, jax.Array]] | None,
) -> tuple[Tree, Tree, jax.Array]:
    """The loop, in blocks that a derivative recomputes; what an undone block kept is not marked as filled."""
    updates = slots.shape[0] - 1
    block = _block(updates)
    whole, rest = divmod(updates, block)
    empty = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), jax.eval_shape(keep, carry))

    def save(carry: Tree, saved: Tree, slot: jax.Array) -> Tree:
        def write() -> Tree:
            values, filled = saved
            written = jax.tree.map(_put(slot), values, keep(carry))
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
        after, (values, filled) = many(both, ks)
        if settle is None:
            return ((after, (values, filled)), going), None
        settled, fine = settle(both[0], after)
        # A choice, not a branch: vmapped, a branch would batch k and with it every branch inside the step.
        going = going & fine
        carry = jax.tree.map(lambda new, old: jnp.where(going, new, old), settled, both[0])
        return ((carry, (values, jnp.where(going, filled, both[1][1]))), going), None

    state = ((carry, save(carry, (empty, jnp.zeros(count, bool)), slots[0])), jnp.asarray(True))
    ks = jnp.arange(updates)
    if whole:
        state = jax.lax.scan(guarded, state, ks[: whole * block].reshape(whole, block))[0]
    if rest:
        state = guarded(state, ks[whole * block :])[0]
    (carry, (values, filled)), _ = state
    return carry, values, filled


def _block(updates: int) -> int:
    """Steps in a block: about the root of their number; a divisor if there is one, so that one loop is compiled."""
    root = max(1, math.isqrt(updates))
    divisors = [size for size in range(-(-root // 2), 2 * root + 1) if updates % size == 0]
    return min(divisors, key=lambda size: abs(size - root), default=root)


def _put(slot: jax.Array) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Write a value into an empty slot, by adding where that has a derivative: unlike setting, it leaves the buffer's
    own as it is, and XLA need not copy it at every step."""

    def put(buffer: jax.Array, value: jax.Array) -> jax.Array:
        place = buffer.at[slot]
        return place.add(value) if jnp.issubdtype(buffer.dtype, jnp.inexact) else place.set(value)

    return put


def _along(filled: jax.Array, values: jax.Array) -> jax.Array:
    return filled.reshape(-1, *(1,) * (values.ndim - 1))


def _blank(dtype: Any) -> Any:
    return jnp.nan if jnp.issubdtype(dtype, jnp.inexact) else 0
