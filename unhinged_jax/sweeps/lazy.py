"""Variables of a store, which are read when used and always compared with their digests."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

from unhinged_jax.sweeps.seal import UNREADABLE
from unhinged_jax.sweeps.store import Damaged, Store

_BYTES = 2**26
"""Most bytes that are read at once."""
_TRIES = 3

Part = tuple[list[int], ...]
"""Numbers of blocks along each dimension of points."""


class Checked(BackendArray):
    """A variable of a store. A missing block holds what an empty store holds.

    Raises:
        Damaged: when it is read, if a block was lost or altered after it had been committed.
    """

    def __init__(self, store: Store, name: str) -> None:
        array = store.array(name)
        self.store, self.name = store, name
        self.shape, self.dtype = tuple(array.shape), np.dtype(array.dtype)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._chosen)

    def at(self, places: list[np.ndarray]) -> np.ndarray:
        """The rectangle of some points, given by their places along each dimension, with all of their own axes."""
        own = (slice(None),) * (len(self.shape) - len(places))
        return self._chosen((*places, *own))

    def _chosen(self, key: tuple[Any, ...]) -> np.ndarray:
        """Entries by one index, slice or list of indices per dimension."""
        lists = [np.atleast_1d(np.arange(size)[one]) for one, size in zip(key, self.shape, strict=True)]
        out = np.empty([len(one) for one in lists], self.dtype)
        block = self.store.layout.block
        parts = tuple(sorted({*(one // step).tolist()}) for one, step in zip(lists, block, strict=False))
        if out.size:
            self._fill(out, lists, parts)
        return out[tuple(0 if isinstance(one, (int, np.integer)) else slice(None) for one in key)]

    def _fill(self, out: np.ndarray, lists: list[np.ndarray], parts: Part) -> None:
        """Read as many blocks at once as fit into memory, and copy the chosen entries to their places."""
        each = math.prod(self.store.layout.block) * math.prod(self.shape[len(parts) :]) * self.dtype.itemsize
        longest = max(range(len(parts)), key=lambda dim: len(parts[dim]), default=0)
        gaps = [dim for dim, part in enumerate(parts) if part[-1] - part[0] >= len(part)]
        if gaps or (len(parts[longest]) > 1 and each * math.prod(map(len, parts)) > _BYTES):
            dim = gaps[0] if gaps else longest
            part = parts[dim]
            cut = next((i for i in range(1, len(part)) if part[i] > part[i - 1] + 1), 0) if gaps else len(part) // 2
            for piece in (part[:cut], part[cut:]):
                self._fill(out, lists, (*parts[:dim], piece, *parts[dim + 1 :]))
            return
        begin, values = self._read(parts)
        inner, outer = [], []
        for dim, one in enumerate(lists):
            first, length = begin[dim] if dim < len(parts) else 0, values.shape[dim]
            where = np.flatnonzero((one >= first) & (one < first + length))
            inner.append(one[where] - first)
            outer.append(where)
        out[np.ix_(*outer)] = values[np.ix_(*inner)]

    def _read(self, parts: Part) -> tuple[list[int], np.ndarray]:
        """The rectangle of some neighbouring blocks, each of them checked, and where it begins."""
        layout, array = self.store.layout, self.store.array(self.name)
        ends = [
            (part[0] * step, min((part[-1] + 1) * step, size))
            for part, step, size in zip(parts, layout.block, layout.shape, strict=True)
        ]
        numbers = [int(np.ravel_multi_index(place, layout.counts)) for place in itertools.product(*parts)]
        try:
            committed = self.store.committed_array[tuple(slice(part[0], part[-1] + 1) for part in parts)]
            digests = np.asarray(committed).reshape(len(numbers), -1)
            values = np.array(array[tuple(slice(*end) for end in ends)])
        except UNREADABLE:  # one of them; the others are intact
            values = np.full([*(b - a for a, b in ends), *self.shape[len(parts) :]], array.fill_value, self.dtype)
            digests = np.zeros((len(numbers), 1), np.uint64)
        for number, found in zip(numbers, digests, strict=True):
            here = tuple(
                slice(one.start - a, one.stop - a)
                for one, (a, _) in zip(layout.slices(number), ends, strict=True)
            )  # fmt: skip
            if np.all(found) and self.store.fits(number, self.name, values[here], found):
                continue
            values[here] = self._block(number)
        return [a for a, _ in ends], values

    def _block(self, number: int) -> Any:
        """One block, checked. Another job may be writing it, so it is read a second time before it counts as
        damaged."""
        array = self.store.array(self.name)
        for _ in range(_TRIES):
            digests = self.store.digests_of(number)
            if not np.all(digests):
                return array.fill_value
            try:
                values = np.array(array[self.store.layout.slices(number)])
            except UNREADABLE:
                continue
            if self.store.fits(number, self.name, values, digests):
                return values
        raise Damaged(
            f"{self.store.chunk(self.name, number)} is missing, or does not match its digest in "
            f"{self.store.chunk('execution/committed', number)}. {self.store.again} finds damaged blocks and computes "
            "them again."
        )
