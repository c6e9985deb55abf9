"""What an experiment trains: variants of the head at points of the data, in every combination and for several seeds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from unhinged_jax import _check
from unhinged_jax import config as _config
from unhinged_jax.config import ConfigError
from unhinged_jax.training.settings import Settings

SHIPPED = ("fig2", "imbalance", "ood", "blowup", "weights", "noise", "ntk")
REPORTS = ("curves", "table", "imbalance", "detection", "blowup", "kernel")

# Where the images for the detection of outsiders come from, by data set.
_OUTSIDE = {"mnist5k": ["photographs"], "digits": ["photographs"], "svhn": ["cifar10"]}


@dataclasses.dataclass(frozen=True)
class ExperimentSection:
    """[experiment]: the report to write, a title, the meaning of the points, and images from outside the data."""

    report: str
    title: str
    reference: str | None = None
    candidate: str | None = None
    outside: list | None = None
    axis: str | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    """One training run of several seeds: a variant at a point."""

    variant: str
    point: str
    settings: Settings

    @property
    def slug(self) -> str:
        """The name of its file."""
        text = f"{self.variant} {self.point}".strip().lower()
        return "".join(c if c.isalnum() or c in ".-+" else "_" for c in text)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment: cases to train and the report to make of them.

    Attributes:
        name: Name of the folder of its results.
        about: The [experiment] section.
        cases: Variants times points.
        kernel: The [kernel] section of the experiment on the neural tangent kernel, else None.

    Example:
        >>> Experiment.read("fig2").variants[:2]
        ['CE', 'CE + EFR']
    """

    name: str
    about: ExperimentSection
    cases: tuple[Case, ...]
    kernel: dict[str, Any] | None = None

    @classmethod
    def read(cls, name: str | Path, **changes: dict[str, Any]) -> Experiment:
        """A shipped experiment by its name, or one from a TOML file.

        Args:
            name: One of `SHIPPED`, or a path.
            changes: Keys to change in every case, by section.

        Raises:
            ConfigError: for bad TOML, an unknown key, or settings that are not allowed.
            OSError: if the file cannot be read.
        """
        tables, path = _config.shipped_or_file(name, SHIPPED, "unhinged_jax.training", "configs")
        return cls.of(tables, path.stem, changes)

    @classmethod
    def of(cls, tables: dict[str, Any], name: str, changes: dict[str, dict[str, Any]] | None = None) -> Experiment:
        """An experiment from tables: [experiment], the sections of a training run, [[variant]] and [[point]]."""
        given = dict(tables)
        about = _config.read_section(ExperimentSection, given.pop("experiment", None) or {}, f"{name}: [experiment]")
        _check.choice(f"{name}: [experiment] report", about.report, REPORTS)
        kernel = given.pop("kernel", None)
        if about.report == "kernel":
            asked = changes or {}
            other = [key for key in (*asked.get("data", ()), *asked.get("train", ())) if key != "seeds"]
            if other:
                raise ConfigError(f"{name}: {other[0]} cannot be changed from outside; change [kernel] in a copy.")
            kernel = {**(kernel or {}), **asked.get("kernel", {})}
            return cls(name, about, (), kernel)
        variants = given.pop("variant", None) or [{"label": "run"}]
        points = given.pop("point", None) or [{"label": ""}]
        base = Settings.of(given, name).changed(**{k: v for k, v in (changes or {}).items() if k != "kernel"})
        if any("label" not in table for table in (*variants, *points)):
            raise ConfigError(f"{name}: every [[variant]] and [[point]] needs a label.")
        cases = tuple(
            Case(variant["label"], point["label"], _changed(base, variant, point, name))
            for point in points
            for variant in variants
        )
        if len({case.slug for case in cases}) < len(cases):
            raise ConfigError(f"{name}: two variants or two points have the same label; change one.")
        return cls(name, about, cases)

    @property
    def variants(self) -> list[str]:
        """Labels of the variants."""
        return list(dict.fromkeys(case.variant for case in self.cases))

    @property
    def points(self) -> list[str]:
        """Labels of the points."""
        return list(dict.fromkeys(case.point for case in self.cases))

    def outside(self, data: str) -> list[str]:
        """Names of the data from outside, for a data set."""
        if self.about.report != "detection":
            return []
        return self.about.outside or _OUTSIDE.get(data, ["svhn"])


def _changed(base: Settings, variant: dict, point: dict, name: str) -> Settings:
    tables = base.tables()
    for table in (variant, point):
        for section, keys in table.items():
            if section != "label":
                tables[section] = {**tables.get(section, {}), **keys}
    return Settings.of(tables, name)
