"""The public operations that return numbers: one line each in `OPERATIONS`.

An operation maps a `Problem` to named numbers, of which the last axis runs along the problem's times where there is
one (`in_time`). Derivatives are logarithmic, theta d/d theta, so that a change of units leaves them alone.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from invariants.problems import P, Problem

import unhinged_jax as uj
from unhinged_jax.theories import central_path, near_origin, off_path

RUN = ("loss", "objective", "accuracy", "accuracy_margin", "log_norm_H", "log_norm_W")
"""Of every run; more are looked at in one state, where they cost less to compile."""
STATE = (
    *RUN, "cdnv", "log_abs_loss", "loss_sign", "margin_min", "margin_mean", "norm_W", "log_norm", "nc1",
    "nc1_trace_ratio", "gnc2", "nc2_equinorm_means", "nc2_equiangularity_prototypes", "nc3_self_duality", "unc3",
    "nc4", "minimal_angle_means",
)  # fmt: skip


def observed(problem: Problem) -> tuple[str, ...]:
    """What a run is asked for: the list above, and what refers to its start or its limit, where there is one."""
    if problem.observe is not None:
        return problem.observe
    more: tuple[str, ...] = ("norm_b",) if problem.bias else ()
    if problem.rich:
        more = (*more, "cdnv")
        if problem.loss == "unhinged" and problem.reduce and problem.limits:
            more = (*more, "log_distance_H", "log_distance_W", "gap_W")
    elif problem.case == "spherical" and problem.limits:
        more = (*more, "log_distance_H")
    return (*RUN, *more)


def run(solve: str) -> Callable[[Problem], dict[str, Any]]:
    def values(problem: Problem) -> dict[str, Any]:
        solver = problem.solver or solve
        extra = {"reduce": problem.reduce} if solver == "simulate" else {}
        ran = getattr(uj, solver)(*problem.built(), problem.times, observed(problem), **extra)
        return dict(ran.observables)

    return values


def limit(problem: Problem) -> dict[str, Any]:
    """Of a flow as long as zeta grows, and where its schedule, which ends, leaves it."""
    model, dynamics, state = problem.built()
    ended = uj.limit(model, dynamics, state)
    if problem.kind == "flow":
        dynamics = dataclasses.replace(dynamics, schedule=1.0)
    found = uj.limit(model, dynamics, state)
    names = ("rate", "rate_H", "rate_W", "exponent", "threshold", "excess", "angle")
    share, last = ((one.direction.H**2).sum() for one in (found, ended))  # as it comes: `jnp` would round NumPy arrays
    return {name: getattr(found, name) for name in names} | {"share of H": share, "share of H in the end": last}


def event(method: str) -> Callable[[Problem], dict[str, Any]]:
    """When prototypes and class means have come so close to one another, in a measure that has no units."""

    def values(problem: Problem) -> dict[str, Any]:
        seen = [t for t in problem.times if problem.cut is None or t >= problem.cut]
        found = uj.event_time(
            *problem.built(), EVENT, LEVELS[problem.kind], times=seen, direction="below", method=method
        )
        return {"time": found.time, "happened": found.happened, "slope": found.slope, "updates": found.updates}

    return values


EVENT, LEVELS = "nc3_self_duality", {"flow": 1.1, "descent": 0.6}


def sensitivity(source: str) -> Callable[[Problem], dict[str, Any]]:
    """theta d/d theta of a few observables at the last two times."""

    def values(problem: Problem) -> dict[str, Any]:
        wanted = ["eta", "decay_H", "decay_W", "rate_H", "rate_W", "gamma"]
        wanted = ["schedule.peak" if name == "eta" and problem.horizon is not None else name for name in wanted]
        wanted = wanted if problem.loss == "unhinged" else wanted[:-1]
        seen = ("loss", "accuracy_margin", "log_norm_H", "log_norm_W")
        table = uj.sensitivity(*problem.built(), problem.times[-2:], seen, wanted, sources=source)
        found = {}
        for name in seen:
            for parameter in wanted:
                at = table["first"].sel(source=source, observable=name, parameter=parameter).values
                theta = float(table["theta"].sel(parameter=parameter))
                found[f"{name} by {parameter.replace('schedule.peak', 'eta')}"] = at * theta
        return found

    return values


def lyapunov(problem: Problem) -> dict[str, Any]:
    """The sum of all exponents in one segment: log |det D Phi| / t, whatever the frame."""
    model, dynamics, state = problem.built()
    moving = problem.samples * P + problem.classes * P + (problem.classes if problem.bias else 0)
    found = uj.lyapunov(model, dynamics, state, problem.times[1], moving, segments=1, transient=0)
    return {"sum of exponents": np.sum(found.exponents)}


def exact_exponents(problem: Problem) -> dict[str, Any]:
    model, dynamics, _ = problem.built()
    return {"rates": uj.exact_exponents(model, dynamics)}


def limit_sensitivity(problem: Problem) -> dict[str, Any]:
    """From the left, theta d/d theta."""
    table = uj.limit_sensitivity(*problem.built(), LIMIT_PARAMETERS)
    names = [(q, p) for q in table["quantity"].values for p in LIMIT_PARAMETERS]
    slopes = table["left"] * table["theta"]
    return {f"{q} by {p}": slopes.sel(quantity=q, parameter=p).values for q, p in names}


LIMIT_PARAMETERS = ["decay_H", "rate_W", "gamma"]


def path_and_rates(problem: Problem) -> dict[str, Any]:
    """The loss on the central path and off it, and the rates at which they fall."""
    model, _, state = problem.built()
    found = off_path.split(model, state), off_path.late_rates(model, state)
    return dict(zip(("on", "off", "falls on", "falls off"), (*found[0], *found[1]), strict=True))


def snr(problem: Problem) -> dict[str, Any]:
    model, _, state = problem.built()
    with jax.enable_x64(True):
        return {"snr": central_path.snr_singular_values(model, state)}


def linearised(problem: Problem) -> dict[str, Any]:
    """Squares of what the linearised flow makes of the state."""
    _, _, state = problem.built()
    with jax.enable_x64(True):
        found = near_origin.linearised(state, problem.index, problem.classes, 3.0)
    grown = np.exp(2 * np.asarray(found.log_scale))
    return {f"square_{part}": grown * (np.asarray(getattr(found, part)) ** 2).sum() for part in "HW"}


def push_forward(problem: Problem) -> dict[str, Any]:
    """Of a tangent made of the state, so that it moves with it."""
    model, dynamics, start = problem.built()
    state = problem.state_as(problem)
    tangent = uj.State(0.5 * state.H, -2 * state.W, state.b)
    _, pushed = uj.push_forward(model, dynamics, start, problem.times[1:2], tangent)
    squares = {part: (getattr(pushed, part) ** 2).sum() for part in "HW"}
    exp = jnp.exp if isinstance(pushed.log_scale, jax.Array) else np.exp
    return {f"square_{part} pushed": square * exp(2 * pushed.log_scale) for part, square in squares.items()}


def hessian_spectrum(problem: Problem) -> dict[str, Any]:
    model, _, state = problem.built()
    return {"curvature": uj.hessian_spectrum(model, state, 2)}


def observe_state(problem: Problem) -> dict[str, Any]:
    model, _, state = problem.built()
    return dict(uj.observe_state(model, state, problem.observe or STATE))


def collapse_metrics(problem: Problem) -> dict[str, Any]:
    """`uj.collapse` of arrays, with labels as they are given; in float64, since functions of arrays are JAX's own."""
    model, _, state = problem.built()
    with jax.enable_x64(True):
        logits = model.logits(*map(jnp.asarray, (state.H, state.W, state.b)))
        stats = uj.collapse.class_statistics(state.H, problem.index, problem.classes)
        return dict(uj.collapse.collapse_metrics(stats, state.W, logits))


def tables(problem: Problem) -> dict[str, Any]:
    """The problem as sections of a file."""
    from unhinged_jax import config  # noqa: F401  (its sections are what is written here)

    return {
        "model": {"case": "regularized", "dim": np.shape(problem.W)[1], "gamma": problem.gamma,
                  "decay": list(problem.decay[:2]), "bias": problem.bias,
                  **dict(zip(("decay_b",), problem.decay[2:], strict=False))},
        "labels": {"layout": "labels", "labels": np.asarray(problem.index).tolist(), "classes": problem.classes,
                   "sample_weights": np.asarray(problem.q).tolist()},
        "state": {"features": np.asarray(problem.H).tolist(), "prototypes": np.asarray(problem.W).tolist(),
                  "bias": np.asarray(problem.b).tolist()},
        "dynamics": {"kind": problem.kind, **dict(zip(("rate_H", "rate_W", "rate_b"), problem.rates, strict=False)),
                     "schedule": problem.eta if problem.horizon is None else
                     {"kind": "cosine", "peak": problem.eta, "horizon": problem.horizon}},
        "run": {"times": list(problem.times), "observe": list(observed(problem)), "precision": "float64"},
    }  # fmt: skip


def sweep(problem: Problem) -> dict[str, Any]:
    given = tables(problem)
    given["sweep"] = {"method": "exact", "grid": {"model.gamma": [1.5, problem.gamma]}}
    if problem.kind == "flow":
        given["dynamics"] |= {"rtol": 1e-10}
    with tempfile.TemporaryDirectory() as folder:
        data = uj.sweep(uj.SweepPlan.of(given), f"{folder}/s.zarr", workers=0, progress=False).load()
    at = data.isel(gamma=1)
    return {name: np.squeeze(at[name].values) for name in observed(problem)}


def design(problem: Problem) -> dict[str, Any]:
    """What goals of every kind look at."""
    given = tables(problem)
    seen = [("loss", "run"), ("log_norm_W", "run"), ("rate", "limit"), ("exponent", "limit"), ("spread", "modes")]
    goals = [{"observe": name, "of": of} for name, of in seen]
    given["design"] = {"free": {"model.gamma": {"domain": "positive"}}, "goal": goals, "steps": 1}
    plan = uj.DesignPlan.of(given)
    with jax.enable_x64(True):
        found = plan.measured({"model.gamma": problem.gamma})
    return {name: np.asarray(value) for name, value in found.items()}


@dataclasses.dataclass(frozen=True)
class Operation:
    """A line: what computes the numbers, on which problems, whether it is JAX throughout, and how exact it is."""

    values: Callable[[Problem], dict[str, Any]]
    on: tuple[str, ...]
    traced: bool = True
    tolerance: float = 1e-9
    in_time: bool = False
    affords: int = 0
    """Changes up to this `costs` are made in its first problem; in the others those that cost nothing."""


def _on(problems: str, *kinds: str) -> tuple[str, ...]:
    return tuple(f"{problem.strip()}, {kind}" for problem in problems.split("/") for kind in kinds)


_SOME = "weighted / bias / noisy / spherical / kernel"
_ANY = "weighted / balanced / bias / noisy / anchored / frozen / spherical / kernel"
FLOWS = 1e-6
"""Of numbers from a solver at rtol 1e-10: a run of some twenty steps of growth e^2 loses three digits or four."""

OPERATIONS: dict[str, Operation] = {
    "simulate, flow": Operation(
        run("simulate"), _on(_SOME + " / cross-entropy / squared error / one a class", "flow"), True, FLOWS, True, 1
    ),
    "simulate, descent": Operation(
        run("simulate"), _on(_ANY + " / cross-entropy / squared error", "descent"), in_time=True, affords=2
    ),
    "simulate, momentum": Operation(
        run("simulate"), ("weighted, momentum", "bias, Nesterov", "cross-entropy, momentum"), in_time=True, affords=1
    ),
    "exact, flow": Operation(run("exact"), _on(_ANY + " / one a class", "flow"), in_time=True, affords=1),
    "exact, descent": Operation(run("exact"), _on(_ANY, "descent"), in_time=True, affords=2),
    "exact, momentum": Operation(run("exact"), ("weighted, momentum", "bias, Nesterov"), in_time=True, affords=1),
    "limit": Operation(
        limit,
        (
            *_on("weighted / balanced / anchored / spherical / kernel", "flow", "descent"),
            "weighted, momentum",
            "bias, Nesterov",
        ),
        affords=1,
    ),
    "event_time, exact": Operation(event("exact"), ("weighted, flow", "bias, descent"), affords=1),
    "event_time, simulated": Operation(event("simulate"), ("cross-entropy, flow",), tolerance=1e-5),
    "sensitivity, exact": Operation(sensitivity("exact"), ("weighted, flow", "bias, descent"), False),
    "sensitivity, simulated": Operation(sensitivity("simulated"), ("cross-entropy, flow",), False, FLOWS),
    "lyapunov": Operation(lyapunov, ("weighted, descent", "cross-entropy, descent"), False),
    "exact_exponents": Operation(
        exact_exponents,
        (*_on("weighted / noisy / frozen", "descent"), *_on("weighted / bias / anchored", "flow")),
        False,
    ),
    "limit_sensitivity": Operation(limit_sensitivity, ("bias, descent",), False, 1e-7),
    "off_path": Operation(path_and_rates, ("mean squares, flow",), False),
    "snr_singular_values": Operation(snr, ("mean squares, flow",), False),
    "linearised": Operation(linearised, ("mean squares, flow",), False),
    "push_forward": Operation(push_forward, ("weighted, descent", "cross-entropy, flow"), tolerance=FLOWS, affords=1),
    "hessian_spectrum": Operation(hessian_spectrum, ("weighted, flow", "cross-entropy, flow"), False),
    "observe_state": Operation(observe_state, _on("weighted / bias / cross-entropy / noisy", "flow"), affords=1),
    "collapse_metrics": Operation(collapse_metrics, ("weighted, flow", "bias, flow")),
    "sweep": Operation(sweep, ("weighted, flow", "bias, descent"), False, in_time=True),
    "design": Operation(design, ("weighted, flow", "bias, descent"), False),
}
