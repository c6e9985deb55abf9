"""Continuous parameters of a problem by name: their values, and how to replace them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax import _check
from unhinged_jax._values import in_a_line
from unhinged_jax.dynamics import RATES, Descent, Dynamics, Flow
from unhinged_jax.labels import Labels
from unhinged_jax.losses import CustomTree, Unhinged
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

    def __repr__(self) -> str:
        return in_a_line(self)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ValueError(f"the name of a parameter must be a string, but got {_check.given(self.name)}.")
        _check.finite(f"the value of parameter {self.name!r}", self.value, array=True)
        if not callable(self.put):
            raise ValueError(f"`put` must be a function (problem, value) -> problem, but got {_check.given(self.put)}.")


@dataclasses.dataclass(frozen=True)
class _Change:
    """(problem, value) -> problem with one of its three parts changed.

    Changes of the same kind are equal, so that a program that contains them is compiled once.
    """

    part: int
    change: Callable[[Any, Any], Any]

    def __call__(self, problem: Problem, value: Any) -> Problem:
        parts: list[Any] = list(problem)
        parts[self.part] = self.change(parts[self.part], value)
        return (parts[0], parts[1], parts[2])


@dataclasses.dataclass(frozen=True)
class _Replace:
    """(thing, value) -> thing with the field at the end of a path replaced, of field names and places in tuples."""

    path: tuple[str, ...]

    def __call__(self, thing: Any, value: Any) -> Any:
        if not self.path:
            return value
        head, replaced = self.path[0], _Replace(self.path[1:])
        if isinstance(thing, tuple):
            return tuple(replaced(each, value) if str(at) == head else each for at, each in enumerate(thing))
        return dataclasses.replace(thing, **{head: replaced(getattr(thing, head), value)})


@dataclasses.dataclass(frozen=True)
class _OfOptimizer:
    """(descent, value) -> descent with a number of its optimiser replaced."""

    name: str

    def __call__(self, descent: Descent, value: object) -> Descent:
        return dataclasses.replace(descent, optimizer=descent.optimizer.replace(**{self.name: value}))


def _of_model(*path: str) -> _Change:
    return _Change(0, _Replace(path))


def _of_dynamics(*path: str) -> _Change:
    return _Change(1, _Replace(path))


def is_ours(parameter: Parameter) -> bool:
    """Whether a parameter is one of `available`, so that what it changes depends on its arguments alone."""
    return isinstance(parameter.put, _Change)


def is_number(value: object) -> bool:
    """Whether something is a number or an array, so that there are derivatives with respect to it."""
    return isinstance(value, (int, float, np.ndarray, np.generic, jax.Array)) and not isinstance(value, bool)


def available(model: LayerPeeled, dynamics: Dynamics, state: State) -> dict[str, Parameter]:
    """Every named parameter of a problem.

    `gamma`; `decay` (moves both decays by the same amount), `decay_H`, `decay_W` (each with the other fixed); `rate_H`,
    `rate_W` (each with the other fixed) and `s` = r_1/r_2 at fixed r_2; `decay_b` and `rate_b` if the biases have their
    own, which then stay where decays and rates of H and W move; `eta`, a constant rate; `schedule.FIELD`, a number or
    array of the schedule (further dots reach nested ones, and places count from 0 among those that `join` joins);
    `momentum`, `damping`, `sam_radius` and `clip_norm`; `memory.FIELD`; `optimizer.NAME`, a number of an `Optimizer`;
    `batch`, of expectations and of `limit`, as a continuous number;
    `noise`, the rate of expected symmetric label noise, with the weights fixed; `class_weights`, factors on the weights
    of the classes, at 1, which keep the sum of the weights if it is 1 (before normalisation) and are applied as given
    otherwise; `sample_weights`, the q_i themselves, each with the others fixed; `loss.FIELD`; `kernel`; `H`, `W` (in
    units of e^log_scale), `inner` of a deep model in the same units, and `b`.

    Source: beyond the paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.anchored(uj.balanced(2, 1), 2, decay=0.1)
        >>> found = available(model, uj.Flow(uj.cosine(0.5, horizon=9)), model.init(jax.random.key(0)))
        >>> sorted(found)[:4], float(found["schedule.peak"].value)
        (['H', 'W', 'class_weights', 'decay_H'], 0.5)
    """
    named = {**_model_parameters(model), **_label_parameters(model), **_dynamics_parameters(dynamics)}
    for name in ("H", "W") + (("b",) if model.bias else ()) + (("inner",) if model.depth > 2 else ()):
        named[name] = (getattr(state, name), _Change(2, _Replace((name,))))
    moves = {"decay_H": model.moves.H, "decay_W": model.moves.W}
    moves |= {"rate_H": model.moves.H, "rate_W": model.moves.W, "rate_b": model.moves.b}
    both = model.moves.coupled
    moves |= {"s": both, "decay": both}
    return {name: Parameter(name, *found) for name, found in named.items() if moves.get(name, True)}


def _model_parameters(model: LayerPeeled) -> dict[str, Any]:
    named: dict[str, Any] = {}
    loss = model.loss
    if isinstance(loss, Unhinged):
        named["gamma"] = (loss.trade_off(model.classes), _of_model("loss", "gamma"))
    else:
        held: Any = loss.function if isinstance(loss, CustomTree) else loss
        way = ("loss", "function") if isinstance(loss, CustomTree) else ("loss",)
        fields: Any = dataclasses.fields(held) if dataclasses.is_dataclass(held) else ()
        for field in fields:
            if is_number(getattr(held, field.name)) and not field.metadata.get("static"):
                named[f"loss.{field.name}"] = (getattr(held, field.name), _of_model(*way, field.name))
    named["decay"] = (model.decay_H, _Change(0, _with_decay))
    if np.ndim(model.decay_H) or np.ndim(model.decay_W) or not _same(model.decay_H, model.decay_W):
        del named["decay"]
    names = ("decay_H", "decay_W") if model.decay_b is None else ("decay_H", "decay_W", "decay_b")
    named |= {name: (getattr(model, name), _of_model(name)) for name in names}
    if model.kernel is not None:
        named["kernel"] = (model.kernel.matrix, _of_model("kernel", "matrix"))
    return named


def _with_decay(model: LayerPeeled, value: Any) -> LayerPeeled:
    return dataclasses.replace(model, decay_H=value, decay_W=value)


def _same(one: object, other: object) -> bool:
    traced = isinstance(one, jax.core.Tracer) or isinstance(other, jax.core.Tracer)
    return one is other if traced else bool(one == other)


def _label_parameters(model: LayerPeeled) -> dict[str, Any]:
    labels = model.labels
    named = {
        "class_weights": (np.ones(labels.classes), _Change(0, _reweighted)),
        "sample_weights": (labels.weights, _Change(0, _with_weights)),
    }
    if not labels.classified:
        del named["class_weights"]
    rate = _noise_rate(labels)
    if rate is not None:
        named["noise"] = (rate, _Change(0, _with_noise))
    return named


def _with_weights(model: LayerPeeled, weights: np.ndarray | jax.Array) -> LayerPeeled:
    return dataclasses.replace(model, labels=model.labels.replace(weights=weights))


def _with_noise(model: LayerPeeled, rate: float | jax.Array) -> LayerPeeled:
    clean: Any = model.labels.replace(targets=None, kind="hard")
    return dataclasses.replace(model, labels=clean.symmetric_noise(rate))


def _reweighted(model: LayerPeeled, factors: np.ndarray | jax.Array) -> LayerPeeled:
    """Weights times factors of their classes. Weights whose sum is 1 are normalised again; others are not."""
    labels = model.labels
    weighted = labels.weighted(classes=factors, normalise=False)
    xp = np if _check.concrete((labels.weights, weighted.weights)) else jnp
    before, after = xp.sum(xp.asarray(labels.weights)), xp.sum(xp.asarray(weighted.weights))
    normalised = xp.abs(before - 1) < _NORMALISED
    return _with_weights(model, weighted.weights * xp.where(normalised, before / after, 1.0))


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
        named["eta"] = (schedule.value, _Change(1, _with_eta))
    else:
        for way, value in _numbers_in(schedule, ("schedule",)):
            named[".".join(way)] = (value, _of_dynamics(*way))
    for name in RATES:
        if is_number(getattr(dynamics, name)):
            named[name] = (getattr(dynamics, name), _of_dynamics(name))
    if {"rate_H", "rate_W"} <= named.keys():
        ratio = dynamics.rate_H / dynamics.rate_W
        named["s"] = (ratio, _Change(1, _with_ratio))
    if isinstance(dynamics, Flow) and is_number(dynamics.damping):
        named["damping"] = (dynamics.damping, _of_dynamics("damping"))
    if dynamics.memory is not None:
        for way, value in _numbers_in(dynamics.memory, ("memory",)):
            named[".".join(way)] = (value, _of_dynamics(*way))
    if isinstance(dynamics, Descent) and dynamics.momentum is not None:
        named["momentum"] = (dynamics.momentum, _of_dynamics("momentum"))
    for name in ("sam_radius", "clip_norm"):
        if is_number(getattr(dynamics, name)):
            named[name] = (getattr(dynamics, name), _of_dynamics(name))
    if isinstance(dynamics, Descent) and dynamics.batch is not None:
        named["batch"] = (dynamics.batch, _of_dynamics("batch"))
    if isinstance(dynamics, Descent) and dynamics.optimizer is not None:
        for name, value in dynamics.optimizer.numbers.items():
            if is_number(value):
                named[f"optimizer.{name}"] = (value, _Change(1, _OfOptimizer(name)))
    return named


def _numbers_in(thing: Any, way: tuple[str, ...]) -> Iterable[tuple[tuple[str, ...], Any]]:
    for field in dataclasses.fields(thing):
        if field.metadata.get("static"):
            continue
        value, here = getattr(thing, field.name), (*way, field.name)
        if is_number(value):
            yield here, value
        elif isinstance(value, tuple) and value and all(map(is_number, value)):
            yield here, jnp.stack([jnp.asarray(entry, float) for entry in value])
        elif isinstance(value, tuple):
            for at, each in enumerate(value):
                yield from _numbers_in(each, (*here, str(at))) if dataclasses.is_dataclass(each) else ()
        elif dataclasses.is_dataclass(value):
            yield from _numbers_in(value, here)


def _with_eta(dynamics: Any, value: Any) -> Any:
    return dataclasses.replace(dynamics, schedule=Constant(value))


def _with_ratio(dynamics: Any, ratio: Any) -> Any:
    return dataclasses.replace(dynamics, rate_H=ratio * dynamics.rate_W)
