"""Constructors of schedules that are made of others: a rise before a schedule, and schedules one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax import Array

from unhinged_jax import _check, _numbers
from unhinged_jax.schedules.checks import ascending, sequence
from unhinged_jax.schedules.constructors import ScheduleLike, as_schedule
from unhinged_jax.schedules.quadrature import Number
from unhinged_jax.schedules.shapes import Joined, Warmup, WarmupStableDecay


def warmup(length: Number, schedule: ScheduleLike, start: Number = 0.0) -> Warmup:
    """A linear rise from `start` to schedule(0) over `length`, then `schedule` at t - length.

    Args:
        length: duration of the rise, >= 0; with 0 there is no rise.
        schedule: the schedule that follows: a schedule, a number, or a callable (see `as_schedule`).
        start: eta(0) >= 0 (default 0).

    Returns:
        A schedule with a break at `length` and the shifted breaks of `schedule`.

    Raises:
        ValueError: if `length` or `start` is negative or not finite.
        TypeError: if `schedule` cannot be made a schedule.

    Source: beyond the paper.

    Example:
        >>> from unhinged_jax.schedules import cosine, warmup
        >>> schedule = warmup(100, cosine(0.5, horizon=900))
        >>> print(f"{schedule.integral(1_000):.2f}", schedule.breaks)
        250.00 (100, 1000)
    """
    _check.non_negative("length", length)
    _check.non_negative("start", start)
    length, start = _numbers.reals(length=length, start=start)
    return Warmup(length, as_schedule(schedule), start)


def join(schedules: Sequence[ScheduleLike], boundaries: Sequence[Any] | Array) -> Joined:
    """One schedule after another: schedules[i] at t - boundaries[i-1] from there up to, not including, boundaries[i].

    The integral is exact if those of the schedules are: zeta(t) is the sum of what each has done by t.

    Args:
        schedules: the k + 1 schedules: each a schedule, a number, or a callable (see `as_schedule`).
        boundaries: the k times > 0 at which the next schedule begins, at its own time 0, strictly ascending.

    Returns:
        A schedule whose breaks are the boundaries and, between them, the shifted breaks of the schedules. The rate may
        jump at a boundary.

    Raises:
        ValueError: if the lengths do not match, or the boundaries do not ascend from above 0.
        TypeError: if one of `schedules` cannot be made a schedule.

    Source: `optax.join_schedules` has these rates; beyond the paper.

    Example:
        >>> from unhinged_jax.schedules import cosine, join, polynomial
        >>> schedule = join([cosine(0.5, horizon=100), 0.1, polynomial(0.1, horizon=50)], [100, 200])
        >>> print(f"{schedule.integral(300):.2f}", schedule.breaks)
        37.50 (100, 200, 250)
    """
    schedules = sequence("schedules", schedules, "schedules, numbers or functions")
    boundaries = sequence("boundaries", boundaries)
    if len(schedules) != len(boundaries) + 1:
        raise ValueError(
            f"join needs one more schedule than boundaries, but got {len(schedules)} schedules and "
            f"{len(boundaries)} boundaries; a boundary is the time at which the next schedule begins."
        )
    if isinstance(boundaries, tuple):
        boundaries = tuple(_numbers.real("boundaries", boundary) for boundary in boundaries)
    else:
        boundaries = _numbers.real("boundaries", boundaries)
    return Joined(tuple(as_schedule(each) for each in schedules), ascending("boundaries", boundaries))


def warmup_stable_decay(
    peak: Number, *, warmup: Number, stable: Number, decay: Number, floor: Number = 0.0
) -> WarmupStableDecay:
    """A linear rise from 0 to the peak, a constant rate, and a linear fall to the floor, where it stays.

    Args:
        peak: the rate between rise and fall, >= 0.
        warmup: duration of the rise, >= 0.
        stable: duration of the constant rate, >= 0.
        decay: duration of the fall, > 0.
        floor: the last rate, >= 0 (default 0).

    Returns:
        A schedule with breaks at the ends of the three parts.

    Raises:
        ValueError: if a rate or a duration is negative or not finite, or `decay` is not positive.

    Source: Hu et al. 2024 (MiniCPM); beyond the paper.

    Example:
        >>> from unhinged_jax.schedules import warmup_stable_decay
        >>> schedule = warmup_stable_decay(0.5, warmup=100, stable=800, decay=100)
        >>> print(schedule.integral(1_000), schedule.breaks)
        450.0 (100, 900, 1000)
    """
    _check.non_negative("peak", peak)
    _check.non_negative("warmup", warmup)
    _check.non_negative("stable", stable)
    _check.positive("decay", decay)
    _check.non_negative("floor", floor)
    return WarmupStableDecay(*_numbers.reals(peak=peak, warmup=warmup, stable=stable, decay=decay, floor=floor))
