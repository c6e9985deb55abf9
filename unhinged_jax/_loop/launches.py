"""Loops over a carry of a few numbers on an accelerator, where a step takes as long as the launches of its operations.

All numbers of one type are one array between two steps, so that a step without reductions is one launch. Some steps are
written out one after the other, so that what only counts is computed once for all of them. What is read is kept, and
read after the loop, several moments at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from unhinged_jax._loop.reads import divisor
from unhinged_jax._platform import on_accelerator

_FEW = 1 << 12  # numbers
_TOGETHER = 16  # steps that are written out, at most
_AT_ONCE = 8  # moments that are read together
_LOGITS = 1 << 18  # of one moment; more of them are read one by one, because a batch of runs multiplies them
_MANY, _BLOCK, _CACHED = 256, 16, 1 << 15  # on CPUs: moments from which on, and how many of how many logits in all


def by_launches(carry: PyTree) -> bool:
    """Whether a step with this carry takes as long as its launches."""
    return on_accelerator() and sum(leaf.size for leaf in jax.tree.leaves(carry)) <= _FEW


def at_once(samples: int, classes: int) -> int:
    """How many moments of a problem of this size are read together, if they are many."""
    logits = samples * classes
    if on_accelerator():
        return _AT_ONCE if logits <= _LOGITS else 1
    return max(1, min(_BLOCK, _CACHED // max(logits, 1)))


def read_each(read: Callable[[Any], PyTree], moments: PyTree, together: int) -> PyTree:
    """read(moment) for every moment along the first axis, some of them together; a derivative reads them again.

    On a CPU a block of moments takes up to a fifth longer to compile, and half the time of one after the other.
    """
    read, count = jax.checkpoint(read), jax.tree.leaves(moments)[0].shape[0]
    if min(together, count) <= 1 or not (on_accelerator() or count >= _MANY):
        return jax.lax.map(read, moments)
    # All blocks have one size, so that `read` is compiled once; the last one is filled up with the last moment.
    blocks = -(-count // together)
    size = -(-count // blocks)

    def blockwise(leaf: jax.Array) -> jax.Array:
        if missing := blocks * size - count:
            leaf = jnp.concatenate([leaf, jnp.broadcast_to(leaf[-1:], (missing, *leaf.shape[1:]))])
        return leaf.reshape(blocks, size, *leaf.shape[1:])

    values = jax.lax.map(jax.vmap(read), jax.tree.map(blockwise, moments))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], values)


class Packed(NamedTuple):
    """All numbers of a carry: one array for each of its types."""

    arrays: list[jax.Array]


class Packing(NamedTuple):
    """Functions from a carry to what is packed, and back."""

    pack: Callable[[PyTree], Packed]
    unpack: Callable[[Packed], PyTree]


def packing(carry: PyTree) -> Packing:
    """How a carry like this one is packed."""
    leaves, structure = jax.tree.flatten(carry)
    kinds = [leaf.dtype for leaf in leaves]
    places = [[i for i, other in enumerate(kinds) if other == kind] for kind in dict.fromkeys(kinds)]
    unravel = [ravel_pytree([leaves[i] for i in those])[1] for those in places]

    def pack(carry: PyTree) -> Packed:
        leaves = jax.tree.leaves(carry)
        return Packed([ravel_pytree([leaves[i] for i in those])[0] for those in places])

    def unpack(packed: Packed) -> PyTree:
        found = dict[int, jax.Array]()
        for those, back, array in zip(places, unravel, packed.arrays, strict=True):
            found.update(zip(those, back(array), strict=True))
        return jax.tree.unflatten(structure, [found[i] for i in range(len(kinds))])

    return Packing(pack, unpack)


def over_packed(step: Callable[[PyTree, Any], PyTree], carry: PyTree, ks: jax.Array) -> PyTree:
    """carry = step(carry, k) for every k, some of them written out."""
    together = divisor(ks.shape[0], _TOGETHER, most=_TOGETHER)

    def several(carry: PyTree, ks: jax.Array) -> tuple[PyTree, None]:
        for k in ks:
            # Without a barrier XLA would compute a number again for each number of the next step that depends on it.
            carry = jax.tree.map(_apart, step(carry, k))
        return carry, None

    return jax.lax.scan(several, carry, ks.reshape(-1, together))[0]


def _apart(array: jax.Array) -> jax.Array:
    return jax.lax.optimization_barrier(array) if np.issubdtype(array.dtype, np.inexact) else array
