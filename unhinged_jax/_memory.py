"""Memory: arrays are read here, and problems that this machine cannot hold are refused before they are tried."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

_ANY_SIZE = "UNHINGED_ANY_SIZE"
"""Environment variable, which worker processes inherit; if set, nothing is refused for its size."""
_NOWHERE = 2**47
"""Bytes that no process can have; XLA aborts at sizes that overflow its own arithmetic."""
_ANYWHERE = 2**26
"""Bytes that every machine has, so that no check is needed."""
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def read(value: object) -> np.ndarray:
    """An array as NumPy reads it. For an array that JAX could not allocate, NumPy would abort the process.

    Raises:
        MemoryError: saying how much memory was wanted.
        ValueError: for a masked array, whose mask NumPy would drop.
    """
    import jax

    if isinstance(value, np.ma.MaskedArray):
        raise ValueError("the mask of a masked array would be lost; fill or drop the masked entries first.")

    try:
        return np.asarray(jax.block_until_ready(value) if isinstance(value, jax.Array) else value)
    except jax.errors.JaxRuntimeError as error:
        if said := out_of_memory(error):
            raise MemoryError(said) from error
        raise


def read_all(tree: PyTree) -> Any:
    """`read` of every leaf except JAX keys, which NumPy does not support."""
    import jax

    def plain(leaf: object) -> Any:
        key = isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return leaf if key else read(leaf)

    return jax.tree.map(plain, tree)


def out_of_memory(error: BaseException) -> str:
    """What to say about an error that means too little memory; empty for any other error."""
    text = str(error)
    if isinstance(error, MemoryError):
        return text or "there is not enough memory for this; make the problem smaller."
    if "RESOURCE_EXHAUSTED" not in text and "out of memory" not in text.lower():
        return ""
    found = re.search(r"allocat\w* (\d+) ?bytes", text)
    wanted = f"an array of {amount(int(found[1]))}" if found else "an array"
    return f"{wanted} could not be allocated; make the problem smaller (samples, classes, `dim`, times, states)."


def refuse(wanted: int, what: str) -> None:
    """Raise MemoryError if something takes more memory than the machine has. `wanted` is a lower bound in bytes."""
    if wanted < _ANYWHERE:
        return
    if wanted > _NOWHERE:
        raise MemoryError(f"{what} would need {amount(wanted)} of memory or more; make it smaller.")
    if wanted > (there := machine()) and not os.environ.get(_ANY_SIZE):
        raise MemoryError(
            f"{what} would need {amount(wanted)} of memory or more, but only {amount(there)} are available; make it "
            f"smaller, or try it anyway with --force, or with {_ANY_SIZE}=1 in the environment."
        )


@contextmanager
def any_size(allowed: bool) -> Iterator[None]:
    """Inside this context nothing is refused for its size, if that is `allowed`."""
    before = os.environ.get(_ANY_SIZE)
    if allowed:
        os.environ[_ANY_SIZE] = "1"
    try:
        yield
    finally:
        if allowed and before is None:
            del os.environ[_ANY_SIZE]


def machine() -> int:
    """Bytes that this process may use: the least of the machine's memory, its control group and its own limit."""
    import resource

    known = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), resource.getrlimit(resource.RLIMIT_AS)[0]]
    for name in _LIMITS:
        try:
            known.append(int(Path(name).read_text()))
        except (OSError, ValueError):  # there is no such limit
            continue
    return min(size for size in known if size > 0)


def amount(size: int) -> str:
    """A number of bytes in words.

    Example:
        >>> amount(512), amount(3_200_000_000), amount(10**30)
        ('512 bytes', '3.2 GB', '1e+18 TB')
    """
    for name, unit in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} bytes"
