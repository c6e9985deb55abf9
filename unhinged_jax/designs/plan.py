"""What a design chooses and what for: a run's configuration, free keys, goals and a reference, from a TOML file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax import _check
from unhinged_jax import config as _config
from unhinged_jax.closed_form.run import NoClosedForm, why_no_closed_form
from unhinged_jax.config import Config, ConfigError, Problem
from unhinged_jax.designs.domains import KINDS, Domain
from unhinged_jax.precision import NAMES, current, given_back, scope
from unhinged_jax.sweeps.groups import build_traced

SHIPPED = ("steps", "steps_momentum", "steps_ce", "norm", "prototypes", "weights", "rescaling")
PLACES = ("run", "limit", "direction", "modes")


@dataclasses.dataclass(frozen=True)
class FreeSection:
    """[design.free.KEY]: a key of the configuration that is chosen.

    Attributes:
        domain: "real", "positive", "interval", "simplex" or "sphere"; see `Domain`.
        start: Where to begin; default what the configuration says there.
        low, high: Ends of an interval; of the grid of a brute-force reference, too.
        total: Sum (simplex) or norm (sphere); default that of the start.
        spacing: "linear" (default) or "log": of the grid.
    """

    domain: str = "real"
    start: float | list | None = None
    low: float | None = None
    high: float | None = None
    total: float | None = None
    spacing: str = "linear"


@dataclasses.dataclass(frozen=True)
class GoalSection:
    """[[design.goal]]: one term of the objective.

    Attributes:
        observe: What is looked at.
        of: "run" (default): the observable at the last time. "direction": the observable of the limit direction.
            "limit": a quantity of `limit` (rate, exponent, ...). "modes": "spread", the variance of log sigma over the
            C-1 largest singular values of the signal.
        goal: "minimise" (default), "maximise", or a number to come close to, by the squared difference.
        weight: Factor on the term.
    """

    observe: str
    of: str = "run"
    goal: float | str = "minimise"
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class ReferenceSection:
    """[design.reference]: the optimum that the design is held against.

    Attributes:
        kind: "grid": brute force over every free key, `points` an axis, then `zooms` finer grids around the best.
            "equal": all entries equal (of one simplex). "counts": entries proportional to n_c^exponent (of one
            simplex). "value": a known least objective.
        points, zooms, exponent, value: Their settings.
        why: Where it comes from, in words.
    """

    kind: str
    points: int = 21
    zooms: int = 3
    exponent: float = -0.5
    value: float | None = None
    why: str | None = None


@dataclasses.dataclass(frozen=True)
class DesignSection:
    """[design]: everything but the run.

    Attributes:
        free: Dotted key -> `FreeSection`.
        goal: List of `GoalSection`s.
        method: "exact" (default) or "simulate".
        reference: A `ReferenceSection`, or none.
        optimizer: An optax optimiser by name, or a table with its arguments; default Adam at 0.1.
        anneal: Let its updates fall to 0 along half a cosine (default).
        steps: Of the outer loop.
        tries: Starts to look at: the given one, and random ones about it in unconstrained coordinates; the loop begins
            at the best. Default 1. More where there are several valleys.
        title: Of the picture.
    """

    free: dict
    goal: list
    method: str = "exact"
    reference: ReferenceSection | None = None
    optimizer: str | dict | None = None
    anneal: bool = True
    steps: int = 300
    tries: int = 1
    title: str | None = None


@dataclasses.dataclass(frozen=True)
class DesignPlan:
    """A design: the run, what is free, what is wanted.

    Attributes:
        config: The run, as `unhinged simulate` reads it.
        design, goals, sections: The [design] section, its goals and its free keys as they were given.
        free: Dotted key -> the `Domain` it is kept in.
        start: Dotted key -> where it begins.

    Make one with `DesignPlan.of` from tables, or `DesignPlan.read` from a TOML file or the name of a shipped plan.

    Source: beyond the paper.

    Example:
        >>> DesignPlan.read("steps").free["dynamics.schedule.values"].kind
        'simplex'
    """

    config: Config
    design: DesignSection
    goals: tuple[GoalSection, ...]
    sections: dict[str, FreeSection]
    free: dict[str, Domain]
    start: dict[str, np.ndarray]

    @classmethod
    def of(cls, tables: Mapping[str, Any], path: str | Path = "plan") -> DesignPlan:
        """A plan from the tables of a TOML file: those of a run, and `design`.

        Raises:
            ConfigError: naming section and key, with what was given and what was expected.
        """
        given = dict(tables)
        section = given.pop("design", None)
        if section is None:
            raise ConfigError(f"{path}: a plan needs a [design] section with free keys and goals.")
        config = _config.config_of(given, path, "design")
        with _config.placed(str(path)):
            design = _config.read_section(DesignSection, section, "[design]")
            goals = tuple(
                _config.read_section(GoalSection, g, f"[[design.goal]] {i + 1}") for i, g in enumerate(design.goal)
            )
            sections = {
                key: _config.read_section(FreeSection, entry, f"[design.free.{key!r}]")
                for key, entry in design.free.items()
            }
        with _config.placed(f"{path}: [design]"):
            _check_section(design, goals, sections, config.run.precision)
            problem = _config.build(config)
            _check_method(design.method, problem)
            begun = {key: _domain(key, entry, config, problem) for key, entry in sections.items()}
        free = {key: domain for key, (domain, _) in begun.items()}
        return cls(config, design, goals, sections, free, {key: start for key, (_, start) in begun.items()})

    @classmethod
    def read(cls, path: str | Path) -> DesignPlan:
        """A plan from a TOML file, or a shipped one by its name.

        Raises:
            ConfigError: for bad TOML, an unknown key or a value that cannot be.
            OSError: if the file cannot be read.
        """
        return cls.of(*_config.shipped_or_file(path, SHIPPED, "unhinged_jax.designs", "plans"))

    def objective(self, values: Mapping[str, Any]) -> jax.Array:
        """The sum of the goals' terms for values of the free keys, in the plan's precision; differentiable."""
        outside = current()
        with precision_of(self):
            problem = build_traced(self.config, dict(values))
            looked = _Looks(problem, self.design.method, self.goals)
            found = sum((goal.weight * _term(goal, looked) for goal in self.goals), jnp.zeros(()))
        return given_back(found, self.config.run.precision, outside)

    def measured(self, values: Mapping[str, Any]) -> dict[str, jax.Array]:
        """What each goal looks at, in the plan's precision."""
        outside = current()
        with precision_of(self):
            looked = _Looks(build_traced(self.config, dict(values)), self.design.method, self.goals)
            found = {f"{goal.observe} of {goal.of}": looked.value(goal) for goal in self.goals}
        return given_back(found, self.config.run.precision, outside)


def _check_section(
    design: DesignSection, goals: tuple[GoalSection, ...], free: dict[str, FreeSection], precision: str
) -> None:
    _check.choice("method", design.method, ("exact", "simulate"))
    _check.choice("precision", precision, NAMES)
    _check.whole("steps", design.steps, 1)
    _check.whole("tries", design.tries, 1)
    if not goals:
        raise ValueError("give at least one [[design.goal]].")
    if not free:
        raise ValueError('give at least one key to choose, as [design.free."KEY"].')
    for goal in goals:
        _check.choice("of", goal.of, PLACES)
        if isinstance(goal.goal, str):
            _check.choice("goal", goal.goal, ("minimise", "maximise"))
    for entry in free.values():
        _check.choice("domain", entry.domain, KINDS)
        _check.choice("spacing", entry.spacing, ("linear", "log"))
    for key, entry in free.items():
        with _config.placed(f"[design.free.{key!r}]"):
            _check_range(entry, precision)
    for goal in goals:
        _check.finite("weight", goal.weight)
        if not isinstance(goal.goal, str):
            _check.finite("goal", goal.goal)
    if design.reference is not None:
        _check.choice("reference kind", design.reference.kind, ("grid", "equal", "counts", "value"))
        _check.whole("reference points", design.reference.points, 2)
        _check.whole("reference zooms", design.reference.zooms, 0)
        _check.finite("reference exponent", design.reference.exponent)
        if design.reference.kind == "value" and design.reference.value is None:
            raise ValueError("a reference of kind 'value' needs the key 'value'.")


def _check_range(entry: FreeSection, precision: str) -> None:
    """Raise unless the ends of a range are numbers that a grid and an interval can be made of."""
    for name in ("low", "high", "total"):
        if getattr(entry, name) is not None:
            _check.finite(name, getattr(entry, name))
    if entry.total is not None:
        _check.positive("total", entry.total)
    if entry.domain == "interval" and (entry.low is None or entry.high is None):
        raise ValueError("an interval needs `low` below `high`.")
    if entry.low is not None and entry.high is not None and not entry.low < entry.high:
        raise ValueError(f"`low` must be below `high`, but they are {entry.low:g} and {entry.high:g}.")
    tiny = float(np.finfo(precision).tiny)
    if entry.spacing == "log" and entry.low is not None and not entry.low >= tiny:
        raise ValueError(
            f"spacing = 'log' needs `low` above 0, and at least {tiny:.2g} in {precision}, but it is {entry.low:g}."
        )


def _check_method(method: str, problem: Problem) -> None:
    why = why_no_closed_form(problem.model, problem.dynamics)
    if method == "exact" and why:
        raise NoClosedForm(f"there is no closed form: {why}")


def _domain(key: str, entry: FreeSection, config: Config, problem: Problem) -> tuple[Domain, np.ndarray]:
    """The domain of a free key and where it starts."""
    start = entry.start if entry.start is not None else _now(key, config, problem)
    if start is None:
        raise ValueError(f"{key!r} has no value in the configuration; give it a `start`.")
    array = _check.real(f"the start of {key!r}", start, array=True).astype(float)
    size = float(array.sum()) if entry.domain == "simplex" else float(np.linalg.norm(array))
    total = size if entry.total is None else entry.total
    low, high = (0.0 if entry.low is None else entry.low), (1.0 if entry.high is None else entry.high)
    domain = Domain(entry.domain, low, high, total)
    outside = domain.outside(array)
    inset = 1e-9 * (high - low)
    ends = (low + inset, high - inset) if entry.domain == "interval" and array.ndim == 0 else ()
    for value in (array, *ends):  # what is chosen is traced, and looked at by nobody
        try:
            build_traced(config, {key: np.asarray(value).tolist()})
        except ValueError as error:
            raise ValueError(f"{key!r} cannot be {_check.given(np.asarray(value).tolist())}: {error}") from error
    return domain, outside


def _now(key: str, config: Config, problem: Problem) -> Any:
    """What a configuration holds at a dotted key; arrays of the state as they were drawn."""
    if key in ("state.prototypes", "state.features", "state.bias"):
        part = {"state.prototypes": "W", "state.features": "H", "state.bias": "b"}[key]
        return np.asarray(getattr(problem.state, part))
    place: Any = config.as_dict()
    for part in key.split("."):
        if isinstance(place, list):
            place = place[int(part)] if part.isdecimal() and int(part) < len(place) else None
        else:
            place = place.get(part) if isinstance(place, dict) else None
    return place


class _Looks:
    """What goals may look at, each computed once."""

    def __init__(self, problem: Problem, method: str, goals: tuple[GoalSection, ...]) -> None:
        self.problem, self.method, self.goals = problem, method, goals
        self._found: dict[str, Any] = {}

    def value(self, goal: GoalSection) -> jax.Array:
        if goal.of not in self._found:
            self._found[goal.of] = getattr(self, f"_{goal.of}")()
        found = self._found[goal.of]
        if goal.observe not in found:
            raise ValueError(f"a goal of {goal.of!r} can look at {', '.join(found)}, but not at {goal.observe!r}.")
        return found[goal.observe]

    def _names(self, place: str) -> list[str]:
        return list(dict.fromkeys(goal.observe for goal in self.goals if goal.of == place))

    def _run(self) -> dict[str, jax.Array]:
        import unhinged_jax as uj

        problem = self.problem
        solve = uj.exact if self.method == "exact" else uj.simulate
        run = solve(
            problem.model, problem.dynamics, problem.state, problem.times[-1:], self._names("run"),
            target=problem.target, precision=problem.precision,
        )  # fmt: skip
        return {name: values[-1] for name, values in run.observables.items()}

    def _limit_of(self) -> Any:
        from unhinged_jax.limits import limit

        problem = self.problem
        return limit(problem.model, problem.dynamics, problem.state, target=problem.target, precision=problem.precision)

    def _limit(self) -> dict[str, jax.Array]:
        found = self._limit_of()
        names = ("rate", "rate_H", "rate_W", "exponent", "threshold", "excess")
        return {name: getattr(found, name) for name in names}

    def _direction(self) -> dict[str, jax.Array]:
        from unhinged_jax.observables import observe_state

        return dict(observe_state(self.problem.model, self._limit_of().direction, self._names("direction")))

    def _modes(self) -> dict[str, jax.Array]:
        model = self.problem.model
        logs = jnp.log(jnp.linalg.eigvalsh(model.signal().gram(jnp.result_type(float)))[-(model.classes - 1) :]) / 2
        return {"spread": jnp.mean((logs - jnp.mean(logs)) ** 2)}


def _term(goal: GoalSection, looked: _Looks) -> jax.Array:
    value = looked.value(goal)
    if goal.goal == "minimise":
        return value
    return -value if goal.goal == "maximise" else (value - goal.goal) ** 2  # type: ignore[operator]


def precision_of(plan: DesignPlan) -> Any:
    """The context of a plan's precision."""
    return scope(plan.config.run.precision)


def counts_of(plan: DesignPlan) -> np.ndarray:
    """Samples in each class."""
    return np.asarray(_config.build_stateless(plan.config).model.labels.counts(), float)


def is_close(one: float, other: float) -> bool:
    """Whether two objectives agree to rounding."""
    return math.isclose(one, other, rel_tol=1e-12, abs_tol=1e-14)
