"""Expectations of a diffusion: its moments follow a linear equation, which is solved by exponentials.

    dS/dt = K S + S K^T + N(S),    with K of order eta and N of order eta^2

A few numbers (seven if all classes are alike) take the matrix of this map and its exponential for each distance of two
times. More take series of the map applied to the moments, without its matrix.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from unhinged_jax import _check
from unhinged_jax._request.compiling import compiled
from unhinged_jax.closed_form.carriers import Membership, setting_of
from unhinged_jax.closed_form.expected import begun, moving, values_of
from unhinged_jax.closed_form.exponential import Scaled, acted, exponential, rescaled
from unhinged_jax.closed_form.moments import Moments
from unhinged_jax.dynamics import Diffusion, PartRates, rates_at
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.schedules.shapes import Constant
from unhinged_jax.special import phi1

_FEW = 512  # numbers; the exponential of a larger matrix would cost more than the series


class Stretches(NamedTuple):
    """Stretches of time with constant rates, and which of them ends at each requested time.

    Attributes:
        begins, lengths: Of every stretch, (S,); or, if `which` is given, one of each length, (U,).
        which: The length of every stretch, (S,), or None.
        ends: The stretch that ends at each time, (T,).
    """

    begins: Any
    lengths: Any
    which: Any
    ends: Any


class _Now(NamedTuple):
    """The moments of H and W over a power of two, and those of b."""

    numbers: Scaled
    b: jax.Array
    spread: jax.Array


def diffused(
    model: LayerPeeled,
    diffusion: Diffusion,
    state: State,
    first: Any,
    times: Any,
    names: tuple[str, ...],
    membership: Membership,
) -> dict[str, jax.Array]:
    """The expectation of each observable at the times: name -> (T,). The rates are constant, at least in pieces."""
    return _diffused(model, diffusion, state, _stretches(diffusion, first, times), names, membership)


@compiled()
def _diffused(
    model: LayerPeeled,
    diffusion: Diffusion,
    state: State,
    over: Stretches,
    names: tuple[str, ...],
    membership: Membership,
) -> dict[str, jax.Array]:
    dtype = state.W.dtype
    setting = setting_of(model, membership, diffusion.fresh_labels, dtype)
    short, body, power = begun(model, diffusion, state, membership, setting)
    start, shaped = ravel_pytree(body[:-2])
    still, of_W = jnp.zeros_like(start), (jnp.zeros_like(body[-2]), jnp.zeros_like(body[-1]))

    def joined(numbers: jax.Array, b: jax.Array, spread: jax.Array) -> Any:
        parts = (*shaped(numbers), b, spread)
        return Moments(*parts) if isinstance(body, Moments) else parts

    def rates_in(stretch: tuple[jax.Array, jax.Array]) -> PartRates:
        return moving(rates_at(diffusion, stretch[0] + stretch[1] / 2, dtype), model)

    def generator(rates: PartRates) -> Any:
        return lambda numbers: ravel_pytree(short.change(joined(numbers, *of_W), rates)[:-2])[0]

    @jax.checkpoint
    def matrix(stretch: tuple[jax.Array, jax.Array]) -> Scaled:
        return exponential(jax.jacfwd(generator(rates_in(stretch)))(still), stretch[1])

    given = jnp.asarray(over.begins, dtype), jnp.asarray(over.lengths, dtype)
    every = given if over.which is None else tuple(part[over.which] for part in given)
    few = start.size <= _FEW
    table = jax.lax.map(matrix, given) if few and over.which is not None else None

    def step(now: _Now, stretch: tuple[jax.Array, jax.Array, Any]) -> tuple[_Now, _Now]:
        begin, length, which = stretch
        rates = rates_in((begin, length))
        if few:
            by = matrix((begin, length)) if table is None else jax.tree.map(lambda leaf: leaf[which], table)
            numbers = rescaled(Scaled(by.array @ now.numbers.array, by.power + now.numbers.power))
        else:
            numbers = acted(generator(rates), length, now.numbers)
        none = jnp.zeros((), dtype)
        push = short.change(joined(still, *of_W), PartRates(none, none, rates.b))
        shrinks = rates.b * jnp.asarray(model.decays.b, dtype) * length
        b = now.b * jnp.exp(-shrinks) + length * phi1(shrinks) * push[-2]
        spread = now.spread * jnp.exp(-2 * shrinks) + length * phi1(2 * shrinks) * push[-1]
        return _Now(numbers, b, spread), _Now(numbers, b, spread)

    now = _Now(rescaled(Scaled(start, power.astype(dtype))), body[-2], body[-1])
    passed = jax.lax.scan(step, now, (*every, over.which))[1]

    def read(moment: _Now) -> dict[str, jax.Array]:
        whole = short.whole(joined(moment.numbers.array, moment.b, moment.spread))
        return values_of(names, whole, setting, moment.numbers.power, state)

    found: dict[str, jax.Array] = jax.lax.map(read, jax.tree.map(lambda leaf: leaf[over.ends], passed))
    return found


def _stretches(diffusion: Diffusion, first: Any, times: Any) -> Stretches:
    """The stretches between times and breaks. If the rates never change, those of one length are one."""
    if isinstance(diffusion.schedule, Constant) and _check.concrete((first, times)):
        stops = np.append(first, times).astype(float)
        begins, lengths, ends = stops[:-1], np.diff(stops), np.arange(len(times))
        rounded = np.round(lengths / (8 * np.finfo(float).eps * max(stops[-1], 1e-300)))
        _, one, which = np.unique(rounded, return_index=True, return_inverse=True)
        if len(one) < len(ends):
            return Stretches(begins[one], lengths[one], which, ends)
        return Stretches(begins, lengths, None, ends)
    asked, start = jnp.asarray(times, float), jnp.asarray(first, float)
    breaks = jnp.asarray([*diffusion.schedule.breaks], asked.dtype)
    marks = jnp.concatenate([asked, jnp.clip(breaks, start, jnp.maximum(start, asked[-1]))])
    order = jnp.argsort(marks)
    marks = jnp.concatenate([start[None], marks[order]])
    return Stretches(marks[:-1], jnp.diff(marks), None, jnp.argsort(order)[: asked.shape[0]])
