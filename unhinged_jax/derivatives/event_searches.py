"""Searches for events: phi(t*, theta) = level, with dt*/dtheta = -(dphi/dtheta) / (dphi/dt).

The first of several events is found in the same way: it is the first time at which any of them holds.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike

from unhinged_jax._request.compiling import compiled
from unhinged_jax._values import Value
from unhinged_jax.closed_form.run import exact
from unhinged_jax.derivatives.parameters import Problem
from unhinged_jax.derivatives.wanted_events import SMOOTH, one_number
from unhinged_jax.simulation import crossing, simulate
from unhinged_jax.trajectory import RunResult


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
        >>> import jax, unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(3, 2), 4)
        >>> state = model.init(jax.random.key(0))
        >>> when = uj.event_time(model, uj.Descent(0.5), state, "norm", 100.0, times=[0, 100])
        >>> int(when.updates) - 1 < float(when.time) <= int(when.updates)
        True
    """

    time: Any
    happened: Any
    slope: Any
    updates: Any
    which: Any = 0


Answer = tuple[EventTime, jax.Array, jax.Array]
"""The event, whether it is known that it happens or does not, and the `RunResult` of the run, as a number."""


class Sought(NamedTuple):
    """The rest of a search: functions of one's own, or None, and levels, one per event."""

    functions: tuple[Any, ...]
    levels: tuple[jax.Array, ...]

    def fixed(self) -> Sought:
        """The same without derivatives."""
        return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf, self)


@dataclasses.dataclass(frozen=True)
class How:
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

    def observe(self, sought: Sought) -> dict[str, Any]:
        """What a run observes."""
        return dict(zip(self.names, sought.functions, strict=True))

    def beyond(self, found: Mapping[str, Any], sought: Sought, times: int) -> jax.Array:
        """How far each event is beyond its level, (T, events), from the values of what is observed."""
        beyond = []
        for name, sign, level in zip(self.names, self.signs, sought.levels, strict=True):
            values = one_number(name, found[name], times)
            beyond.append(sign * (values - jnp.asarray(level, values.dtype)))
        return jnp.stack(beyond, axis=1)

    def heights(self, problem: Problem, sought: Sought, at: npt.ArrayLike) -> tuple[jax.Array, jax.Array]:
        """How far each event is beyond its level at some times, (T, events), NaN where not reached; the run's code."""
        settings: dict[str, Any] = {"target": self.target, "precision": self.precision}
        if self.method == "simulate":
            settings["adjoint"] = self.adjoint
        run: Any = exact if self.method == "exact" else simulate
        found = run(*problem, at, self.observe(sought), **settings)
        beyond, reached = self.beyond(found, sought, np.shape(at)[0]), jnp.asarray(found.reached)[:, None]
        return jnp.where(reached, beyond, jnp.nan), jnp.asarray(found.code)

    def at(self, problem: Problem, sought: Sought, t: jax.Array) -> jax.Array:
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

    def steepness(self, inside: jax.Array, which: jax.Array) -> jax.Array:
        """What the slope of the height is multiplied by for that of the observable; at a jump, the slope itself."""
        sign = jnp.asarray(self.signs)[which]
        return sign * jnp.where(inside, jnp.inf, 0.0) if self.flat else sign

    def found(self, problem: Problem, sought: Sought, event: EventTime, looked: jax.Array) -> EventTime:
        """The event, with a time, slope and place that are meaningful if it happened."""
        happened = event.happened
        time = jnp.where(happened, event.time, jnp.where(looked, jnp.inf, jnp.nan))
        if self.flat:
            time = _held(self.names[0], time, [x for x in jax.tree.leaves((problem, sought.levels)) if _moves(x)])
        slope, which = (jnp.where(happened, number, 0) for number in (event.slope, event.which))
        return dataclasses.replace(event, time=time, slope=slope, which=which)


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


@compiled()
def by_formula(how: How, problem: Problem, sought: Sought, times: jax.Array) -> Answer:
    """The event of an exact flow: bracketed on the times and bisected, then a step that carries the derivatives."""
    # The search itself is not differentiated; the slope with respect to time is, in forward mode.
    fixed, still = jax.lax.stop_gradient(problem), sought.fixed()
    heights, code = how.heights(fixed, still, times)
    place, happened, looked = how.first(heights)
    inside = happened & (place > 0)
    eps = float(jnp.finfo(times.dtype).eps)

    def wide(ends: tuple[jax.Array, ...]) -> jax.Array:
        low, high, count, _ = ends
        return inside & (high - low > 2 * eps * high) & (count < math.ceil(-math.log2(eps)) + 4)

    def halved(ends: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        low, high, count, which = ends
        middle = low + (high - low) / 2
        held = how.holds(how.at(fixed, still, middle))
        over = jnp.any(held)
        ends = jnp.where(over, low, middle), jnp.where(over, middle, high)
        return *ends, count + 1, jnp.where(over, jnp.argmax(held), which)

    begin: tuple[jax.Array, ...] = (times[jnp.maximum(place - 1, 0)], times[place])
    begin = jax.lax.stop_gradient((*begin, jnp.asarray(0), jnp.argmax(how.holds(heights[place]))))
    _, root, _, which = jax.lax.stop_gradient(jax.lax.while_loop(wide, halved, begin))
    event = EventTime(root, happened, how.steepness(inside, which), jnp.asarray(-1), which)
    if how.flat:
        return how.found(problem, sought, event, looked), looked, code

    def with_slope(problem: Problem, sought: Sought, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.jvp(lambda t: how.at(problem, sought, t)[which], (t,), (jnp.ones_like(t),))

    # Reversed Taylor series: correct to second order in everything that moves the observable at the root.
    value, slope = with_slope(problem, sought, root)
    _, bend = jax.jvp(lambda t: with_slope(fixed, still, t)[1], (root,), (jnp.ones_like(root),))
    return how.found(problem, sought, _corrected(event, inside, value, slope, bend), looked), looked, code


@compiled()
def by_simulation(how: How, problem: Problem, sought: Sought, times: jax.Array) -> Answer:
    """The event of a simulated flow: found by one integration, then a step that carries the derivatives.

    That step takes the value from a run that ends at the time found, which is as accurate as any other run; the time
    itself comes from the interpolation of a step.
    """
    fixed, still = jax.lax.stop_gradient(problem), sought.fixed()

    def heights(values: dict[str, Any]) -> jax.Array:
        beyond = how.beyond(jax.tree.map(lambda value: value[None], values), still, 1)[0]
        return jnp.where(beyond >= 0, 1.0, jnp.where(beyond < 0, -1.0, beyond)) if how.flat else beyond

    at: Any = crossing(*fixed, times, how.observe(still), heights, target=how.target, precision=how.precision)
    at = jax.lax.stop_gradient(at)
    looked = at.happened | (at.known & (at.code == RunResult.COMPLETED))
    inside, which = at.happened & (at.time > times[0]), jnp.argmax(at.heights > 0)
    event = EventTime(at.time, at.happened, how.steepness(inside, which), jnp.asarray(-1), which)
    if not how.flat:
        event = _corrected(event, inside, how.at(problem, sought, at.time)[which], at.slopes[which])
    return how.found(problem, sought, event, looked), looked, at.code


def _corrected(
    event: EventTime, inside: jax.Array, value: jax.Array, slope: jax.Array, bend: jax.Array | float = 0.0
) -> EventTime:
    """The event with its time moved to the root of the parabola with this height, slope and second derivative there.

    The derivatives of the time with respect to the problem are those of the root, which the height carries.
    """
    safe = jnp.where(slope == 0, 1.0, slope)
    move = jnp.where(inside & (slope != 0), value / safe, 0.0)
    time = event.time - move - bend / safe * move**2 / 2 - _undetermined(inside & (slope == 0), value)
    return dataclasses.replace(event, time=time, slope=event.slope * jax.lax.stop_gradient(slope))


def by_updates(how: How, problem: Problem, sought: Sought, times: np.ndarray) -> Answer:
    """The event of a descent: looked for at every update, and interpolated linearly."""
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
