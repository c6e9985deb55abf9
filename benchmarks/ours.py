"""This library, by its public names only."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import unhinged_jax as uj
from benchmarks.case import Case
from benchmarks.contender import Run


def model_of(case: Case, gamma: Any = None) -> uj.LayerPeeled:
    """The case as a model."""
    labels = uj.balanced(classes=case.classes, per_class=case.per_class)
    loss = None if case.loss == "unhinged" else case.loss
    if case.spherical:
        return uj.spherical(labels, case.dim, gamma=gamma)
    if case.decay:
        return uj.regularized(labels, case.dim, decay=case.decay, gamma=gamma, loss=loss)
    return uj.unconstrained(labels, case.dim, gamma=gamma, loss=loss)


def dynamics_of(case: Case) -> uj.Flow | uj.Descent:
    """The case's flow or descent."""
    if case.horizon:
        return uj.Flow(case.rate, rtol=case.rtol)
    return uj.Descent(case.rate, batch=case.batch or None)


def state_of(case: Case) -> uj.State:
    """Where the case starts."""
    H, W = case.start()
    return uj.State(H, W, np.zeros(case.classes, case.dtype))


def solver(case: Case, solve: Callable[..., uj.Trajectory]) -> Callable[[uj.State], uj.Trajectory]:
    """State -> trajectory, as a user would call it."""
    return functools.partial(_solve, solve, case, model_of(case), dynamics_of(case), case.times)


def _solve(solve: Any, case: Case, model: Any, dynamics: Any, times: np.ndarray, state: uj.State) -> uj.Trajectory:
    return solve(model, dynamics, state, times, case.observed, precision=case.precision)


def one(solve: Callable[..., uj.Trajectory], stages: Callable[[Case], int] = lambda case: 0) -> Callable[[Case], Run]:
    """A contender that solves one problem by `uj.simulate` or `uj.exact`; `stages` of the solver of a flow."""

    def build(case: Case) -> Run:
        call = solver(case, solve)
        state = _on_device(state_of(case), case)

        def run() -> dict[str, Any]:
            trajectory = call(state)
            return {**trajectory.observables, "evaluations": stages(case) * trajectory.steps}

        return run

    return build


def lowered(solve: Callable[..., uj.Trajectory]) -> Callable[[Case], Any]:
    """A contender's program, lowered."""

    def lower(case: Case) -> Any:
        with jax.enable_x64(case.precision == "float64"):
            return jax.jit(lambda state: solver(case, solve)(state).observables).lower(state_of(case))

    return lower


def sweep(solve: Callable[..., uj.Trajectory]) -> Callable[[Case], Run]:
    """A contender that maps over seeds and trade-offs at once."""

    def build(case: Case) -> Run:
        function, arguments = sweep_program(case, solve)
        call = jax.jit(function)

        def run() -> dict[str, Any]:
            with jax.enable_x64(case.precision == "float64"):
                return dict(call(*arguments))

        return run

    return build


def ensemble(solve: Callable[..., uj.Trajectory]) -> Callable[[Case], Run]:
    """A contender that maps over keys; it returns means over the runs."""

    def build(case: Case) -> Run:
        model, dynamics, state, times = model_of(case), dynamics_of(case), state_of(case), case.times

        def one_run(key: jax.Array) -> dict[str, jax.Array]:
            return solve(model, dynamics, state, times, ["square_norm", "loss"], key=key).observables

        keys = jax.random.split(jax.random.key(0), case.seeds)
        call = jax.jit(lambda keys: jax.tree.map(lambda each: each.mean(axis=0), jax.vmap(one_run)(keys)))

        def run() -> dict[str, Any]:
            with jax.enable_x64(case.precision == "float64"):
                return dict(call(keys))

        return run

    return build


def sweep_program(
    case: Case, solve: Callable[..., uj.Trajectory]
) -> tuple[Callable[..., dict[str, jax.Array]], tuple[Any, ...]]:
    """A function of (states, gammas), and its arguments; seeds are the leading axis of the states."""
    dynamics, times = dynamics_of(case), case.times
    model = model_of(case, case.gammas[0])

    def one_run(state: uj.State, gamma: jax.Array) -> dict[str, jax.Array]:
        changed = model.replace(gamma=gamma)
        return solve(changed, dynamics, state, times, case.observed, precision=case.precision).observables

    over_gamma = jax.vmap(one_run, in_axes=(None, 0))
    H, W = case.starts()
    states = uj.State(H, W, np.zeros((case.seeds, case.classes), case.dtype), np.zeros(case.seeds, case.dtype))
    arguments = _on_device((states, np.asarray(case.gammas, case.dtype)), case)
    return jax.vmap(over_gamma, in_axes=(0, None)), arguments


def lowered_sweep(solve: Callable[..., uj.Trajectory]) -> Callable[[Case], Any]:
    """A sweep's program, lowered."""

    def lower(case: Case) -> Any:
        function, arguments = sweep_program(case, solve)
        with jax.enable_x64(case.precision == "float64"):
            return jax.jit(function).lower(*arguments)

    return lower


def _on_device(tree: Any, case: Case) -> Any:
    with jax.enable_x64(case.precision == "float64"):
        return jax.device_put(tree)
