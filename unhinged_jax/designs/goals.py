"""The goals of a design at one point: what they look at, and the terms of the objective."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from unhinged_jax.closed_form import exact
from unhinged_jax.config import Problem
from unhinged_jax.designs.sections import GoalSection
from unhinged_jax.limits import limit
from unhinged_jax.observables import observe_state
from unhinged_jax.simulation import simulate


class Looks:
    """The quantities for goals, each computed once."""

    def __init__(self, problem: Problem, method: str, goals: tuple[GoalSection, ...]) -> None:
        self.problem, self.method, self.goals = problem, method, goals
        self._found: dict[str, Any] = {}

    def value(self, goal: GoalSection) -> jax.Array:
        if goal.of not in self._found:
            self._found[goal.of] = getattr(self, f"_{goal.of}")()
        found = self._found[goal.of]
        if goal.observe not in found:
            raise ValueError(f"a goal of {goal.of!r} can use {', '.join(found)}, but not {goal.observe!r}.")
        return found[goal.observe]

    def _names(self, place: str) -> list[str]:
        return list(dict.fromkeys(goal.observe for goal in self.goals if goal.of == place))

    def _run(self) -> dict[str, jax.Array]:
        problem = self.problem
        solve = exact if self.method == "exact" else simulate
        run = solve(
            problem.model, problem.dynamics, problem.state, problem.times[-1:], self._names("run"),
            target=problem.target, precision=problem.precision,
        )  # fmt: skip
        return {name: values[-1] for name, values in run.observables.items()}

    def _limit_of(self) -> Any:
        problem = self.problem
        return limit(problem.model, problem.dynamics, problem.state, target=problem.target, precision=problem.precision)

    def _limit(self) -> dict[str, jax.Array]:
        found: dict[str, jax.Array] = self._limit_of().quantities
        return found

    def _direction(self) -> dict[str, jax.Array]:
        return dict(observe_state(self.problem.model, self._limit_of().direction, self._names("direction")))

    def _modes(self) -> dict[str, jax.Array]:
        model = self.problem.model
        logs = jnp.log(jnp.linalg.eigvalsh(model.signal().gram(jnp.result_type(float)))[-(model.classes - 1) :]) / 2
        return {"spread": jnp.mean((logs - jnp.mean(logs)) ** 2)}


def term(goal: GoalSection, looked: Looks) -> jax.Array:
    """What a goal adds to the objective, before its weight."""
    value = looked.value(goal)
    if goal.goal == "minimise":
        return value
    return -value if goal.goal == "maximise" else (value - goal.goal) ** 2  # type: ignore[operator]
