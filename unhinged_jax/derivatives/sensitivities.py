"""How the outcome of training depends on what was chosen: d phi(t) / d theta, simulated beside exact."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from unhinged_jax import _check, _memory, _request
from unhinged_jax import precision as _precision
from unhinged_jax.closed_form.balance import why_not_along
from unhinged_jax.closed_form.constant_gradient import why_not_beside
from unhinged_jax.closed_form.deep_starts import why_not_beside as why_not_beside_deep
from unhinged_jax.closed_form.existence import NoClosedForm, why_no_closed_form
from unhinged_jax.closed_form.paced import why_not_along as why_not_along_paced
from unhinged_jax.derivatives.chosen import Choice, chosen
from unhinged_jax.derivatives.parameters import Parameter, Problem
from unhinged_jax.derivatives.programs import MODES, Asked, Values, best_mode, most_steps
from unhinged_jax.dynamics import Descent, Dynamics
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.observables import Observe, moment_observables
from unhinged_jax.simulation import scale_must_fit
from unhinged_jax.trajectory import Trajectory

if TYPE_CHECKING:
    import xarray

SOURCES = ("simulated", "exact")


def sensitivity(
    model: LayerPeeled,
    dynamics: Dynamics,
    state: State | Trajectory,
    times: npt.ArrayLike,
    observe: Observe = None,
    parameters: Iterable[Choice] | Choice | None = None,
    *,
    order: int = 1,
    mode: str = "auto",
    target: str = "top",
    precision: str | None = None,
    sources: Iterable[str] | str | None = None,
    key: jax.Array | None = None,
) -> xarray.Dataset:
    """Derivatives of observables at given times with respect to continuous parameters, simulated and exact.

        first = d y_k(t) / d theta,    second = d^2 y_k(t) / d theta d theta'

    Args:
        model, dynamics, state, times, observe, target, precision: as in `simulate`; observables must be scalars. If
            `state` is a `Trajectory`, parameters change only what comes after its end.
        parameters: Names (see `unhinged_jax.derivatives.available`) or `Parameter`s; default every scalar one.
            Parameters that affect one another, such as "decay" and "decay_H", act together: their changes are added, so
            that every derivative is the same as that of the parameter alone.
        order: 1 (default), or 2 to add second derivatives with respect to the scalar parameters.
        mode: How the simulation is differentiated: "forward" (one pass per parameter), "checkpointed" (reverse, one
            pass per value; memory grows like the square root of the length), "direct" (a flow in reverse, every step
            kept), "backsolve" (a flow integrated backwards: approximate), or "auto" (default): see `best_mode`.
        sources: "simulated", "exact" or both; default both if there is a closed form. For a descent that draws batches
            or labels "exact" is the expectation and "simulated" is one path, so the default is one of them: the path if
            there is a key, else the expectation.
        key: As in `simulate`: the path of this key is differentiated, with the same draws.

    Returns:
        A Dataset with `value` (source, observable, time); `first` (..., parameter) of the scalar parameters and
        `first_NAME` (..., axes of NAME) of every other parameter; `second` (..., parameter, parameter_2) if asked for;
        and `theta` (parameter). Its attributes hold mode, order and precision.

    Raises:
        NoClosedForm: if "exact" is requested and there is no closed form.
        ValueError: for an unknown name, a mode that the dynamics or the order does not allow, a run that stops before
            the last time, a path without a key, or a parameter that a path has no derivatives with respect to: the
            size of its batches, and the noise of labels that are drawn afresh.

    Source: beyond the paper.

    Example:
        >>> import jax
        >>> import unhinged_jax as uj
        >>> model = uj.regularized(uj.balanced(3, 2), 4, decay=0.1)
        >>> state = model.init(jax.random.key(0))
        >>> table = sensitivity(model, uj.Descent(0.1), state, [10], "log_norm", ["eta"])
        >>> both = table["first"].sel(observable="log_norm", time=10, parameter="eta")
        >>> bool(abs(both[0] - both[1]) < 1e-4)
        True
    """
    _request.one_at_a_time("sensitivity", model, dynamics, state)
    drawn = isinstance(dynamics, Descent) and dynamics.stochastic
    _request.check_kinds(model, dynamics)
    problem: Problem = (model, dynamics, state.final if isinstance(state, Trajectory) else state)
    kinds = _sources(sources, problem, key)
    if drawn and observe is None and kinds == ("exact",):
        observe = moment_observables
    order, mode = _check.choice("order", order, (1, 2)), _check.choice("mode", mode, MODES)
    task = _request.prepare(
        model, dynamics, state, times, observe, target=target, precision=precision, caller="sensitivity"
    )
    scale_must_fit(model, dynamics, task.state)
    names = [name for name, _ in task.plan]
    if not names:
        raise ValueError(f"observe must name what is to be differentiated, but got {_check.given(observe)}.")
    wanted = chosen(parameters, problem)
    if "exact" in kinds and (why := _why_not_beside(problem, [p.name for p in wanted])):
        if sources is not None:
            raise NoClosedForm(f"there is no closed form: {why}")
        kinds = SOURCES[:1]
    if isinstance(dynamics, Descent) and dynamics.stochastic and "simulated" in kinds:
        wanted = _of_a_path(wanted, parameters is None, dynamics)
    inputs = sum(int(np.size(p.value)) for p in wanted)
    if mode == "auto":
        mode = "forward" if order == 2 else best_mode(inputs, len(names) * len(task.times))
    _refuse(mode, order, dynamics)
    with _precision.scope(task.precision):
        theta = {p.name: jnp.asarray(p.value, jnp.result_type(float)) for p in wanted}
        traced = _precision.traceable(problem)
        found = {}
        for kind in kinds:
            here = mode if kind == "simulated" else best_mode(inputs, len(names) * len(task.times))
            most = most_steps(problem, task) if (kind, here) == ("simulated", "direct") else None
            asked = Asked(kind, here, order, most, task, tuple(wanted))
            given, path = (_with_whole_batch(traced, dynamics), key) if kind == "simulated" else (traced, None)
            found[kind] = _memory.read_all(asked.program()(asked, given, theta, path))
            if np.any(np.isnan(found[kind]["value"])):
                _explain(asked.run(*problem, path))
    dataset = _labelled(found, names, np.asarray(task.times), wanted, theta)
    return dataset.assign_attrs(mode=mode, order=order, precision=task.precision)


def _sources(sources: Iterable[str] | str | None, problem: Problem, key: jax.Array | None) -> tuple[str, ...]:
    model, dynamics, state = problem
    why = why_no_closed_form(model, dynamics, expectations=True, state=state)
    if sources is None and isinstance(dynamics, Descent) and dynamics.stochastic:
        return SOURCES[:1] if key is not None or why is not None else SOURCES[1:]
    if sources is None:
        return SOURCES if why is None else SOURCES[:1]
    listed = isinstance(sources, Iterable) and not isinstance(sources, (str, bytes))
    asked = tuple(_check.choice("sources", name, SOURCES) for name in (sources if listed else (sources,)))
    if not asked:
        raise ValueError(f"sources must name at least one of {', '.join(SOURCES)}; leave it out for both.")
    if why is not None and "exact" in asked:
        raise NoClosedForm(f"there is no closed form: {why}")
    return asked


def _why_not_beside(problem: Problem, names: list[str]) -> str | None:
    """Why there is no closed form beside a problem that has one if one of these parameters moves, in words, or None."""
    model, dynamics, _ = problem
    if model.depth > 2:
        return why_not_beside_deep(names, model.loss.linear or isinstance(dynamics, Descent))
    if not model.loss.linear:
        return why_not_along(names)
    if getattr(dynamics, "optimizer", None) is not None:
        return why_not_beside(names, model.moves.coupled)
    return why_not_along_paced(model, dynamics, names)


def _of_a_path(wanted: list[Parameter], default: bool, dynamics: Descent) -> list[Parameter]:
    """The parameters that a path of given draws has derivatives with respect to.

    Raises:
        ValueError: for one that was asked for and is none of them.
    """
    without = {"batch": "the size of a batch is a whole number"}
    if dynamics.fresh_labels:
        without["noise"] = "it decides which labels are drawn, and a small change changes none of them"
    for p in wanted:
        if p.name in without and not default:
            raise ValueError(
                f"a simulated path has no derivative with respect to {p.name!r}, because {without[p.name]}; the "
                "expectation has one: ask for sources='exact'."
            )
    return [p for p in wanted if p.name not in without]


def _with_whole_batch(problem: Problem, dynamics: Dynamics) -> Problem:
    """A traceable problem whose batch size is a number known to the compiler, because it determines shapes."""
    if not isinstance(dynamics, Descent) or dynamics.batch is None or np.ndim(dynamics.batch):
        return problem
    batch = np.asarray(dynamics.batch).item() if _check.concrete(dynamics.batch) else dynamics.batch
    return problem[0], dataclasses.replace(problem[1], batch=batch), problem[2]


def _refuse(mode: str, order: int, dynamics: Dynamics) -> None:
    if isinstance(dynamics, Descent) and mode in ("direct", "backsolve"):
        raise ValueError(f"mode {mode!r} needs a Flow; a Descent takes 'forward' or 'checkpointed'.")
    if order == 2 and mode != "forward":
        raise ValueError(f"second derivatives are taken in forward mode, but mode is {mode!r}; leave it at 'auto'.")


def _explain(run: Trajectory) -> None:
    """Raise if a run did not get to its last time: derivatives at times that were not reached are meaningless."""
    if not bool(np.all(np.asarray(run.reached))):
        raise ValueError(f"the run does not reach every time, so it is not differentiated: {run.result.message}")


def _labelled(
    found: dict[str, Any], names: list[str], times: np.ndarray, wanted: list[Parameter], theta: Values
) -> xarray.Dataset:
    import xarray

    base = ("source", "observable", "time")
    scalars = [p.name for p in wanted if np.ndim(p.value) == 0]
    kinds = list(found)

    def stacked(part: Callable[[dict], Any]) -> np.ndarray:
        return np.stack([part(found[kind]) for kind in kinds])

    data: dict[str, Any] = {"value": (base, stacked(lambda f: f["value"]))}
    if scalars:
        data["first"] = ((*base, "parameter"), stacked(lambda f: np.stack([f["first"][n] for n in scalars], axis=-1)))
        data["theta"] = ("parameter", np.asarray([float(theta[name]) for name in scalars]))
    for p in wanted:
        if np.ndim(p.value):
            axes = tuple(f"{p.name}_{i}" for i in range(np.ndim(p.value)))
            data[f"first_{p.name}"] = ((*base, *axes), np.stack([found[kind]["first"][p.name] for kind in kinds]))
    if scalars and "second" in found[kinds[0]]:
        data["second"] = ((*base, "parameter", "parameter_2"), stacked(lambda f: f["second"]))
    coords: dict[str, Any] = {"source": kinds, "observable": names, "time": times}
    if scalars:
        coords["parameter"] = scalars
        if "second" in data:
            coords["parameter_2"] = scalars
    return xarray.Dataset(data, coords)


def disagreement(table: xarray.Dataset) -> dict[str, float]:
    """The largest difference between simulated and exact, for each variable of a `sensitivity` table.

    Differences are relative to the largest magnitude over times of the same observable and parameter (of the pair of
    parameters, for `second`), and at least to 1e-3 times the observable's largest over all parameters.

    Raises:
        ValueError: unless the table holds both sources.

    Source: beyond the paper.
    """
    if set(table["source"].values) != set(SOURCES):
        raise ValueError("the table holds only one source, so there is nothing to compare; ask for both.")
    worst = {}
    for name in table.data_vars:
        if "source" not in table[name].dims:
            continue
        ours, theirs = (table[name].sel(source=kind).values for kind in SOURCES)
        apart, size = (np.max(np.abs(x), axis=1) for x in (ours - theirs, theirs))
        floor = 1e-3 * np.max(size.reshape(len(size), -1), axis=1).reshape(-1, *(1,) * (size.ndim - 1))
        scale = np.maximum(size, floor)
        worst[str(name)] = float(np.max(apart / np.where(scale > 0, scale, 1.0), initial=0.0))
    return worst
