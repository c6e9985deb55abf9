"""Schedules whose integral is a formula."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from unhinged_jax import _check
from unhinged_jax.schedules.quadrature import Number
from unhinged_jax.schedules.schedule import Schedule
from unhinged_jax.special import phi1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """eta(t) = value; see `constant`."""

    value: Number

    @property
    def breaks(self) -> tuple[Number, ...]:
        return ()

    def _rate(self, t: Array) -> Array:
        return self.value * jnp.ones_like(t)

    def _integral(self, t: Array) -> Array:
        return self.value * t


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from `peak` down to `floor`; see `cosine`."""

    peak: Number
    horizon: Number
    floor: Number = 0.0

    @property
    def breaks(self) -> tuple[Number, ...]:
        return (self.horizon,)

    def _rate(self, t: Array) -> Array:
        # (1 + cos(pi u/T))/2 as a square: it loses no digits where the rate vanishes.
        left = self.horizon - jnp.minimum(t, self.horizon)
        fraction = jnp.sin(jnp.pi / 2 * left / self.horizon) ** 2
        return self.floor + (self.peak - self.floor) * fraction

    def _integral(self, t: Array) -> Array:
        u = jnp.minimum(t, self.horizon)
        wave = self.horizon / jnp.pi * jnp.sin(jnp.pi * u / self.horizon)
        return self.floor * t + (self.peak - self.floor) / 2 * (u + wave)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Exponential(Schedule):
    """eta(t) = initial exp(-rate t); see `exponential`."""

    initial: Number
    rate: Number

    @property
    def breaks(self) -> tuple[Number, ...]:
        return ()

    def _rate(self, t: Array) -> Array:
        return self.initial * jnp.exp(-self.rate * t)

    def _integral(self, t: Array) -> Array:
        return self.initial * t * phi1(self.rate * t)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Polynomial(Schedule):
    """Power-law decay from `initial` to `final`, then constant; see `polynomial`."""

    initial: Number
    horizon: Number
    power: Number = 1.0
    final: Number = 0.0

    @property
    def breaks(self) -> tuple[Number, ...]:
        return (self.horizon,)

    def _rate(self, t: Array) -> Array:
        inside = t < self.horizon
        left = jnp.where(inside, (self.horizon - t) / self.horizon, 1.0)
        decay = jnp.where(inside, left**self.power, 0.0)
        return self.final + (self.initial - self.final) * decay

    def _integral(self, t: Array) -> Array:
        order = self.power + 1.0
        inside = t < self.horizon
        # 1 - (1 - u/T)^order without the cancellation at small u.
        u = jnp.where(inside, t / self.horizon, 0.0)
        done = jnp.where(inside, -jnp.expm1(order * jnp.log1p(-u)), 1.0)
        return self.final * t + (self.initial - self.final) * self.horizon / order * done


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Piecewise(Schedule):
    """Constant between boundaries; see `piecewise`."""

    values: Sequence[Any] | Array
    boundaries: Sequence[Any] | Array

    @property
    def breaks(self) -> tuple[Number, ...]:
        return tuple(self.boundaries)

    def _pieces(self, t: Array) -> tuple[Array, Array, Array]:
        dtype = jnp.result_type(t, *jax.tree_util.tree_leaves((self.values, self.boundaries)))
        values = jnp.asarray(self.values, dtype)
        starts = jnp.append(jnp.zeros(1, dtype), jnp.asarray(self.boundaries, dtype))
        index = jnp.searchsorted(starts[1:], t.astype(dtype), side="right")
        return values, starts, index

    def _rate(self, t: Array) -> Array:
        values, _, index = self._pieces(t)
        return values[index]

    def _integral(self, t: Array) -> Array:
        values, starts, index = self._pieces(t)
        before = jnp.concatenate([starts[:1], jnp.cumsum(values[:-1] * jnp.diff(starts))])
        return before[index] + values[index] * (t - starts[index])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Warmup(Schedule):
    """A linear rise, then another schedule with its own clock; see `warmup`."""

    length: Number
    schedule: Schedule
    start: Number = 0.0

    @property
    def breaks(self) -> tuple[Number, ...]:
        return (self.length, *(self.length + b for b in self.schedule.breaks))

    def _phases(self, t: Array) -> tuple[Array, Array, Array]:
        """Whether t is in the rise, the fraction of the rise done, and the time since its end."""
        rising = t < self.length
        length = jnp.where(jnp.equal(self.length, 0), 1.0, self.length)
        return (
            rising,
            jnp.where(rising, t / length, 1.0),
            jnp.where(rising, 0.0, t - self.length),
        )

    def _climb(self, t: Array) -> Array:
        return self.schedule(jnp.zeros((), t.dtype)) - self.start

    def _rate(self, t: Array) -> Array:
        rising, done, rest = self._phases(t)
        return jnp.where(rising, self.start + self._climb(t) * done, self.schedule(rest))

    def _integral(self, t: Array) -> Array:
        rising, done, rest = self._phases(t)
        risen = jnp.where(rising, t, self.length)
        return risen * (self.start + self._climb(t) * done / 2) + self.schedule.integral(rest)


class _Window(NamedTuple):
    """A schedule, the time at which it begins, and how long it lasts; the last one has no end."""

    schedule: Schedule
    start: Number
    length: Number | None

    def clock(self, t: Array) -> Array:
        """The schedule's own time, which stands still before and after its window.

        Derivatives at the ends are those from the right, so `jnp.clip`, which halves them, will not do.
        """
        since = jnp.where(t < self.start, 0.0, t - self.start)
        return since if self.length is None else jnp.where(since < self.length, since, self.length)

    def breaks(self) -> list[Number]:
        """The schedule's own breaks inside the window. A traced one beyond its end counts as the end."""
        inside: list[Number] = []
        for point in self.schedule.breaks:
            if self.length is None:
                inside.append(self.start + point)
            elif not _check.concrete((point, self.length)):
                inside.append(self.start + jnp.minimum(point, self.length))
            elif np.asarray(point) < np.asarray(self.length):
                inside.append(self.start + point)
        return inside


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Joined(Schedule):
    """One schedule after another, each with its own clock; see `join`."""

    schedules: tuple[Schedule, ...]
    boundaries: Sequence[Any] | Array

    def _windows(self) -> list[_Window]:
        ends = tuple(self.boundaries)
        starts: tuple[Any, ...] = (0, *ends)
        lengths = [end - start for start, end in itertools.pairwise(starts)]
        return [_Window(*parts) for parts in zip(self.schedules, starts, (*lengths, None), strict=True)]

    @property
    def breaks(self) -> tuple[Number, ...]:
        first, *others = self._windows()
        return (*first.breaks(), *(point for window in others for point in (window.start, *window.breaks())))

    def _rate(self, t: Array) -> Array:
        first, *others = self._windows()
        rate = first.schedule(first.clock(t))
        for window in others:
            rate = jnp.where(t < window.start, rate, window.schedule(window.clock(t)))
        return rate

    def _integral(self, t: Array) -> Array:
        return functools.reduce(jnp.add, [each.schedule.integral(each.clock(t)) for each in self._windows()])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WarmupStableDecay(Schedule):
    """A rise, a constant rate and a fall, joined; see `warmup_stable_decay`."""

    peak: Number
    warmup: Number
    stable: Number
    decay: Number
    floor: Number = 0.0

    @property
    def joined(self) -> Joined:
        """The same schedule, whose parts have a peak each."""
        risen = Warmup(self.warmup, Constant(self.peak))
        return Joined((risen, Polynomial(self.peak, self.decay, final=self.floor)), (self.warmup + self.stable,))

    @property
    def breaks(self) -> tuple[Number, ...]:
        return self.joined.breaks

    def _rate(self, t: Array) -> Array:
        return self.joined(t)

    def _integral(self, t: Array) -> Array:
        return self.joined.integral(t)


def held(schedule: object) -> tuple[Schedule, ...]:
    """The schedules that a schedule is directly made of."""
    if isinstance(schedule, Joined):
        return tuple(schedule.schedules)
    return (schedule.schedule,) if isinstance(schedule, Warmup) else ()


def parts(schedule: Schedule) -> tuple[Schedule, ...]:
    """The shapes and functions that a schedule is made of; itself alone if it is made of no others.

    Example:
        >>> parts(Joined((Warmup(1.0, Constant(0.5)), Constant(0.1)), (3.0,)))
        (Constant(value=0.5), Constant(value=0.1))
    """
    return tuple(part for inner in held(schedule) for part in parts(inner)) or (schedule,)
