"""How far one run is from another (`verify`)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from unhinged_jax import _check, _html
from unhinged_jax._numbers import same_times
from unhinged_jax.ensembles import Agreement, agreement
from unhinged_jax.model import State
from unhinged_jax.trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far one run is from another, observable by observable and, if states were kept, part by part.

    Attributes:
        errors: Name -> largest relative difference over time; for H, W and b the Frobenius norm of the difference over
            that of the second run (b over max(||b_0||, ||b||)).
        rate, rate_of_truth: Fitted exponential rates of the last quarter of `log_distance` (or `distance`) in t (not in
            zeta, as those of `limit` are); NaN if it was not observed at two or more times there.

    Source: beyond the paper.

    Example:
        >>> found = Comparison({"norm": 1e-6, "loss": 3e-6}, rate=0.5, rate_of_truth=0.5)
        >>> found.worst
        3e-06
    """

    errors: dict[str, float]
    rate: float
    rate_of_truth: float

    @property
    def worst(self) -> float:
        """The largest of the errors."""
        return max(self.errors.values(), default=0.0)

    def __repr__(self) -> str:
        rows = [f"  {name:<20} {error:9.2e}" for name, error in self.errors.items()]
        rates = f"; late rate per unit of t, fitted: {self.rate:.6g}, of the truth {self.rate_of_truth:.6g}"
        known = "" if math.isnan(self.rate) and math.isnan(self.rate_of_truth) else rates
        return "\n".join([f"Comparison: worst relative difference {self.worst:.2e}{known}", *rows])

    def _repr_html_(self) -> str:
        """What a notebook shows: a row per observable."""
        title = repr(self).partition("\n")[0]
        return _html.page(title, ("compared", "largest relative difference"),
                          [(name, f"{error:.2e}") for name, error in self.errors.items()])  # fmt: skip


def verify(run: Trajectory, truth: Trajectory) -> Comparison | Agreement:
    """Compare two runs at the same times, usually a simulated run with the exact one; or many with an expectation.

    Args:
        run, truth: Trajectories over the same times, or batches of them of one shape. The observables that both have
            are compared, and the states if both kept them; times that were not reached count as infinitely wrong. If
            `truth` is what `exact` expects of a descent that draws, `run` is a batch of such runs, with a key each.

    Returns:
        A `Comparison`, or an `Agreement` of the mean of a batch with the expectation; print it for a table. A
        `Comparison` of batches has the largest error of any member, and no rates.

    Raises:
        ValueError: if the times differ, nothing is common to both, an observable has different shapes in the two runs,
            or they are batches of different shapes.

    Source: beyond the paper.

    Example:
        >>> import jax, unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(classes=3, per_class=2), dim=4)
        >>> state = model.init(jax.random.key(0))
        >>> ways = (uj.simulate, uj.exact)
        >>> runs = [solve(model, uj.Descent(0.1), state, [5, 10], "norm") for solve in ways]
        >>> uj.verify(*runs).worst < 1e-5
        True
        >>> descent, keys = uj.Descent(0.1, batch=2), jax.random.split(jax.random.key(1), 400)
        >>> paths = jax.vmap(lambda key: uj.simulate(model, descent, state, [5, 10], "square_norm", key=key))(keys)
        >>> uj.verify(paths, uj.exact(model, descent, state, [5, 10], "square_norm")).passed
        True
    """
    if isinstance(run, Trajectory) and run.batch and isinstance(truth, Trajectory) and truth.kind == "expected":
        return _agreement(run, truth)
    for name, one in (("run", run), ("truth", truth)):
        _check.kind(name, one, Trajectory)
        one.check_known("a comparison")
    if run.batch or truth.batch:
        return _of_members(run, truth)
    if (run.kind == "expected") != (truth.kind == "expected"):
        raise ValueError(
            "a path differs from an expectation, however right both are; compare the mean of many paths with it: a "
            "batch of runs with a key each, from jax.vmap."
        )
    if np.shape(run.times) != np.shape(truth.times) or not np.all(same_times(run.times, truth.times)):
        raise ValueError("the two runs must have the same times; run both with one list of times.")
    errors = {}
    if run.states is not None and truth.states is not None:
        errors.update(state_errors(run.states, truth.states))
    values, others = run.arrays(), truth.arrays()
    for name in values:
        if name in others:
            if values[name].shape != others[name].shape:
                raise ValueError(
                    f"observable {name!r} has shape {values[name].shape} in one run and {others[name].shape} in the "
                    "other; observe the same in both."
                )
            errors[name] = _relative(values[name], others[name])
    if not errors:
        raise ValueError("the two runs have no observable in common, and not both kept their states.")
    return Comparison(errors, fitted_rate(run), fitted_rate(truth))


def _of_members(run: Trajectory, truth: Trajectory) -> Comparison:
    """The largest errors of any member of two batches."""
    if run.batch != truth.batch:
        raise ValueError(
            f"the two are batches of different shapes, {run.batch} and {truth.batch} (a single run has none), so their "
            "members cannot be compared one by one; compare batches of the same members."
        )
    run, truth = (jax.tree.map(np.asarray, dataclasses.replace(one, memory=None, origin=None)) for one in (run, truth))
    found: list[Any] = [
        verify(*(jax.tree.map(lambda leaf, place=place: leaf[place], one) for one in (run, truth)))  # type: ignore[misc]
        for place in np.ndindex(run.batch)
    ]
    errors = {name: max(each.errors[name] for each in found) for name in found[0].errors}
    return Comparison(errors, math.nan, math.nan)


def _agreement(run: Trajectory, truth: Trajectory) -> Agreement:
    run.check_known("a comparison")
    truth.check_single("a comparison")
    if run.kind != "simulated":
        raise ValueError(f"an expectation is compared with simulated runs, but these are {run.kind}.")
    times = np.asarray(run.times).reshape(-1, np.shape(run.times)[-1])
    if times.shape[1:] != np.shape(truth.times) or not np.all(same_times(times, np.asarray(truth.times))):
        raise ValueError("the runs and their expectation must have the same times; compute both for one list of times.")
    values, expected = run.arrays(), truth.arrays()
    common = [name for name in values if name in expected]
    if not common:
        raise ValueError(f"the runs have none of the expected observables, {', '.join(expected)}; observe some.")
    reached = np.asarray(run.reached)
    members = {name: np.where(reached, values[name], np.nan).reshape(times.shape) for name in common}
    unit = float(np.finfo(np.asarray(run.final.W).dtype).eps)
    return agreement(members, {name: expected[name] for name in common}, unit)


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(float), b.astype(float)
    gap = np.abs(np.where(a == b, 0.0, a - b))
    size = np.maximum(np.abs(b), np.finfo(float).tiny)
    return float(np.max(np.where(np.isfinite(gap), gap / size, np.inf), initial=0.0))


def state_errors(run: State, truth: State) -> dict[str, float]:
    """Largest relative Frobenius error of H, W and b, and of the factors between them, over a leading axis of times.

    States beyond the floating-point range are compared at a common scale.
    """
    shift = np.exp(np.asarray(run.log_scale, float) - np.asarray(truth.log_scale, float))
    errors = {}
    for name in ("H", "W", "b", *run.extra_names):
        a, b = np.asarray(getattr(run, name), float), np.asarray(getattr(truth, name), float)
        times = a.shape[0]
        if name != "b":
            a = a * shift.reshape(-1, *[1] * (a.ndim - 1))
        gap = np.linalg.norm((a - b).reshape(times, -1), axis=1)
        size = np.linalg.norm(b.reshape(times, -1), axis=1)
        if name == "b":
            size = np.maximum(size, size[0])
        relative = np.divide(gap, size, out=np.where(gap == 0, 0.0, np.inf), where=size > 0)
        errors[name] = float(np.max(np.where(np.isfinite(relative), relative, np.inf)))
    return errors


def fitted_rate(run: Trajectory) -> float:
    """Least-squares exponential rate of the distance to the limit, over the last quarter of the time reached."""
    for name, transform in (("log_distance", float), ("distance", math.log)):
        if name in run.observables:
            reached = np.asarray(run.reached)
            t = np.asarray(run.times, float)[reached]
            logs = np.array([transform(value) if value != 0 else -np.inf for value in np.asarray(run[name])[reached]])
            late = (t >= 0.75 * t[-1]) & np.isfinite(logs)
            if late.sum() >= 2:
                return float(-np.polyfit(t[late], logs[late], 1)[0])
    return math.nan
