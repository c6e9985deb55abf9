"""A configuration built into what `simulate` and `exact` take."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import numpy as np

from unhinged_jax import _check, _memory, observables
from unhinged_jax.config.dynamics import build_dynamics
from unhinged_jax.config.files import Files
from unhinged_jax.config.labels import build_labels
from unhinged_jax.config.model import build_model, build_state
from unhinged_jax.config.reading import placed
from unhinged_jax.config.sections import Config, RunSection
from unhinged_jax.config.tables import name_and_arguments, own
from unhinged_jax.dynamics import Dynamics, step_of
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.schedules import logspaced, steps


@dataclasses.dataclass(frozen=True)
class Problem:
    """Arguments of `simulate` and `exact`, and the SHA-256 of every array file from which they came.

    `key` is None unless updates draw batches or labels.
    """

    model: LayerPeeled
    dynamics: Dynamics
    state: State
    times: np.ndarray
    observe: Any
    states: bool
    target: str
    precision: str
    inputs: dict[str, str]
    key: Any = None

    @property
    def drawn(self) -> dict[str, Any]:
        """What `simulate` is given in addition to `exact`: the key, if there is one."""
        return {} if self.key is None else {"key": self.key}


def build(config: Config, precision: str | None = None) -> Problem:
    """Load the arrays that a configuration names and build what it describes.

    Args:
        config: From `read_config`.
        precision: "float32" or "float64", to use instead of the one in [run].

    Returns:
        A `Problem`. A seed gives the same noisy labels in either precision.

    Raises:
        ConfigError: naming file and section, with what was given and what was expected.

    Source: beyond the paper.

    Example:
        >>> build(read_config("examples/regularized.toml")).model.dim  # doctest: +SKIP
        64
    """
    problem = build_stateless(config, precision)
    files = Files(config.path.parent)
    with placed(f"{config.path}: [state]"):
        state = build_state(config.state, problem.model, problem.precision, files)
    key = _key(config, problem.dynamics)
    return dataclasses.replace(problem, state=state, inputs=problem.inputs | files.digests, key=key)


def _key(config: Config, dynamics: Dynamics) -> Any:
    """The key of what the updates draw; that of the state, folded once, unless it has a seed of its own."""
    if not dynamics.stochastic:
        return None
    own = config.dynamics.seed
    with placed(f"{config.path}: [dynamics]"):
        if own is not None and not isinstance(own, jax.core.Tracer):
            _check.seed("seed", own)
    return jax.random.fold_in(jax.random.key(config.state.seed), 1) if own is None else jax.random.key(own)


def build_stateless(config: Config, precision: str | None = None) -> Problem:
    """`build` without drawing the state, which stays None: enough to check every other setting."""
    precision = precision or config.run.precision
    files = Files(config.path.parent)
    with placed(f"{config.path}: [labels]"):
        layout = build_labels(config.labels, files)
    with placed(f"{config.path}: [model]"):
        problem = build_model(config.model, layout, files)
    with placed(f"{config.path}: [dynamics]"):
        moves = build_dynamics(config.dynamics, files)
    with placed(f"{config.path}: [run]"):
        _check.choice("precision", precision, ("float32", "float64"))
        run = config.run
        times = np.zeros(1) if files.data else _times(run, step_of(moves), files)
        observe = _observe(run.observe, files)
    none: Any = None
    return Problem(problem, moves, none, times, observe, run.states, run.target, precision, files.digests)


_OBSERVED = {
    "paper": observables.paper_observables,
    "collapse": observables.collapse_observables,
    "all": observables.all_observables,
}


def _observe(spec: str | list | None, files: Files) -> Any:
    """Names of observables, or, with some of one's own, name -> function, where those of the library have None."""
    if not spec:
        return observables.paper_observables
    if isinstance(spec, str) and ":" not in spec:
        return _OBSERVED.get(spec, (spec,))
    found: dict[str, Any] = {}
    for entry in [spec] if isinstance(spec, str) else spec:
        place, arguments = name_and_arguments(entry, "name", "an observable")
        name = re.split("[:.]", place)[-1]
        if ":" not in place and arguments:
            raise ValueError(f"the observable {place!r} takes no {', '.join(arguments)}; only those of your own do.")
        if name in found or (":" in place and name in observables.OBSERVABLES):
            raise ValueError(f"there are two observables {name!r}; call the function in {place!r} something else.")
        found[name] = own(place, arguments, files, "observable") if ":" in place else None
    return found if any(function is not None for function in found.values()) else tuple(found)


def _steps_to(name: str, time: float, step: float) -> int:
    """The number of steps up to a time; of a descent the number of updates itself."""
    count = round(time / step)
    if count < 1 or abs(time / step - count) > 1e-6 * count:
        unit = "whole, a number of updates," if step == 1 else f"a multiple of the step, {step:g},"
        raise ValueError(f"{name} must be {unit} and above 0, but is {time}.")
    return count


def _times(section: RunSection, step: float | None, files: Files) -> np.ndarray:
    """The times of a flow; of a dynamics on a grid, its points, and of a descent whole numbers."""
    if (section.until is None) == (section.times is None):
        raise ValueError("give either `until` (with `points` and `spacing`) or `times`.")
    if section.times is not None:
        return files.array("times", section.times)
    _check.choice("spacing", section.spacing, ("linear", "log"))
    until: Any = section.until
    _check.positive("until", until)
    count: Any = None if step is None else _steps_to("until", until, step)
    points = _check.whole("points", section.points, 2)
    _memory.refuse(8 * points, f"a list of {points:,} times")
    if section.spacing == "linear":
        if section.first is not None:
            raise ValueError("first belongs to spacing = 'log'; linear spacing starts at 0.")
        return np.linspace(0.0, until, points) if step is None else steps(count, points) * step
    first: Any = section.first
    if step is not None:
        return logspaced(1 if first is None else _steps_to("first", first, step), count, points) * step
    return logspaced(until * 1e-4 if first is None else first, float(until), points)
