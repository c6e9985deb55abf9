"""A compiled loop of steps that reads values at chosen steps; its memory grows like the square root of its length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from unhinged_jax._loop.blocks import (
    Guard,
    Loop,
    Settle,
    Step,
    Tidy,
    along,
    chosen,
    keeping,
    kept_until_after,
    over,
    read_blocks,
    saving,
    unread_blocks,
    untouched,
)
from unhinged_jax._loop.launches import Packed, by_launches, packing, read_each
from unhinged_jax._loop.pieces import Paused
from unhinged_jax._loop.reads import Reads


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
    paused: Paused | None = None,
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
        paused: Where `go_on` has brought the same loop, which then ends there.

    Returns:
        The last carry, the saved values with a leading axis of reads, and which reads were reached, (total,).
    """
    if paused is None and by_launches(carry) and not isinstance(carry, Packed):
        return _packed(step, carry, reads, read, settle, needs=needs, tidy=tidy, alone=alone)
    start, guard = needs(carry), None if settle is None else Guard(settle, alone)
    keep, late = keeping(reads, start, read, needs)

    def sound(carry: PyTree, filled: jax.Array) -> PyTree:
        # For an unfilled slot the start is read, where every value and derivative is finite.
        return chosen(filled, needs(carry), start)

    if paused is None and reads.slots is None:
        late = False
        carry, values, filled = _regular(step, carry, reads, lambda *kept: read(sound(*kept)), guard, tidy)
    elif paused is None:
        carry, values, filled = _looked_up(step, carry, reads, keep, guard, tidy)
    else:
        carry, (values, filled) = paused.carry, paused.saved
    if late:
        kept = jax.tree.map(lambda kept, begin: jnp.where(along(filled, kept), kept, begin), values, start)
        values = read_each(read, kept, reads.together)
    return carry, blanked(values, filled), filled


def _packed(
    step: Step, carry: PyTree, reads: Reads, read: Callable[[PyTree], PyTree], settle: Settle | None, *,
    needs: Callable[[PyTree], PyTree], tidy: Tidy | None, alone: Settle | None,
) -> Loop:  # fmt: skip
    """`run` with all numbers of one type of the carry in one array; see `launches`."""
    pack, unpack = packing(carry)

    def settling(settle: Settle | None) -> Settle | None:
        if settle is None:
            return None

        def packed(before: PyTree, after: PyTree) -> tuple[PyTree, jax.Array]:
            carry, accepted = settle(unpack(before), unpack(after))
            return pack(carry), accepted

        return packed

    carry, values, filled = run(
        lambda carry, k: pack(step(unpack(carry), k)),
        pack(carry),
        reads,
        read,
        settling(settle),
        needs=lambda carry: needs(unpack(carry)),
        tidy=None if tidy is None else (tidy[0], lambda carry: pack(tidy[1](unpack(carry)))),
        alone=settling(alone),
    )
    return unpack(carry), values, filled


def blanked(values: PyTree, filled: jax.Array) -> PyTree:
    """Values with NaN in the slots that are not filled, and 0 for whole numbers."""
    blank = jax.tree.map(lambda leaf: jnp.asarray(_blank(leaf.dtype), leaf.dtype), values)
    return jax.tree.map(lambda v, none: jnp.where(along(filled, v), v, none), values, blank)


def _regular(
    step: Step, carry: PyTree, reads: Reads, read: Callable[..., PyTree], guard: Guard | None, tidy: Tidy | None
) -> Loop:
    """Nested loops: reads, blocks that a derivative recomputes, stretches between tidyings, steps.

    It is read inside: to keep what is read of a batch until after the loop would take longer than many a loop.
    """
    guarded = unread_blocks(step, reads, guard, tidy)
    few = by_launches(carry) and kept_until_after(reads, carry)
    look = (lambda *kept: kept) if few else jax.checkpoint(read)

    def until_read(state: tuple[PyTree, jax.Array], count: jax.Array) -> tuple[PyTree, tuple[PyTree, jax.Array]]:
        def blocks() -> tuple[PyTree, jax.Array]:
            ks = (count - 1) * reads.every + jnp.arange(reads.every, dtype=jnp.int32)
            return over(guarded, state, ks.reshape(-1, reads.block))

        # The start is read by a branch, so that reading is compiled once.
        state = jax.lax.cond(count > 0, blocks, lambda: state) if at_start and not few else blocks()
        return state, (look(*state), state[1])

    at_start, start = reads.total * reads.every > reads.updates, (carry, jnp.asarray(True))
    counts = jnp.arange(0 if at_start and not few else 1, reads.updates // reads.every + 1, dtype=jnp.int32)
    (carry, _), (values, filled) = jax.lax.scan(until_read, start, counts)
    if few:
        if at_start:
            values, filled = jax.tree.map(_after, (start, start[1]), (values, filled))
        values = read_each(lambda kept: read(*kept), values, reads.together)
    return carry, values, filled


def _after(first: jax.Array, others: jax.Array) -> jax.Array:
    return jnp.concatenate([first[None], others])


def _looked_up(
    step: Step, carry: PyTree, reads: Reads, keep: Callable[[PyTree], PyTree], guard: Guard | None, tidy: Tidy | None
) -> Loop:
    """The loop in blocks that a derivative recomputes, with a check after every step whether it is read."""
    slots = reads.slots
    assert slots is not None
    guarded = read_blocks(step, reads, keep, guard, tidy)
    whole, rest = divmod(reads.updates, reads.block)
    within = whole * reads.block
    state = ((carry, saving(reads, keep)(carry, untouched(reads, keep, carry), slots[0])), jnp.asarray(True))
    ks = jnp.arange(reads.updates, dtype=jnp.int32)
    if whole:
        state = over(guarded, state, ks[:within].reshape(whole, reads.block))
    if rest:
        state = guarded(state, ks[within:])
    (carry, (values, filled)), _ = state
    return carry, values, filled


def _blank(dtype: np.dtype) -> Any:
    return jnp.nan if jnp.issubdtype(dtype, jnp.inexact) else 0
