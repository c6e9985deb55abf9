"""When something happens in a run: phi(t*, theta) = level, with dt*/dtheta = -(dphi/dtheta) / (dphi/dt).

The first of several events is found in the same way: it is the first time at which any of them holds.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike

from unhinged_jax import _check, _request
from unhinged_jax._request.compiling import compiled
from unhinged_jax._values import Value
from unhinged_jax.closed_form.existence import NoClosedForm, why_no_closed_form
from unhinged_jax.closed_form.run import exact
from unhinged_jax.derivatives.parameters import Problem
from unhinged_jax.derivatives.wanted_events import SMOOTH, OneEvent, one_number, wanted
from unhinged_jax.dynamics import Descent, Dynamics
from unhinged_jax.model import LayerPeeled, State
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
        which: Of several events the place of the one that happens first; 0 for a single event.

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
    which: Any = 0


def event_time(
    model: LayerPeeled,
    dynamics: Dynamics,
    state: State | Trajectory,
    event: OneEvent | Sequence[OneEvent],
    level: ArrayLike | Sequence[ArrayLike | None] | None = None,
    *,
    times: npt.ArrayLike,
    direction: str | Sequence[str] = "above",
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
        event: "accuracy is 1" (the accuracy margin rises above 0), the name of an observable, or a function (model,
            state) -> one number that changes continuously in time. Of a list of these the first that happens counts,
            with one level each (None for a named event), and one direction each or for all.
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
        >>> state = model.init(jax.random.key(0))
        >>> when = event_time(model, uj.Flow(), state, "norm", 100.0, times=[0.0, 50.0])
        >>> 5 < float(when.time) < 20
        True
    """
    asked = wanted(event, level, direction)
    method = _check.choice("method", method, ("exact", "simulate"))
    if method == "exact" and (why := why_no_closed_form(model, dynamics)):
        raise NoClosedForm(f"there is no closed form: {why} Give method='simulate' to search a simulated run.")
    check_adjoint(adjoint, dynamics)
    task = _request.prepare(
        model, dynamics, state, times, asked.observe, target=target, precision=precision, caller="event_time"
    )
    if method == "simulate" or model.spherical:
        scale_must_fit(model, dynamics, task.state)
    how = _How(method, asked.names, asked.signs, task.target, task.precision, adjoint)
    with task.context():
        # The level as well, because a plain number would be compiled in.
        problem = _request.traceable((model, dynamics, task.resumed(task.state)))
        sought = _Sought(asked.functions, tuple(map(jnp.asarray, asked.levels)))
        with modes_explained():
            if isinstance(dynamics, Descent):
                found, looked, code = _update(how, problem, sought, np.asarray(task.times))
            else:
                found, looked, code = _moment(how, problem, sought, jnp.asarray(task.times))
        if _check.concrete((found, looked)) and not bool(looked):
            raise ValueError(_unknown(" or ".join(asked.names), RunResult(int(code))))
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


class _Sought(NamedTuple):
    """The rest of a search: functions of one's own, or None, and levels, one per event."""

    functions: tuple[Any, ...]
    levels: tuple[jax.Array, ...]

    def fixed(self) -> _Sought:
        """The same without derivatives."""
        return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf, self)


@dataclasses.dataclass(frozen=True)
class _How:
    """The static part of a search; `names` and `signs` have one entry per event."""

    method: str
    names: tuple[str, ...]
    signs: tuple[float, ...]
    target: str
    precision: str
    adjoint: Any

    @property
    def flat(self) -> bool:
        """Whether the observable is piecewise constant in time; there is only one then."""
        return self.names[0] in SMOOTH

    def heights(self, problem: Problem, sought: _Sought, at: npt.ArrayLike) -> tuple[jax.Array, jax.Array]:
        """How far each event is beyond its level at some times, (T, events), NaN where not reached; the run's code."""
        observe = dict(zip(self.names, sought.functions, strict=True))
        settings: dict[str, Any] = {"observe": observe, "target": self.target, "precision": self.precision}
        if self.method == "simulate":
            settings["adjoint"] = self.adjoint
        run: Any = exact if self.method == "exact" else simulate
        found = run(*problem, at, **settings)
        beyond = []
        for name, sign, level in zip(self.names, self.signs, sought.levels, strict=True):
            values = one_number(name, found[name], np.shape(at)[0])
            beyond.append(sign * (values - jnp.asarray(level, values.dtype)))
        reached = jnp.asarray(found.reached)[:, None]
        return jnp.where(reached, jnp.stack(beyond, axis=1), jnp.nan), jnp.asarray(found.code)

    def at(self, problem: Problem, sought: _Sought, t: jax.Array) -> jax.Array:
        """How far each event is beyond its level at one time, (events,)."""
        return self.heights(problem, sought, t[None])[0][0]

    def holds(self, heights: jax.Array) -> jax.Array:
        """Which events hold: beyond the level, or at it if the observable is piecewise constant."""
        return heights >= 0 if self.flat else heights > 0

    def first(self, heights: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """First index at which an event holds, whether there is one, and whether all heights are known."""
        over = jnp.any(self.holds(heights), axis=1)
        happened = jnp.any(over)
        return jnp.argmax(over), happened, happened | ~jnp.any(jnp.isnan(heights))

    def found(self, problem: Problem, sought: _Sought, event: EventTime, looked: jax.Array) -> EventTime:
        """The event, with a time that is meaningful if it happened."""
        happened = event.happened
        time = jnp.where(happened, event.time, jnp.where(looked, jnp.inf, jnp.nan))
        if self.flat:
            time = _held(self.names[0], time, [x for x in jax.tree.leaves((problem, sought.levels)) if _moves(x)])
        return dataclasses.replace(event, time=time, which=jnp.where(happened, event.which, 0))


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
        f"{SMOOTH[event]}."
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
def _moment(how: _How, problem: Problem, sought: _Sought, times: jax.Array) -> tuple[EventTime, jax.Array, jax.Array]:
    """Bracket on the grid, bisect, then a step that carries the derivatives."""
    # The search itself is not differentiated; the slope with respect to time is, in forward mode.
    search = dataclasses.replace(how, adjoint=None if how.method == "exact" else diffrax.ForwardMode())
    fixed, still = jax.lax.stop_gradient(problem), sought.fixed()
    heights, code = search.heights(fixed, still, times)
    place, happened, looked = how.first(heights)
    inside = happened & (place > 0)
    eps = float(jnp.finfo(times.dtype).eps)

    ends = jax.lax.stop_gradient((times[jnp.maximum(place - 1, 0)], times[place]))
    near: Any = fixed  # a simulated run is searched from the lower end of the bracket on
    if how.method == "simulate":
        settings: dict[str, Any] = {"target": how.target, "precision": how.precision, "adjoint": search.adjoint}
        near = (*fixed[:2], jax.lax.stop_gradient(simulate(*fixed, ends[0][None], (), **settings)))

    def wide(ends: tuple[jax.Array, ...]) -> jax.Array:
        low, high, count, _ = ends
        return inside & (high - low > 2 * eps * high) & (count < math.ceil(-math.log2(eps)) + 4)

    def halved(ends: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        low, high, count, which = ends
        middle = low + (high - low) / 2
        held = how.holds(search.at(near, still, middle))
        over = jnp.any(held)
        ends = jnp.where(over, low, middle), jnp.where(over, middle, high)
        return *ends, count + 1, jnp.where(over, jnp.argmax(held), which)

    bracket: tuple[jax.Array, ...] = (*ends, jnp.asarray(0), jnp.argmax(how.holds(heights[place])))
    _, root, _, which = jax.lax.stop_gradient(jax.lax.while_loop(wide, halved, bracket))
    none = jnp.asarray(-1)
    if how.flat:
        slope = how.signs[0] * jnp.where(inside, jnp.inf, 0.0)
        return how.found(problem, sought, EventTime(root, happened, slope, none, which), looked), looked, code

    def with_slope(how: _How, problem: Problem, sought: _Sought, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.jvp(lambda t: how.at(problem, sought, t)[which], (t,), (jnp.ones_like(t),))

    if how.method == "exact":
        # Reversed Taylor series: correct to second order in everything that moves the observable at the root.
        value, slope = with_slope(how, problem, sought, root)
        _, bend = jax.jvp(lambda t: with_slope(how, fixed, still, t)[1], (root,), (jnp.ones_like(root),))
    else:
        slope = jax.lax.stop_gradient(with_slope(search, fixed, still, root)[1])
        value, bend = how.at(problem, sought, root)[which], jnp.zeros_like(root)
    safe = jnp.where(slope == 0, 1.0, slope)
    move = jnp.where(inside & (slope != 0), value / safe, 0.0)
    time = root - move - bend / safe * move**2 / 2 - _undetermined(inside & (slope == 0), value)
    steepness = jnp.asarray(how.signs)[which] * jax.lax.stop_gradient(slope)
    return how.found(problem, sought, EventTime(time, happened, steepness, none, which), looked), looked, code


def _update(how: _How, problem: Problem, sought: _Sought, times: np.ndarray) -> tuple[EventTime, jax.Array, jax.Array]:
    every = np.arange(int(times[0]), int(times[-1]) + 1)
    heights, code = how.heights(problem, sought, every)
    place, happened, looked = how.first(jax.lax.stop_gradient(heights))
    inside = happened & (place > 0)
    before, after = heights[jnp.maximum(place - 1, 0)], heights[place]
    update, held = jnp.asarray(every)[place], how.holds(after)
    if how.flat:
        passed, rise = jnp.zeros_like(after), jnp.full_like(after, jnp.inf)
    else:
        rise = jnp.where(inside & held, after - before, 1.0)
        passed = jnp.where(inside & held, after / rise, 0.0)
    which = jnp.argmax(jnp.where(held, jax.lax.stop_gradient(passed), -1.0))  # the one that passed its level first
    slope = jnp.asarray(how.signs)[which] * jnp.where(inside, rise[which], 0.0)
    number = jnp.where(happened, update, -1)
    event = EventTime(update - passed[which], happened, slope, number, which)
    return how.found(problem, sought, event, looked), looked, code
