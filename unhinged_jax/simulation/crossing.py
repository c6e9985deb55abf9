"""The first time at which a condition holds on a flow, found by one integration.

diffrax looks at the condition wherever a step of its solver ends. The first step at whose end it holds is the last one:
there the condition is looked for on the solver's own interpolation. Steps end at the times of the search, too, so that
nothing that holds at one of these is missed, and the search begins at the first of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix
from equinox.internal import nextafter, prevbefore
from jaxtyping import PyTree

from unhinged_jax.dynamics import Flow
from unhinged_jax.simulation.choose import Choice
from unhinged_jax.simulation.endings import code_of
from unhinged_jax.simulation.equation import equation
from unhinged_jax.simulation.large_states import Time
from unhinged_jax.simulation.system import Reader, System

Heights = Callable[[dict[str, Any]], jax.Array]
"""Values of what is observed at one moment -> how far each condition is beyond its level, (events,); it holds above 0,
and NaN is no height."""


class Crossing(NamedTuple):
    """Where a search ends.

    Attributes:
        time: The first time at which a condition holds, else the time at which the run ended.
        happened: Whether a condition holds there.
        heights: How far each condition is beyond its level there, (events,).
        slopes: Their derivatives with respect to time there, (events,).
        known: Whether heights are numbers there, and at the start if the search begins with the run.
        code: Why the run ended; COMPLETED where a condition holds.
    """

    time: jax.Array
    happened: jax.Array
    heights: jax.Array
    slopes: jax.Array
    known: jax.Array
    code: jax.Array


def first_crossing(
    system: System, flow: Flow, times: jax.Array, first: jax.Array, look: Reader, heights: Heights, choice: Choice
) -> Crossing:
    """Integrate until a condition holds.

    Args:
        system, flow, first, look, choice: As for a run that is read at times.
        times: The search is from the first to the last of them, (T,), ascending.
        heights: The conditions.
    """
    asked = equation(system, flow, dataclasses.replace(choice, late=True))
    pack, unpack = asked.packing
    soon = prevbefore(times[0])  # at a break of a schedule a step ends just before it
    begin = pack(asked.begin)

    def beyond(y: PyTree) -> jax.Array:
        return heights(look(*asked.moment(unpack(y)))["values"])

    def crossed(t: Time, y: PyTree, args: PyTree, **_kwargs: Any) -> jax.Array:
        """The largest number, with the sign that says whether a condition holds; the root finder needs no more."""
        largest = jnp.finfo(times.dtype).max
        return jnp.where((t >= soon) & jnp.any(beyond(y) > 0), largest, -largest)

    at_first = beyond(begin)
    held = (first >= soon) & jnp.any(at_first > 0)
    solution = asked.solved(
        first,
        jnp.where(held, first.astype(times.dtype), times[-1]),
        diffrax.ForwardMode(),  # nothing is differentiated, and this loop is the simplest
        diffrax.SaveAt(t1=True),
        diffrax.Event({**asked.endings(), _CROSSED: crossed}, _Halving(), direction=True),
        stops=times,
    )
    y, time = jax.tree.map(lambda leaf: leaf[0], (solution.ys, solution.ts))
    velocity = asked.field(time, y, asked.args)
    at_last, slopes = jax.jvp(beyond, (y,), (velocity,))
    happened = held | solution.event_mask[_CROSSED]
    known = ~jnp.any((first >= soon) & jnp.isnan(at_first) | jnp.isnan(at_last))
    return Crossing(jnp.maximum(time, times[0]), happened, at_last, slopes, known, code_of(solution, flow))


class _Bracket(eqx.Module):
    lower: jax.Array
    upper: jax.Array


_CROSSED = "crossed"


class _Halving(optimistix.AbstractRootFinder):
    """Halves the last step until its ends are neighbouring numbers, and gives the upper one, at which the event holds.

    That of optimistix takes one condition only, and asks for a function that is small at its root. A run that ends for
    another reason ends with its last step.
    """

    rtol: float = 0.0
    atol: float = 0.0
    norm: Callable[[PyTree], jax.Array] = optimistix.max_norm

    def init(
        self, fn: Any, y: jax.Array, args: PyTree, options: dict[str, Any], f_struct: PyTree, aux_struct: PyTree,
        tags: frozenset[object],
    ) -> _Bracket:  # fmt: skip
        return _Bracket(options["lower"], options["upper"])

    def step(
        self, fn: Any, y: jax.Array, args: PyTree, options: dict[str, Any], state: _Bracket, tags: frozenset[object]
    ) -> tuple[jax.Array, _Bracket, Any]:
        middle = state.lower + (state.upper - state.lower) / 2
        values, aux = fn(middle, args)
        value = values[_CROSSED]
        holds = value == jnp.finfo(value.dtype).max  # smaller if the run ends for another reason
        lower, upper = jnp.where(holds, state.lower, middle), jnp.where(holds, middle, state.upper)
        return upper, _Bracket(lower, upper), aux

    def terminate(
        self, fn: Any, y: jax.Array, args: PyTree, options: dict[str, Any], state: _Bracket, tags: frozenset[object]
    ) -> tuple[jax.Array, Any]:
        close = state.upper <= nextafter(nextafter(state.lower))
        return close, optimistix.RESULTS.successful

    # Overrides the method of optimistix, with the same arguments.
    def postprocess(
        self, fn: Any, y: jax.Array, aux: Any, args: PyTree, options: dict[str, Any], state: _Bracket,
        tags: frozenset[object], result: Any,
    ) -> tuple[jax.Array, Any, dict[str, Any]]:  # fmt: skip
        return state.upper, aux, {}
