"""The digest of a sweep's block: of each variable with its name and the number of the block, never 0.

A block is finished if its digests are in the store and fit its data; so chunks can neither change places nor content.
What is not a block is under the seal, see `unhinged_jax.sweeps.seal`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np


def digest(arrays: Iterable[np.ndarray], of: str = "") -> int:
    """64 bits of BLAKE2 over the description and the bytes of arrays, never 0."""
    state = hashlib.blake2b(of.encode(), digest_size=8)
    for array in arrays:
        state.update(np.ascontiguousarray(array).tobytes())
    return int.from_bytes(state.digest(), "little") or 1


def block_digests(number: int, values: Mapping[str, np.ndarray], variables: Iterable[str]) -> np.ndarray:
    """Digests of the variables of a block, one each."""
    return np.asarray([digest([values[name]], f"{name} {number}") for name in variables], np.uint64)
