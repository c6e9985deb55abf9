"""Blocks: rectangles of points that are computed in one call and stored in one chunk of every variable."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

SMALLEST_TASK, FEWEST_TASKS = 16, 8


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the points of a sweep are cut into blocks.

    Attributes:
        shape: Points along each dimension.
        block: Points of a block along each dimension; blocks at the border hold fewer.

    Example:
        >>> Layout(shape=(5, 4), block=(2, 4)).slices(2)
        (slice(4, 5, None), slice(0, 4, None))
    """

    shape: tuple[int, ...]
    block: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Blocks along each dimension."""
        return tuple(-(-size // step) for size, step in zip(self.shape, self.block, strict=True))

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return math.prod(self.counts)

    @property
    def points(self) -> int:
        """Number of points."""
        return math.prod(self.shape)

    def place(self, number: int) -> tuple[int, ...]:
        """Position of a block in the table of blocks."""
        return tuple(int(i) for i in np.unravel_index(number, self.counts))

    def slices(self, number: int) -> tuple[slice, ...]:
        """The points of a block along each dimension."""
        return tuple(
            slice(i * step, min((i + 1) * step, size))
            for i, step, size in zip(self.place(number), self.block, self.shape, strict=True)
        )

    def size(self, number: int) -> int:
        """Number of points of a block."""
        return math.prod(part.stop - part.start for part in self.slices(number))


def layout_of(shape: Sequence[int], separate: Sequence[bool], lanes: int, order: Sequence[int]) -> Layout:
    """Blocks of at most `lanes` points that fill dimensions in the given order; 1 along separate dimensions.

    A sweep gets at least eight blocks, for several workers and for short losses, unless they would be tiny.

    Example:
        >>> layout_of((64, 64, 16), (False,) * 3, lanes=256, order=(2, 1, 0)).block
        (1, 16, 16)
    """
    lanes = max(1, min(lanes, max(SMALLEST_TASK, -(-math.prod(shape) // FEWEST_TASKS))))
    block = [1] * len(shape)
    for dim in order:
        if separate[dim]:
            continue
        fits = max(1, min(shape[dim], lanes // math.prod(block)))
        pieces = -(-shape[dim] // fits)
        block[dim] = -(-shape[dim] // pieces)  # pieces of equal length, so that little is padded
    return Layout(tuple(shape), tuple(block))
