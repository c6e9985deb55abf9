"""Where the state is and what it looks like: norms, distance to the limit, energies, neural collapse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from unhinged_jax.collapse import ClassStatistics
from unhinged_jax.collapse.table import METRICS, shared_inputs
from unhinged_jax.observables.accuracy import in_common_units
from unhinged_jax.observables.distance import Split, log_distance, split_part
from unhinged_jax.observables.features import ClassFeatures
from unhinged_jax.observables.plane_features import PlaneFeatures, plane_features
from unhinged_jax.observables.view import View
from unhinged_jax.special import greatest, safe_log, safe_norm, segment_sum


def log_norms(view: View) -> tuple[jax.Array, jax.Array]:
    """Logarithms of the norms of H and of W."""
    return (
        safe_log(view.features.norm()) + view.log_scale,
        safe_log(view.norm_W()) + view.log_scale,
    )


def log_norm(view: View) -> jax.Array:
    """Logarithm of the norm of (H, W), and of the factors between them if there are any."""
    inner = [] if view.inner is None else [safe_norm(view.inner)]
    sizes = jnp.stack([view.features.norm(), view.norm_W(), *inner])
    if view.unless_lost is not None:  # a part that is lost is far too small to count
        sizes = jnp.where(jnp.isnan(view.unless_lost) & jnp.isnan(sizes), 0.0, sizes)
    return safe_log(safe_norm(sizes)) + view.log_scale


def log_norm_sum_W(view: View) -> jax.Array:
    """Logarithm of the norm of the sum of the prototypes."""
    return safe_log(safe_norm(jnp.sum(view.normal().W, axis=0))) + view.normal().log_W


def _split(view: View) -> Split:
    assert view.split is not None
    return view.split


def log_to_limit(which: slice) -> Callable[[View], jax.Array]:
    """An observable: logarithm of the distance of these parts from their limit direction."""

    def value(view: View) -> jax.Array:
        if view.model.spherical:
            return _log_spherical_error(_in_plane(view))
        return log_distance(split_part(_split(view), which))

    return value


def _in_plane(view: View) -> PlaneFeatures:
    """Features in the planes of their targets; if H is dense, only up to rounding."""
    if isinstance(view.features, PlaneFeatures):
        return view.features
    return plane_features(view.features.dense(), view.model.signal().times(view.W))


def _log_spherical_error(features: PlaneFeatures) -> jax.Array:
    """log of the Frobenius distance between unit features and unit targets, from the angles; g_i = 0 counts 0."""
    aside, moves = jnp.abs(features.aside), jnp.any(features.target != 0, axis=1)
    error = safe_log(2 * jnp.sin(jnp.arctan2(aside, features.along) / 2))
    if features.log_unit is not None:  # an angle may be smaller than any number of its type, but its logarithm is not
        small = aside < jnp.finfo(aside.dtype).eps * features.along
        log_angle = safe_log(jnp.abs(features.across)) - jnp.log(jnp.where(small, features.along, 1.0))
        error = jnp.where(small, log_angle + features.log_unit, error)
    error = jnp.where(moves, error, -jnp.inf)
    most = jax.lax.stop_gradient(jnp.max(error))
    most = jnp.where(jnp.isfinite(most), most, 0.0)
    return safe_log(safe_norm(jnp.exp(error - most))) + most


def log_within_scatter(view: View) -> jax.Array:
    """Logarithm of sum_i |h_i - mean of its class|^2."""
    normal, stats = view.normal(), view.once(_class_statistics)
    value = safe_log(jnp.sum(stats.counts * stats.variances)) + _log_unit(view, stats)
    features = normal.features
    if not isinstance(features, ClassFeatures):
        return value
    # Where weights are equal within a class, the residual is what deviates from its mean, however small beside it.
    apart = safe_log(safe_norm(features.residual)) + safe_log(jnp.abs(features.residual_scale))
    return jnp.where(features.equal_within_classes(), 2 * (apart + normal.log_H), value)


def log_between_scatter(view: View) -> jax.Array:
    """Logarithm of sum_c n_c |mean of class c - mean of all|^2."""
    stats = view.once(_class_statistics)
    n = stats.counts.astype(stats.means.dtype)
    apart = stats.means - (n @ stats.means) / jnp.sum(n)
    apart = jnp.where(stats.lost, jnp.nan, apart)
    return 2 * safe_log(safe_norm(jnp.sqrt(n)[:, None] * apart)) + 2 * view.normal().log_H


def _class_statistics(view: View) -> ClassStatistics:
    labels = view.model.labels
    return view.normal().features.statistics(jnp.asarray(labels.index), labels.classes)


def _log_unit(view: View, stats: ClassStatistics) -> jax.Array:
    return 2 * (view.normal().log_H + safe_log(jnp.asarray(stats.unit, view.W.dtype)))


def gap(which: slice) -> Callable[[View], jax.Array]:
    """An observable: norm of these parts less the leading part of the start."""

    def value(view: View) -> jax.Array:
        split = _split(view)
        assert view.log_start is not None
        start, now, rest = view.log_start, split.log_amplitude, split.log_rest
        # Divided by the largest of the three scales, so that only the result can overflow.
        common = jax.lax.stop_gradient(jnp.maximum(jnp.maximum(start, now), rest))
        common = jnp.where(jnp.isfinite(common), common, 0.0)
        moved = split.sign * jnp.exp(now - common) - jnp.exp(start - common)
        ahead = jax.lax.stop_gradient(now > start)
        growth = jnp.where(ahead, start - now, now - start)
        steady = jnp.where(ahead, -1.0, 1.0) * jnp.exp(jnp.where(ahead, now, start) - common) * jnp.expm1(growth)
        lead = jnp.where(split.sign > 0, steady, moved)
        beside = [jnp.zeros_like(x) for x in split.rest] if view.beside is None else view.beside
        parts = zip(split.direction[which], split.rest[which], beside[which], strict=True)
        apart = [lead * d + jnp.exp(rest - common) * x - jnp.exp(start - common) * y for d, x, y in parts]
        return safe_norm(*apart) * jnp.exp(common)

    return value


def _energies(view: View) -> dict[str, jax.Array]:
    """Shares of ||Z||^2 in the paper's subspaces E_1^+-, E_2^+- and E_3 (balanced classes).

    Source: Zhou et al. 2023, Lemmas 14-17.
    """
    labels = view.model.labels
    index, classes, count = jnp.asarray(labels.index), labels.classes, labels.samples
    per_class = count // classes
    normal = view.normal()
    common = jnp.maximum(normal.log_H, normal.log_W)
    features = normal.features.scaled(jnp.exp(normal.log_H - common), jnp.ones_like(common))
    W = jnp.exp(normal.log_W - common) * normal.W
    if isinstance(features, ClassFeatures):
        means = features.sums * classes  # q_i = 1/n, so S_c = (N/n) mean = mean / C
        within = (features.residual_scale * safe_norm(features.residual)) ** 2
    else:
        H = features.dense()
        means = segment_sum(H, index, classes) / per_class
        within = jnp.sum((H - means[index]) ** 2)
    F = means * jnp.sqrt(jnp.asarray(per_class, means.dtype))
    F_mean, W_mean = jnp.mean(F, axis=0), jnp.mean(W, axis=0)
    F_rest, W_rest = F - F_mean, W - W_mean
    parts = {
        "energy_1_plus": jnp.sum((F_rest + W_rest) ** 2) / 2,
        "energy_1_minus": jnp.sum((F_rest - W_rest) ** 2) / 2,
        "energy_2_plus": classes * jnp.sum((F_mean + W_mean) ** 2) / 2,
        "energy_2_minus": classes * jnp.sum((F_mean - W_mean) ** 2) / 2,
        "energy_3": within,
    }
    total = sum(parts.values(), jnp.zeros((), W.dtype))
    there = total > 0  # a zero state has no shares, and their derivatives must not reach others
    return {name: jnp.where(there, value / jnp.where(there, total, 1.0), jnp.nan) for name, value in parts.items()}


def energy(name: str) -> Callable[[View], jax.Array]:
    """An observable: the energy of this name."""
    return lambda view: view.once(_energies)[name]


def bias_ratio(view: View) -> jax.Array:
    """Largest bias over the smallest."""
    least = -greatest(-view.b)
    return jnp.where(least == 0, jnp.inf, greatest(view.b) / jnp.where(least == 0, 1.0, least))


def collapse_metric(name: str) -> Callable[[View], jax.Array]:
    """An observable: the collapse metric of this name."""
    return lambda view: METRICS[name].of(view.once(_collapse_inputs))


def _collapse_inputs(view: View) -> dict[str, Any]:
    labels, seen = view.model.labels, view.seen()
    _, product, bias = view.once(in_common_units)
    logits = (product * seen.scores(view.prototypes()) + bias[:, None]).T
    stats = seen.statistics(jnp.asarray(labels.index), labels.classes)
    return shared_inputs(stats, view.prototypes(), logits)
