"""The formulas of `unhinged_jax.collapse`, applied to moments and to tiles of samples, in float64."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax.collapse import ClassStatistics, collapse_metrics, margins, nc5, one_vs_rest_distance
from unhinged_jax.collapse.classifier import nearest_class, predicted
from unhinged_jax.collapse.frame import Prepared, prepare
from unhinged_jax.collapse.statistics import PRECISION, centred
from unhinged_jax.collapse.variability import nc1_of_sum, to_coordinates, within_sum, within_sum_of_gram
from unhinged_jax.measurement.moments import Moments, in_float64, once, padded

_NUMBERS, _ROWS = 2**21, 2**12  # of a tile
MOST_FOR_HULLS = 1_000
"""Classes up to which one-vs-rest distances take seconds."""


class Tally(NamedTuple):
    """What was counted in a second pass over the samples. Without prototypes the last four mean nothing."""

    samples: int = 0
    within: float = 0.0  # n tr(Σ_W Σ_B⁺)
    near: int = 0
    agreeing: int = 0
    right: int = 0
    least: float = math.inf
    total: float = 0.0


class Geometry(NamedTuple):
    """What the metrics share of the class means.

    First samples of the classes and means less those, (C, p), over `unit`, as in `Moments`; contrasts (C, p), the means
    less the mean of all; and coordinates (C, C) in which the covariance of the means is the identity.
    """

    unit: float
    first: jax.Array
    shifts: jax.Array
    contrasts: jax.Array
    shared: Prepared
    coordinates: jax.Array


def tiles(features: np.ndarray, classes: int) -> Iterator[slice]:
    """Slices of rows, of nearly one size, that keep temporary arrays small."""
    samples, dim = features.shape
    most = max(1, min(_ROWS, _NUMBERS // max(dim, classes)))
    count = -(-samples // most)
    size = -(-samples // count) if count else 1
    for start in range(0, samples, size):
        yield slice(start, start + size)


def geometry(moments: Moments) -> Geometry:
    """What depends on the class means only."""
    with in_float64():
        first, shifts = jnp.asarray(moments.first), jnp.asarray(moments.shifts)
        found = _geometry(first + shifts, jnp.asarray(moments.counts, float))
    return Geometry(moments.unit or 1.0, first, shifts, *found)


def tallied(
    before: Tally, of: Geometry, features: np.ndarray, labels: np.ndarray, W: np.ndarray | None, b: np.ndarray | None
) -> Tally:
    """A tally with the samples of one tile more."""
    count = len(features)
    with in_float64():
        rows, own = jnp.asarray(padded(features.astype(np.float64))), jnp.asarray(padded(labels))
        classifier = None if W is None else (jnp.asarray(W), jnp.asarray(b))
        within, *parts = _of_samples(of, rows, own, jnp.asarray(count), classifier)
        nearest, chosen, margin = (None if part is None else np.asarray(part)[:count] for part in parts)
    tally = before._replace(
        samples=before.samples + count,
        within=before.within + float(within),
        near=before.near + int(np.sum(nearest == labels)),
    )
    if chosen is None or margin is None:
        return tally
    return tally._replace(
        agreeing=before.agreeing + int(np.sum(chosen == nearest)),
        right=before.right + int(np.sum(chosen == labels)),
        least=min(before.least, float(margin.min())),
        total=before.total + float(margin.sum()),
    )


def of_classes(
    moments: Moments, of: Geometry, within: float | None, W: np.ndarray | None, outside: Moments
) -> dict[str, float]:
    """Every metric that does not need single samples, with the `within` of a tally or by the scatter of the moments."""
    with in_float64():
        prototypes = None if W is None else jnp.asarray(W)
        squares = jnp.asarray(moments.squares)
        if within is None:
            within = float(_of_scatter(of, jnp.asarray(moments.scatter)))
        found = _metrics(of.shared, squares, jnp.asarray(within), prototypes)
        if outside.counts[0]:
            found["nc5"] = _nc5(of.shared, jnp.asarray(outside.first + outside.shifts))
        if len(moments.counts) <= MOST_FOR_HULLS:
            found["one_vs_rest_means"] = one_vs_rest_distance(of.shared)
            if prototypes is not None:
                found["one_vs_rest_prototypes"] = one_vs_rest_distance(prototypes)
        return {name: float(value) for name, value in found.items()}


def of_samples(tally: Tally, with_prototypes: bool) -> dict[str, float]:
    """The metrics that need single samples."""
    count = tally.samples
    found = {"ncc_accuracy": tally.near / count}
    if with_prototypes:
        found |= {"nc4": tally.agreeing / count, "accuracy": tally.right / count}
        found |= {"margin_min": tally.least, "margin_mean": tally.total / count}
    return found


_OF_SAMPLES = ("nc4", "ncc_accuracy", "accuracy", "margin_min", "margin_mean")


@once
def _geometry(means: jax.Array, counts: jax.Array) -> tuple[jax.Array, Prepared, jax.Array]:
    nothing = jnp.zeros((0, counts.size))
    shared = prepare(ClassStatistics(counts, means, jnp.zeros(counts.size), nothing, jnp.zeros(0, jnp.int32)))
    return centred(means, counts), shared, to_coordinates(shared)


_nc5 = once(nc5)


@once
def _of_scatter(of: Geometry, scatter: jax.Array) -> jax.Array:
    half = jnp.matmul(of.contrasts, scatter, precision=PRECISION)
    return within_sum_of_gram(of.shared, jnp.matmul(half, of.contrasts.T, precision=PRECISION), of.coordinates)


@once
def _metrics(shared: Prepared, squares: jax.Array, within: jax.Array, W: jax.Array | None) -> dict[str, jax.Array]:
    prepared = shared._replace(stats=dataclasses.replace(shared.stats, variances=squares / shared.stats.counts))
    found = {**collapse_metrics(prepared, W), "nc1": nc1_of_sum(prepared, within)}
    return {name: value for name, value in found.items() if name not in _OF_SAMPLES}


@once
def _of_samples(
    of: Geometry,
    features: jax.Array,
    labels: jax.Array,
    count: jax.Array,
    classifier: tuple[jax.Array, jax.Array] | None,
) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None]:
    """Sum within classes, and nearest class, class chosen and margin of each sample, (t,); `count` rows are samples."""
    there = (jnp.arange(len(labels)) < count)[:, None]
    deviations = jnp.where(there, (features / of.unit - of.first[labels]) - of.shifts[labels], 0)
    projections = jnp.matmul(deviations, of.contrasts.T, precision=PRECISION)
    tile = of.shared._replace(stats=dataclasses.replace(of.shared.stats, projections=projections, labels=labels))
    within, nearest = within_sum(of.shared, projections, of.coordinates), nearest_class(tile)
    if classifier is None:
        return within, nearest, None, None
    W, b = classifier
    # Behind a barrier, because XLA may compute an entry twice and round it differently; ties must stay ties.
    logits = jax.lax.optimization_barrier(jnp.matmul(features, W.T, precision=PRECISION) + b)
    return within, nearest, predicted(tile, logits), margins(tile, logits)
