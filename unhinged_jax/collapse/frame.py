"""Geometry that several metrics share: directions, norms, cosines and distances, computed once."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from unhinged_jax import _check, _numbers
from unhinged_jax.collapse.statistics import PRECISION, ClassStatistics, centred


class Frame(NamedTuple):
    """Geometry of C vectors: unit (C,p), norms (C,) in units of `scale`, cosines (C,C)."""

    unit: jax.Array
    norms: jax.Array
    scale: jax.Array
    cosines: jax.Array


class Prepared(NamedTuple):
    """Statistics with the intermediates that several metrics share."""

    stats: ClassStatistics
    frame: Frame
    chords: jax.Array  # squared distances between the directions of the class means
    squared_distances: jax.Array  # between class means, in units of frame.scale²


Statistics: TypeAlias = ClassStatistics | Prepared
Vectors: TypeAlias = ClassStatistics | ArrayLike | Prepared | Frame


def rows_frame(vectors: jax.Array, floor: ArrayLike = 0.0) -> Frame:
    """Geometry of the rows; all of them count as zero if no entry exceeds `floor`."""
    # Each vector is divided by its largest entry before squaring: nothing over- or underflows.
    # Every metric is invariant to these divisors, so they carry no derivative.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(vectors), axis=1))
    # Negated, so that NaN counts as present and stays NaN.
    present = ~(largest <= jnp.finfo(vectors.dtype).tiny) & ~(jnp.max(largest) <= floor)
    scale = jnp.max(jnp.where(present, largest, 0))
    reduced = vectors * (1 / jnp.where(present, largest, 1))[:, None]
    length = jnp.sqrt(jnp.where(present, jnp.sum(reduced**2, axis=1), 1))
    unit = reduced * jnp.where(present, 1 / length, 0)[:, None]
    norms = jnp.where(present, length * (largest / jnp.where(scale <= 0, 1, scale)), 0)
    cosines = jnp.matmul(unit, unit.T, precision=PRECISION)
    cosines = jnp.where(present[:, None] | present[None, :], cosines, 1)
    return Frame(unit, norms, scale, cosines)


def mean_frame(stats: ClassStatistics, *, equal: bool = False) -> Frame:
    """Geometry of the class means around the mean of all features, or with `equal` around their own mean."""
    # Means that differ by a few units in the last place differ by rounding only.
    floor = 8 * jnp.finfo(stats.means.dtype).eps * jnp.max(jnp.abs(stats.means))
    counts = jnp.ones_like(stats.counts) if equal else stats.counts
    contrasts = centred(stats.means, counts)
    unknown = stats.lost & (jnp.max(jnp.abs(contrasts)) > floor)
    return rows_frame(jnp.where(unknown, jnp.nan, contrasts), jax.lax.stop_gradient(floor))


def plain(stats: Statistics) -> ClassStatistics:
    """The statistics alone; raises ValueError for anything else."""
    if isinstance(stats, Prepared):
        return stats.stats
    _check.kind("stats", stats, ClassStatistics)
    return stats


def prepare(stats: Statistics) -> Prepared:
    """Statistics with the geometry that every metric reads, computed once."""
    if isinstance(stats, Prepared):
        return stats
    stats = plain(stats)
    frame = mean_frame(stats)
    chords = squared_chords(frame)
    return Prepared(stats, frame, chords, _squared_distances(frame, chords))


def frame_of(vectors: Vectors) -> Frame:
    """Geometry of prototypes, or of the class means of statistics; raises ValueError on another shape."""
    if isinstance(vectors, Frame):
        return vectors
    if isinstance(vectors, Prepared):
        return vectors.frame
    if isinstance(vectors, ClassStatistics):
        return mean_frame(vectors)
    V = _numbers.floats(vectors, "prototypes")
    if V.ndim != 2 or V.shape[0] < 2:
        raise ValueError(
            f"Expected class statistics or prototypes (C, p) with C ≥ 2, got shape {V.shape}; pass one row per class."
        )
    return rows_frame(V)


def prototype_frame(prepared: Prepared, W: ArrayLike | Frame) -> Frame:
    """Geometry of the prototypes; raises ValueError if they do not fit the class means."""
    frame = frame_of(W)
    if frame.unit.shape != prepared.frame.unit.shape:
        raise ValueError(
            f"Prototypes have shape {frame.unit.shape}, but the class means have shape "
            f"{prepared.frame.unit.shape}; pass W as (C, p)."
        )
    return frame


def checked_logits(stats: ClassStatistics, logits: ArrayLike) -> jax.Array:
    """Logits as an array of floats; raises ValueError if they are not those of the statistics' samples."""
    logits = _numbers.floats(logits, "logits")
    if logits.shape != stats.projections.shape:
        raise ValueError(
            f"Logits have shape {logits.shape}, but the statistics describe "
            f"{stats.projections.shape} (samples, classes); pass H Wᵀ + b of the same samples."
        )
    return logits


def squared_chords(frame: Frame) -> jax.Array:
    """(C, C) squared distances of the unit vectors, accurate for nearly parallel ones too."""
    chords = 2 - 2 * frame.cosines
    distinct = ~jnp.eye(frame.norms.size, dtype=bool)
    # 2 − 2cos cancels for small angles. Differences cost C times more, hence the condition;
    # the cosines keep supplying the derivative.
    close = distinct & (chords < 1e-3)
    rows = jax.lax.stop_gradient(frame.unit)

    def by_difference(rows: jax.Array) -> jax.Array:
        return jax.lax.map(lambda row: jnp.sum((rows - row) ** 2, axis=1), rows)

    def skip(_rows: jax.Array) -> jax.Array:
        return jnp.zeros_like(frame.cosines)

    exact = jax.lax.cond(jnp.any(close), by_difference, skip, rows)
    correction = jnp.where(close, exact - jax.lax.stop_gradient(chords), 0)
    return jnp.where(distinct, chords + correction, 0)


def _squared_distances(frame: Frame, chords: jax.Array) -> jax.Array:
    """(C, C) squared distances in units of scale²: radial and angular part, no cancellation."""
    norms = frame.norms
    return (norms[:, None] - norms[None, :]) ** 2 + norms[:, None] * norms[None, :] * chords


def in_scale(values: jax.Array, prepared: Prepared) -> jax.Array:
    """Squared quantities in units of frame.scale² instead of unit², divided twice lest scale² overflow."""
    scale = prepared.frame.scale
    inverse = jnp.where(scale <= 0, 0, prepared.stats.unit / jnp.where(scale <= 0, 1, scale))
    return values * inverse * inverse
