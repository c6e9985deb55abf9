"""Times at which a run is observed: evenly spaced in the logarithm, or whole numbers of updates."""

from __future__ import annotations

import numpy as np

from unhinged_jax import _check


def logspaced(first: float, last: float, count: int) -> np.ndarray:
    """Times evenly spaced in the logarithm, both ends included.

    Args:
        first, last: The ends, 0 < first < last. If both are ints, the times are whole numbers without repeats.
        count: How many, at least 2.

    Returns:
        Ascending NumPy array, which is shorter than `count` if whole numbers would repeat.

    Raises:
        ValueError: unless 0 < first < last and count is a whole number of at least 2.

    Source: beyond the paper.

    Example:
        >>> logspaced(1, 1000, 4).tolist()
        [1, 10, 100, 1000]
    """
    for name, end in (("first", first), ("last", last)):
        _check.positive(name, end)
        _check.shape(name, end, (), "one number")
    if not first < last:
        raise ValueError(f"logspaced needs 0 < first < last, but got {first} and {last}.")
    whole = isinstance(first, int) and isinstance(last, int)
    times = np.geomspace(first, _check.whole("last", last, 1) if whole else last, _check.whole("count", count, 2))
    if whole:
        return np.unique(np.round(times).astype(int))
    return times


def steps(last: int, count: int = 500) -> np.ndarray:
    """Evenly spaced step counts 0 ... last, both ends included.

    Args:
        last: The last one, at least 1.
        count: Approximate number, at least 2 (default 500), and never more than there are whole numbers.

    Returns:
        Ascending NumPy array of integers.

    Raises:
        ValueError: for a number that is too small or not whole.

    Source: beyond the paper.

    Example:
        >>> steps(10, 3).tolist()
        [0, 5, 10]
    """
    last, count = _check.whole("last", last, 1), _check.whole("count", count, 2)
    return np.unique(np.round(np.linspace(0, last, count)).astype(int))
