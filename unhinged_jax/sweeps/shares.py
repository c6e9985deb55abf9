"""Which axis of a sweep matters: how the variance of an observable divides among axes, seeds and combinations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unhinged_jax.sweeps.design import Axis, Dim

_EACH, _CLASSES = 8, 10
"""Points that a class of a random axis has at least, and the largest number of classes."""
SEEDS, REST = "seeds", "combinations of them"


def sources(dims: Sequence[Dim], seeds: int) -> list[str]:
    """What a variance is divided among: axes with more than one value, seeds if there are several, combinations."""
    labels = [axis.label for dim in dims for axis in _varying(dim)]
    return [*labels, *([SEEDS] if seeds > 1 else []), REST]


def shares(values: np.ndarray, dims: Sequence[Dim]) -> np.ndarray:
    """Shares of the variance over all points and seeds, one row per source as in `sources`, at each time.

    The share of an axis is the part of the sum of squares that the means at its values explain (a main effect, or
    first-order Sobol index); the axes of a random design are cut into classes of equally many points, and the share is
    freed of the bias that few points per class bring (epsilon squared). The share of the seeds is what points leave
    unexplained. What is left belongs to combinations. On a grid without missing values they add up to 1.

    Args:
        values: Shape (*dims, seed, time). NaN and infinity are left out; with them axes may explain the same part, so
            that the sum is above 1.
        dims: The dimensions before `seed`.

    Returns:
        Shape (sources, time); NaN at times at which nothing varies.

    Source: Sobol' 2001 for main effects; Kelley 1935 for epsilon squared.

    Example:
        >>> from unhinged_jax.sweeps.design import read_axis
        >>> grid = [Dim(name, (read_axis(f"model.{name}", [0, 1]),), "grid") for name in ("a", "b")]
        >>> values = np.array([[0.0, 1.0], [2.0, 3.0]])  # 2 a + b
        >>> shares(values[:, :, None, None], grid)[:, 0].round(3).tolist()
        [0.8, 0.2, 0.0]
    """
    values = np.where(np.isfinite(values), values, np.nan).astype(float)
    *axes, seed, time = range(values.ndim)
    everything = tuple(range(time))
    total = _squares(values - _mean(values, everything), everything)
    largest = np.max(np.abs(values), axis=everything, initial=0.0, where=np.isfinite(values))
    # Equal numbers up to rounding do not vary.
    total[total <= (1e-6 * largest) ** 2 * np.isfinite(values).sum(axis=everything)] = np.nan
    rows = []
    for axis, dim in zip(axes, dims, strict=True):
        if dim.size > 1:
            others = tuple(other for other in everything if other != axis)
            means = _mean(values, others)
            own = 1 - _squares(values - means, everything) / total
            points = means.reshape(dim.size, -1)
            rows += [own * _explained(points, each) for each in dim.axes] if dim.kind == "random" else [own]
    if values.shape[seed] > 1:
        rows.append(_squares(values - _mean(values, (seed,)), everything) / total)
    rest = 1 - np.sum(rows, axis=0) if rows else np.ones_like(total)
    return np.stack([*rows, np.where(np.isfinite(total), np.maximum(rest, 0), np.nan)])


def _varying(dim: Dim) -> tuple[Axis, ...]:
    """Axes with a share of their own: those of a random design; of axes that vary together the first."""
    return () if dim.size < 2 else dim.axes if dim.kind == "random" else dim.axes[:1]


def _mean(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The mean of the values that are there, NaN if none is; the axes are kept."""
    there = np.isfinite(values)
    count = there.sum(axis=axes, keepdims=True)
    sums = np.sum(values, axis=axes, where=there, initial=0.0, keepdims=True)
    return np.where(count, sums / np.maximum(count, 1), np.nan)


def _squares(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.asarray(np.sum(values**2, axis=axes, where=np.isfinite(values), initial=0.0))


def _explained(means: np.ndarray, axis: Axis) -> np.ndarray:
    """Share of the variance of the points of a random design, (point, time), that classes of one axis explain."""
    found = np.full(means.shape[1], np.nan)
    for time, column in enumerate(means.T):
        there = np.isfinite(column)
        y, classes = column[there], _classes(np.asarray(axis.values, float)[there])
        count, most = y.size, int(classes.max(initial=0)) + 1
        if most < 2 or count <= most or np.ptp(y) == 0:
            continue
        sizes = np.bincount(classes)
        inside = np.sum((y - (np.bincount(classes, y) / sizes)[classes]) ** 2)
        found[time] = max(0.0, 1 - inside / np.sum((y - y.mean()) ** 2) * (count - 1) / (count - most))
    return found


def _classes(values: np.ndarray) -> np.ndarray:
    """The class of each value: the value itself if there are few, else by rank, equally many in each."""
    distinct, places = np.unique(values, return_inverse=True)
    most = min(_CLASSES, len(values) // _EACH)
    if len(distinct) <= most:
        return places
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return order * most // max(1, len(values))
