"""`exact`: the closed form of a run, with the signature and result of `simulate`."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from unhinged_jax import _check, _loop, _request, observables
from unhinged_jax._request.compiling import compiled, read_off
from unhinged_jax.closed_form import constant_gradient, deep_run, spherical, squared_error
from unhinged_jax.closed_form.aligned import why_turning
from unhinged_jax.closed_form.balance import Form, form_of, why_not_read
from unhinged_jax.closed_form.carriers import grouped
from unhinged_jax.closed_form.deep_starts import why_not_aligned
from unhinged_jax.closed_form.diffused import diffused
from unhinged_jax.closed_form.evaluation import (
    Job,
    carried_on,
    end_of,
    ended_at,
    evaluated,
    handed_on,
    saved_of,
    trajectory_of,
)
from unhinged_jax.closed_form.existence import NoClosedForm, why_no_closed_form, why_not_from
from unhinged_jax.closed_form.expected import OF_MEAN, known_of, mean_of, unknown
from unhinged_jax.closed_form.linear import exact_linear
from unhinged_jax.closed_form.modes import Modes
from unhinged_jax.closed_form.paced import pace_of, why_not_split
from unhinged_jax.closed_form.scatter import SPLIT, of_descent
from unhinged_jax.closed_form.timeline import (
    Clock,
    Record,
    Updates,
    closed,
    timeline,
    unit_clock,
    updates_at,
    with_slopes,
)
from unhinged_jax.dynamics import Descent, Diffusion, Dynamics, Flow, Noisy, carried_by, without_idle
from unhinged_jax.linear.compression import compressible, observed
from unhinged_jax.linear.leading_part import Coupled, leading_parts, present_modes
from unhinged_jax.linear.row_space import row_space
from unhinged_jax.linear.spectrum import spectrum_of
from unhinged_jax.model import LayerPeeled, State, multiplied, must_fit, trained
from unhinged_jax.observables import (
    ObservableSet,
    Observe,
    View,
    refers_to_start,
    wants_split,
)
from unhinged_jax.trajectory import RunResult, Trajectory


def exact(
    model: LayerPeeled,
    dynamics: Dynamics,
    state: State | Trajectory,
    times: npt.ArrayLike,
    observe: Observe = None,
    *,
    states: bool = False,
    target: str = "top",
    precision: str | None = None,
) -> Trajectory:
    """Evaluate the closed form of gradient flow or gradient descent at the given times.

    This covers every dynamics that is linear in (H, W), with any labels, weights, decays, kernel and proportional
    rates; a descent may also have momentum and rates that are not proportional. It covers spherical features with
    anchored prototypes, the flow of squared error from balanced starts, up to a rotation of the feature space, deep
    models from balanced spectral starts, under a linear loss or squared error, and optimisers such as Adam where the
    gradient is constant: with frozen features or anchored prototypes.

    A `Descent` that draws batches or labels, and a `Diffusion`, have closed forms in expectation under a linear loss:
    of `loss`, `objective`, `square_norm`, `square_norm_H`, `square_norm_W`, `square_norm_b`, `within_scatter` and
    `between_scatter`, and of the logarithms of those that scale like H and W (the logarithm of the expectation); and of
    `test_loss`. By default `moment_observables` are observed, all but `square_norm_b` and `test_loss`. `final` and
    `states` are the mean.

    Args:
        model, dynamics, state, times, observe, states, target, precision: as in `simulate`. Solver settings are not
            used.

    Returns:
        A `Trajectory` of kind "exact", or "expected" if the dynamics is random.

    Raises:
        NoClosedForm: naming the setting that rules out a closed form.
        ValueError: for shapes, ranges or combinations that are not allowed.

    Source: Zhou et al. 2023, Theorems 2, 4, 6, 7, 8 in one form, corrected; descent, momentum, any signal matrix, any
    decays: beyond the paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.regularized(uj.balanced(classes=3, per_class=2), dim=4, decay=0.1)
        >>> state = model.init(jax.random.key(0))
        >>> truth = uj.exact(model, uj.Flow(), state, [1.0, 1e6], observe="log_norm")
        >>> bool(truth["log_norm"][1] > 1e4)
        True
    """
    dynamics = without_idle(dynamics)
    why = why_no_closed_form(model, dynamics, expectations=True)
    if why:
        raise NoClosedForm(f"there is no closed form: {why}")
    if isinstance(state, Trajectory) and state.batch:
        settings: dict[str, Any] = {"states": states, "target": target, "precision": precision}
        return _request.each_member(
            state, dynamics, precision, lambda one: exact(model, dynamics, one, times, observe, **settings)
        )
    if not isinstance(dynamics, Flow) and dynamics.stochastic:
        return _expected(model, dynamics, state, times, observe, states=states, precision=precision)
    states = _check.flag("states", states)
    task = _request.prepare(model, dynamics, state, times, observe, target=target, precision=precision, caller="exact")
    given = state.final if isinstance(state, Trajectory) else state
    if why := _why_not_this(model, dynamics, given, task, states):
        raise NoClosedForm(f"there is no closed form: {why}")
    if wants_split(task.plan) and (why := why_not_split(model, dynamics)):
        raise NoClosedForm(f"there are no distances to a limit: {why}")
    task.refuse_large(states)
    with task.context():
        asked = task.clock()
        clock, begin, dynamics = unit_clock(dynamics, task, asked)
        model, dynamics = _request.traceable((model, dynamics))
        reads: Any = None
        optimized = isinstance(dynamics, Descent) and dynamics.optimizer is not None
        if isinstance(dynamics, Descent):
            stepped = model.spherical or model.depth > 2 or not closed(dynamics)
            if optimized:
                stepped = not constant_gradient.at_once(dynamics, task.memory)
            reads = (_loop.reads_at if stepped else updates_at)(task.times, task.first)
        own: Any = np.zeros((), jnp.result_type(int)) if isinstance(reads, Updates) else jnp.asarray(task.first)
        start = own if begin is None else begin
        if model.spherical or not model.loss.linear or optimized:
            must_fit(task.state, task.precision)
        job = Job(
            model, dynamics, task.state, Clock(clock, reads, start), task.plan, states, task.target, task.first_start,
            task.memory,
        )  # fmt: skip
        if optimized:
            found = _optimized(job)
        elif model.depth > 2:
            found = deep_run.run(job, known=_check.concrete((model, dynamics, given)))
        elif model.loss.linear:
            found = _spherical(job, not _check.untransformed()) if model.spherical else _linear(job)
        else:
            found = _squared(job, form_of(model, dynamics, given))
        early = model.spherical or model.depth > 2 or (isinstance(dynamics, Flow) and dynamics.paced)
        ended: Any = ended_at(found, asked, task) if early else asked[-1]
        return task.finish(dataclasses.replace(found, times=asked, elapsed=ended))


def _why_not_this(
    model: LayerPeeled, dynamics: Dynamics, state: State, task: _request.Task, states: bool
) -> str | None:
    """Why this start, or what is read, has no closed form where others have one, in words, or None."""
    if model.depth > 2:
        return why_not_aligned(model, dynamics, state)
    if not model.loss.linear:
        return why_not_read(model, dynamics, state, task.plan, states)
    if isinstance(dynamics, Descent) and dynamics.optimizer is not None:
        return why_turning(model, dynamics, state)
    return why_not_from(dynamics, task.first)


def _expected(
    model: LayerPeeled, drawn: Noisy, state: State | Trajectory, times: Any, observe: Observe, **settings: Any
) -> Trajectory:
    """Expectations of a descent that draws batches or labels, or of a diffusion; the state is that without noise."""
    asked, precision = observables.moment_observables if observe is None else observe, settings["precision"]
    task = _request.prepare(model, drawn, state, times, asked, target="top", precision=precision, caller="exact")
    names, other = known_of(task.plan)
    if other is not None and not isinstance(asked, ObservableSet):
        raise NoClosedForm(f"there is no closed form: {unknown(other)}")
    split = isinstance(drawn, Descent) and any(name in names for name in SPLIT)
    of_mean = [name for name in names if name in OF_MEAN]
    read = [*of_mean, *["log_between_scatter"] * split]
    mean = exact(model, mean_of(drawn), state, times, read, **settings)
    model, begin = trained(model, task.state)
    with task.context():
        membership = grouped(model)  # while the labels are known
        model, drawn = _request.traceable((model, drawn))
        start = begin, task.first, task.times, tuple(name for name in names if name not in of_mean), membership
        if isinstance(drawn, Diffusion):
            values = diffused(model, drawn, *start)
        else:
            values = of_descent(model, drawn, *start, log_of_mean=mean["log_between_scatter"] if split else None)
        values = task.give_back(values) | {name: mean[name] for name in of_mean}
        return dataclasses.replace(mean, observables={name: values[name] for name in names}, kind="expected")


@compiled(work=lambda job: read_off(job.model, job.clock.times.size))
def _linear(job: Job) -> Trajectory:
    """Evaluate a dynamics that is linear in (H, W)."""
    model, dynamics, state, others = job.model, job.dynamics, job.state, carried_on(job)
    dtype = state.W.dtype
    space = row_space(model, dtype, summed=not others)  # a velocity has its own residual
    spectrum = spectrum_of(space.signal, model.kernel, model.samples, model.dim, dtype)
    present = jnp.ones_like(spectrum.values)
    if model.kernel is None or model.kernel.kind != "coordinates":
        H, W = (
            jnp.hstack([part, *(other[name] for other in others)]) for name, part in (("H", state.H), ("W", state.W))
        )
        F = space.signal.transpose_times(H)
        present = jax.lax.stop_gradient(present_modes(spectrum, F, W)).astype(dtype)
        spectrum = dataclasses.replace(spectrum, present=present)
    part, origin, mask = None, None, jnp.zeros_like(spectrum.values)
    if wants_split(job.plan):
        part, origin = leading_parts(model, dynamics, state, job.first_start, job.target)
        mask = part.mask if isinstance(part, Coupled) else mask
    clock = job.clock
    if isinstance(dynamics, Flow):
        clock = clock._replace(times=clock.times.astype(dtype))

    pace = pace_of(model, dynamics, clock, space, spectrum, state)

    def record_of(g: jax.Array) -> Record:
        steps = None if pace is None else pace.steps
        return timeline(model, dynamics, clock, Modes(g, mask, present), len(others), steps)

    moments = with_slopes(record_of, spectrum)
    problem = exact_linear(space, spectrum, state, part, origin, others, carried_by(dynamics) == "momentum")
    apart = origin is not None and refers_to_start(
        job.plan
    )  # the first start need not lie in the span that the smaller problem keeps
    if (
        not job.states
        and not apart
        and not others
        and space.summed
        and model.labels.balanced
        and compressible(job.plan)
    ):
        small = problem.compressed()
        together = _loop.at_once(job.model.samples, job.model.classes)
        values = _loop.read_each(lambda moment: observed(small, problem, moment, job.plan), moments, together)
        last = problem.view(*end_of(moments))
        run = trajectory_of({"values": values}, last, job.clock.times)
    else:
        run = evaluated(job, lambda moment: problem.view(*moment), moments)
    if not moments[0].beside:
        return run if pace is None else pace.marked(run)
    record, slopes = end_of(moments)
    return dataclasses.replace(run, memory=handed_on(job, problem.memory(record, slopes, run.final.log_scale)))


@compiled()
def _squared(job: Job, form: Form) -> Trajectory:
    """Evaluate squared error from a balanced start."""
    start = squared_error.start_of(job.model, job.dynamics, job.state, form)
    schedule, times = job.dynamics.schedule, job.clock.times.astype(job.state.W.dtype)
    taus = schedule.integral(times) - schedule.integral(job.clock.first)
    return evaluated(job, lambda tau: squared_error.moment(start, tau), taus.astype(job.state.W.dtype))


@compiled()
def _optimized(job: Job) -> Trajectory:
    """Evaluate an optimiser whose gradient is constant."""
    clock = job.clock
    start = constant_gradient.start_of(job.model, job.dynamics, job.state, job.memory, clock.first)
    last, saved, updates = constant_gradient.values(start, clock.reads, lambda view: saved_of(job, view))
    run = trajectory_of(saved, last, clock.times)
    return dataclasses.replace(run, memory=constant_gradient.memory_after(start, updates))


@compiled()
def _spherical(job: Job, differentiable: bool) -> Trajectory:
    """Evaluate spherical features with anchored prototypes, and what only their derivatives need."""
    model, dynamics, state, clock = job.model, job.dynamics, job.state, job.clock
    dtype = state.W.dtype
    sphere = spherical.Sphere(model, *multiplied(state), state.b)
    if isinstance(dynamics, Flow):
        schedule = dynamics.schedule
        taus = schedule.integral(clock.times.astype(dtype)) - schedule.integral(clock.first)
        return evaluated(job, lambda tau: spherical.flow_at(sphere, dynamics, tau), taus.astype(dtype))
    reads, first = clock.reads, clock.first
    assert isinstance(reads, _loop.Reads)

    def view_of(angle: jax.Array, level: jax.Array, *rest: jax.Array) -> View:
        return sphere.view(angle, spherical.log_unit(level, dtype), *rest)

    def read(carry: tuple[jax.Array, ...]) -> dict:
        return saved_of(job, view_of(*carry))

    last, saved, reached = spherical.descent_values(sphere, dynamics, reads, first, read, differentiable)
    run = trajectory_of(saved, view_of(*last[:5]), clock.times, reached)
    updates = last.updates
    code = jnp.where(updates == reads.updates, RunResult.COMPLETED, RunResult.OVERFLOW)
    return dataclasses.replace(run, elapsed=first + updates, code=code)
