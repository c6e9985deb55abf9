"""What a sweep runs: the configuration of a run, and how its settings vary."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unhinged_jax import _check
from unhinged_jax import config as _config
from unhinged_jax.config import Config, ConfigError
from unhinged_jax.plots import tex_error
from unhinged_jax.sweeps.design import Dim, read_dims

SHIPPED = ("phase", "noise", "imbalance", "schedules")


@dataclasses.dataclass(frozen=True)
class SweepSection:
    """[sweep]: how points are computed, and their axes.

    Attributes:
        method: "simulate" (default) or "exact".
        seeds: Number of seeds 0 ... n-1, or a list of them; default: the one in [state].
        seeded: Keys that take the seed; default ["state.seed"].
        grid: Dotted key -> values, or {from, to, count, spacing = "linear" or "log"}; every axis is a dimension. "key +
            key" sets several keys to one value.
        zip: A table (or several) of dotted keys with lists of equal length that vary together, and a `name`.
        random: {design = "sobol" or "latin_hypercube", count, seed, name} and dotted keys with {from, to, spacing}.
        title: Title of pictures.
    """

    method: str = "simulate"
    seeds: int | list | None = None
    seeded: list | None = None
    grid: dict | None = None
    zip: dict | list | None = None
    random: dict | None = None
    title: str | None = None


@dataclasses.dataclass(frozen=True)
class SweepPlan:
    """A sweep: the configuration of one run, and the settings that vary.

    Attributes:
        config: The run from which every point is made, as `unhinged simulate` reads it.
        sweep: The [sweep] section.
        dims: The dimensions of the result, `seed` last; `time` is added by the run.

    Make one with `SweepPlan.of` from tables, or with `SweepPlan.read` from a TOML file or the name of a shipped plan.

    Source: beyond the paper.

    Example:
        >>> plan = SweepPlan.of({
        ...     "model": {"case": "regularized", "dim": 4, "decay": 0.1},
        ...     "labels": {"layout": "balanced", "classes": 3, "per_class": 2},
        ...     "dynamics": {"kind": "flow"},
        ...     "run": {"times": [0, 1, 10], "observe": ["log_norm"]},
        ...     "sweep": {"method": "exact", "seeds": 4, "grid": {"model.gamma": [0.1, 0.5, 0.9]}},
        ... })
        >>> plan.shape
        {'gamma': 3, 'seed': 4}
    """

    config: Config
    sweep: SweepSection
    dims: tuple[Dim, ...]

    @classmethod
    def of(cls, tables: Mapping[str, Any], path: str | Path = "plan", *, check: bool = True) -> SweepPlan:
        """A plan from tables, those of a TOML file or the same in Python; NumPy arrays may stand for lists.

        Args:
            tables: Sections model, labels, state, dynamics, run and sweep.
            path: Named in messages; paths of array files are relative to its folder.
            check: Build the extremes of every axis (default), so that a value that is not allowed is refused now.

        Raises:
            ConfigError: naming section and key, with what was given and what was expected.
        """
        given: dict[str, Any] = _plain(tables)
        section = given.pop("sweep", None)
        if section is None:
            raise ConfigError(f"{path}: a plan needs a [sweep] section with axes or seeds.")
        base = _config.config_of(given, path, "sweep")
        with _config.placed(str(path)):
            sweep = _config.read_section(SweepSection, section, "[sweep]")
        with _config.placed(f"{path}: [sweep]"):
            _check.choice("method", sweep.method, ("simulate", "exact"))
            dims = read_dims(sweep, base.state.seed)
            if base.run.states:
                raise ValueError("a sweep keeps observables, not states; drop `states` from [run].")
            for axis in (axis for dim in dims for axis in dim.axes):
                if axis.key.startswith(("run.", "sweep.")):
                    raise ValueError(f"{axis.key!r} cannot vary: all points of a sweep share times and observables.")
        plan = cls(base, sweep, dims)
        if check:
            _refuse_bad_tex(plan)
            plan.check()
        return plan

    @classmethod
    def read(cls, path: str | Path) -> SweepPlan:
        """A plan from a TOML file, or a shipped one by its name: phase, noise, imbalance, schedules.

        Raises:
            ConfigError: for bad TOML, an unknown key or a value that is not allowed.
            OSError: if the file cannot be read.

        Example:
            >>> SweepPlan.read("phase").shape
            {'gamma': 64, 'decay': 64, 'seed': 16}
        """
        return cls.of(*_config.shipped_or_file(path, SHIPPED, "unhinged_jax.sweeps", "plans"))

    def __repr__(self) -> str:
        axes = ", ".join(f"{name} ({size})" for name, size in self.shape.items())
        return f"SweepPlan({self.title!r}: {self.points:,} points over {axes or 'no axis'})"

    @property
    def title(self) -> str:
        """The title of pictures and reports, which is the one given or the name of the file."""
        return self.sweep.title or Path(self.config.path).stem or "Sweep"

    @property
    def method(self) -> str:
        """How points are computed, "simulate" or "exact"."""
        return self.sweep.method

    @property
    def precision(self) -> str:
        """The number type, "float32" or "float64"."""
        return self.config.run.precision

    @property
    def shape(self) -> dict[str, int]:
        """Dimension -> number of points along it."""
        return {dim.name: dim.size for dim in self.dims}

    @property
    def points(self) -> int:
        """Number of runs."""
        return int(np.prod([dim.size for dim in self.dims]))

    def tables(self) -> dict[str, Any]:
        """The plan as tables for `of`, which JSON can hold."""
        given = {key: value for key, value in dataclasses.asdict(self.sweep).items() if value is not None}
        return {**self.config.as_dict(), "sweep": given}

    def config_at(self, index: Mapping[str, int]) -> Config:
        """The configuration of one point, from its index along each dimension (0 where left out).

        Example:
            >>> SweepPlan.read("phase").config_at({"gamma": 63, "seed": 5}).state.seed
            5
        """
        tables = self.config.as_dict()
        with _config.placed(f"{self.config.path}: [sweep]"):
            for dim in self.dims:
                for axis in dim.axes:
                    set_key(tables, axis.key, axis.values[index.get(dim.name, 0)])
        return _config.config_of(tables, self.config.path)

    def check(self) -> None:
        """Build the extremes of every axis, so that a value that is not allowed is refused before anything runs."""
        _config.build(self.config_at({}))
        for dim in self.dims:
            for place in sorted({place for axis in dim.axes for place in _extremes(axis.values)} - {0}):
                _config.build_stateless(self.config_at({dim.name: place}))


def _extremes(values: tuple[Any, ...]) -> list[int]:
    """Places to check: the ends of numbers (what a setting admits is an interval), each other value once."""
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return [int(np.argmin(values)), int(np.argmax(values))]
    first: dict[str, int] = {}
    for place, value in enumerate(values):
        first.setdefault(repr(value), place)
    return list(first.values())


def _plain(value: object) -> Any:
    """Tables that JSON and TOML can hold, with NumPy arrays and tuples as lists and NumPy numbers as Python's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple, range)):
        return [_plain(item) for item in value]
    return value


def _refuse_bad_tex(plan: SweepPlan) -> None:
    """Raise ConfigError for a text in pictures that matplotlib cannot read."""
    axes = [axis for dim in plan.dims for axis in dim.axes]
    texts = [("title", plan.title), *((f"axis {axis.key!r}: label", axis.label) for axis in axes)]
    texts += [(f"axis {axis.key!r}: labels", text) for axis in axes for text in axis.labels or ()]
    for name, text in texts:
        if why := tex_error(text):
            raise ConfigError(
                f"{plan.config.path}: [sweep]: {name} is {text!r}, which matplotlib cannot typeset: {why}; correct it, "
                "or write \\$."
            )


def set_key(tables: dict[str, Any], key: str, value: object) -> None:
    """Set a dotted key to a value; a number in the key is an index into a list."""
    *way, last = key.split(".")
    place: Any = tables
    for depth, part in enumerate(way):
        place = _step(place, part, ".".join(way[:depth]), key)
    if isinstance(place, list):
        place[_index(place, last, key)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise ConfigError(f"axis {key!r}: {'.'.join(way)} is {place!r}, not a table or a list.")


def _step(place: Any, part: str, so_far: str, key: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, part, key)]
    if not isinstance(place, dict):
        raise ConfigError(f"axis {key!r}: {so_far} is {place!r}, not a table or a list.")
    return place.setdefault(part, {})


def _index(place: list, part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(place):
        raise ConfigError(f"axis {key!r}: {part!r} is not an index into a list of {len(place)}; count from 0.")
    return int(part)
