"""Blocks of the steps of a loop: each is accepted as a whole, or undone and repeated step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from equinox.internal import unvmap_any
from jaxtyping import PyTree

from unhinged_jax._loop.launches import by_launches, over_packed
from unhinged_jax._loop.reads import Reads, divisor

Step = Callable[[PyTree, jax.Array], PyTree]
Settle = Callable[[PyTree, PyTree], tuple[PyTree, jax.Array]]
Tidy = tuple[int, Callable[[PyTree], PyTree]]
Loop = tuple[PyTree, PyTree, jax.Array]
Block = Callable[[PyTree, jax.Array], PyTree]
"""Runs a block of steps: (state, their numbers) -> state."""

_KEPT = 2**28  # bytes; what all reads need is kept until after the loop if it takes no more than this


class Guard(NamedTuple):
    """What decides whether a block, or a step of a rejected block, is accepted; see `run`."""

    settle: Settle
    alone: Settle | None


def keeping(
    reads: Reads, start: PyTree, read: Callable[[PyTree], PyTree], needs: Callable[[PyTree], PyTree]
) -> tuple[Callable[[PyTree], PyTree], bool]:
    """What is kept of a carry that is read, and whether it is read from that after the loop.

    If they are few, they are read after the loop: a read inside it would carry its derivative through every step.
    """
    late = kept_until_after(reads, start)
    return needs if late else lambda carry: read(needs(carry)), late


def kept_until_after(reads: Reads, what: PyTree) -> bool:
    """Whether one copy for every read is small enough, all together, to be kept until after the loop."""
    return reads.total * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(what)) <= _KEPT


def untouched(reads: Reads, keep: Callable[[PyTree], PyTree], carry: PyTree) -> tuple[PyTree, jax.Array]:
    """What is kept of the reads, and which were reached, before the first."""
    shapes = jax.eval_shape(keep, carry)
    values = jax.tree.map(lambda leaf: jnp.zeros((reads.total, *leaf.shape), leaf.dtype), shapes)
    return values, jnp.zeros(reads.total, bool)


def saving(reads: Reads, keep: Callable[[PyTree], PyTree]) -> Callable[[PyTree, PyTree, jax.Array], PyTree]:
    """A function that saves a carry in a slot, if it is one."""

    def save(carry: PyTree, saved: PyTree, slot: jax.Array) -> PyTree:
        def write() -> PyTree:
            values, filled = saved
            written = jax.tree.map(_put(slot), values, keep(carry))
            return written, filled.at[slot].set(True)

        return jax.lax.cond(slot < reads.total, write, lambda: saved)

    return save


def unread_blocks(step: Step, reads: Reads, guard: Guard | None, tidy: Tidy | None) -> Block:
    """A block with the state (carry, going), for reads that are equally spaced, within which nothing is read."""
    stretch, plain = reads.block, step
    if tidy is not None:
        stretch = divisor(reads.block, tidy[0], most=tidy[0])
        step = step if stretch > 1 else _now_and_then(step, *tidy)

    def stretched(carry: PyTree, ks: jax.Array) -> PyTree:
        carry = over(step, carry, ks)
        return tidy[1](carry) if tidy is not None and 1 < stretch < reads.block else carry  # else `settle` does it

    @jax.checkpoint
    def many(carry: PyTree, ks: jax.Array) -> PyTree:
        return over(stretched, carry, ks.reshape(-1, stretch)) if stretch > 1 else over(step, carry, ks)

    def guarded(state: tuple[PyTree, jax.Array], ks: jax.Array) -> tuple[PyTree, jax.Array]:
        carry, going = state
        block = _Block(carry, many(carry, ks), (), (), going, ks)
        carry, _, going = _settled(guard, plain, lambda _carry, _k, _live, saved: saved, block)
        return carry, going

    return guarded


def read_blocks(
    step: Step, reads: Reads, keep: Callable[[PyTree], PyTree], guard: Guard | None, tidy: Tidy | None
) -> Block:
    """A block with the state ((carry, saved), going), for any reads, within which the steps are read."""
    slots, count, plain = reads.slots, reads.total, step
    assert slots is not None
    step = step if tidy is None else _now_and_then(step, *tidy)
    save = saving(reads, keep)

    def one(both: PyTree, k: jax.Array) -> PyTree:
        carry, saved = both
        carry = step(carry, k)
        return carry, save(carry, saved, slots[k + 1])

    @jax.checkpoint
    def many(both: PyTree, ks: jax.Array) -> PyTree:
        return over(one, both, ks)

    def save_live(carry: PyTree, k: jax.Array, live: jax.Array, saved: PyTree) -> PyTree:
        slot = slots[k + 1]

        def write() -> PyTree:
            values, filled = saved
            written = jax.tree.map(_put(slot, live), values, keep(carry))
            return written, filled.at[slot].set(filled[slot] | live)

        return jax.lax.cond(slot < count, write, lambda: saved)

    def guarded(state: PyTree, ks: jax.Array) -> PyTree:
        (before, saved), going = state
        after, kept = many(state[0], ks)
        block = _Block(before, after, saved[1], kept, going, ks)
        carry, saved, going = _settled(guard, plain, save_live, block)
        return (carry, saved), going

    return guarded


class _Block(NamedTuple):
    """A block of steps `ks`: the carry before and after it, and whether the loop was still `going` before it.

    `filled` says which slots were filled before the block. `saved` = (values, filled) includes those that it filled.
    """

    before: PyTree
    after: PyTree
    filled: Any
    saved: Any
    going: jax.Array
    ks: jax.Array


def _settled(
    guard: Guard | None, step: Step, save: Callable[..., PyTree], block: _Block
) -> tuple[PyTree, PyTree, jax.Array]:
    """(carry, saved, going) after a block of steps, which is undone and repeated step by step if it is rejected."""
    before, after, filled, saved, going, ks = block
    if guard is None:
        return after, saved, going
    settled, fine = guard.settle(before, after)
    again, kept = going & ~fine, going & fine
    # A selection, not a branch, because under vmap a branch would batch k and with it every branch inside the step.
    left = chosen(kept, settled, before), _marked(kept, filled, saved)
    if (alone := guard.alone) is None:
        return *left, kept

    @jax.checkpoint
    def repeated(before: PyTree, saved: PyTree) -> tuple[PyTree, Any, jax.Array]:
        def one(state: tuple[PyTree, Any, jax.Array], k: jax.Array) -> tuple[PyTree, Any, jax.Array]:
            carry, saved, live = state
            moved, fine = alone(carry, step(carry, k))
            carry, live = chosen(live, moved, carry), live & fine
            return carry, save(carry, k, live, saved), live

        return _one_by_one(one, (before, saved, again), ks)  # rare, so that it need not be fast

    def redo() -> tuple[PyTree, Any, jax.Array]:
        return repeated(left[0], _emptied(again, kept, filled, saved))

    # A branch that vmap does not turn into a selection: the lanes of a batch are repeated together if any of them is.
    carry, saved, live = jax.lax.cond(unvmap_any(again), redo, lambda: (*left, again))
    return carry, saved, kept | live


def chosen(choice: jax.Array, one: PyTree, other: PyTree) -> PyTree:
    return jax.tree.map(lambda one, other: jnp.where(choice, one, other), one, other)


def _marked(kept: jax.Array, filled: jax.Array, saved: PyTree) -> Any:
    """Without the marks of entries that a block added and that are not kept."""
    return (saved[0], jnp.where(kept, saved[1], filled)) if saved else saved


def _emptied(again: jax.Array, kept: jax.Array, filled: jax.Array, saved: PyTree) -> Any:
    """Without the entries that a repeated block added."""
    if not saved:
        return saved
    values, marked = saved
    stays = filled | ~again
    values = jax.tree.map(lambda v: jnp.where(along(stays, v), v, jnp.zeros((), v.dtype)), values)
    return values, jnp.where(kept, marked, filled)


def over(step: Callable[[PyTree, Any], PyTree], carry: PyTree, ks: jax.Array) -> PyTree:
    """carry = step(carry, k) for every k."""
    if ks.shape[0] == 1:
        return step(carry, ks[0])
    if ks.ndim == 1 and by_launches(carry):
        return over_packed(step, carry, ks)
    return _one_by_one(step, carry, ks)


def _one_by_one(step: Callable[[PyTree, Any], PyTree], carry: PyTree, ks: jax.Array) -> PyTree:
    return jax.lax.scan(lambda carry, k: (step(carry, k), None), carry, ks)[0]


def _now_and_then(step: Step, every: int, tidy: Callable[[PyTree], PyTree]) -> Step:
    """The step, with a tidying after each given number of steps."""

    def tidied(carry: PyTree, k: jax.Array) -> PyTree:
        carry = step(carry, k)
        return jax.lax.cond(k % every == every - 1, lambda: tidy(carry), lambda: carry)

    return tidied


def _put(slot: jax.Array, live: jax.Array | None = None) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A function that writes a value into an empty slot if `live`; it adds floats, so that XLA makes no copy."""

    def put(buffer: jax.Array, value: jax.Array) -> jax.Array:
        place = buffer.at[slot]
        if live is not None:
            idle = 0 if jnp.issubdtype(buffer.dtype, jnp.inexact) else buffer[slot]
            value = jnp.where(live, value, idle)
        return place.add(value) if jnp.issubdtype(buffer.dtype, jnp.inexact) else place.set(value)

    return put


def along(filled: jax.Array, values: jax.Array) -> jax.Array:
    """A flag per time, (T,), in a shape that broadcasts with values (T, ...)."""
    return filled.reshape(-1, *(1,) * (values.ndim - 1))
