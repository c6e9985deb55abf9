"""What a sensitivity compiles: values, first and second derivatives of one run with respect to chosen parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _check, _request
from unhinged_jax._request.compiling import lean
from unhinged_jax.closed_form.run import exact
from unhinged_jax.derivatives.chosen import together
from unhinged_jax.derivatives.parameters import Parameter, Problem, is_ours
from unhinged_jax.dynamics import Flow
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.simulation import simulate
from unhinged_jax.trajectory import Trajectory

MODES = ("auto", "forward", "checkpointed", "direct", "backsolve")
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


class Asked:
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
        none: Any = None
        self.kind, self.mode, self.order, self.most = kind, mode, order, most
        # JAX keeps this beside the program; arrays are data of the program, and would only fill the memory here.
        self.task = task if task.before is not None else dataclasses.replace(task, state=none)
        self.wanted = tuple(dataclasses.replace(p, value=0.0) for p in wanted)
        times = np.asarray(task.times)
        changes = tuple((p.name, p.put) for p in wanted if is_ours(p))
        self._key = (
            kind, mode, order, most, times.tobytes(), times.dtype, task.plan, task.target, task.precision, changes,
        )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Asked) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def program(self) -> Callable[..., dict[str, Any]]:
        """The compiled program, which is kept if nothing outside its arguments can have changed since."""
        kept = self.task.before is None and all(map(is_ours, self.wanted))
        return _derivatives if kept else lean(_differentiate)

    def run(self, model: LayerPeeled, dynamics: Any, state: State, key: jax.Array | None = None) -> Trajectory:
        """The run that is differentiated, with the key of its draws if it draws."""
        task = self.task
        common: dict[str, Any] = {"observe": dict(task.plan), "target": task.target, "precision": task.precision}
        if self.kind == "exact":
            return exact(model, dynamics, task.resumed(state), task.times, **common)
        if isinstance(dynamics, Flow):
            common["adjoint"] = adjoint_of(self.mode)
            if self.most is not None:
                dynamics = dataclasses.replace(dynamics, max_steps=self.most)
        return simulate(model, dynamics, task.resumed(state), task.times, key=key, **common)

    def values(self, problem: Problem, theta: Values, key: jax.Array | None = None) -> jax.Array:
        """The observables as a function of the parameters, (observables, T), to be differentiated at theta."""
        at = jax.lax.stop_gradient(theta)
        here = [dataclasses.replace(p, value=at[p.name]) for p in self.wanted]
        observables = self.run(*together(problem, here, theta), key).observables
        count = len(self.task.times)
        return jnp.stack([_scalar(name, observables[name], count) for name, _ in self.task.plan])


def most_steps(problem: Problem, task: _request.Task) -> int:
    """The steps that a flow takes, and a few: the memory of the direct mode grows with the number that is allowed."""
    run = simulate(
        problem[0], problem[1], task.resumed(problem[2]), task.times, dict(task.plan), target=task.target,
        precision=task.precision,
    )  # fmt: skip
    return int(run.steps) + 8


def _scalar(name: str, values: ArrayLike, times: int) -> jax.Array:
    array = jnp.asarray(values)
    if array.shape != (times,):
        raise ValueError(f"observable {name!r} must be one number per time, but has shape {array.shape[1:]} at each.")
    return array.astype(jnp.result_type(float))


def _differentiate(asked: Asked, problem: Problem, theta: Values, key: jax.Array | None = None) -> dict[str, Any]:
    """Value, first and second derivatives of one source."""
    scalars = [p.name for p in asked.wanted if theta[p.name].ndim == 0]  # in their order, because jit sorts theta

    def with_value(theta: Values) -> tuple[jax.Array, jax.Array]:
        out = asked.values(problem, theta, key)
        return out, out

    def first() -> dict[str, Any]:
        differentiate = jax.jacfwd if asked.mode == "forward" else jax.jacrev
        slopes, value = differentiate(with_value, has_aux=True)(theta)
        return {"value": value, "first": slopes}

    if asked.order == 1 or not scalars:
        return first()

    def on(point: jax.Array) -> jax.Array:
        return asked.values(problem, {**theta, **dict(zip(scalars, point, strict=True))}, key)

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
