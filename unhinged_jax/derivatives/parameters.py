"""Continuous parameters of a problem by name: their values, and how to replace them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax import _check
from unhinged_jax.dynamics import Descent, Dynamics
from unhinged_jax.labels import Labels
from unhinged_jax.losses import Unhinged
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.schedules import Constant

Problem = tuple[LayerPeeled, Dynamics, State]
_NORMALISED = 1e-5  # how far rounding may move the sum of weights from 1


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A continuous parameter: its name, its value, and `put`, (problem, value) -> problem with that value.

    A problem is the triple (model, dynamics, state). Any differentiable function may be `put`.

    Attributes:
        name: The name in results.
        value: The number or array at which derivatives are taken.
        put: The function, differentiable with respect to the value.

    Source: beyond the paper.

    Example:
        >>> import unhinged_jax as uj
        >>> both = Parameter("both", 0.1, lambda problem, x: (problem[0].replace(decay=x), *problem[1:]))
        >>> both.put((uj.regularized(uj.balanced(2, 1), 2, decay=0.3), None, None), 0.1)[0].decay_W
        0.1
    """

    name: str
    value: Any
    put: Callable[[Problem, Any], Problem]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ValueError(f"the name of a parameter must be a string, but got {_check.given(self.name)}.")
        _check.finite(f"the value of parameter {self.name!r}", self.value, array=True)
        if not callable(self.put):
            raise ValueError(f"`put` must be a function (problem, value) -> problem, but got {_check.given(self.put)}.")


def _of_model(change: Callable[[LayerPeeled, Any], LayerPeeled]) -> Callable[[Problem, Any], Problem]:
    return lambda problem, value: (change(problem[0], value), *problem[1:])


def _of_dynamics(change: Callable[[Any, Any], Any]) -> Callable[[Problem, Any], Problem]:
    return lambda problem, value: (problem[0], change(problem[1], value), problem[2])


def _field(name: str) -> Callable[[Any, Any], Any]:
    return lambda thing, value: dataclasses.replace(thing, **{name: value})


def _number(value: object) -> bool:
    return isinstance(value, (int, float, np.ndarray, np.generic, jax.Array)) and not isinstance(value, bool)


def available(model: LayerPeeled, dynamics: Dynamics, state: State) -> dict[str, Parameter]:
    """Every named parameter of a problem.

    `gamma`; `decay` (moves both decays by the same amount), `decay_H`, `decay_W` (each with the other fixed); `rate_H`,
    `rate_W` (each with the other fixed) and `s` = r_1/r_2 at fixed r_2; `eta`, a constant rate; `schedule.FIELD`, a
    number or array of the schedule (further dots reach nested ones); `momentum`; `noise`, the rate of expected
    symmetric label noise, with the weights fixed; `class_weights`, factors on the weights of the classes, at 1, which
    keep the sum of the weights if it is 1 (before normalisation) and are applied as given otherwise; `sample_weights`,
    the q_i themselves, each with the others fixed; `loss.FIELD`; `kernel`; `H`, `W` (in units of e^log_scale) and `b`.

    Source: beyond the paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.anchored(uj.balanced(2, 1), 2, decay=0.1)
        >>> found = available(model, uj.Flow(uj.cosine(0.5, horizon=9)), model.init(jax.random.key(0)))
        >>> sorted(found)[:4], float(found["schedule.peak"].value)
        (['H', 'W', 'class_weights', 'decay_H'], 0.5)
    """
    named = {**_model_parameters(model), **_label_parameters(model), **_dynamics_parameters(dynamics)}
    for name in ("H", "W") + (("b",) if model.bias else ()):
        named[name] = (getattr(state, name), lambda p, value, name=name: (*p[:2], p[2].replace(**{name: value})))
    moves = {"decay_H": model.moves.H, "decay_W": model.moves.W}
    moves |= {"rate_H": model.moves.H, "rate_W": model.moves.W}
    both = model.moves.coupled
    moves |= {"s": both, "decay": both}
    return {name: Parameter(name, *found) for name, found in named.items() if moves.get(name, True)}


def _model_parameters(model: LayerPeeled) -> dict[str, Any]:
    named: dict[str, Any] = {}
    loss = model.loss
    if isinstance(loss, Unhinged):
        named["gamma"] = (loss.trade_off(model.classes), _of_model(lambda m, v: _with_loss(m, gamma=v)))
    else:
        for field in dataclasses.fields(loss):
            if _number(getattr(loss, field.name)):
                named[f"loss.{field.name}"] = (getattr(loss, field.name), _of_model(_loss_field(field.name)))
    named["decay"] = (model.decay_H, _of_model(lambda m, v: dataclasses.replace(m, decay_H=v, decay_W=v)))
    if np.ndim(model.decay_H) or np.ndim(model.decay_W) or not _same(model.decay_H, model.decay_W):
        del named["decay"]
    named |= {name: (getattr(model, name), _of_model(_field(name))) for name in ("decay_H", "decay_W")}
    if model.kernel is not None:
        named["kernel"] = (model.kernel.matrix, _of_model(_with_kernel))
    return named


def _with_kernel(model: LayerPeeled, matrix: np.ndarray | jax.Array) -> LayerPeeled:
    assert model.kernel is not None
    return dataclasses.replace(model, kernel=dataclasses.replace(model.kernel, matrix=matrix))


def _loss_field(name: str) -> Callable[[LayerPeeled, Any], LayerPeeled]:
    return lambda model, value: _with_loss(model, **{name: value})


def _same(one: object, other: object) -> bool:
    traced = isinstance(one, jax.core.Tracer) or isinstance(other, jax.core.Tracer)
    return one is other if traced else bool(one == other)


def _with_loss(model: LayerPeeled, **changes: Any) -> LayerPeeled:
    return dataclasses.replace(model, loss=dataclasses.replace(model.loss, **changes))


def _label_parameters(model: LayerPeeled) -> dict[str, Any]:
    labels = model.labels

    def relabelled(change: Callable[[Any, Any], Any]) -> Callable[[Problem, Any], Problem]:
        return _of_model(lambda m, v: dataclasses.replace(m, labels=change(m.labels, v)))

    named = {
        "class_weights": (np.ones(labels.classes), relabelled(_reweighted)),
        "sample_weights": (labels.weights, relabelled(lambda old, v: old.replace(weights=v))),
    }
    rate = _noise_rate(labels)
    if rate is not None:

        def noisy(old: Labels, value: float | jax.Array) -> Any:
            return old.replace(targets=None, kind="hard").symmetric_noise(value)

        named["noise"] = (rate, relabelled(noisy))
    return named


def _reweighted(labels: Labels, factors: np.ndarray | jax.Array) -> Labels:
    """Weights times factors of their classes. Weights whose sum is 1 are normalised again; others are not."""
    weighted = labels.weighted(classes=factors, normalise=False)
    xp = np if _check.concrete((labels.weights, weighted.weights)) else jnp
    before, after = xp.sum(xp.asarray(labels.weights)), xp.sum(xp.asarray(weighted.weights))
    normalised = xp.abs(before - 1) < _NORMALISED
    return weighted.replace(weights=weighted.weights * xp.where(normalised, before / after, 1.0))


def _noise_rate(labels: Labels) -> Any:
    """The rate of expected symmetric noise in the targets, or None if the targets are anything else."""
    if labels.kind == "hard":
        return 0.0
    if labels.kind != "table" or isinstance(labels.targets, jax.core.Tracer):
        return None
    table = np.asarray(labels.targets)
    off = ~np.eye(labels.classes, dtype=bool)
    one_rate = np.ptp(table[off]) < 1e-12 and np.ptp(np.diagonal(table)) < 1e-12
    return float(1 - table[0, 0]) if one_rate else None


def _dynamics_parameters(dynamics: Dynamics) -> dict[str, Any]:
    named: dict[str, Any] = {}
    schedule = dynamics.schedule
    if isinstance(schedule, Constant):
        named["eta"] = (schedule.value, _of_dynamics(lambda d, v: dataclasses.replace(d, schedule=Constant(v))))
    else:
        for way, value in _numbers_in(schedule, ("schedule",)):
            named[".".join(way)] = (value, _of_dynamics(functools.partial(_put, way=way)))
    for name in ("rate_H", "rate_W"):
        if _number(getattr(dynamics, name)):
            named[name] = (getattr(dynamics, name), _of_dynamics(_field(name)))
    if {"rate_H", "rate_W"} <= named.keys():
        ratio = dynamics.rate_H / dynamics.rate_W
        named["s"] = (ratio, _of_dynamics(lambda d, v: dataclasses.replace(d, rate_H=v * d.rate_W)))
    if isinstance(dynamics, Descent) and dynamics.momentum is not None:
        named["momentum"] = (dynamics.momentum, _of_dynamics(_field("momentum")))
    return named


def _numbers_in(thing: Any, way: tuple[str, ...]) -> Iterable[tuple[tuple[str, ...], Any]]:
    for field in dataclasses.fields(thing):
        value, here = getattr(thing, field.name), (*way, field.name)
        if _number(value):
            yield here, value
        elif isinstance(value, tuple) and value and all(map(_number, value)):
            yield here, jnp.stack([jnp.asarray(entry, float) for entry in value])
        elif dataclasses.is_dataclass(value):
            yield from _numbers_in(value, here)


def _put(thing: Any, value: float | np.ndarray | jax.Array, way: tuple[str, ...]) -> Any:
    head, *rest = way
    new = _put(getattr(thing, head), value, tuple(rest)) if rest else value
    return dataclasses.replace(thing, **{head: new})


def _instead(name: str, known: Mapping[str, Any]) -> str:
    """What an unknown name may have meant."""
    fields = [repr(other) for other in known if other.startswith("schedule.")]
    if name == "eta" and fields:
        return f": the schedule is not constant, and its numbers are {', '.join(fields)}."
    if name.startswith("schedule.") and "eta" in known:
        return ": the schedule is constant, and its rate is 'eta'."
    return _check.nearest(name, known) or "."


Choice = str | Parameter
"""A name among `available`, or your own `Parameter`."""


def chosen(parameters: Iterable[Choice] | Mapping[str, Any] | Choice | None, problem: Problem) -> list[Parameter]:
    """The requested parameters; None means every scalar one.

    Raises:
        ValueError: for a name that this problem does not have.
    """
    known = available(*problem)
    if parameters is None:
        return [p for p in known.values() if np.ndim(p.value) == 0]
    if isinstance(parameters, (str, Parameter)):
        parameters = (parameters,)
    if not isinstance(parameters, Iterable) or getattr(parameters, "shape", None) == ():
        raise ValueError(f"parameters must be a list of names or `Parameter`s, but got {_check.given(parameters)}.")
    found = []
    for entry in parameters:
        if not isinstance(entry, (str, Parameter)):
            raise ValueError(f"a parameter must be a name or a `Parameter`, but got {_check.given(entry)}.")
        if isinstance(entry, str) and entry not in known:
            meant = _instead(entry, known)
            raise ValueError(f"unknown parameter {entry!r}{meant} This problem has {', '.join(known)}.")
        found.append(known[str(entry)] if isinstance(entry, str) else entry)
    if not found:
        raise ValueError("there is no parameter to differentiate with respect to; name at least one.")
    names = [p.name for p in found]
    if len(set(names)) < len(names):
        raise ValueError(f"a parameter is named twice: {', '.join(names)}.")
    return found


def together(problem: Problem, parameters: Sequence[Parameter], theta: Mapping[str, Any]) -> Problem:
    """A problem as a function of several parameters, to be differentiated at their values.

    The change that each parameter makes is computed separately and the changes are added, so that none undoes
    another's: the derivative with respect to each is that with the others at their values.

        problem + sum_i [put_i(problem, theta_i) - put_i(problem, value_i)]

    Args:
        problem: Model, dynamics and state.
        parameters: As returned by `chosen`.
        theta: Values by name.

    Raises:
        ValueError: if two parameters change the same part in a form that cannot be added.

    Source: beyond the paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.regularized(uj.balanced(2, 1), 2, decay=0.1)
        >>> both = chosen(["decay", "decay_H"], (model, uj.Flow(), model.init(jax.random.key(0))))
        >>> moved, _, _ = together((model, uj.Flow(), None), both, {"decay": 0.2, "decay_H": 0.3})
        >>> round(float(moved.decay_H), 6), round(float(moved.decay_W), 6)
        (0.4, 0.2)
    """
    if len(parameters) == 1:
        return parameters[0].put(problem, theta[parameters[0].name])
    for p in parameters:
        problem = p.put(problem, p.value)
    form: Any
    start, form = jax.tree.flatten(problem)
    leaves, owners, alone = list(start), dict[int, str](), []
    for p in parameters:
        here, before = (p.put(problem, value) for value in (theta[p.name], p.value))
        if all(form == jax.tree.structure(found) for found in (here, before)):
            moved, there = jax.tree.leaves(here), jax.tree.leaves(before)
            changed = [i for i, leaf in enumerate(start) if not (moved[i] is leaf and there[i] is leaf)]
            if all(_addable(start[i], moved[i], there[i]) for i in changed):
                for i in changed:
                    leaves[i] = leaves[i] + (moved[i] - there[i])
                    owners[i] = p.name
                continue
        alone.append(p)
    problem = jax.tree.unflatten(form, leaves)
    changes = [(leaves[i], name) for i, name in owners.items()]
    for p in alone:
        known = {id(leaf) for leaf in jax.tree.leaves(problem)}
        problem = p.put(problem, theta[p.name])
        after = jax.tree.leaves(problem)
        kept = {id(leaf) for leaf in after}
        lost = [name for leaf, name in changes if id(leaf) not in kept]
        if lost:
            raise ValueError(
                f"the parameters {lost[0]!r} and {p.name!r} replace the same part of the problem, and what they change "
                "cannot be added; ask for them one at a time."
            )
        changes += [(leaf, p.name) for leaf in after if id(leaf) not in known]
    return problem


def _addable(*leaves: Any) -> bool:
    return all(map(_number, leaves)) and len({np.shape(leaf) for leaf in leaves}) == 1
