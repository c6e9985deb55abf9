"""The plan of a design: the configuration of a run, free keys, goals and a reference, from a TOML file."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax import _check
from unhinged_jax import config as _config
from unhinged_jax.closed_form.constant_gradient import why_not_beside
from unhinged_jax.closed_form.existence import NoClosedForm, why_no_closed_form
from unhinged_jax.config import Config, ConfigError, Problem
from unhinged_jax.designs.domains import Domain
from unhinged_jax.designs.goals import Looks, term
from unhinged_jax.designs.sections import DesignSection, FreeSection, GoalSection, check_section
from unhinged_jax.precision import current, given_back, scope
from unhinged_jax.sweeps.groups import build_traced

SHIPPED = ("steps", "steps_momentum", "steps_ce", "norm", "prototypes", "weights", "rescaling")


@dataclasses.dataclass(frozen=True)
class DesignPlan:
    """A design: the run, the free keys and the goals.

    Attributes:
        config: The run, as `unhinged simulate` reads it.
        design, goals, sections: The [design] section, its goals and its free keys as they were given.
        free: Dotted key -> its `Domain`.
        start: Dotted key -> its first value.

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

    def __repr__(self) -> str:
        title = self.design.title or self.config.path.stem
        return f"DesignPlan({title!r}: {self.design.steps} steps, free: {', '.join(self.free)})"

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
            check_section(design, goals, sections, config.run.precision)
            problem = _config.build(config)
            _check_method(design.method, problem, sections)
            begun = {key: _domain(key, entry, config, problem) for key, entry in sections.items()}
        free = {key: domain for key, (domain, _) in begun.items()}
        return cls(config, design, goals, sections, free, {key: start for key, (_, start) in begun.items()})

    @classmethod
    def read(cls, path: str | Path) -> DesignPlan:
        """A plan from a TOML file, or a shipped one by its name.

        Raises:
            ConfigError: for bad TOML, an unknown key or a value that is not allowed.
            OSError: if the file cannot be read.
        """
        return cls.of(*_config.shipped_or_file(path, SHIPPED, "unhinged_jax.designs", "plans"))

    @functools.cached_property
    def _programs(self) -> dict[str, Callable[..., Any]]:
        return {}

    def compiled(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of this plan, compiled once under a name, so that a second design of the plan compiles nothing."""
        return self._programs.setdefault(name, jax.jit(function))

    def objective(self, values: Mapping[str, Any]) -> jax.Array:
        """The sum of the goals' terms for values of the free keys, in the plan's precision; differentiable."""
        outside = current()
        with precision_of(self):
            problem = build_traced(self.config, dict(values))
            looked = Looks(problem, self.design.method, self.goals)
            found = sum((goal.weight * term(goal, looked) for goal in self.goals), jnp.zeros(()))
        return given_back(found, self.config.run.precision, outside)

    def measured(self, values: Mapping[str, Any]) -> dict[str, jax.Array]:
        """The quantity of each goal, in the plan's precision."""
        outside = current()
        with precision_of(self):
            looked = Looks(build_traced(self.config, dict(values)), self.design.method, self.goals)
            found = {f"{goal.observe} of {goal.of}": looked.value(goal) for goal in self.goals}
        return given_back(found, self.config.run.precision, outside)


def _check_method(method: str, problem: Problem, free: Iterable[str]) -> None:
    why = why_no_closed_form(problem.model, problem.dynamics)
    if why is None and getattr(problem.dynamics, "optimizer", None) is not None:
        why = why_not_beside(free, problem.model.moves.coupled)
    if why is None and not problem.model.loss.linear:
        why = "a design moves what keeps a start of squared error balanced; give method = 'simulate'."
    if why is None and problem.model.depth > 2:
        why = "a design moves what keeps a start of a deep model spectral; give method = 'simulate'."
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
    for value in (array, *ends):  # chosen values are traced, so nothing can check them
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


def precision_of(plan: DesignPlan) -> Any:
    """The context of a plan's precision."""
    return scope(plan.config.run.precision)


def counts_of(plan: DesignPlan) -> np.ndarray:
    """Samples in each class."""
    return np.asarray(_config.build_stateless(plan.config).model.labels.counts(), float)


def is_close(one: float, other: float) -> bool:
    """Whether two objectives agree to rounding."""
    return math.isclose(one, other, rel_tol=1e-12, abs_tol=1e-14)
