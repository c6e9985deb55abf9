"""The cases of the certificate, and how one is run."""

from __future__ import annotations

import dataclasses
import math
import time

import jax
import numpy as np
import optax

from unhinged_jax.closed_form import exact
from unhinged_jax.comparison import state_errors, verify
from unhinged_jax.dynamics import AggregatedMomentum, Descent, Dynamics, Flow, PolyakAverage, ScheduleFree, carried_by
from unhinged_jax.ensembles import Agreement
from unhinged_jax.labels import balanced, from_counts, soft
from unhinged_jax.limits import limit
from unhinged_jax.model import (
    LayerPeeled,
    State,
    anchored,
    frozen,
    ntk_invariant,
    regularized,
    spherical,
    unconstrained,
)
from unhinged_jax.optimizers import Optimizer, spectral_descent
from unhinged_jax.schedules import cosine
from unhinged_jax.simulation import simulate
from unhinged_jax.trajectory import Trajectory

UPDATES = 5_000
DRAWS, _DRAWN = 4_000, (1, 5, 20)  # runs with a key each, and when they are read
_SEEN = np.unique(np.round(np.geomspace(1, UPDATES, 24)).astype(int))


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the certificate: a problem, a dynamics, a precision, and the bounds for them."""

    name: str
    how: str
    model: LayerPeeled
    dynamics: Dynamics
    precision: str
    bound: float
    rate_bound: float


@dataclasses.dataclass(frozen=True)
class Row:
    """The result of a case: errors of the simulated run, and the largest error of the dense run (float64; else 0).

    If the dynamics draws, `deviation` is that of the mean of many runs from its expectation, in standard errors, which
    is compared with its bound; both are NaN otherwise.
    """

    name: str
    dynamics: str
    precision: str
    error_H: float
    error_W: float
    error_b: float
    bound: float
    rate: float
    predicted: float
    rate_bound: float
    order: float
    seconds: float
    error_dense: float = 0.0
    deviation: float = math.nan
    deviation_bound: float = math.nan

    @property
    def passed(self) -> bool:
        """Whether every bound is met; NaN meets none, unless a quantity is not defined for the case."""
        errors = max(self.error_H, self.error_W, self.error_b)
        dense = self.error_dense <= self.bound
        rate = math.isnan(self.predicted) or abs(self.rate - self.predicted) <= self.rate_bound * abs(self.predicted)
        order = math.isnan(self.order) or abs(self.order - 1) < 0.05
        drawn = math.isnan(self.deviation_bound) or self.deviation <= self.deviation_bound
        return bool(errors <= self.bound and dense and rate and order and drawn)


def problems() -> dict[str, LayerPeeled]:
    """The problems of the certificate, small enough to be checked in minutes, irregular enough to hide nothing."""
    rng = np.random.default_rng(2023)
    even, uneven = balanced(4, 3), from_counts([5, 3, 3, 1])
    noisy = uneven.symmetric_noise(0.2).weighted(classes=[1.0, 2.0, 1.5, 3.0])
    mixed = soft(rng.dirichlet(np.full(4, 0.3), size=12))
    features = rng.standard_normal((12, 7))
    kernel = features @ features.T / 7
    return {
        "unconstrained": unconstrained(even, 6, gamma=0.25, bias=True),
        "regularized": regularized(even, 6, gamma=0.25, decay=(0.05, 0.02), bias=True),
        "regularized, noisy counts": regularized(noisy, 9, gamma=0.3, decay=(0.01, 0.04), bias=True),
        "regularized, soft": regularized(mixed, 6, gamma=0.2, decay=(0.03, 0.01), bias=True),
        "anchored": anchored(even, 6, gamma=0.25, decay=0.15),
        "frozen": frozen(uneven, 6, gamma=0.25, decay=0.15, bias=True),
        "spherical": spherical(even, 6, gamma=0.25),
        "spherical, q=2": spherical(even, 6, gamma=0.25, rescale=2),
        "spherical, q=1, decay": spherical(uneven, 6, gamma=0.1, decay=0.002, rescale=1),
        "NTK": ntk_invariant(uneven, 6, kernel, gamma=0.25, decay=(0.02, 0.05)),
        "NTK, held out": ntk_invariant(uneven.hold_out([1, 4, 6]), 6, kernel, gamma=0.25, decay=(0.02, 0.05)),
        "squared error, balanced": regularized(uneven, 6, decay=(0.02 / 0.8, 0.02 / 1.1), loss="mse"),
        "squared error, kappa": unconstrained(uneven, 6, loss="mse"),
        "deep": regularized(uneven, 6, decay=(0.01 / 0.8, 0.01 / 1.1), depth=4),
        "deep, squared error": unconstrained(uneven, 6, loss="mse", depth=4),
    }


def _flow() -> Flow:
    return Flow(cosine(0.1, horizon=2 * UPDATES), rate_H=0.8, rate_W=1.1, rtol=1e-10)


def cases() -> list[Case]:
    """Every row of the certificate, the slow ones first."""
    flow = _flow()
    descent = Descent(0.1, rate_H=0.8, rate_W=1.1)
    rows = []
    for name, model in problems().items():
        rows.append(Case(name, "flow", model, flow, "float64", 1e-8, 1e-3))
        if not (model.loss.linear or model.depth > 2):
            continue
        rows.append(Case(name, "descent", model, descent, "float64", 1e-11, 1e-3))
        if "," not in name and name not in ("frozen", "deep"):
            rough = dataclasses.replace(flow, rtol=1e-5)
            rows.append(Case(name, "flow", model, rough, "float32", 2e-4, 1e-2))
            rows.append(Case(name, "descent", model, descent, "float32", 2e-4, 1e-2))
    regular, ntk = problems()["regularized"], problems()["NTK"]
    for how, dynamics in {
        "momentum": Descent(0.02, rate_H=0.8, momentum=0.7),
        "Nesterov": Descent(0.02, rate_H=0.8, momentum=0.7, nesterov=True),
        "cosine descent": Descent(cosine(0.05, horizon=2 * UPDATES), rate_H=0.8),
    }.items():
        rows.append(Case("regularized", how, regular, dynamics, "float64", 1e-11, 1e-3))
    rows.append(Case("NTK", "Nesterov", ntk, Descent(0.02, momentum=0.7, nesterov=True), "float64", 1e-11, 1e-3))
    adamw = Optimizer(optax.adamw, learning_rate=cosine(0.05, horizon=2 * UPDATES), weight_decay=0.3)
    spectral = Optimizer(spectral_descent, learning_rate=0.05, weight_decay=0.3)
    both = ("regularized, noisy counts", "spectral descent", spectral)  # of both parts
    for name, how, optimizer in (("frozen", "AdamW", adamw), ("anchored", "spectral descent", spectral), both):
        model = problems()[name].replace(decay=0.0)
        rows.append(Case(name, how, model, Descent(optimizer=optimizer, rate_b=0.8), "float64", 1e-11, 1e-3))
    rows += _remembering()
    uneven = problems()["regularized, noisy counts"]
    for name, how, paced in (
        ("regularized, noisy counts", "sharpness-aware flow", dataclasses.replace(flow, rate_W=0.8, sam_radius=0.5)),
        ("regularized, noisy counts", "sharpness-aware", dataclasses.replace(descent, sam_radius=0.5, clip_norm=2.0)),
        ("regularized", "normalised flow", dataclasses.replace(flow, normalized=True)),
        ("regularized", "clipped", dataclasses.replace(descent, clip_norm=0.2)),
    ):
        bound = 1e-8 if isinstance(paced, Flow) else 1e-11
        rows.append(Case(name, how, problems()[name], paced, "float64", bound, 1e-3))
    for how, drawn in {
        "batches": Descent(0.3, batch=3),
        "distinct batches": Descent(0.3, batch=3, replacement=False),
        "fresh labels": Descent(0.3, fresh_labels=True),
        "both": Descent(0.3, batch=3, fresh_labels=True),
    }.items():
        rows.append(Case("regularized, noisy counts", how, uneven, drawn, "float64", 0.0, 0.0))
    rows.append(Case("regularized", "batches", regular, Descent(0.3, batch=3), "float64", 0.0, 0.0))
    return sorted(rows, key=lambda case: (case.how != "flow", case.precision == "float32"))


def _remembering() -> list[Case]:
    """The rows of descents with a memory, of flows with inertia, and of an average of a flow."""
    regular, uneven = problems()["regularized"], problems()["regularized, noisy counts"]
    rows = []
    for how, memory in {
        "Polyak average": PolyakAverage(),
        "schedule-free": ScheduleFree(0.8),
        "aggregated momentum": AggregatedMomentum((0.0, 0.5, 0.8)),
    }.items():
        remembering = Descent(0.02, rate_H=0.8, memory=memory)
        rows.append(Case("regularized", how, regular, remembering, "float64", 1e-11, 1e-3))
    slow = Flow(0.01, rate_H=0.8, rate_W=1.1, rtol=1e-10)
    for how, flow in {
        "heavy-ball flow": dataclasses.replace(slow, damping=0.1),
        "Nesterov flow": dataclasses.replace(slow, damping="nesterov"),
        # Steps are long beside a slow average: between them the dense run is off by a hundred tolerances.
        "Polyak average of a flow": dataclasses.replace(slow, memory=PolyakAverage(), rtol=1e-11),
    }.items():
        rows.append(Case("regularized, noisy counts", how, uneven, flow, "float64", 1e-8, 1e-2))
    return rows


def run_case(case: Case) -> Row:
    """Simulate, solve, compare; in float64 simulate once more without class sums, signal matrix or planes.

    In float32 the plain update leaves the range of numbers, while the reduced one carries the norm separately.
    """
    began = time.monotonic()
    if isinstance(case.dynamics, Descent) and case.dynamics.stochastic:
        return _run_drawn(case)
    model = case.model
    if model.depth > 2:
        return _deep_case(case, began)
    if not model.loss.linear:
        return _squared_case(case, began)
    bias = np.linspace(-1.0, 1.0, model.classes) if model.bias else None
    optimized = getattr(case.dynamics, "optimizer", None) is not None
    sizes = [2.0, 1.0, 0.5, 0.1] if optimized and model.moves.coupled else None  # whose gradients do not turn
    state = model.init(jax.random.key(7), bias=bias, spectral=sizes, precision=case.precision)
    times = np.concatenate([[0], _SEEN])
    observe = ["log_distance_H" if not model.moves.W else "log_distance"]
    if optimized:
        observe = ["log_norm"]  # distances from the limit are kept by linear maps alone
    if case.dynamics.paced:
        observe = []  # simulated in the dense form, which measures no distance
    run = simulate(model, case.dynamics, state, times, observe, states=True, precision=case.precision)
    truth = exact(model, case.dynamics, state, times, (), states=True, precision=case.precision)
    assert run.states is not None and truth.states is not None
    errors, dense = state_errors(run.states, truth.states), 0.0
    if case.precision == "float64":
        plain = simulate(model, case.dynamics, state, times, (), states=True, precision=case.precision, reduce=False)
        assert plain.states is not None
        dense = max(state_errors(plain.states, truth.states).values())
    order = _order(case, state) if case.precision == "float64" and case.how == "descent" else math.nan
    return Row(
        case.name, case.how, case.precision, errors["H"], errors["W"], errors["b"], case.bound,
        *_rates(case, state, run, observe), case.rate_bound, order, time.monotonic() - began, dense,
    )  # fmt: skip


def _squared_case(case: Case, began: float) -> Row:
    """Squared error, known up to a rotation: norms at all times, and products of rows at the last one."""
    flow, model = case.dynamics, case.model
    draw = model.init(jax.random.key(7), balanced=0.5 if model.decay_H == 0 else 0.0, precision=case.precision)
    by = (flow.rate_H / flow.rate_W) ** 0.25  # balanced at these rates
    state = State(draw.H * by, draw.W / by)
    times, names = np.concatenate([[0], _SEEN]), ("norm_H", "norm_W")
    truth = exact(model, flow, state, times, names, precision=case.precision)

    def errors(reduce: bool) -> list[float]:
        run = simulate(model, flow, state, times, names, precision=case.precision, reduce=reduce)
        found = []
        for part, name in zip(("H", "W"), names, strict=True):
            ours, theirs = (np.asarray(getattr(one.final, part), float) for one in (run, truth))
            ours, theirs = ours @ ours.T, theirs @ theirs.T
            products = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
            found.append(max(products, float(np.max(np.abs(np.asarray(run[name]) / np.asarray(truth[name]) - 1)))))
        return found

    none, (error_H, error_W) = math.nan, errors(True)
    return Row(
        case.name, case.how, case.precision, error_H, error_W, 0.0, case.bound, none, none, case.rate_bound, none,
        time.monotonic() - began, max(errors(False)),
    )  # fmt: skip


def _deep_case(case: Case, began: float) -> Row:
    """A stack of more than two factors from a spectral start, close below its threshold; H, and all other factors."""
    dynamics, model = case.dynamics, case.model
    draw = model.init(jax.random.key(7), spectral=[0.2, 0.15, 0.1], precision=case.precision)
    state = draw.replace(H=draw.H * (dynamics.rate_H / dynamics.rate_W) ** 0.5)  # balanced at these rates
    times = np.concatenate([[0], _SEEN])
    run, truth = (way(model, dynamics, state, times, (), states=True).states for way in (simulate, exact))
    assert run is not None and truth is not None
    errors, none = state_errors(run, truth), math.nan
    return Row(
        case.name, case.how, case.precision, errors["H"], max(errors["W"], errors["inner"]), 0.0, case.bound, none,
        none, case.rate_bound, none, time.monotonic() - began,
    )  # fmt: skip


def _run_drawn(case: Case) -> Row:
    """The mean of many runs that draw, against its expectation."""
    began, model = time.monotonic(), case.model
    observe = ["square_norm", "loss", "within_scatter", "square_norm_b"]
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(8), DRAWS)
        state = model.init(jax.random.key(7), precision=case.precision)
        runs = jax.vmap(lambda key: simulate(model, case.dynamics, state, _DRAWN, observe, key=key))(keys)
        found = verify(runs, exact(model, case.dynamics, state, _DRAWN, observe))
    assert isinstance(found, Agreement)
    none, seconds = math.nan, time.monotonic() - began
    return Row(
        case.name, case.how, case.precision, 0.0, 0.0, 0.0, case.bound, none, none, case.rate_bound, none, seconds,
        deviation=found.worst, deviation_bound=found.bound,
    )  # fmt: skip


def _rates(case: Case, state: State, run: Trajectory, observed: list[str]) -> tuple[float, float]:
    """Fitted rate per unit of zeta (flow) or per update (descent) over the last saved intervals, and the predicted
    rate."""
    schedule = case.dynamics.schedule
    changing = case.how == "cosine descent" or (case.model.spherical and case.model.rescale < 2)
    if changing or carried_by(case.dynamics) == "memory" or not observed or observed == ["log_norm"]:
        return math.nan, math.nan  # no constant rate, or one per sample
    dynamics = case.dynamics
    by_time = carried_by(dynamics) == "velocity"
    if isinstance(dynamics, Flow) and not by_time:  # as long as zeta grows
        dynamics = dataclasses.replace(dynamics, schedule=1.0)
    found = limit(case.model, dynamics, state, precision=case.precision)
    predicted = float(found.rate_H if case.model.spherical or not case.model.moves.W else found.rate)
    clock = np.asarray(run.times, float)
    if isinstance(case.dynamics, Flow) and not by_time:
        with jax.enable_x64(True):
            clock = np.asarray(schedule.integral(clock), float)
    logs = np.asarray(run[observed[0]], float)
    return float((logs[-3] - logs[-1]) / (clock[-1] - clock[-3])), predicted


def _order(case: Case, state: State) -> float:
    """Order in eta of the distance between descent and flow at equal zeta, from halving eta twice."""
    horizon, counts = 4.0, (64, 128, 256)
    rates = {"rate_H": case.dynamics.rate_H, "rate_W": case.dynamics.rate_W}
    flow = dataclasses.replace(_flow(), schedule=cosine(1.0, horizon=1e12), **rates)
    times = np.linspace(0, horizon, _SEEN.size + 1)
    truth = exact(case.model, flow, state, times, (), states=True, precision="float64").states
    gaps = []
    for count in counts:
        descent, last = Descent(horizon / count, **rates), np.arange(count - _SEEN.size, count + 1)
        run = exact(case.model, descent, state, last, (), states=True, precision="float64").states
        errors = state_errors(*(jax.tree.map(lambda leaf: np.asarray(leaf)[-1:], states) for states in (run, truth)))
        gaps.append(max(errors["H"], errors["W"]))
    return math.log2(gaps[-2] / gaps[-1])
