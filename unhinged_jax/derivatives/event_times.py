"""When something happens in a run: phi(t*, theta) = level, with dt*/dtheta = -(dphi/dtheta) / (dphi/dt)."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike

from unhinged_jax import _check, _request
from unhinged_jax._request.compiling import compiled
from unhinged_jax._values import Value
from unhinged_jax.closed_form.run import NoClosedForm, exact, why_no_closed_form
from unhinged_jax.derivatives.parameters import Problem
from unhinged_jax.dynamics import Descent, Dynamics
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.observables import OBSERVABLES
from unhinged_jax.simulation import check_adjoint, modes_explained, scale_must_fit, simulate
from unhinged_jax.trajectory import RunResult, Trajectory


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EventTime(Value):
    """When an observable first crosses a level.

    Attributes:
        time: The time; for a descent a number of updates, interpolated linearly. Infinite if the event does not happen
            within the times; NaN if that is not known, because the run ended earlier. Differentiable (twice for an
            exact flow); the derivative is NaN where the slope is 0.
        happened: Whether the event happens; an event that holds from the first time on happens then.
        slope: d observable / dt there (per update for a descent). Small if the time is uncertain, infinite at a jump.
        updates: For a descent, the first update after which the event holds; -1 for a flow, or if it does not happen.

    Source: beyond the paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(3, 2), 4)
        >>> state = model.init(jax.random.key(0))
        >>> when = event_time(model, uj.Descent(0.5), state, "norm", 100.0, times=[0, 100])
        >>> int(when.updates) - 1 < float(when.time) <= int(when.updates)
        True
    """

    time: Any
    happened: Any
    slope: Any
    updates: Any


EVENTS: dict[str, tuple[str, float, str]] = {
    "accuracy is 1": ("accuracy_margin", 0.0, "above"),
}
"""Events with a name: observable, level, direction."""

_SMOOTH = {
    "accuracy": "the event 'accuracy is 1', or a level of accuracy_margin or margin_mean",
    "loss_sign": "the loss at level 0",
    "nc4": "a metric that changes smoothly, such as nc1",
}
"""Observables that are piecewise constant in time, and what to use instead of them."""


def event_time(
    model: LayerPeeled,
    dynamics: Dynamics,
    state: State | Trajectory,
    event: str,
    level: ArrayLike | None = None,
    *,
    times: npt.ArrayLike,
    direction: str = "above",
    method: str = "exact",
    target: str = "top",
    precision: str | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
) -> EventTime:
    """The first time at which an observable lies above (or below) a level, differentiable with respect to everything.

    t* solves y(t*; theta) = level. By the implicit function theorem dt*/dtheta = -(dy/dtheta) / (dy/dt) there.
    Lying at the level is not enough, because a margin of 0 is a tie; only observables that are piecewise constant in
    time (accuracy, loss_sign, nc4) must be at least (at most) the level. Their time is that of the jump.

    Args:
        model, dynamics, state, target, precision: as in `exact`. If `state` is a `Trajectory`, times are those of the
            whole run, and none of them may lie before its end.
        event: "accuracy is 1" (the accuracy margin rises above 0), or the name of an observable.
        level: The level; may be traced. Not for a named event.
        times: Times between which the first crossing is bracketed, ascending, such as `logspaced(1, 1000, 200)`; two
            crossings between neighbouring times are missed. For a descent whole numbers; all updates are searched.
        direction: "above" (default) or "below".
        method: "exact" (default) or "simulate".
        adjoint: The adjoint of a simulated flow, as in `simulate`; `diffrax.ForwardMode()` for `jax.jvp`.

    Returns:
        An `EventTime`. Works under `jit`, `vmap` and `grad`.

    Raises:
        ValueError: for an unknown event, or a level that is missing or not allowed; if the run ends early without
            the event (the time is NaN under `jit` and `vmap`); if the time of a jump is differentiated.
        NoClosedForm: for method "exact" if there is no closed form.

    Source: beyond the paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(3, 2), 4)
        >>> when = event_time(model, uj.Flow(), model.init(jax.random.key(0)), "norm", 100.0, times=[0.0, 50.0])
        >>> 5 < float(when.time) < 20
        True
    """
    if not isinstance(event, str):
        raise ValueError(
            f"event must be {' or '.join(map(repr, EVENTS))}, or the name of an observable, but got "
            f"{_check.given(event)}; for your own function, read its values from a run."
        )
    event = str(event)
    if event in EVENTS:
        if level is not None:
            raise ValueError(f"the event {event!r} has its level; leave `level` out.")
        event, level, direction = EVENTS[event]
    if event not in OBSERVABLES:
        known = [*EVENTS, *OBSERVABLES]
        raise ValueError(f"unknown event {event!r}{_check.nearest(event, known) or ';'} there are {', '.join(known)}.")
    if level is None:
        raise ValueError(f"give the level that {event!r} is to cross.")
    _check.finite("level", level)
    _check.shape("level", level, (), "one number; map over a batch of levels with jax.vmap")
    direction = _check.choice("direction", direction, ("above", "below"))
    method = _check.choice("method", method, ("exact", "simulate"))
    if method == "exact" and (why := why_no_closed_form(model, dynamics)):
        raise NoClosedForm(f"there is no closed form: {why} Give method='simulate' to search a simulated run.")
    check_adjoint(adjoint, dynamics)
    task = _request.prepare(
        model, dynamics, state, times, event, target=target, precision=precision, caller="event_time"
    )
    if method == "simulate" or model.spherical:
        scale_must_fit(model, dynamics, task.state)
    sign = 1.0 if direction == "above" else -1.0
    how = _How(method, event, sign, task.target, task.precision, adjoint)
    with task.context():
        # The level as well, because a plain number would be compiled in.
        problem, level = _request.traceable((model, dynamics, task.resumed(task.state))), jnp.asarray(level)
        with modes_explained():
            if isinstance(dynamics, Descent):
                found, looked, code = _update(how, problem, level, np.asarray(task.times))
            else:
                found, looked, code = _moment(how, problem, level, jnp.asarray(task.times))
        if _check.concrete((found, looked)) and not bool(looked):
            raise ValueError(_unknown(event, RunResult(int(code))))
        return task.give_back(found)


def _unknown(event: str, code: RunResult) -> str:
    """Why it is not known whether an event happens."""
    if code is RunResult.COMPLETED:
        return f"{event} is NaN at some of the times searched, so it is not known whether it reaches the level."
    return (
        f"the run ended before the last of the times searched, and {event} had not reached the level, so it is not "
        f"known whether it does. Its result is {code.message}"
        + (" Leave `steady` out to search these times as well." if code is RunResult.STEADY else "")
    )


@dataclasses.dataclass(frozen=True)
class _How:
    """The static part of a search."""

    method: str
    event: str
    sign: float
    target: str
    precision: str
    adjoint: Any

    @property
    def flat(self) -> bool:
        """Whether the observable is piecewise constant in time."""
        return self.event in _SMOOTH

    def heights(self, problem: Problem, level: ArrayLike, at: npt.ArrayLike) -> tuple[jax.Array, jax.Array]:
        """How far the observable is beyond the level at some times (NaN where not reached), and the run's code."""
        settings: dict[str, Any] = {"observe": self.event, "target": self.target, "precision": self.precision}
        if self.method == "simulate":
            settings["adjoint"] = self.adjoint
        run: Any = exact if self.method == "exact" else simulate
        found = run(*problem, at, **settings)
        values = found[self.event]
        beyond = self.sign * (values - jnp.asarray(level, values.dtype))
        return jnp.where(jnp.asarray(found.reached), beyond, jnp.nan), jnp.asarray(found.code)

    def at(self, problem: Problem, level: ArrayLike, t: jax.Array) -> jax.Array:
        """How far the observable is beyond the level at one time."""
        return self.heights(problem, level, t[None])[0][0]

    def holds(self, heights: jax.Array) -> jax.Array:
        """Whether the event holds: beyond the level, or at it if the observable is piecewise constant."""
        return heights >= 0 if self.flat else heights > 0

    def first(self, heights: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """First index at which the event holds, whether there is one, and whether all heights are known."""
        over = self.holds(heights)
        happened = jnp.any(over)
        return jnp.argmax(over), happened, happened | ~jnp.any(jnp.isnan(heights))

    def found(
        self, problem: Problem, level: ArrayLike, time: jax.Array, happened: jax.Array, looked: jax.Array,
        slope: jax.Array, updates: jax.Array,
    ) -> EventTime:  # fmt: skip
        """The event, with a time that is meaningful if it happened."""
        time = jnp.where(happened, time, jnp.where(looked, jnp.inf, jnp.nan))
        if self.flat:
            time = _held(self.event, time, [x for x in jax.tree.leaves((problem, level)) if _moves(x)])
        return EventTime(time, happened, slope, updates)


def _moves(leaf: ArrayLike) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.inexact))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _held(_event: str, time: jax.Array, _problem: list[Any]) -> jax.Array:
    """The time, which has no derivative with respect to the problem."""
    return time


@_held.defjvp
def _held_jvp(event: str, _primals: tuple, _tangents: tuple) -> Any:
    raise ValueError(
        f"{event} is piecewise constant, so the time at which it jumps cannot be differentiated through its slope; "
        "ask for "
        f"{_SMOOTH[event]}."
    )


@jax.custom_jvp
def _undetermined(_flat: jax.Array, value: jax.Array) -> jax.Array:
    """0, with a derivative of NaN in the value where `_flat`."""
    return jnp.zeros_like(value)


@_undetermined.defjvp
def _undetermined_jvp(primals: tuple, tangents: tuple) -> Any:
    flat, value = primals
    return jnp.zeros_like(value), jnp.where(flat, jnp.nan, 0.0).astype(value.dtype) * tangents[1]


@compiled
def _moment(how: _How, problem: Problem, level: ArrayLike, times: jax.Array) -> tuple[EventTime, jax.Array, jax.Array]:
    """Bracket on the grid, bisect, then a step that carries the derivatives."""
    # The search itself is not differentiated; the slope with respect to time is, in forward mode.
    search = dataclasses.replace(how, adjoint=None if how.method == "exact" else diffrax.ForwardMode())
    fixed, still = jax.lax.stop_gradient((problem, level))
    heights, code = search.heights(fixed, still, times)
    place, happened, looked = how.first(heights)
    inside = happened & (place > 0)
    eps = float(jnp.finfo(times.dtype).eps)

    def wide(ends: tuple[jax.Array, ...]) -> jax.Array:
        low, high, count = ends
        return inside & (high - low > 2 * eps * high) & (count < math.ceil(-math.log2(eps)) + 4)

    def halved(ends: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        low, high, count = ends
        middle = low + (high - low) / 2
        over = how.holds(search.at(fixed, still, middle))
        return jnp.where(over, low, middle), jnp.where(over, middle, high), count + 1

    ends = jax.lax.stop_gradient((times[jnp.maximum(place - 1, 0)], times[place]))
    bracket: tuple[jax.Array, ...] = (*ends, jnp.asarray(0))
    root = jax.lax.stop_gradient(jax.lax.while_loop(wide, halved, bracket)[1])
    none = jnp.asarray(-1)
    if how.flat:
        slope = how.sign * jnp.where(inside, jnp.inf, 0.0)
        return how.found(problem, level, root, happened, looked, slope, none), looked, code

    def with_slope(how: _How, problem: Problem, level: ArrayLike, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.jvp(lambda t: how.at(problem, level, t), (t,), (jnp.ones_like(t),))

    if how.method == "exact":
        # Reversed Taylor series: correct to second order in everything that moves the observable at the root.
        value, slope = with_slope(how, problem, level, root)
        _, bend = jax.jvp(lambda t: with_slope(how, fixed, still, t)[1], (root,), (jnp.ones_like(root),))
    else:
        slope = jax.lax.stop_gradient(with_slope(search, fixed, still, root)[1])
        value, bend = how.at(problem, level, root), jnp.zeros_like(root)
    safe = jnp.where(slope == 0, 1.0, slope)
    move = jnp.where(inside & (slope != 0), value / safe, 0.0)
    time = root - move - bend / safe * move**2 / 2 - _undetermined(inside & (slope == 0), value)
    steepness = how.sign * jax.lax.stop_gradient(slope)
    return how.found(problem, level, time, happened, looked, steepness, none), looked, code


def _update(how: _How, problem: Problem, level: ArrayLike, times: np.ndarray) -> tuple[EventTime, jax.Array, jax.Array]:
    every = np.arange(int(times[0]), int(times[-1]) + 1)
    heights, code = how.heights(problem, level, every)
    place, happened, looked = how.first(jax.lax.stop_gradient(heights))
    inside = happened & (place > 0)
    before, after = heights[jnp.maximum(place - 1, 0)], heights[place]
    update = jnp.asarray(every)[place]
    if how.flat:
        time, slope = update.astype(heights.dtype), jnp.where(inside, jnp.inf, 0.0)
    else:
        rise = jnp.where(inside, after - before, 1.0)
        time, slope = update - jnp.where(inside, after / rise, 0.0), jnp.where(inside, rise, 0.0)
    which = jnp.where(happened, update, -1)
    return how.found(problem, level, time, happened, looked, how.sign * slope, which), looked, code
