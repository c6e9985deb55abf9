"""When something happens in a run: the first time at which an observable lies beyond a level."""

from __future__ import annotations

from collections.abc import Sequence

import diffrax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike

from unhinged_jax import _check, _request
from unhinged_jax.closed_form.existence import NoClosedForm, why_no_closed_form
from unhinged_jax.derivatives.event_searches import EventTime, How, Sought, by_formula, by_simulation, by_updates
from unhinged_jax.derivatives.wanted_events import OneEvent, wanted
from unhinged_jax.dynamics import Descent, Dynamics
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.simulation import check_adjoint, modes_explained, scale_must_fit
from unhinged_jax.trajectory import RunResult, Trajectory


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
        >>> import jax, unhinged_jax as uj
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
    how = How(method, asked.names, asked.signs, task.target, task.precision, adjoint)
    with task.context():
        # The level as well, because a plain number would be compiled in.
        problem = _request.traceable((model, dynamics, task.resumed(task.state)))
        sought = Sought(asked.functions, tuple(map(jnp.asarray, asked.levels)))
        with modes_explained():
            if isinstance(dynamics, Descent):
                found, looked, code = by_updates(how, problem, sought, np.asarray(task.times))
            else:
                search = by_formula if method == "exact" else by_simulation
                found, looked, code = search(how, problem, sought, jnp.asarray(task.times))
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
