"""The expected scatter between classes, without the difference of large numbers that the moments would give.

It is the scatter of the mean run, which has a closed form, and that of the deviations from it. With T the map of second
moments of an update, and T_0 that of the mean alone,

    M <- T_0 M,    V <- T V + (T - T_0) M,    V = 0 at the start

are the moments of the mean and of the deviations. What noise adds to V is as large in the differences of classes as in
their mean, so little is lost in the scatter of V, however large the mean of all features is.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from unhinged_jax import _loop
from unhinged_jax._request.compiling import compiled
from unhinged_jax.closed_form.carriers import Alike, General, Membership, setting_of
from unhinged_jax.closed_form.expected import OF_MOMENTS, expectations, moments_of_start, moving
from unhinged_jax.closed_form.moments import Draws, Moments, draws_of
from unhinged_jax.dynamics import Descent, rates_at
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.special import drift, largest, power_of_two, safe_log

SPLIT = ("between_scatter", "log_between_scatter")
"""Observables of a descent that are put together from the mean run and the deviations from it."""


def of_descent(
    model: LayerPeeled,
    descent: Descent,
    state: State,
    first: Any,
    updates: Any,
    names: tuple[str, ...],
    membership: Membership,
    *,
    log_of_mean: Any,
) -> dict[str, Any]:
    """The expectation of each observable after the requested updates; `log_of_mean` is the scatter of the mean run."""
    rest = tuple(name for name in names if name not in SPLIT)
    values: dict[str, Any] = {}
    if rest:
        values = expectations(model, descent, state, first, updates, rest, membership)
    if log_of_mean is None:
        return values
    reads = _loop.reads_at(updates, first)
    apart = log_of_deviations(model, descent, state, jnp.asarray(first), reads, membership)
    log = jnp.logaddexp(jnp.asarray(log_of_mean, apart.dtype), apart)
    return {**values, "between_scatter": jnp.exp(log), "log_between_scatter": log}


@compiled()
def log_of_deviations(
    model: LayerPeeled, descent: Descent, state: State, first: jax.Array, reads: _loop.Reads, membership: Membership
) -> jax.Array:
    """The logarithm of the expected scatter between classes of the deviations from the mean run, (T,)."""
    dtype = state.W.dtype
    setting = setting_of(model, membership, descent.fresh_labels, dtype)
    draws, one = draws_of(model.samples, descent, dtype), jnp.ones((), dtype)
    calm = setting._replace(groups=setting.groups._replace(chances=None, rows=None))
    # What noise adds does not depend on decays, and without them little is lost in a difference.
    light = dataclasses.replace(model, decay_H=0.0, decay_W=0.0)
    with_noise, without, light_noise, light_calm = (
        Alike(of, at, drawn, dtype) if membership.alike else General(of, at, drawn)
        for of in (model, light)
        for at, drawn in ((setting, draws), (calm, Draws(one, one)))
    )
    moments, power = moments_of_start(state, membership)
    start: Any = with_noise.shortened(moments)
    carry = start, jax.tree.map(jnp.zeros_like, start), power

    def step(carry: tuple[Any, Any, jax.Array], k: jax.Array) -> tuple[Any, Any, jax.Array]:
        mean, apart, power = carry
        rates = moving(rates_at(descent, (first + k).astype(dtype), dtype), model)
        of_mean = without.change(mean, rates)
        noise = jax.tree.map(jnp.subtract, light_noise.change(mean, rates), light_calm.change(mean, rates))
        apart = jax.tree.map(lambda v, own, new: v + own + new, apart, with_noise.change(apart, rates), noise)
        mean = jax.tree.map(jnp.add, mean, of_mean)
        by = drift(jnp.maximum(_size(mean), _size(apart)), beyond=0)
        factor = power_of_two(-by, dtype)
        return _times(mean, factor), _times(apart, factor), power + by

    def read(carry: tuple[Any, Any, jax.Array]) -> dict[str, jax.Array]:
        scatter = OF_MOMENTS["between_scatter"](with_noise.whole(carry[1]), setting)[0]
        log = carry[2].astype(dtype) * jnp.log(jnp.asarray(2.0, dtype)) + 2 * state.log_scale
        return {"log": safe_log(scatter) + log}

    _, values, _ = _loop.run(step, carry, reads, read, needs=lambda carry: carry)
    found: jax.Array = values["log"]
    return found


def _size(moments: Any) -> jax.Array:
    """The largest of the numbers that scale like the squares of H and W."""
    return largest(*(moments[:4] if isinstance(moments, Moments) else moments[:1]))


def _times(moments: Any, factor: jax.Array) -> Any:
    """Moments with those of H and W times a factor."""
    if isinstance(moments, Moments):
        return Moments(*[part * factor for part in moments[:4]] + list(moments[4:]))
    return (moments[0] * factor, *moments[1:])
