"""`simulate`: choose the form of the problem, run it, and return a trajectory."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike

from unhinged_jax import _check, _loop, _request
from unhinged_jax._request.compiling import compiled
from unhinged_jax.dynamics import Descent, Dynamics, Flow
from unhinged_jax.linear.leading_part import leading_parts
from unhinged_jax.linear.row_space import row_space
from unhinged_jax.model import LayerPeeled, State, multiplied, must_fit, settled
from unhinged_jax.observables import ObservablePlan, Observe
from unhinged_jax.simulation import descent as _descent
from unhinged_jax.simulation import flow as _flow
from unhinged_jax.simulation.choose import Choice, choose, form_of
from unhinged_jax.simulation.columns import ColumnSystem, column_system, start_power
from unhinged_jax.simulation.dense import DenseSystem
from unhinged_jax.simulation.linear import LinearSystem, linear_system
from unhinged_jax.simulation.logits import LogitSystem
from unhinged_jax.simulation.spherical import plane_system
from unhinged_jax.simulation.system import Reader, System, reader
from unhinged_jax.special import faint, largest
from unhinged_jax.trajectory import Remark, Trajectory


def simulate(
    model: LayerPeeled,
    dynamics: Dynamics,
    state: State | Trajectory,
    times: npt.ArrayLike,
    observe: Observe = None,
    *,
    states: bool = False,
    target: str = "top",
    precision: str | None = None,
    reduce: bool = True,
    adjoint: diffrax.AbstractAdjoint | None = None,
) -> Trajectory:
    """Run gradient flow (diffrax) or gradient descent (optax updates in a compiled loop).

    Args:
        model: The problem.
        dynamics: `Flow` or `Descent`.
        state: The initial state, or a `Trajectory` to continue, or a batch of them, each of which is continued.
        times: Strictly ascending, (T,). For a `Flow` they are times t; for a `Descent` they are numbers of updates,
            which are whole numbers. A run starts at 0 unless it continues a `Trajectory`.
        observe: Names of observables, a ready-made set, or a mapping name -> function (model, state) -> array (or None
            for a built-in name); default `paper_observables`. Whatever a function reads from a global or an attribute
            keeps the value of its first run. For numbers that change, give a registered dataclass with these numbers as
            fields, as for a loss or a schedule.
        states: Whether to keep the states at `times` too, T (n + C) p numbers; default False.
        target: The limit that distances refer to: "top" (default), the modes that win; "contrast" or "mean", for
            balanced labels, that subspace whether it wins or not.
        precision: "float32" or "float64"; default: the precision of the state.
        reduce: Whether to use class sums, planes and rescaling where they apply (default True). False runs the plain
            dense update, which measures no distance to the limit except on the sphere, and in which rounding grows in
            modes that the start does not contain.
        adjoint: The diffrax adjoint with which a `Flow` is differentiated. `diffrax.RecursiveCheckpointAdjoint()`
            (default) is for reverse mode, `diffrax.ForwardMode()` for forward mode, and `diffrax.DirectAdjoint()` for
            both, in memory that grows with `max_steps`. `diffrax.BacksolveAdjoint()` is approximate and ignores
            `steady`. A `Descent` takes no adjoint, because both modes work.

    Returns:
        A `Trajectory`. If the run stops early, it holds what was reached and NaN elsewhere, and `result` says why.

    Raises:
        ValueError: for shapes, ranges or combinations that are not allowed; and if the adjoint of a flow does not
            support the mode of differentiation, with a message that names an adjoint that does.

    Source: Zhou et al. 2023, Eq. 4-6, 12, 18-19.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(classes=3, per_class=2), dim=4)
        >>> state = model.init(jax.random.key(0))
        >>> run = uj.simulate(model, uj.Descent(0.1), state, [0, 10, 20], observe="norm")
        >>> bool(run["norm"][2] > run["norm"][0])
        True
    """
    if isinstance(state, Trajectory) and state.batch:
        settings: dict[str, Any] = {
            "states": states,
            "target": target,
            "precision": precision,
            "reduce": reduce,
            "adjoint": adjoint,
        }
        return _request.each_member(
            state, dynamics, times, precision, lambda one: simulate(model, dynamics, one, times, observe, **settings)
        )
    states = _check.flag("states", states)
    task = _request.prepare(
        model, dynamics, state, times, observe, target=target, precision=precision, caller="simulate", reduce=reduce
    )
    task.refuse_large(states)
    reduce = bool(reduce)
    check_adjoint(adjoint, dynamics)
    scale_must_fit(model, dynamics, task.state, reduce)
    with task.context():
        model, dynamics = _request.traceable((model, dynamics))
        memory = task.memory
        choice = choose(
            model, dynamics, task.plan, len(task.times), task.state, states=states, reduce=reduce, adjoint=adjoint,
            memory=memory, goes_on=task.first_start is not None,
        )  # fmt: skip
        if isinstance(memory, dict) and choice.form in ("linear", "sphere"):
            memory = {**memory, "H": _kept(model, task.state, memory["H"])}
        first = jnp.asarray(task.first)
        job = _Job(model, dynamics, task.state, first, memory, task.plan, states, task.target, task.first_start, choice)
        if isinstance(dynamics, Descent):
            given = job, task.clock(), _loop.reads_at(task.times, task.first)
            # Few runs leave the floating-point range. Outside a trace, only these are run again to find exactly where.
            run = _descend(*given, to_the_last=not _check.concrete(given))
            if not _check.concrete(run.code) or int(run.code) == _descent.CUT_SHORT:
                run = _descend(*given, to_the_last=True)
        else:
            if adjoint is None and _check.untransformed():
                adjoint = diffrax.ForwardMode()  # nothing is differentiated, and this loop is the simplest
            with modes_explained():
                run = _integrate(job, jnp.asarray(task.times), adjoint)
        return task.finish(dataclasses.replace(run, form=Remark(choice)))


class _Job(NamedTuple):
    """One simulation: the problem, its start, what is read, and how it is simulated.

    Attributes:
        model, dynamics, state, plan, states, target: As given to `simulate`, checked; `plan` holds the observables.
        first: The time, or the number of updates, at the start, ().
        memory: What the run begins with in addition to the state, or None.
        first_start: The start of the first run in a chain of runs, if distances refer to it, else None.
        choice: How the problem is simulated.
    """

    model: LayerPeeled
    dynamics: Any
    state: State
    first: jax.Array
    memory: Any
    plan: ObservablePlan
    states: bool
    target: str
    first_start: State | None
    choice: Choice


def _kept(model: LayerPeeled, state: State, velocity: ArrayLike) -> Any:
    """The velocity of H, (n, p), after a check that a reduced run keeps all of it.

    A run with class sums keeps the velocity of the class sums, and of the remaining velocity only the part parallel to
    the residual of H. A run in planes keeps the part in the plane of target and feature. If a part would be lost, for
    example because the labels or prototypes have changed, the velocity is refused; in a trace, which cannot raise an
    error about numbers, it becomes NaN.
    """
    space = row_space(model, state.W.dtype)
    if not (model.spherical or space.summed):
        return velocity
    H, V = state.H, jnp.asarray(velocity)
    if model.spherical:
        sides = space.signal.times(state.W), H
        basis = jnp.stack([part / jnp.maximum(largest(part), faint(part.dtype)) for part in sides], axis=2)  # (n, p, 2)
        lost = V - (basis @ (jnp.linalg.pinv(basis) @ V[:, :, None]))[:, :, 0]
    else:
        (_, along, _), (_, aside, factor) = space.project(H), space.project(V)
        assert along is not None and aside is not None
        square = jnp.sum(along**2)
        lost = factor * (aside - along * (jnp.sum(along * aside) / jnp.where(square > 0, square, 1.0)))
    fits = largest(lost) <= 1e3 * float(jnp.finfo(H.dtype).eps) * (largest(H) + largest(V))
    if not _check.concrete(fits):
        return jnp.where(fits, V, jnp.nan)
    if not fits:
        raise ValueError(
            "the velocity of the previous run does not fit the labels or prototypes of this model, and a reduced run "
            "would lose a part of it; give reduce=False, or start from `trajectory.final` at rest."
        )
    return velocity


def check_adjoint(adjoint: object, dynamics: Dynamics) -> None:
    """Raise a ValueError unless `adjoint` is None or can differentiate this dynamics."""
    if adjoint is None:
        return
    if not isinstance(adjoint, diffrax.AbstractAdjoint) or isinstance(adjoint, diffrax.ImplicitAdjoint):
        raise ValueError(
            f"adjoint must be a diffrax adjoint of a path, such as ForwardMode(), but is {_check.given(adjoint)}."
        )
    if isinstance(dynamics, Descent):
        raise ValueError("adjoint belongs to a Flow; leave it out for a Descent, which supports both modes without it.")


@contextlib.contextmanager
def modes_explained() -> Iterator[None]:
    """Inside, an adjoint that does not support the mode of differentiation raises an error that names one that does.

    If `jax.jit` compiles a whole function around the run, JAX raises its own error outside this block.
    """
    try:
        yield
    except TypeError as error:
        if "forward-mode" not in str(error) or "custom_vjp" not in str(error):
            raise
        raise ValueError(
            "a Flow is differentiated in reverse mode by default, but this is forward mode (jax.jvp, jax.jacfwd, "
            "jax.hessian): give adjoint=diffrax.ForwardMode(), or diffrax.DirectAdjoint() for both modes."
        ) from error
    except RuntimeError as error:
        if "filter_custom_vjp" not in str(error):
            raise
        raise ValueError(
            "diffrax.BacksolveAdjoint() does not differentiate with respect to the times; leave `adjoint` out, or give "
            "diffrax.DirectAdjoint()."
        ) from error


@compiled
def _descend(job: _Job, times: jax.Array, reads: _loop.Reads, to_the_last: bool) -> Trajectory:
    """Run a descent in the form that was chosen."""
    system, memory = _system(job), job.memory
    if isinstance(memory, dict):
        memory = _over_the_scale(system, job.state, memory)
    out = _descent.run(system, job.dynamics, reads, job.first, _reader(job, system), memory, to_the_last)
    return Trajectory(
        times=times,
        observables=out["values"],
        reached=out["reached"],
        final=settled(out["view"].state()),
        elapsed=job.first + out["updates"],
        code=out["code"],
        steps=out["updates"],
        states=out.get("states"),
        memory=out["memory"],
    )


@compiled
def _integrate(job: _Job, times: jax.Array, adjoint: diffrax.AbstractAdjoint | None) -> Trajectory:
    """Integrate a flow in the form that was chosen."""
    system, dtype = _system(job), job.state.W.dtype
    times, first = jnp.asarray(times, dtype), jnp.asarray(job.first, dtype)
    out = _flow.run(system, job.dynamics, times, first, _reader(job, system), job.choice, adjoint)
    return Trajectory(
        times=times,
        observables=out["values"],
        reached=out["reached"],
        final=settled(out["view"].state()),
        elapsed=out["elapsed"],
        code=out["code"],
        steps=out["steps"],
        states=out.get("states"),
    )


def _reader(job: _Job, system: System) -> Reader:
    return reader(system, job.plan, job.states, job.choice.compressed)


def _system(job: _Job) -> System:
    """The system of the job, in the form that was chosen."""
    model, dynamics, state, choice = job.model, job.dynamics, job.state, job.choice
    if choice.form == "linear":
        part, origin = None, None
        if choice.leading:
            part, origin = leading_parts(model, dynamics, state, job.first_start, job.target)
        return linear_system(model, state, part, choice, job.memory, origin)
    if choice.form in ("columns", "logits"):
        columns = column_system(model, state, scaled=isinstance(dynamics, Descent))
        if choice.form == "columns":
            return columns
        return LogitSystem(model, columns.H, columns.W, columns.b, columns.targets, columns.power)
    # An array that the scale makes too small for its type becomes NaN, because a trace cannot raise an error about it.
    H, W = (
        jnp.where((largest(part) >= faint(part.dtype)) & (largest(moved) < faint(part.dtype)), jnp.nan, moved)
        for part, moved in zip((state.H, state.W), multiplied(state), strict=True)
    )
    if choice.form == "sphere":
        return plane_system(model, H, W, state.b, logarithmic=isinstance(dynamics, Flow))
    return DenseSystem(model, H, W, state.b)


def scale_must_fit(model: LayerPeeled, dynamics: Dynamics, state: State, reduce: bool = True) -> None:
    """Raise a ValueError if a run has to multiply the scale of its start into arrays that cannot hold the result."""
    form = form_of(model, dynamics, reduce)
    if form != "linear":
        small = form == "columns" and isinstance(dynamics, Descent)
        must_fit(state, str(np.dtype(state.W.dtype)), reduce, small)


def _over_the_scale(system: System, state: State, memory: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """A velocity given in units of the scale of the state, converted to the units of the arrays of the system."""
    if isinstance(system, LinearSystem):
        return memory
    power = start_power(state) if isinstance(system, ColumnSystem) else 0
    H, W = multiplied(state.replace(H=memory["H"], W=memory["W"]), power)
    return {**memory, "H": H, "W": W}
