"""Checks of rates that are functions, before a run: they must not be negative, and their integral must be known.

A compiled program can neither raise nor refine without bound. Here functions are evaluated outside it, in float64 and
in blocks of one size, so that each function needs only one small program.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax import _check
from unhinged_jax.schedules import constructors as build
from unhinged_jax.schedules import joining
from unhinged_jax.schedules.integrated import Numeric, QuadratureWarning
from unhinged_jax.schedules.quadrature import PANELS
from unhinged_jax.schedules.schedule import Schedule
from unhinged_jax.schedules.shapes import (
    Constant,
    Cosine,
    Exponential,
    Joined,
    Piecewise,
    Polynomial,
    Warmup,
    WarmupStableDecay,
    held,
    parts,
)

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_TO_ENDS = np.linalg.solve(np.polynomial.legendre.legvander(_NODES, 15).T, [[(-1.0) ** k, 1.0] for k in range(16)])
"""From values at the nodes to the polynomial through them at both ends."""
_BLOCK = 4096
_PANELS = 2**17  # at most
_FIRST = 512  # panels to begin with, beside those that are graded towards the start and the breaks
_UPDATES = 200_000  # rates of a descent that are looked at, one by one
_NOISE = 1e-6  # of the largest rate: a negative rate that is rounding

_BUILDERS: dict[type, Callable[..., Schedule]] = {
    Constant: build.constant,
    Cosine: build.cosine,
    Exponential: build.exponential,
    Polynomial: build.polynomial,
    Piecewise: build.piecewise,
    WarmupStableDecay: joining.warmup_stable_decay,
    Joined: joining.join,
}


def integrated_outside(schedule: Schedule) -> bool:
    """Whether a schedule is integrated by quadrature, and its function can be called now."""
    return any(isinstance(part, Numeric) for part in parts(schedule)) and _callable_now(schedule)


def must_be_schedule(value: object) -> None:
    """Raise unless this is a schedule; numbers and functions are stored as schedules."""
    if not isinstance(value, Schedule):
        raise ValueError(
            f"a schedule must be a number, a function of time or a schedule, but got {_check.given(value)}."
        )


def _check_numbers(schedule: Schedule) -> None:
    """Raise unless this is a schedule, made of schedules, whose numbers its constructor accepts."""
    must_be_schedule(schedule)
    for inner in held(schedule):
        _check_numbers(inner)
    if isinstance(schedule, Warmup):
        joining.warmup(schedule.length, 0.0, schedule.start)
    elif type(schedule) in _BUILDERS:
        _BUILDERS[type(schedule)](**vars(schedule))


def check_rates(schedule: Schedule, first: float, last: float, step: float | None, compiled: bool = False) -> None:
    """Raise unless the rate is finite and at least 0 from `first` to `last`, as far as this can be checked.

    The numbers of built-in shapes are checked. Functions are called at every `step` before `last` (if there are more
    than 200,000, at that many of them), or, without one, on the panels on which they are integrated. Traced values are
    not checked.
    If `compiled`, the integral will be computed inside a compiled program on few panels; if these do not suffice, a
    warning says so.

    Raises:
        ValueError: naming the time and the value.
    """
    _check_numbers(schedule)
    if all(type(part) in _BUILDERS for part in parts(schedule)) or not _callable_now(schedule):
        return
    if step is not None:
        count = max(round((last - first) / step), 1)  # a quotient such as 0.3/0.1 lies below its whole number
        times = first + step * np.unique(np.linspace(0, count - 1, min(count, _UPDATES)).astype(np.int64))
        _judge(times, values_at(schedule, times))
    elif last > first:
        _integrate(schedule, np.asarray([first, last]), PANELS if compiled else _PANELS)


def elapsed(schedule: Schedule, first: float, times: np.ndarray) -> np.ndarray:
    """zeta(times) - zeta(first) of a schedule that is `integrated_outside`, in float64; times ascend from `first`.

    Warns with `QuadratureWarning` if the integral is not known to 1e-10.
    """
    return _integrate(schedule, np.concatenate([[first], times]))


@eqx.filter_jit
def _block(schedule: Schedule, times: jax.Array) -> jax.Array:
    return schedule(times)


def values_at(schedule: Schedule, times: np.ndarray) -> np.ndarray:
    """The rates of a schedule that is `integrated_outside` at many times, in float64."""
    flat = np.ravel(times)
    padded = np.pad(flat, (0, -flat.size % _BLOCK), mode="edge").reshape(-1, _BLOCK)
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        # Its numbers are data, so that new ones do not compile anything.
        schedule = jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, (int, float)) else leaf, schedule)
        rows = [np.asarray(_block(schedule, jnp.asarray(row, float))) for row in padded]
    return np.concatenate(rows)[: flat.size].reshape(np.shape(times))


def _callable_now(schedule: Schedule) -> bool:
    """Whether neither the numbers in a schedule nor those that its functions close over are traced."""
    if not _check.concrete(schedule):
        return False
    return _check.concrete(jax.make_jaxpr(schedule)(jnp.zeros(())).consts)


def _judge(times: np.ndarray, rates: np.ndarray) -> None:
    bad = ~np.isfinite(rates)
    if not np.any(bad):
        bad = rates < -_NOISE * np.max(np.abs(rates), initial=0.0)
    if np.any(bad):
        at = np.flatnonzero(bad)[0] if np.any(~np.isfinite(rates)) else np.argmin(rates)
        raise ValueError(
            f"a learning rate must be finite and must not be negative, but the schedule gives {rates.flat[at]:.3g} at "
            f"{np.ravel(times)[at]:.6g}; clip it with jnp.maximum(rate, 0), or end the run before."
        )


class _Rule(NamedTuple):
    """The 16-point rule on panels, that of the absolute value, and what a jump beside the outermost points may hide."""

    value: np.ndarray
    mass: np.ndarray
    hidden: np.ndarray
    eps: float


def _rule(schedule: Schedule, left: np.ndarray, right: np.ndarray) -> _Rule:
    half = (right - left)[:, None] / 2
    inside = left[:, None] + half * (1 + _NODES)
    values = values_at(schedule, np.column_stack([inside, left, np.nextafter(right, left)]))
    rates, ends = values[:, :-2].astype(np.float64), values[:, -2:].astype(np.float64)
    _judge(inside, rates)
    off = np.abs(ends - rates @ _TO_ENDS)
    gap = (right - left) / 2 * (1 + _NODES[0])
    eps = float(np.finfo(values.dtype).eps) if values.dtype.kind == "f" else 0.0
    hidden = gap * np.sum(np.where(np.isfinite(off), off, 0.0), axis=1)
    terms = _WEIGHTS * half * rates
    return _Rule(np.sum(terms, axis=1), np.sum(np.abs(terms), axis=1), hidden, max(eps, 2.0**-52))


def _integrate(schedule: Schedule, stops: np.ndarray, most: int = _PANELS) -> np.ndarray:
    """The integral from the first stop to each of the others. Halves panels until the rule agrees with its halves."""
    edges = _edges(schedule, stops, _FIRST if most == _PANELS else 16)
    left, right = edges[:-1], edges[1:]
    first = _rule(schedule, left, right)
    waiting, eps = (left, right, first.value), first.eps
    # The integral is needed at the stops only, so the error of a panel counts relative to the mass up to the next stop.
    mass_at_stops = np.append(0.0, np.cumsum(first.mass))[np.searchsorted(edges, stops)]
    done: list[tuple[np.ndarray, ...]] = []  # (left, integral, error) of panels that are good
    while waiting[0].size:
        left, right, whole = waiting
        middle = (left + right) / 2
        lower, upper = _rule(schedule, left, middle), _rule(schedule, middle, right)
        value, error = lower.value + upper.value, np.abs(lower.value + upper.value - whole)
        error += lower.hidden + upper.hidden
        beside = mass_at_stops[np.searchsorted(stops, right)]
        bad = (error > 32 * eps * beside) & (left < middle) & (middle < right)
        if sum(len(found[0]) for found in done) + 2 * left.size > most:
            bad[:] = False
        done.append((left[~bad], value[~bad], error[~bad]))
        waiting = (
            np.append(left[bad], middle[bad]), np.append(middle[bad], right[bad]),
            np.append(lower.value[bad], upper.value[bad]),
        )  # fmt: skip
    left, parts, errors = (np.concatenate(column) for column in zip(*done, strict=True))
    order = np.argsort(left)
    index = np.searchsorted(left[order], stops, side="left")
    zeta, error = (np.append(0.0, np.cumsum(column[order]))[index] for column in (parts, errors))
    worst, bound = float(np.max(error / np.where(zeta > 0, zeta, 1.0))), max(1e-10, 84 * eps)  # errors add up
    if worst > bound:
        warnings.warn(
            f"the integral of the schedule's function is known to a relative {worst:.1e} only, more than {bound:.0e}; "
            "state where it is not smooth: `numeric(function, breaks=[...])`.",
            QuadratureWarning,
            stacklevel=5,
        )
    return zeta[1:] - zeta[0]


def _edges(schedule: Schedule, stops: np.ndarray, uniform: int) -> np.ndarray:
    """Ends of the first panels: the stops, a uniform mesh, and layers at the start and on both sides of breaks."""
    first, last = float(stops[0]), float(stops[-1])
    if last <= first:
        return np.asarray([first, last])
    marks = [first, last, *(float(point) for point in np.ravel(np.asarray(schedule.breaks, float)))]
    layers = np.concatenate([[0.0], (last - first) * 2.0 ** np.arange(-30, -4)])
    graded = [mark + side * layers for mark in marks for side in (-1, 1)]
    edges = np.unique(np.concatenate([stops, marks, np.linspace(first, last, uniform + 1), *graded]))
    return edges[(edges >= first) & (edges <= last)]
