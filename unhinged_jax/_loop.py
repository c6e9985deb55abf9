"""A compiled loop of steps that reads values at chosen steps; its memory grows like the square root of its length."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from equinox.internal import unvmap_any
from jaxtyping import PyTree

Step = Callable[[PyTree, jax.Array], PyTree]
Settle = Callable[[PyTree, PyTree], tuple[PyTree, jax.Array]]
Tidy = tuple[int, Callable[[PyTree], PyTree]]
Loop = tuple[PyTree, PyTree, jax.Array]

_KEPT = 2**28  # bytes; what all reads need is kept until after the loop if it takes no more than this
_OFTEN = 8  # updates; reads closer together than this are looked up one by one


class Reads(NamedTuple):
    """When to read: after each `every` updates, or where `slots` says so.

    A loop that is cut at its reads needs no condition inside; on a GPU each condition waits for the host.

    Attributes:
        updates: Length of the loop.
        total: Number of reads.
        every: Updates between two reads, the last of which is after all updates; 0 if the reads are not equally spaced.
        slots: For every number of updates the index of its read, or `total`, (updates + 1,); None if `every` is used.
    """

    updates: int
    total: int
    every: int
    slots: jax.Array | None


def reads_at(times: np.ndarray, start: int) -> Reads:
    """Reads after times - start updates, for ascending whole numbers `times`, (T,)."""
    after = np.asarray(times, dtype=np.int64) - start
    updates, count = int(after[-1]), len(after)
    most = jnp.iinfo(jnp.result_type(int)).max
    if updates >= 2**31 - 1 or int(times[-1]) > most:
        raise ValueError(
            f"a run that makes its updates one by one can make {min(most, 2**31 - 2)} here, but was asked for "
            f"{times[-1]}; use `exact` with a constant rate and without momentum for more."
        )
    gaps = set(np.diff(after).tolist()) or {updates}
    if len(gaps) == 1 and (every := gaps.pop()) >= _OFTEN and after[0] in (0, every):
        block, root = _divisor(every, math.isqrt(updates)), math.isqrt(updates)
        if block == every <= 4 * root or root <= 4 * block <= 16 * root:
            return Reads(updates, count, every, None)
    slots = np.full(updates + 1, count, dtype=np.int32)
    slots[after] = np.arange(count)
    return Reads(updates, count, 0, jnp.asarray(slots))


def run(
    step: Step,
    carry: PyTree,
    reads: Reads,
    read: Callable[[PyTree], PyTree],
    settle: Settle | None = None,
    *,
    needs: Callable[[PyTree], PyTree] = lambda carry: carry,
    tidy: Tidy | None = None,
    alone: Settle | None = None,
) -> Loop:
    """Repeat carry = step(carry, k) for k = 0, 1, ... and read the carry at chosen steps.

    With `alone`, the step at which the loop ends does not depend on the reads: a block of steps that `settle` rejects
    is repeated step by step.

    Args:
        step: One update; k counts from 0.
        carry: The carry before the first step.
        reads: When to read.
        read: needs(carry) -> values to save.
        settle: Called after each block of steps: (carry before, carry after) -> (carry to continue with, accepted). A
            rejected block is undone and ends the loop, unless `alone` is given.
        needs: carry -> the part of it that `read` uses; by default all of it.
        tidy: (m, carry -> carry); the function is applied at least every m steps.
        alone: Like `settle`, but for each single step of a rejected block, which is then repeated. The first rejected
            step ends the loop with the carry returned for it. `settle` must reject every block with such a step.

    Returns:
        The last carry, the saved values with a leading axis of reads, and which reads were reached, (total,).
    """
    start = needs(carry)
    # If they are few, they are read after the loop: a read inside it would carry its derivative through every step.
    late = reads.total * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(start)) <= _KEPT
    keep = needs if late else lambda carry: read(needs(carry))
    loop = _regular if reads.slots is None else _looked_up
    guard = None if settle is None else _Guard(settle, alone)
    carry, values, filled = loop(step, carry, reads, keep, guard, tidy)
    if late:
        # For an unfilled slot the start is read, where every value and derivative is finite.
        sound = jax.tree.map(lambda kept, begin: jnp.where(along(filled, kept), kept, begin), values, start)
        values = jax.lax.map(jax.checkpoint(read), sound)
    blank = jax.tree.map(lambda leaf: jnp.asarray(_blank(leaf.dtype), leaf.dtype), values)
    return carry, jax.tree.map(lambda v, none: jnp.where(along(filled, v), v, none), values, blank), filled


class _Guard(NamedTuple):
    settle: Settle
    alone: Settle | None


def _regular(
    step: Step, carry: PyTree, reads: Reads, keep: Callable[[PyTree], PyTree], guard: _Guard | None, tidy: Tidy | None
) -> Loop:
    """Nested loops: reads, blocks that a derivative recomputes, stretches between tidyings, steps."""
    block = _divisor(reads.every, math.isqrt(reads.updates))
    stretch, plain = block, step
    if tidy is not None:
        stretch = _divisor(block, tidy[0], most=tidy[0])
        step = step if stretch > 1 else _now_and_then(step, *tidy)

    def stretched(carry: PyTree, ks: jax.Array) -> PyTree:
        carry = _over(step, carry, ks)
        return tidy[1](carry) if tidy is not None and stretch > 1 else carry

    @jax.checkpoint
    def many(carry: PyTree, ks: jax.Array) -> PyTree:
        return _over(stretched, carry, ks.reshape(-1, stretch)) if stretch > 1 else _over(step, carry, ks)

    def guarded(state: tuple[PyTree, jax.Array], ks: jax.Array) -> tuple[PyTree, jax.Array]:
        carry, going = state
        block = _Block(carry, many(carry, ks), (), (), going, ks)
        carry, _, going = _guarded(guard, plain, lambda _carry, _k, _live, saved: saved, block)
        return carry, going

    def until_read(state: tuple[PyTree, jax.Array], ks: jax.Array) -> tuple[PyTree, tuple[PyTree, jax.Array]]:
        state = _over(guarded, state, ks.reshape(-1, block))
        return state, (keep(state[0]), state[1])

    ks = jnp.arange(reads.updates).reshape(-1, reads.every)
    start = carry
    (carry, _), (values, filled) = jax.lax.scan(until_read, (start, jnp.asarray(True)), ks)
    if reads.total > ks.shape[0]:  # the start is also read
        values = jax.tree.map(lambda begin, rest: jnp.concatenate([begin[None], rest]), keep(start), values)
        filled = jnp.concatenate([jnp.ones_like(filled[:1]), filled])
    return carry, values, filled


def _looked_up(
    step: Step, carry: PyTree, reads: Reads, keep: Callable[[PyTree], PyTree], guard: _Guard | None, tidy: Tidy | None
) -> Loop:
    """The loop in blocks that a derivative recomputes, with a check after every step whether it is read."""
    slots, count, plain = reads.slots, reads.total, step
    assert slots is not None
    step = step if tidy is None else _now_and_then(step, *tidy)
    block = _block(reads.updates)
    whole, rest = divmod(reads.updates, block)
    empty = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), jax.eval_shape(keep, carry))

    def save(carry: PyTree, saved: PyTree, slot: jax.Array) -> PyTree:
        def write() -> PyTree:
            values, filled = saved
            written = jax.tree.map(_put(slot), values, keep(carry))
            return written, filled.at[slot].set(True)

        return jax.lax.cond(slot < count, write, lambda: saved)

    def one(both: PyTree, k: jax.Array) -> PyTree:
        carry, saved = both
        carry = step(carry, k)
        return carry, save(carry, saved, slots[k + 1])

    @jax.checkpoint
    def many(both: PyTree, ks: jax.Array) -> PyTree:
        return _over(one, both, ks)

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
        carry, saved, going = _guarded(guard, plain, save_live, block)
        return (carry, saved), going

    state = ((carry, save(carry, (empty, jnp.zeros(count, bool)), slots[0])), jnp.asarray(True))
    ks = jnp.arange(reads.updates)
    if whole:
        state = _over(guarded, state, ks[: whole * block].reshape(whole, block))
    if rest:
        state = guarded(state, ks[whole * block :])
    (carry, (values, filled)), _ = state
    return carry, values, filled


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


def _guarded(
    guard: _Guard | None, step: Step, save: Callable[..., PyTree], block: _Block
) -> tuple[PyTree, PyTree, jax.Array]:
    """(carry, saved, going) after a block of steps, which is undone and repeated step by step if it is rejected."""
    before, after, filled, saved, going, ks = block
    if guard is None:
        return after, saved, going
    settled, fine = guard.settle(before, after)
    again, kept = going & ~fine, going & fine
    # A selection, not a branch, because under vmap a branch would batch k and with it every branch inside the step.
    left = _chosen(kept, settled, before), _marked(kept, filled, saved)
    if (alone := guard.alone) is None:
        return *left, kept

    @jax.checkpoint
    def repeated(before: PyTree, saved: PyTree) -> tuple[PyTree, Any, jax.Array]:
        def one(state: tuple[PyTree, Any, jax.Array], k: jax.Array) -> tuple[PyTree, Any, jax.Array]:
            carry, saved, live = state
            moved, fine = alone(carry, step(carry, k))
            carry, live = _chosen(live, moved, carry), live & fine
            return carry, save(carry, k, live, saved), live

        return _over(one, (before, saved, again), ks)

    def redo() -> tuple[PyTree, Any, jax.Array]:
        return repeated(left[0], _emptied(again, kept, filled, saved))

    # A branch that vmap does not turn into a selection: the lanes of a batch are repeated together if any of them is.
    carry, saved, live = jax.lax.cond(unvmap_any(again), redo, lambda: (*left, again))
    return carry, saved, kept | live


def _chosen(choice: jax.Array, one: PyTree, other: PyTree) -> PyTree:
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


def _over(step: Callable[[PyTree, Any], PyTree], carry: PyTree, ks: jax.Array) -> PyTree:
    """carry = step(carry, k) for every k."""
    if ks.shape[0] == 1:
        return step(carry, ks[0])
    return jax.lax.scan(lambda carry, k: (step(carry, k), None), carry, ks)[0]


def _now_and_then(step: Step, every: int, tidy: Callable[[PyTree], PyTree]) -> Step:
    """The step, with a tidying after each given number of steps."""

    def tidied(carry: PyTree, k: jax.Array) -> PyTree:
        carry = step(carry, k)
        return jax.lax.cond(k % every == every - 1, lambda: tidy(carry), lambda: carry)

    return tidied


def _block(updates: int) -> int:
    """Steps in a block: about the square root of their number; if possible a divisor, so that one loop is compiled."""
    root = max(1, math.isqrt(updates))
    size = _divisor(updates, root) if updates else root
    return size if root <= 2 * size <= 4 * root else root


def _divisor(number: int, near: int, most: int | None = None) -> int:
    """The divisor of a number that is nearest to another by ratio, among those up to `most`."""
    low = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    divisors = [size for size in (*low, *(number // size for size in low)) if size <= (most or number)]
    return min(divisors, key=lambda size: abs(math.log(size / max(1, near))))


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


def _blank(dtype: np.dtype) -> Any:
    return jnp.nan if jnp.issubdtype(dtype, jnp.inexact) else 0
