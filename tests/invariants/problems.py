"""Small problems as plain numbers, written for the library by functions that a change may exchange."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

import unhinged_jax as uj

C, P = 3, 4
FACTOR = np.round(np.random.default_rng(5).normal(size=(7, 5)) * 4) / 8
"""Of the kernel between samples."""


def written_labels(problem: Problem) -> Any:
    """By the public constructors alone, so that nothing derived can be put in by hand."""
    labels = uj.from_labels(problem.index, problem.classes)
    if problem.weights is not None:
        # What `weighted` multiplies is 1/n.
        labels = labels.weighted(samples=problem.weights * len(problem.index), normalise=False)
    return labels if problem.table is None else labels.transition(problem.table)


def written_model(problem: Problem, labels: Any) -> Any:
    loss = {"gamma": problem.gamma} if problem.loss == "unhinged" else {"loss": problem.loss}
    dim, (decay_H, decay_W) = np.shape(problem.W)[1], problem.decay[:2]
    bias = {"bias": problem.bias, "decay_b": problem.own(problem.decay)}
    match problem.case:
        case "regularized":
            return uj.regularized(labels, dim, decay=(decay_H, decay_W), **bias, **loss)
        case "anchored":
            return uj.anchored(labels, dim, decay=decay_H, **loss)
        case "frozen":
            return uj.frozen(labels, dim, decay=decay_W, **bias, **loss)
        case "spherical":
            return uj.spherical(labels, dim, decay=decay_H, **loss)
        case "kernel":
            return uj.ntk_invariant(labels, dim, problem.kernel, decay=(decay_H, decay_W), **loss)
    raise AssertionError(problem.case)


def written_schedule(problem: Problem) -> Any:
    return problem.eta if problem.horizon is None else uj.cosine(problem.eta, horizon=problem.horizon)


def written_dynamics(problem: Problem, schedule: Any) -> Any:
    (rate_H, rate_W), rate_b = problem.rates[:2], problem.own(problem.rates)
    if problem.kind == "flow":
        return uj.Flow(schedule, rate_H, rate_W, rtol=RTOL, rate_b=rate_b)
    return uj.Descent(schedule, rate_H, rate_W, momentum=problem.momentum, nesterov=problem.nesterov, rate_b=rate_b)


def written_state(problem: Problem) -> Any:
    return uj.State(problem.H, problem.W, problem.b, problem.log_scale)


RTOL = 1e-10
"""Of every simulated flow."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """The numbers of a problem, and how they are written; decays and rates of H, W and perhaps of b."""

    index: Any
    H: Any
    W: Any
    b: Any
    times: tuple
    kind: str = "flow"
    weights: Any = None
    table: Any = None
    loss: str = "unhinged"
    gamma: Any = 0.25
    decay: tuple = (2**-5, 2**-4)
    rates: tuple = (0.75, 1.25)
    eta: Any = 0.5
    horizon: Any = None
    momentum: Any = None
    nesterov: bool = False
    kernel: Any = None
    case: str = "regularized"
    bias: bool = False
    log_scale: Any = 0.0
    classes: int = C
    cut: Any = None
    cut_by: str = "simulate"
    reduce: bool = True
    limits: bool = True
    rich: bool = False
    seen: tuple | None = None
    observe: tuple | None = None
    solver: str | None = None
    labels_as: Callable = written_labels
    model_as: Callable = written_model
    schedule_as: Callable = written_schedule
    dynamics_as: Callable = written_dynamics
    state_as: Callable = written_state

    def but(self, **changes: Any) -> Problem:
        return dataclasses.replace(self, **changes)

    @property
    def samples(self) -> int:
        return len(self.index)

    @property
    def q(self) -> np.ndarray:
        return np.full(self.samples, 1 / self.samples) if self.weights is None else np.asarray(self.weights)

    @staticmethod
    def own(numbers: tuple) -> Any:
        """The number of b among decays or rates, or None if it is that of W."""
        return numbers[2] if len(numbers) == 3 else None

    @staticmethod
    def of_all(numbers: tuple) -> tuple:
        """Decays or rates of H, W and b."""
        return (*numbers, numbers[-1])[:3]

    @property
    def linear(self) -> bool:
        return self.loss == "unhinged" and self.case != "spherical"

    def built(self) -> tuple[Any, Any, Any]:
        """(model, dynamics, start), where the start is a trajectory if the run is cut."""
        model = self.model_as(self, self.labels_as(self))
        dynamics, state = self.dynamics_as(self, self.schedule_as(self)), self.state_as(self)
        if self.cut is None:
            return model, dynamics, state
        # At as many times, and with the same observables, as what goes on: one compiled program for both.
        times = [0, self.cut / 2 if self.kind == "flow" else 1, self.cut]
        observe = ("log_norm_W",) if self.observe is None else self.observe
        return model, dynamics, getattr(uj, self.cut_by)(model, dynamics, state, times, self.seen or observe)


def _numbers(index: np.ndarray, bias: bool = False) -> dict[str, Any]:
    """Entries with so few binary digits that any floating-point type holds them exactly."""
    rng = np.random.default_rng(18)
    H, W, b = rng.normal(size=(len(index), P)), rng.normal(size=(C, P)), rng.normal(size=C)
    b = np.round(b * 16) / 64 if bias else np.zeros(C)
    return {"index": index, "H": np.round(H * 32) / 32, "W": np.round(W * 32) / 32, "b": b, "bias": bias}


@functools.cache
def problems() -> dict[str, Problem]:
    """One line a problem, each with every kind of dynamics that it has numbers for."""
    uneven, even = np.repeat(np.arange(C), [3, 2, 2]), np.tile(np.arange(C), 2)
    q = np.array([2.0, 3, 1, 4, 2, 1, 3]) / 16
    table = np.array([[0.75, 0.25, 0.0], [0.0, 0.75, 0.25], [0.125, 0.125, 0.75]])
    central = _numbers(np.tile(np.arange(C), 3), True) | {"b": np.full(C, 0.25)}
    of = {
        "weighted": Problem(**_numbers(uneven), weights=q, rich=True, times=()),
        "balanced": Problem(**_numbers(even), times=()),
        "bias": Problem(
            **_numbers(uneven, True), weights=q, decay=(2**-5, 2**-4, 2**-3), rates=(0.75, 1.25, 0.5), times=()
        ),
        "noisy": Problem(**_numbers(uneven), table=table, times=()),
        "anchored": Problem(**_numbers(uneven), weights=q, case="anchored", times=()),
        "frozen": Problem(**_numbers(uneven, True), weights=q, case="frozen", times=()),
        "spherical": Problem(**_numbers(uneven), weights=q, case="spherical", times=()),
        "kernel": Problem(**_numbers(uneven), weights=q, case="kernel", kernel=FACTOR @ FACTOR.T, times=()),
        "cross-entropy": Problem(**_numbers(uneven, True), weights=q, loss="cross_entropy", times=()),
        "squared error": Problem(**_numbers(uneven), table=table, loss="mse", times=()),
        "mean squares": Problem(**central, loss="mse", decay=(0, 0), rates=(1, 1), times=()),
        "one a class": Problem(**_numbers(np.arange(C)), times=()),
    }
    kinds = {
        "flow": {"kind": "flow", "times": (0.0, 3.0, 8.0), "horizon": 20.0},
        "descent": {"kind": "descent", "times": (0, 5, 20)},
        "momentum": {"kind": "descent", "times": (0, 5, 20), "momentum": 0.5, "eta": 0.25},
        "Nesterov": {"kind": "descent", "times": (0, 5, 20), "momentum": 0.5, "nesterov": True, "eta": 0.25},
    }
    return {f"{name}, {kind}": one.but(**numbers) for name, one in of.items() for kind, numbers in kinds.items()}
