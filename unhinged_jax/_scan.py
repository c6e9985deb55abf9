"""A compiled loop of steps that reads values at chosen steps, in memory that grows like the root of its length."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any
Step = Callable[[Tree, jax.Array], Tree]
Settle = Callable[[Tree, Tree], tuple[Tree, jax.Array]]
Tidy = tuple[int, Callable[[Tree], Tree]]
Loop = tuple[Tree, Tree, jax.Array]

_KEPT = 2**28  # bytes of what reads need that may be kept until after the loop
_OFTEN = 8  # updates; reads closer than that are looked up one by one


class Reads(NamedTuple):
    """When to read: as often as `every` updates, or where `slots` says so.

    A loop that is cut where it is read needs no question in between. On a GPU each question waits for the host.

    Attributes:
        updates: Length of the loop.
        total: Number of reads.
        every: Updates between two reads, the last of them after all updates; 0 if they are not equally far apart.
        slots: For every number of updates the read it belongs to, or `total`; None if `every` tells.
    """

    updates: int
    total: int
    every: int
    slots: jax.Array | None


def reads_at(times: np.ndarray, start: int) -> Reads:
    """Reads after times - start updates, for ascending whole numbers."""
    after = np.asarray(times, dtype=int) - start
    updates, count = int(after[-1]), len(after)
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
    carry: Tree,
    reads: Reads,
    read: Callable[[Tree], Tree],
    settle: Settle | None = None,
    needs: Callable[[Tree], Tree] = lambda carry: carry,
    tidy: Tidy | None = None,
) -> Loop:
    """Repeat carry = step(carry, k) for k = 0, 1, ... and read the carry on the way.

    Args:
        step: One update; k counts from 0.
        carry: Start.
        reads: When to read.
        read: needs(carry) -> values to save.
        settle: After each block of steps, (carry before, carry after) -> (carry to go on with, whether to go on). A
            block after which it says no is undone, and the loop ends there.
        needs: carry -> the part of it that `read` uses; default all.
        tidy: (m, carry -> carry), to be applied at least every m steps.

    Returns:
        The last carry, the saved values with a leading axis of reads, and which of them were reached.
    """
    start = needs(carry)
    # Kept and read after the loop, where they are few: the derivative of a read inside the loop would be carried, with
    # everything the read refers to, through every step.
    late = reads.total * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(start)) <= _KEPT
    keep = needs if late else lambda carry: read(needs(carry))
    loop = _regular if reads.slots is None else _looked_up
    carry, values, filled = loop(step, carry, reads, keep, settle, tidy)
    if late:
        # An unfilled slot is read at the start, where every value and derivative is finite.
        sound = jax.tree.map(lambda kept, begin: jnp.where(_along(filled, kept), kept, begin), values, start)
        values = jax.lax.map(jax.checkpoint(read), sound)
    blank = jax.tree.map(lambda leaf: jnp.asarray(_blank(leaf.dtype), leaf.dtype), values)
    return carry, jax.tree.map(lambda v, none: jnp.where(_along(filled, v), v, none), values, blank), filled


def _regular(
    step: Step, carry: Tree, reads: Reads, keep: Callable[[Tree], Tree], settle: Settle | None, tidy: Tidy | None
) -> Loop:
    """Loops within loops: reads, blocks that a derivative recomputes, stretches between tidyings, steps."""
    block = _divisor(reads.every, math.isqrt(reads.updates))
    stretch = block
    if tidy is not None:
        stretch = _divisor(block, tidy[0], most=tidy[0])
        step = step if stretch > 1 else _now_and_then(step, *tidy)

    def stretched(carry: Tree, ks: jax.Array) -> Tree:
        carry = _over(step, carry, ks)
        return tidy[1](carry) if tidy is not None and stretch > 1 else carry

    @jax.checkpoint
    def many(carry: Tree, ks: jax.Array) -> Tree:
        return _over(stretched, carry, ks.reshape(-1, stretch)) if stretch > 1 else _over(step, carry, ks)

    def guarded(state: tuple[Tree, jax.Array], ks: jax.Array) -> tuple[Tree, jax.Array]:
        return _guarded(settle, many, state, ks)

    def until_read(state: tuple[Tree, jax.Array], ks: jax.Array) -> tuple[Tree, tuple[Tree, jax.Array]]:
        state = _over(guarded, state, ks.reshape(-1, block))
        return state, (keep(state[0]), state[1])

    ks = jnp.arange(reads.updates).reshape(-1, reads.every)
    start = carry
    (carry, _), (values, filled) = jax.lax.scan(until_read, (start, jnp.asarray(True)), ks)
    if reads.total > ks.shape[0]:  # the start is read, too
        values = jax.tree.map(lambda begin, rest: jnp.concatenate([begin[None], rest]), keep(start), values)
        filled = jnp.concatenate([jnp.ones_like(filled[:1]), filled])
    return carry, values, filled


def _looked_up(
    step: Step, carry: Tree, reads: Reads, keep: Callable[[Tree], Tree], settle: Settle | None, tidy: Tidy | None
) -> Loop:
    """The loop in blocks that a derivative recomputes, asking after every step whether it is read."""
    slots, count = reads.slots, reads.total
    assert slots is not None
    step = step if tidy is None else _now_and_then(step, *tidy)
    block = _block(reads.updates)
    whole, rest = divmod(reads.updates, block)
    empty = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), jax.eval_shape(keep, carry))

    def save(carry: Tree, saved: Tree, slot: jax.Array) -> Tree:
        def write() -> Tree:
            values, filled = saved
            written = jax.tree.map(_put(slot), values, keep(carry))
            return written, filled.at[slot].set(True)

        return jax.lax.cond(slot < count, write, lambda: saved)

    def one(both: Tree, k: jax.Array) -> Tree:
        carry, saved = both
        carry = step(carry, k)
        return carry, save(carry, saved, slots[k + 1])

    @jax.checkpoint
    def many(both: Tree, ks: jax.Array) -> Tree:
        return _over(one, both, ks)

    def guarded(state: Tree, ks: jax.Array) -> Tree:
        (before, (_, filled)), going = state
        after, (values, marked) = many(state[0], ks)
        (carry, going) = _guarded(settle, lambda *_: after, (before, going), ks)
        # What an undone block kept is not marked as filled.
        marked = marked if settle is None else jnp.where(going, marked, filled)
        return (carry, (values, marked)), going

    state = ((carry, save(carry, (empty, jnp.zeros(count, bool)), slots[0])), jnp.asarray(True))
    ks = jnp.arange(reads.updates)
    if whole:
        state = _over(guarded, state, ks[: whole * block].reshape(whole, block))
    if rest:
        state = guarded(state, ks[whole * block :])
    (carry, (values, filled)), _ = state
    return carry, values, filled


def _guarded(
    settle: Settle | None, many: Step, state: tuple[Tree, jax.Array], ks: jax.Array
) -> tuple[Tree, jax.Array]:
    """A block of steps, undone if it does not settle or an earlier one did not."""
    before, going = state
    after = many(before, ks)
    if settle is None:
        return after, going
    settled, fine = settle(before, after)
    # A choice, not a branch: vmapped, a branch would batch k and with it every branch inside the step.
    going = going & fine
    return jax.tree.map(lambda new, old: jnp.where(going, new, old), settled, before), going


def _over(step: Callable[[Tree, Any], Tree], carry: Tree, ks: jax.Array) -> Tree:
    """carry = step(carry, k) for every k."""
    if ks.shape[0] == 1:
        return step(carry, ks[0])
    return jax.lax.scan(lambda carry, k: (step(carry, k), None), carry, ks)[0]


def _now_and_then(step: Step, every: int, tidy: Callable[[Tree], Tree]) -> Step:
    """The step, and after each of so many a tidying."""

    def tidied(carry: Tree, k: jax.Array) -> Tree:
        carry = step(carry, k)
        return jax.lax.cond(k % every == every - 1, lambda: tidy(carry), lambda: carry)

    return tidied


def _block(updates: int) -> int:
    """Steps in a block: about the root of their number; a divisor if there is one, so that one loop is compiled."""
    root = max(1, math.isqrt(updates))
    size = _divisor(updates, root) if updates else root
    return size if root <= 2 * size <= 4 * root else root


def _divisor(number: int, near: int, most: int | None = None) -> int:
    """The divisor of a number that lies nearest to another, by ratio; of those up to `most`."""
    low = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    divisors = [size for size in (*low, *(number // size for size in low)) if size <= (most or number)]
    return min(divisors, key=lambda size: abs(math.log(size / max(1, near))))


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
