"""The same loop in pieces, between which the host looks; nothing is lost or changed by where they are cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from unhinged_jax._loop.blocks import (
    Guard,
    Settle,
    Step,
    Tidy,
    keeping,
    read_blocks,
    saving,
    unread_blocks,
    untouched,
)
from unhinged_jax._loop.reads import Reads


class Paused(NamedTuple):
    """Where a loop is that is run in pieces.

    Attributes:
        carry: The carry.
        saved: (values, filled): what is kept of each read, zeros before it is reached, and which were reached.
        going: Whether every block so far was accepted, ().
        blocks: How many blocks of steps it has run, ().
    """

    carry: PyTree
    saved: tuple[PyTree, jax.Array]
    going: jax.Array
    blocks: jax.Array


class Piece(NamedTuple):
    """What is done next with a run that is made in pieces, between which the host looks: it goes on, or ends.

    Attributes:
        before: Where the piece before paused; None begins at the start.
        until: Where it pauses next, counted from the start: in blocks of a loop, in steps of a solver, (). None ends
            the run where it is.
    """

    before: Any = None
    until: jax.Array | np.ndarray | None = None

    @property
    def ends(self) -> bool:
        """Whether this is the end, which reads what was kept."""
        return self.until is None


def go_on(
    piece: Piece,
    step: Step,
    carry: PyTree,
    reads: Reads,
    read: Callable[[PyTree], PyTree],
    settle: Settle | None = None,
    *,
    needs: Callable[[PyTree], PyTree] = lambda carry: carry,
    tidy: Tidy | None = None,
    alone: Settle | None = None,
) -> Paused:
    """Take a loop further, from its start or from a pause; how many blocks need not be known when it is compiled.

    It computes what `run` computes with the same arguments, which has no derivative here. `run` ends it.
    """
    keep, _ = keeping(reads, needs(carry), read, needs)
    save = saving(reads, keep)
    paused, until = piece.before, piece.until
    assert until is not None
    if paused is None:
        slot = jnp.asarray(0 if reads.total * reads.every > reads.updates else reads.total)
        saved = save(carry, untouched(reads, keep, carry), slot if reads.slots is None else reads.slots[0])
        paused = Paused(carry, saved, jnp.asarray(True), jnp.asarray(0))
    guard = None if settle is None else Guard(settle, alone)
    block = (_block_between_reads if reads.slots is None else _block_with_reads)(step, reads, keep, guard, tidy)
    whole, rest = divmod(reads.updates, reads.block)

    def one(now: Paused) -> Paused:
        ks = now.blocks * reads.block + jnp.arange(reads.block)
        return block(now, ks)._replace(blocks=now.blocks + 1)

    def last(now: Paused) -> Paused:
        return block(now, whole * reads.block + jnp.arange(rest))._replace(blocks=now.blocks + 1)

    end = jnp.minimum(until, whole)
    paused = jax.lax.while_loop(lambda now: now.going & (now.blocks < end), one, paused)
    if rest:
        paused = jax.lax.cond(paused.going & (paused.blocks == whole) & (until > whole), last, lambda now: now, paused)
    return paused


def _block_between_reads(
    step: Step, reads: Reads, keep: Callable[[PyTree], PyTree], guard: Guard | None, tidy: Tidy | None
) -> Callable[[Paused, jax.Array], Paused]:
    """A block of a paused loop, after some of which it is read."""
    guarded = unread_blocks(step, reads, guard, tidy)
    save, before = saving(reads, keep), reads.total - reads.updates // reads.every

    def run(now: Paused, ks: jax.Array) -> Paused:
        carry, going = guarded((now.carry, now.going), ks)
        count, within = jnp.divmod(ks[-1] + 1, reads.every)
        slot = jnp.where(going & (within == 0), before + count - 1, reads.total)
        return now._replace(carry=carry, going=going, saved=save(carry, now.saved, slot))

    return run


def _block_with_reads(
    step: Step, reads: Reads, keep: Callable[[PyTree], PyTree], guard: Guard | None, tidy: Tidy | None
) -> Callable[[Paused, jax.Array], Paused]:
    """A block of a paused loop, which is read within them."""
    guarded = read_blocks(step, reads, keep, guard, tidy)

    def run(now: Paused, ks: jax.Array) -> Paused:
        (carry, saved), going = guarded(((now.carry, now.saved), now.going), ks)
        return now._replace(carry=carry, saved=saved, going=going)

    return run
