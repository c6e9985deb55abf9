"""`limit`: the checked request, the winner of each kind of problem, and the state at which a finite run stops."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax import _check, _request
from unhinged_jax.closed_form import exact
from unhinged_jax.closed_form.balance import form_of
from unhinged_jax.closed_form.carriers import grouped
from unhinged_jax.closed_form.existence import NoClosedForm, why_no_closed_form
from unhinged_jax.dynamics import (
    Descent,
    Dynamics,
    Flow,
    Lookahead,
    MovingAverage,
    ScheduleFree,
    without_idle,
)
from unhinged_jax.limits.averaged import averaged, averages
from unhinged_jax.limits.deep import deep, whole_direction
from unhinged_jax.limits.deep_squared import deep_squared
from unhinged_jax.limits.linear import coupled, direction_of, driven
from unhinged_jax.limits.noise import noise
from unhinged_jax.limits.optimized import optimized, rate_now
from unhinged_jax.limits.paced import paced
from unhinged_jax.limits.result import STOPS, Limit
from unhinged_jax.limits.spherical import spherical
from unhinged_jax.limits.squared_error import squared
from unhinged_jax.model import LayerPeeled, State, must_fit, trained
from unhinged_jax.schedules.total import remaining
from unhinged_jax.trajectory import Trajectory

__all__ = ["limit"]


def limit(
    model: LayerPeeled,
    dynamics: Dynamics,
    state: State | Trajectory,
    *,
    target: str = "top",
    precision: str | None = None,
) -> Limit:
    """Direction, rate, growth exponent and threshold of a run from `state`.

    Of a descent that draws batches or labels, these are those of the mean. The fields `second_moment_growth`,
    `mean_growth`, `critical_batch` and `critical_rate` say when noise alone makes runs grow. They are the largest
    eigenvalues of a symmetric map, found on any device. If all classes are alike it is a map of seven numbers, which
    costs milliseconds; otherwise it is applied some hundred times to matrices of classes, which takes below a second
    for 30 classes and several for 100. Momentum, other optimisers, epochs and kernels have no such limit.

    For a deep model from a balanced spectral start, and a flow, it says whether and when the norm becomes infinite.

    For squared error from a balanced start also which singular values of the logits survive, see `Survivors`; its
    direction is known up to a rotation of the feature space.

    An optimiser with a decoupled decay, such as AdamW, goes to where the decay stops it; one without it goes on along a
    line, with `rate` 0. So does spectral descent of both parts from an aligned start.

    A run whose gradients are clipped or normalised follows the path of a plain one: if that grows, its norm does by
    `speed` at each update, and its direction error falls like a power. With a memory of a descent the largest root of a
    polynomial decides, in place of 1 + eta mu; an average falls no faster than it forgets, which `rate` and `exponent`
    take into account. `note` says in words what ends in another way.

    Args:
        model, dynamics, state: as in `exact`. If `state` is a `Trajectory`, the limit is that of the run that continues
            it. A descent is taken to make equal updates forever, as large as the next one.
        target: "top" (default): the modes that win; "contrast" or "mean": this subspace of balanced labels.
        precision: "float32" or "float64"; default: that of the state.

    Returns:
        A `Limit`.

    Raises:
        NoClosedForm: if `exact` has no closed form; for rates that are not proportional; for a kernel between feature
            coordinates; for `sam_radius`; for momentum beside a memory, and a memory whose numbers leave no
            exponential; and for a trajectory that carries a velocity or a memory.
        ValueError: for a state of another shape, a fixed part whose scale does not fit, or an unknown target.

    Source: Zhou et al. 2023, Corollaries 3 and 5, Theorems 6 and 7; any signal, decays, rates, descent: beyond the
    paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(classes=4, per_class=4), dim=8)
        >>> found = uj.limit(model, uj.Flow(), model.init(jax.random.key(0)))
        >>> found.side, round(float(found.rate), 4)
        ('grows', 0.1667)
    """
    drawn = dynamics if isinstance(dynamics, Descent) and dynamics.stochastic else None
    single = state.final if isinstance(state, Trajectory) else state
    dynamics = without_idle(dynamics)
    why = why_no_closed_form(model, dynamics, expectations=True, state=single)
    if why is None and dynamics.sam_radius is not None:
        why = (
            "whether a sharpness-aware run grows or dies depends on the size of its start; ask `exact`, or for the "
            "limit without sam_radius, which is that of a run that grows."
        )
    if why is None and dynamics.memory is not None:
        why = _why_not_remembered(dynamics, target)
    if why is None and not dynamics.proportional:
        why = "the rates of H and W are not proportional, so no direction stays the same."
    if why is None and model.moves.b and callable(dynamics.rate_b):
        why = "`rate_b` is a function; the limit takes a number."
    if why is None and model.depth > 2 and not isinstance(dynamics, Flow):
        why = "what a descent leaves of a mode of a deep model follows from all its updates; give a Flow."
    if why is None and model.kernel is not None and model.kernel.kind == "coordinates":
        why = "the limit is not implemented for a kernel between feature coordinates."
    if why:
        raise NoClosedForm(f"there is no limit in closed form: {why}")
    if drawn is not None:
        dynamics = dataclasses.replace(drawn, batch=None, fresh_labels=False)
    begin: Any = [0]
    if isinstance(state, Trajectory):
        if state.carries:
            raise NoClosedForm(
                "there is no limit in closed form: the trajectory carries a velocity, or the memory of an optimiser; "
                "give its `final` for the limit of a run that starts there at rest."
            )
        if (ended := _check.known(state.elapsed)) is not None:
            begin = np.atleast_1d(np.max(ended))
    task = _request.prepare(model, dynamics, state, begin, (), target=target, precision=precision, caller="limit")
    if model.spherical or not (model.moves.coupled and model.loss.linear):
        must_fit(task.state, task.precision)  # the part that stays is a part of the limit
    with task.context():
        alone, begin = trained(model, task.state)
        membership = None if drawn is None else grouped(alone)  # while the labels are known
        model, alone, dynamics, drawn = _request.traceable((model, alone, dynamics, drawn))
        if isinstance(dynamics, Descent):  # the asymptotics are those of equal steps, as large as the next one
            dynamics = dataclasses.replace(dynamics, schedule=dynamics.schedule(task.first))
            left = jnp.where(rate_now(dynamics) > 0, jnp.inf, 0.0)
        else:
            left = jnp.asarray(remaining(dynamics.schedule, task.first))
        found = _solver(model, dynamics, single, task.precision)(model, dynamics, task.state, task.target)
        if not (_check.concrete(left) and np.isposinf(left)):
            found = _stopped(found, model, dynamics, task, left)
        if drawn is not None and membership is not None:
            drawn = dataclasses.replace(drawn, schedule=dynamics.schedule)
            found = dataclasses.replace(found, **noise(alone, drawn, begin, membership)._asdict())
        found = jax.tree.map(lambda leaf: jnp.asarray(leaf, task.state.W.dtype), found)
        return task.give_back(found)


def _why_not_remembered(dynamics: Dynamics, target: str) -> str | None:
    """Why a run with a memory has no limit here, in words, or None."""
    if isinstance(dynamics, Descent) and dynamics.momentum is not None:
        return "it is known for a memory without momentum; leave out one of them."
    memory = dynamics.memory
    for kind, name, value in ((Lookahead, "share", 0), (MovingAverage, "keep", 1), (ScheduleFree, "beta", 1)):
        number: Any = getattr(memory, name, None)
        if isinstance(memory, kind) and _check.concrete(number) and float(number) == value:
            return f"with {name} = {value} a {kind.__name__} follows no exponential; give another number."
    if averages(dynamics) and target != "top":
        return f"an average consists of all modes, so it has none for target={target!r}; leave `target` out."
    return None


def _solver(model: LayerPeeled, dynamics: Dynamics, state: State, precision: str) -> Callable[..., Limit]:
    """The function that finds the limit of this kind of problem."""
    if model.depth > 2:
        known = _check.concrete((model, dynamics, state))
        solve = deep if model.loss.linear else deep_squared
        return lambda model, dynamics, state, target: solve(model, dynamics, state, known)
    if not model.loss.linear:
        assert isinstance(dynamics, Flow)
        form = form_of(model, dynamics, state)
        return lambda model, dynamics, state, target: squared(model, dynamics, state, form)
    if isinstance(dynamics, Descent) and dynamics.optimizer is not None:
        return optimized
    if not model.spherical:
        plain = coupled if model.moves.coupled else driven
        if averages(dynamics):
            return functools.partial(averaged, solve=plain, precision=precision)
        return functools.partial(paced, solve=plain) if dynamics.paced else plain
    lengthen = False  # whether this is a descent whose decay alone makes features longer
    if isinstance(dynamics, Descent) and _check.concrete((model, dynamics)):
        lengthen = float(dynamics.schedule(0) * dynamics.rate_H * model.decay_H) > 2
    return functools.partial(spherical, rests=model.exponent is not None or lengthen)


def _stopped(found: Limit, model: LayerPeeled, dynamics: Dynamics, task: _request.Task, left: jax.Array) -> Limit:
    """The limit, or, if only a finite zeta is `left`, the state of the run when that has passed."""
    ends = left < (jnp.inf if found.blow_up is None else found.blow_up)
    if isinstance(dynamics, Flow):
        unit = dataclasses.replace(dynamics, schedule=1.0)
        last = exact(model, unit, task.state, jnp.where(ends, left, 0.0)[None], (), precision=task.precision).final
    else:
        last = task.state
    direction = direction_of(model, last) if last.inner is None else whole_direction(last)
    names = ("rate", "rate_H", "rate_W", "exponent", *(() if found.speed is None else ("speed", "power")))
    rates = {name: jnp.where(ends, 0.0, getattr(found, name)) for name in names}
    return dataclasses.replace(
        found,
        direction=jax.tree.map(lambda here, there: jnp.where(ends, here, there), direction, found.direction),
        angle=jnp.where(ends, 0.0, found.angle),
        ending=jnp.where(ends, STOPS, found.ending),
        **rates,
    )
