"""`simulate`: choose the form of the problem, run it, and return a trajectory."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from unhinged_jax import _check, _loop, _request
from unhinged_jax._request.reverse import directly_below_grad
from unhinged_jax.dynamics import Descent, Diffusion, Dynamics, Flow, without_idle
from unhinged_jax.linear.row_space import row_space
from unhinged_jax.model import LayerPeeled, State, must_fit
from unhinged_jax.observables import Observe
from unhinged_jax.simulation import watched
from unhinged_jax.simulation.choose import carries_scale, choose, for_first_gradient, form_of
from unhinged_jax.simulation.crossing import Crossing, Heights
from unhinged_jax.simulation.descent import CUT_SHORT
from unhinged_jax.simulation.paced import why_not_paced
from unhinged_jax.simulation.programs import Job, descend, find, integrate
from unhinged_jax.simulation.sampled import check_sampling
from unhinged_jax.special import faint, largest
from unhinged_jax.trajectory import STEPS, Remark, Trajectory


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
    key: jax.Array | None = None,
    progress: bool = False,
) -> Trajectory:
    """Run gradient flow (diffrax), gradient descent (optax updates in a compiled loop) or a diffusion (the same loop).

    Args:
        model: The problem.
        dynamics: `Flow`, `Descent` or `Diffusion`.
        state: The initial state, or a `Trajectory` to continue, or a batch of them, each of which is continued.
        times: Strictly ascending, (T,). For a `Flow` they are times t; for a `Descent` they are numbers of updates,
            which are whole numbers; for a `Diffusion` they are multiples of its step. A run starts at 0 unless it
            continues a `Trajectory`.
        observe: Names of observables, a ready-made set, or a mapping name -> function (model, state) -> array (or None
            for a built-in name). By default what the run observed that this one continues, else `paper_observables`.
            Whatever a function reads from a global or an attribute keeps the value of its first run. For numbers that
            change, give a registered dataclass with these numbers as fields, as for a loss or a schedule.
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
            `steady`. A `Descent` or `Diffusion` takes no adjoint, because both modes work.
        key: A JAX key, for a `Descent` that draws batches or labels, and for a `Diffusion`. One key is one path,
            whatever is observed, and a run that goes on with the same key is the run without a break; a trajectory does
            not hold it. `jax.vmap` over keys gives an ensemble.
        progress: Whether to show on standard error the share that is done, the speed and the time left, in a line that
            a terminal or a notebook rewrites, elsewhere as a line every half minute (default False). The run is then
            made in pieces of about a second, which are cut where they change no number. Ctrl-C ends it after the piece
            in hand, and what was reached is returned with the result `INTERRUPTED`; Ctrl-C once more raises
            KeyboardInterrupt. A batch of runs is cut at `times` instead, and each piece continues the one before.

    Returns:
        A `Trajectory`. If the run stops early, it holds what was reached and NaN elsewhere, and `result` says why. One
        that was interrupted can be given to `simulate` in place of a state, with the times that it did not reach.

    Raises:
        ValueError: for shapes, ranges or combinations that are not allowed; and if the adjoint of a flow does not
            support the mode of differentiation, with a message that names an adjoint that does. For `progress` inside
            jax.jit, jax.vmap, jax.grad and similar functions.
        KeyboardInterrupt: if a run without `progress` is interrupted.

    Source: Zhou et al. 2023, Eq. 4-6, 12, 18-19.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(classes=3, per_class=2), dim=4)
        >>> state = model.init(jax.random.key(0))
        >>> run = uj.simulate(model, uj.Descent(0.1), state, [0, 10, 20], observe="norm")
        >>> bool(run["norm"][2] > run["norm"][0])
        True
    """
    dynamics = without_idle(dynamics)
    progress = watched.wanted(progress, (model, dynamics, state, times))
    if isinstance(state, Trajectory) and state.batch:
        settings: dict[str, Any] = {
            "states": states, "target": target, "precision": precision, "reduce": reduce, "adjoint": adjoint,
        }  # fmt: skip
        return _each_continued(model, dynamics, state, times, observe, key, progress=progress, **settings)
    states = _check.flag("states", states)
    task = _request.prepare(
        model, dynamics, state, times, observe, target=target, precision=precision, caller="simulate", reduce=reduce
    )
    task.refuse_large(states)
    reduce = bool(reduce)
    check_adjoint(adjoint, dynamics)
    sampling = check_sampling(model, dynamics, key, isinstance(state, Trajectory))
    scale_must_fit(model, dynamics, task.state, reduce)
    with task.context():
        model, dynamics = _request.traceable((model, dynamics))
        job = _job(task, model, dynamics, states=states, reduce=reduce, adjoint=adjoint, fixed=_check.concrete(state))
        counts = None
        if not isinstance(dynamics, Flow):
            counts, begin = task.counts()
            words = None if sampling is None or key is None else jax.random.key_data(jax.random.split(key, 3))
            if sampling is not None and isinstance(dynamics, Descent):
                dynamics = dataclasses.replace(dynamics, batch=None, fresh_labels=False)
            job = job._replace(dynamics=dynamics, first=jnp.asarray(begin), sampling=sampling, keys=words)
        if counts is not None:
            run = _descended(job, task.clock(), _loop.reads_at(counts, begin), progress)
        elif progress and task.times[-1] > task.first:
            run = watched.integrate_in_pieces(job, task.times)
        else:
            if adjoint is None and _check.untransformed():
                adjoint = diffrax.ForwardMode()  # nothing is differentiated, and this loop is the simplest
            elif adjoint is None and directly_below_grad((job, task.times)):
                job = job._replace(choice=for_first_gradient(job.choice))  # which is mostly tracing
            with modes_explained():
                run = integrate(job, jnp.asarray(task.times), adjoint)
        form = f"{job.choice}, {STEPS}" if isinstance(dynamics, Diffusion) else job.choice
        return task.finish(dataclasses.replace(run, form=Remark(form)))


def _job(
    task: _request.Task, model: LayerPeeled, dynamics: Dynamics, *, states: bool, reduce: bool, fixed: bool,
    adjoint: diffrax.AbstractAdjoint | None = None,
) -> Job:  # fmt: skip
    """The task in the form in which it is simulated; nothing is drawn."""
    memory = task.memory
    choice = choose(
        model, dynamics, task.plan, len(task.times), task.state, states=states, reduce=reduce, adjoint=adjoint,
        memory=memory, goes_on=task.first_start is not None, fixed=fixed,
    )  # fmt: skip
    if isinstance(memory, dict) and choice.form in ("linear", "sphere"):
        memory = {**memory, "H": _kept(model, task.state, memory["H"])}
    return Job(
        model, dynamics, task.state, jnp.asarray(task.first), memory, task.plan, states, task.target, task.first_start,
        choice, None, None,
    )  # fmt: skip


def crossing(
    model: LayerPeeled, dynamics: Dynamics, state: State | Trajectory, times: jax.Array, observe: Observe,
    heights: Heights, *, target: str, precision: str,
) -> Crossing:  # fmt: skip
    """Simulate a flow until a condition on what is observed holds.

    Args:
        model, dynamics, state, observe, target, precision: As in `simulate`; the dynamics is a `Flow`.
        times: The search is from the first to the last of them, (T,), ascending.
        heights: The conditions.
    """
    dynamics = without_idle(dynamics)
    task = _request.prepare(
        model, dynamics, state, times, observe, target=target, precision=precision, caller="simulate"
    )  # fmt: skip
    with task.context():
        model, dynamics = _request.traceable((model, dynamics))
        job = _job(task, model, dynamics, states=False, reduce=True, fixed=False)
        return find(job, jnp.asarray(task.times), heights)


def _each_continued(
    model: LayerPeeled,
    dynamics: Dynamics,
    state: Trajectory,
    times: npt.ArrayLike,
    observe: Observe,
    key: jax.Array | None,
    *,
    progress: bool,
    **settings: Any,
) -> Trajectory:
    """`simulate` for a batch of runs, each of which is continued, with a key of its own if there are keys."""
    keys = () if key is None else (key,)

    def go_on(batch: Trajectory, times: npt.ArrayLike) -> Trajectory:
        def one(member: Trajectory, *own: Any) -> Trajectory:
            return simulate(model, dynamics, member, times, observe, key=own[0] if own else None, **settings)

        return _request.each_member(batch, dynamics, settings["precision"], one, keys)

    return watched.batch_in_pieces(state, times, go_on) if progress else go_on(state, times)


def _descended(job: Job, times: jax.Array, reads: _loop.Reads, progress: bool) -> Trajectory:
    """Run a descent to the last update within the floating-point range.

    Few runs leave it. Outside a trace, only these are run again to find exactly where.
    """
    if progress and reads.updates:
        return watched.descend_in_pieces(job, times, reads)
    known = _check.concrete((job, times, reads))
    run: Any = descend(job, times, reads, to_the_last=not known)
    if known and (not _check.concrete(run.code) or int(run.code) == CUT_SHORT):
        run = descend(job, times, reads, to_the_last=True)
    return run


def _kept(model: LayerPeeled, state: State, velocity: Any) -> Any:
    """The velocity of H, (n, p), or slots of a memory, (slots, n, p), after a check that a reduced run keeps all of it.

    A run with class sums keeps the velocity of the class sums, and of the remaining velocity only the part parallel to
    the residual of H. A run in planes keeps the part in the plane of target and feature. If a part would be lost, for
    example because the labels or prototypes have changed, the velocity is refused; in a trace, which cannot raise an
    error about numbers, it becomes NaN.
    """
    if np.ndim(velocity) == 3:
        return jnp.stack([_kept(model, state, slot) for slot in velocity])
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
    if not isinstance(dynamics, Flow):
        name = type(dynamics).__name__
        raise ValueError(f"adjoint belongs to a Flow; leave it out for a {name}, which supports both modes without it.")


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


def scale_must_fit(model: LayerPeeled, dynamics: Dynamics, state: State, reduce: bool = True) -> None:
    """Raise a ValueError if a run has to multiply the scale of its start into arrays that cannot hold the result, or if
    its steps depend on the norm of a gradient that the problem has not."""
    if why := why_not_paced(model, dynamics):
        raise ValueError(why)
    form = form_of(model, dynamics, reduce)
    if form != "linear" and not (form == "sampled" and reduce and carries_scale(model, dynamics)):
        small = form == "columns" and isinstance(dynamics, Descent) and not dynamics.paced
        must_fit(state, str(np.dtype(state.W.dtype)), reduce, small)
