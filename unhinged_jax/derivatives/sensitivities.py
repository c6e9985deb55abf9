"""How the outcome of training depends on what was chosen: d phi(t) / d theta, simulated beside exact."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike

from unhinged_jax import _check, _memory, _request
from unhinged_jax import precision as _precision
from unhinged_jax._request.compiling import lean
from unhinged_jax.closed_form.run import NoClosedForm, exact, why_no_closed_form
from unhinged_jax.derivatives.parameters import Choice, Parameter, Problem, chosen, is_ours, together
from unhinged_jax.dynamics import Descent, Dynamics, Flow
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.observables import Observe
from unhinged_jax.simulation import scale_must_fit, simulate
from unhinged_jax.trajectory import Trajectory

if TYPE_CHECKING:
    import xarray

MODES = ("auto", "forward", "checkpointed", "direct", "backsolve")
SOURCES = ("simulated", "exact")
_PER_PULLBACK = 3  # a reverse sweep costs about as much as three forward ones

Values = dict[str, Any]


def adjoint_of(mode: str) -> diffrax.AbstractAdjoint:
    """The diffrax adjoint of a mode.

    Example:
        >>> adjoint_of("forward")
        ForwardMode()
    """
    _check.choice("mode", mode, MODES[1:])
    kinds = {
        "forward": diffrax.ForwardMode,
        "checkpointed": diffrax.RecursiveCheckpointAdjoint,
        "direct": diffrax.DirectAdjoint,
        "backsolve": diffrax.BacksolveAdjoint,
    }
    return kinds[mode]()


def best_mode(inputs: int, outputs: int) -> str:
    """Forward mode for up to three inputs per output, and checkpointed reverse mode for more.

    Example:
        >>> best_mode(inputs=3, outputs=1), best_mode(inputs=10_000, outputs=4)
        ('forward', 'checkpointed')
    """
    return "forward" if inputs <= _PER_PULLBACK * outputs else "checkpointed"


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
    sources: Iterable[str] | None = None,
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
        sources: "simulated", "exact" or both; default both if there is a closed form.

    Returns:
        A Dataset with `value` (source, observable, time); `first` (..., parameter) of the scalar parameters and
        `first_NAME` (..., axes of NAME) of every other parameter; `second` (..., parameter, parameter_2) if asked for;
        and `theta` (parameter). Its attributes hold mode, order and precision.

    Raises:
        NoClosedForm: if "exact" is requested and there is no closed form.
        ValueError: for an unknown name, a mode that the dynamics or the order does not allow, or a run that stops
            before the last time.

    Source: beyond the paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.regularized(uj.balanced(3, 2), 4, decay=0.1)
        >>> table = sensitivity(model, uj.Descent(0.1), model.init(jax.random.key(0)), [10], "log_norm", ["eta"])
        >>> both = table["first"].sel(observable="log_norm", time=10, parameter="eta")
        >>> bool(abs(both[0] - both[1]) < 1e-4)
        True
    """
    order, mode = _check.choice("order", order, (1, 2)), _check.choice("mode", mode, MODES)
    task = _request.prepare(
        model, dynamics, state, times, observe, target=target, precision=precision, caller="sensitivity"
    )
    scale_must_fit(model, dynamics, task.state)
    problem: Problem = (model, dynamics, state.final if isinstance(state, Trajectory) else state)
    names = [name for name, _ in task.plan]
    wanted = chosen(parameters, problem)
    kinds = _sources(sources, model, dynamics)
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
            most = _most_steps(problem, task) if (kind, here) == ("simulated", "direct") else None
            asked = _Asked(kind, here, order, most, task, tuple(wanted))
            found[kind] = _memory.read_all(asked.program()(asked, traced, theta))
            if np.any(np.isnan(found[kind]["value"])):
                _explain(asked.run(*problem))
    dataset = _labelled(found, names, np.asarray(task.times), wanted, theta)
    return dataset.assign_attrs(mode=mode, order=order, precision=task.precision)


def _sources(sources: Iterable[str] | None, model: LayerPeeled, dynamics: Dynamics) -> tuple[str, ...]:
    why = why_no_closed_form(model, dynamics)
    if sources is None:
        return SOURCES if why is None else SOURCES[:1]
    listed = isinstance(sources, Iterable) and not isinstance(sources, (str, bytes))
    asked = tuple(_check.choice("sources", name, SOURCES) for name in (sources if listed else (sources,)))
    if not asked:
        raise ValueError(f"sources must name at least one of {', '.join(SOURCES)}; leave it out for both.")
    if why is not None and "exact" in asked:
        raise NoClosedForm(f"there is no closed form: {why}")
    return asked


def _refuse(mode: str, order: int, dynamics: Dynamics) -> None:
    if isinstance(dynamics, Descent) and mode in ("direct", "backsolve"):
        raise ValueError(f"mode {mode!r} needs a Flow; a Descent takes 'forward' or 'checkpointed'.")
    if order == 2 and mode != "forward":
        raise ValueError(f"second derivatives are taken in forward mode, but mode is {mode!r}; leave it at 'auto'.")


class _Asked:
    """What is differentiated, and how. Two of them are equal if one compiled program serves both.

    Attributes:
        kind: "simulated" or "exact".
        mode: How it is differentiated.
        order: 1 or 2.
        most: The steps that a flow is allowed, or None for its own number.
        task: The checked request.
        wanted: The parameters. Their values are data of the program.
    """

    def __init__(
        self, kind: str, mode: str, order: int, most: int | None, task: _request.Task, wanted: tuple[Parameter, ...]
    ) -> None:
        self.kind, self.mode, self.order, self.most, self.task, self.wanted = kind, mode, order, most, task, wanted
        times = np.asarray(task.times)
        changes = tuple((p.name, p.put) for p in wanted if is_ours(p))
        self._key = (
            kind, mode, order, most, times.tobytes(), times.dtype, task.plan, task.target, task.precision, changes,
        )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Asked) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def program(self) -> Callable[..., dict[str, Any]]:
        """The compiled program, which is kept if nothing outside its arguments can have changed since."""
        kept = self.task.before is None and all(map(is_ours, self.wanted))
        return _derivatives if kept else lean(_differentiate)

    def run(self, model: LayerPeeled, dynamics: Any, state: State) -> Trajectory:
        """The run that is differentiated."""
        task = self.task
        common: dict[str, Any] = {"observe": dict(task.plan), "target": task.target, "precision": task.precision}
        if self.kind == "exact":
            return exact(model, dynamics, task.resumed(state), task.times, **common)
        if isinstance(dynamics, Flow):
            common["adjoint"] = adjoint_of(self.mode)
            if self.most is not None:
                dynamics = dataclasses.replace(dynamics, max_steps=self.most)
        return simulate(model, dynamics, task.resumed(state), task.times, **common)

    def values(self, problem: Problem, theta: Values) -> jax.Array:
        """The observables as a function of the parameters, (observables, T), to be differentiated at theta."""
        at = jax.lax.stop_gradient(theta)
        here = [dataclasses.replace(p, value=at[p.name]) for p in self.wanted]
        observables = self.run(*together(problem, here, theta)).observables
        count = len(self.task.times)
        return jnp.stack([_scalar(name, observables[name], count) for name, _ in self.task.plan])


def _most_steps(problem: Problem, task: _request.Task) -> int:
    """The steps that a flow takes, and a few: the memory of the direct mode grows with the number that is allowed."""
    run = simulate(
        problem[0], problem[1], task.resumed(problem[2]), task.times, dict(task.plan), target=task.target,
        precision=task.precision,
    )  # fmt: skip
    return int(run.steps) + 8


def _explain(run: Trajectory) -> None:
    """Raise if a run did not get to its last time: derivatives at times that were not reached are meaningless."""
    if not bool(np.all(np.asarray(run.reached))):
        raise ValueError(f"the run does not reach every time, so it is not differentiated: {run.result.message}")


def _scalar(name: str, values: ArrayLike, times: int) -> jax.Array:
    array = jnp.asarray(values)
    if array.shape != (times,):
        raise ValueError(f"observable {name!r} must be one number per time, but has shape {array.shape[1:]} at each.")
    return array.astype(jnp.result_type(float))


def _differentiate(asked: _Asked, problem: Problem, theta: Values) -> dict[str, Any]:
    """Value, first and second derivatives of one source."""
    scalars = [p.name for p in asked.wanted if theta[p.name].ndim == 0]  # in their order, because jit sorts theta

    def with_value(theta: Values) -> tuple[jax.Array, jax.Array]:
        out = asked.values(problem, theta)
        return out, out

    def first() -> dict[str, Any]:
        differentiate = jax.jacfwd if asked.mode == "forward" else jax.jacrev
        slopes, value = differentiate(with_value, has_aux=True)(theta)
        return {"value": value, "first": slopes}

    if asked.order == 1 or not scalars:
        return first()

    def on(point: jax.Array) -> jax.Array:
        return asked.values(problem, {**theta, **dict(zip(scalars, point, strict=True))})

    value, slopes, second = _pairwise(on, jnp.stack([theta[name] for name in scalars]))
    rest = first()["first"] if len(scalars) < len(theta) else {}
    return {"value": value, "first": {**rest, **dict(zip(scalars, slopes, strict=True))}, "second": second}


_derivatives = lean(_differentiate)  # these programs are large, and most run once


def _pairwise(function: Callable[[jax.Array], jax.Array], point: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Value, first derivatives (k, ...) and second ones (..., k, k) at a point of k numbers.

    The program differentiates along one pair of directions and runs for one pair after the other, so neither its
    compile time nor its memory grows with k.
    """
    size = point.shape[0]
    one, other = np.triu_indices(size)
    units = jnp.eye(size, dtype=point.dtype)

    def along(pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        def slope(point: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jax.jvp(function, (point,), (pair[0],))

        (value, first), (_, second) = jax.jvp(slope, (point,), (pair[1],))
        return value, first, second

    values, firsts, seconds = jax.lax.map(along, (units[one], units[other]))
    place = np.zeros((size, size), int)
    place[one, other] = place[other, one] = np.arange(len(one))
    return values[0], firsts[np.diagonal(place)], jnp.moveaxis(seconds[place], (0, 1), (-2, -1))


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
