"""When a loop is read, and how its steps are cut into blocks."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_OFTEN = 8  # updates; reads closer together than this are looked up one by one


class Reads(NamedTuple):
    """When to read: after each `every` updates, or where `slots` says so.

    A loop that is cut at its reads needs no condition inside; on a GPU each condition waits for the host.

    Attributes:
        updates: Length of the loop.
        total: Number of reads.
        every: Updates between two reads, the last of which is after all updates; 0 if the reads are not equally spaced.
        slots: For every number of updates the index of its read, or `total`, (updates + 1,); None if `every` is used.
        together: How many moments are read together, if they are kept until after the loop.
    """

    updates: int
    total: int
    every: int
    slots: jax.Array | None
    together: int = 1

    @property
    def block(self) -> int:
        """Steps in a block."""
        if self.slots is None:
            return divisor(self.every, math.isqrt(self.updates))
        return _block_size(self.updates)

    @property
    def blocks(self) -> int:
        """Number of blocks, of which the last may have fewer steps."""
        return -(-self.updates // self.block)


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
        block, root = divisor(every, math.isqrt(updates)), math.isqrt(updates)
        if block == every <= 4 * root or root <= 4 * block <= 16 * root:
            return Reads(updates, count, every, None)
    slots = np.full(updates + 1, count, dtype=np.int32)
    slots[after] = np.arange(count)
    return Reads(updates, count, 0, jnp.asarray(slots))


def _block_size(updates: int) -> int:
    """Steps in a block: about the square root of their number; if possible a divisor, so that one loop is compiled."""
    root = max(1, math.isqrt(updates))
    size = divisor(updates, root) if updates else root
    return size if root <= 2 * size <= 4 * root else root


def divisor(number: int, near: int, most: int | None = None) -> int:
    """The divisor of a number that is nearest to another by ratio, among those up to `most`."""
    low = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    divisors = [size for size in (*low, *(number // size for size in low)) if size <= (most or number)]
    return min(divisors, key=lambda size: abs(math.log(size / max(1, near))))
