"""Events as they are asked for: by name, as a level of an observable, as a function, or several of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.typing import ArrayLike

from unhinged_jax import _check
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.observables import OBSERVABLES, Observe

OneEvent = str | Callable[[LayerPeeled, State], Any]
"""The name of an event or of an observable, or a function (model, state) -> one number."""

EVENTS: dict[str, tuple[str, float, str]] = {
    "accuracy is 1": ("accuracy_margin", 0.0, "above"),
}
"""Events with a name: observable, level, direction."""

SMOOTH = {
    "accuracy": "the event 'accuracy is 1', or a level of accuracy_margin or margin_mean",
    "loss_sign": "the loss at level 0",
    "nc4": "a metric that changes smoothly, such as nc1",
}
"""Observables that are piecewise constant in time, and what to use instead of them."""


class Wanted(NamedTuple):
    """The events of a search, of which the first one counts; all entries are tuples with one entry per event.

    Attributes:
        names: What each of them observes.
        functions: The function of an event of one's own, None for a built-in observable.
        levels: The levels.
        signs: 1 for above, -1 for below.
    """

    names: tuple[str, ...]
    functions: tuple[Any, ...]
    levels: tuple[Any, ...]
    signs: tuple[float, ...]

    @property
    def observe(self) -> Observe:
        """What a run observes."""
        return dict(zip(self.names, self.functions, strict=True))


def wanted(event: OneEvent | Sequence[OneEvent], level: Any, direction: Any) -> Wanted:
    """The events that are asked for; raise ValueError for what cannot be searched."""
    several = isinstance(event, (list, tuple))
    events = list(event) if isinstance(event, (list, tuple)) else [event]
    if not events:
        raise ValueError("event must name at least one event, but the list is empty.")
    levels = _each("level", level, len(events), None) if several else [level]
    directions = _each("direction", direction, len(events), str) if several else [direction]
    asked = [_one(*each, place) for place, each in enumerate(zip(events, levels, directions, strict=True))]
    found = Wanted(*(tuple(entries) for entries in zip(*asked, strict=True)))
    flat = [name for name in found.names if name in SMOOTH]
    if several and flat:
        raise ValueError(
            f"{flat[0]} is piecewise constant and cannot be searched beside other events; ask for {SMOOTH[flat[0]]}."
        )
    if len(set(found.names)) < len(found.names):
        raise ValueError("each observable may be searched for one level only; ask again for another level.")
    return found


def _each(name: str, given: object, count: int, alone: type | None) -> list[Any]:
    """One entry per event, from a list, or from one entry of type `alone` that holds for all."""
    if given is None or (alone is not None and isinstance(given, alone)):
        return [given] * count
    if not isinstance(given, (list, tuple)) or len(given) != count:
        raise ValueError(f"{name} must hold one entry for each of the {count} events, but got {_check.given(given)}.")
    return list(given)


def _one(event: object, level: ArrayLike | None, direction: str, place: int) -> tuple[str, Any, Any, float]:
    function = None
    if isinstance(event, str):
        name = str(event)
        if name in EVENTS:
            if level is not None:
                raise ValueError(f"the event {name!r} has its level; leave `level` out, or give None.")
            name, level, direction = EVENTS[name]
        if name not in OBSERVABLES:
            known = [*EVENTS, *OBSERVABLES]
            raise ValueError(
                f"unknown event {name!r}{_check.nearest(name, known) or ';'} there are {', '.join(known)}."
            )
    else:
        if not callable(event):
            raise ValueError(
                f"event must be {' or '.join(map(repr, EVENTS))}, the name of an observable, a function (model, state) "
                f"-> one number, or a list of these, but got {_check.given(event)}."
            )
        name, function = f"your event {place}" if place else "your event", event
        _check.takes(name, function, ("model", "state"))
    if level is None:
        raise ValueError(f"give the level that {name!r} is to cross.")
    _check.finite("level", level)
    _check.shape("level", level, (), "one number; map over a batch of levels with jax.vmap")
    sign = 1.0 if _check.choice("direction", direction, ("above", "below")) == "above" else -1.0
    return name, function, level, sign


def one_number(name: str, values: jax.Array, times: int) -> jax.Array:
    """Values at some times, (T,); raise unless an event of one's own is one number."""
    if getattr(values, "shape", None) != (times,):
        raise ValueError(f"the function of {name} must return one number, but returned {_check.given(values)[:80]}.")
    return values
