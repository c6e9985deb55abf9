"""When something happens in a run: event times as roots, with derivatives by the implicit function theorem."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix

from unhinged_jax import _check, _entry
from unhinged_jax.dynamics import Descent, Dynamics
from unhinged_jax.exact.run import exact
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.simulate import simulate


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EventTime:
    """When an observable first crosses a level.

    Attributes:
        time: The time; for a descent a number of updates, between two of them by linear interpolation. Infinite if the
            event does not happen within the times searched. Differentiable; twice for an exact flow.
        happened: Whether it happens; an event that holds from the first time on happens then.
        slope: d observable / dt there (per update for a descent): small where the time is ill-determined.
        updates: For a descent the first update after which the event holds; -1 for a flow, or if it does not happen.

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


def event_time(
    model: LayerPeeled,
    dynamics: Dynamics,
    state: State,
    event: str,
    level: Any = None,
    *,
    times: Any,
    direction: str = "above",
    method: str = "exact",
    target: str = "top",
    precision: str | None = None,
    adjoint: Any = None,
) -> EventTime:
    """The first time at which an observable lies above (or below) a level, differentiable in everything.

    t* solves y(t*; theta) = level. By the implicit function theorem dt*/dtheta = -(dy/dtheta) / (dy/dt) there.

    Args:
        model, dynamics, state, target, precision: as in `exact`.
        event: "accuracy is 1" (the accuracy margin rises above 0), or the name of an observable.
        level: The level; may be traced. Not for a named event.
        times: Times between which the first crossing is bracketed, ascending, such as `logspaced(1, 1000, 200)`; two
            crossings between neighbours go unseen. For a descent whole numbers; the update is looked for among all of
            them from the first to the last, so that nothing goes unseen.
        direction: "above" (default) or "below".
        method: "exact" (default) or "simulate".
        adjoint: Of a simulated flow, as in `simulate`; `diffrax.ForwardMode()` for `jax.jvp`.

    Returns:
        An `EventTime`. Works under `jit`, `vmap` and `grad`.

    Raises:
        ValueError: for an unknown event, or a level where none belongs or is missing.
        NoClosedForm: for method "exact" where there is none.

    Source: beyond the paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(3, 2), 4)
        >>> when = event_time(model, uj.Flow(), model.init(jax.random.key(0)), "norm", 100.0, times=[0.0, 50.0])
        >>> 5 < float(when.time) < 20
        True
    """
    if event in EVENTS:
        if level is not None:
            raise ValueError(f"the event {event!r} has its level; leave `level` out.")
        event, level, direction = EVENTS[event]
    if level is None:
        raise ValueError(f"give the level that {event!r} is to cross.")
    _check.shape("level", level, (), "one number; map over a batch of levels with jax.vmap")
    _check.choice("direction", direction, ("above", "below"))
    _check.choice("method", method, ("exact", "simulate"))
    task = _entry.prepare(model, dynamics, state, times, event, target, precision, "event_time")
    sign = 1.0 if direction == "above" else -1.0
    how = _How(method, event, sign, target, task.precision, adjoint)
    with task.context():
        problem = _entry.traceable((model, dynamics, task.state))
        if isinstance(dynamics, Descent):
            return task.give_back(_update(how, problem, level, np.asarray(task.times)))
        return task.give_back(_moment(how, problem, level, jnp.asarray(task.times)))


@dataclasses.dataclass(frozen=True)
class _How:
    """What is static in a search."""

    method: str
    event: str
    sign: float
    target: str
    precision: str
    adjoint: Any

    def height(self, problem: Any, level: Any, at: Any) -> jax.Array:
        """How far the observable is beyond the level at some times."""
        settings: dict[str, Any] = {"observe": self.event, "target": self.target, "precision": self.precision}
        if self.method == "simulate":
            settings["adjoint"] = self.adjoint
        run: Any = exact if self.method == "exact" else simulate
        values = run(*problem, at, **settings)[self.event]
        return self.sign * (values - jnp.asarray(level, values.dtype))

    def at(self, problem: Any, level: Any, t: jax.Array) -> jax.Array:
        """The same at one time."""
        return self.height(problem, level, t[None])[0]


def _first(heights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Index of the first height of at least 0, and whether there is one."""
    over = heights >= 0
    return jnp.argmax(over), jnp.any(over)


@eqx.filter_jit
def _moment(how: _How, problem: Any, level: Any, times: jax.Array) -> EventTime:
    """Bracket on the grid, bisect, then a step that carries the derivatives."""
    # The search itself is not differentiated; the slope in time is, forwards.
    search = dataclasses.replace(how, adjoint=None if how.method == "exact" else diffrax.ForwardMode())
    fixed, still = jax.lax.stop_gradient(problem), jax.lax.stop_gradient(level)
    place, happened = _first(search.height(fixed, still, times))
    inside = happened & (place > 0)
    low, high = times[jnp.maximum(place - 1, 0)], times[place]
    eps = float(jnp.finfo(times.dtype).eps)
    bisection: Any = optimistix.Bisection
    found: Any = optimistix.root_find(
        lambda t, args: jnp.where(inside, search.at(args[0], args[1], t), t - (low + high) / 2),
        bisection(rtol=4 * eps, atol=0.0, flip=False),
        (low + high) / 2,
        (fixed, still),
        options={"lower": low, "upper": jnp.where(inside, high, low + 1.0)},
        max_steps=math.ceil(-math.log2(eps)) + 4,
        throw=False,
    )
    root = jax.lax.stop_gradient(jnp.where(inside, found.value, high))

    def with_slope(how: _How, problem: Any, level: Any, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.jvp(lambda t: how.at(problem, level, t), (t,), (jnp.ones_like(t),))

    if how.method == "exact":
        # Reversed Taylor series: right to second order in whatever moves the observable at the root.
        value, slope = with_slope(how, problem, level, root)
        _, bend = jax.jvp(lambda t: with_slope(how, fixed, still, t)[1], (root,), (jnp.ones_like(root),))
    else:
        slope = jax.lax.stop_gradient(with_slope(search, fixed, still, root)[1])
        value, bend = how.at(problem, level, root), jnp.zeros_like(root)
    safe = jnp.where(slope == 0, 1.0, slope)
    move = jnp.where(inside, value / safe, 0.0)
    time = root - move - bend / safe * move**2 / 2
    steepness = how.sign * jax.lax.stop_gradient(slope)
    return EventTime(jnp.where(happened, time, jnp.inf), happened, steepness, jnp.asarray(-1))


def _update(how: _How, problem: Any, level: Any, times: np.ndarray) -> EventTime:
    every = np.arange(int(times[0]), int(times[-1]) + 1)
    heights = how.height(problem, level, every)
    place, happened = _first(jax.lax.stop_gradient(heights))
    inside = happened & (place > 0)
    before, after = heights[jnp.maximum(place - 1, 0)], heights[place]
    rise = jnp.where(inside, after - before, 1.0)
    fraction = jnp.where(inside, after / rise, 0.0)
    update = jnp.asarray(every)[place]
    time = jnp.where(happened, update - fraction, jnp.inf)
    return EventTime(time, happened, how.sign * jnp.where(inside, rise, 0.0), jnp.where(happened, update, -1))
