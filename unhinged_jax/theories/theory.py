"""What a theory consists of: a problem, a prediction, a simulation, and checks that can fail."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

Curves = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Check:
    """One measured number and its bound.

    Attributes:
        what: What was measured, in words.
        value: The number.
        bound: Its bound, stated before the measurement.
        at_least: Whether the number must reach the bound rather than stay below it.

    Example:
        >>> Check("relative error", 1e-9, 1e-8).passed, Check("accuracy", 0.5, 0.9, at_least=True).passed
        (True, False)
    """

    what: str
    value: float
    bound: float
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """Whether the bound is met; NaN does not meet it."""
        return bool(self.value >= self.bound if self.at_least else self.value <= self.bound)

    @property
    def measured(self) -> str:
        """The number and its bound, such as `3.1e-10 ≤ 1e-08`."""
        relation = ("≥" if self.passed else "<") if self.at_least else ("≤" if self.passed else ">")
        return f"{_short(self.value)} {relation if not math.isnan(self.value) else 'against'} {_short(self.bound)}"


def _short(value: float) -> str:
    if value == 0 or (1e-2 <= abs(value) < 1e4):
        return f"{value:.4g}"
    return f"{value:.1e}"


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of running a theory: its checks and the curves of its figure. It can be pickled.

    Attributes:
        theory: Name of the theory.
        checks: All checks, beginning with the one that the comparison table shows.
        curves: Name -> array that the figure draws.
        references: Keys of the references used, including libraries; `unhinged_jax.citation(finding)` prints them.
        seconds: Wall time of the run.
    """

    theory: str
    checks: tuple[Check, ...]
    curves: dict[str, np.ndarray]
    references: tuple[str, ...]
    seconds: float = math.nan

    @property
    def passed(self) -> bool:
        """Whether every bound is met; a finding without checks has not passed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def __repr__(self) -> str:
        rows = [f"  {'kept  ' if check.passed else 'MISSED'} {check.what}: {check.measured}" for check in self.checks]
        return "\n".join([f"{self.theory}: {'passed' if self.passed else 'FAILED'} in {self.seconds:.1f} s", *rows])


@dataclasses.dataclass(frozen=True)
class Theory:
    """One row of the comparison: a named problem, its prediction, and how to run, check and draw it.

    Attributes:
        name: Short name, for the command line.
        title: Heading.
        loss, case: The problem in two words each.
        predicted: What the theory says.
        assumptions: What it assumes beyond the layer-peeled model; "none" if nothing.
        references: Keys of the papers in the package's BibTeX file.
        libraries: Keys of the libraries that the run uses.
        account: A paragraph on the theory, in Markdown.
        caption: What the figure shows.
        compute: () -> (checks, curves).
        draw: (curves, figure) draws on an empty `matplotlib.figure.Figure`.
        size: Width and height of the figure in inches.
    """

    name: str
    title: str
    loss: str
    case: str
    predicted: str
    assumptions: str
    references: tuple[str, ...]
    account: str
    caption: str
    compute: Callable[[], tuple[tuple[Check, ...], dict[str, np.ndarray]]]
    draw: Callable[[Curves, Any], None]
    libraries: tuple[str, ...] = ()
    size: tuple[float, float] = (8.0, 4.0)

    def run(self) -> Finding:
        """Simulate, predict and compare, all in float64 whatever JAX's setting is."""
        began = time.monotonic()
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            checks, curves = self.compute()
        plain = {name: np.asarray(values) for name, values in curves.items()}
        checks = tuple(dataclasses.replace(check, value=float(check.value)) for check in checks)
        return Finding(self.name, checks, plain, self.references + self.libraries, time.monotonic() - began)


def relative(got: npt.ArrayLike, want: npt.ArrayLike) -> float:
    """Largest difference over the largest entry of `want`; infinite if anything is not finite.

    Example:
        >>> relative([1.0, 2.0], [1.0, 4.0])
        0.5
    """
    got, want = np.asarray(got, float), np.asarray(want, float)
    gap = np.max(np.abs(got - want)) / max(np.max(np.abs(want)), np.finfo(float).tiny)
    return float(gap) if np.isfinite(gap) else math.inf


def worst(values: npt.ArrayLike) -> float:
    """The largest of some numbers; NaN if any is NaN, which Python's own `max` may hide.

    Example:
        >>> worst([1.0, float("nan"), 2.0])
        nan
    """
    return float(np.max(np.asarray(values, float)))


def least(values: npt.ArrayLike) -> float:
    """The smallest of some numbers; NaN if any is NaN.

    Example:
        >>> least([1.0, 0.5])
        0.5
    """
    return float(np.min(np.asarray(values, float)))
