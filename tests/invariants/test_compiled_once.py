"""Called again with other numbers, an operation compiles nothing: what a person waits for, they wait for once."""

import contextlib

import jax
import numpy as np
import optax
import pytest

import unhinged_jax as uj
from unhinged_jax.special import safe_norm

LABELS = uj.balanced(3, 2)
FLOW, DESCENT = (lambda k: uj.Flow(0.5 + 0.1 * k)), (lambda k: uj.Descent(0.2 + 0.01 * k))


def adam(k):
    return uj.Descent(optimizer=uj.Optimizer(optax.adamw, learning_rate=0.1 - 0.01 * k, b1=0.9 - 0.1 * k, eps=1e-8))


def batches(k):
    return uj.Descent(0.2 + 0.01 * k, batch=2)


def noisy(k):
    return uj.Descent(0.2 + 0.01 * k, batch=2 + k)


def diffusion(k):
    return uj.Diffusion(0.2 + 0.01 * k, batch=2 + k, step=0.5)


def problem(k, dynamics, **settings):
    model = uj.regularized(LABELS, 3, decay=0.1 + 0.01 * k, **settings)
    return model, dynamics(k), model.init(jax.random.key(k))


def curvature(k):
    model, _, state = problem(k, FLOW, loss="cross_entropy")
    return uj.hessian_spectrum(model, state, 2)


def slopes(k, dynamics, parameters, **how):
    model, dynamics, state = problem(k, dynamics)
    return {**uj.sensitivity(model, dynamics, state, [1, 4], ["log_norm", "loss"], parameters, **how).variables}[
        "first"
    ]


def risen(k, **how):
    found = uj.event_time(*problem(k, FLOW), "log_norm", 1.8 + k / 100, times=[0.0, 6.0 + k], **how)
    assert 5 < found.time < 6
    return found


def kinks(k):
    model, dynamics, state = problem(k, FLOW)
    return uj.limit_sensitivity(model, dynamics, state, ["gamma", "decay_W"])["right"].values


PLAN = uj.designs.DesignPlan.of(
    {
        "model": {"case": "unconstrained", "dim": 4},
        "labels": {"layout": "counts", "counts": [8, 2, 1], "class_weights": [1.0, 1.0, 1.0]},
        "dynamics": {"kind": "flow"},
        "run": {"times": [1]},
        "design": {
            "steps": 3,
            "tries": 2,
            "free": {"labels.class_weights": {"domain": "simplex"}},
            "goal": [{"observe": "spread", "of": "modes"}],
            "reference": {"kind": "grid", "points": 3, "zooms": 1},
        },
    }
)


def designed(k):
    return np.append(uj.designs.design(PLAN).objectives, k)  # the same plan: its numbers are part of its programs


OPERATIONS = {
    "simulate, flow": lambda k: uj.simulate(*problem(k, FLOW), [1.0, 2.0 + k], "log_norm"),
    "simulate, descent": lambda k: uj.simulate(*problem(k, DESCENT), [1, 3], "log_norm"),
    "simulate, Adam": lambda k: uj.simulate(*problem(k, adam), [1, 3], "log_norm"),
    "exact, flow": lambda k: uj.exact(*problem(k, FLOW), [1.0, 2.0 + k], "log_norm"),
    "exact, descent": lambda k: uj.exact(*problem(k, DESCENT), [1, 3 + k], "log_norm"),
    "simulate, batches": lambda k: uj.simulate(*problem(k, batches), [1, 3], "log_norm", key=jax.random.key(k)),
    "exact, expectations": lambda k: uj.exact(*problem(k, noisy), [1, 3], "loss"),
    "simulate, diffusion": lambda k: uj.simulate(*problem(k, diffusion), [1, 3], "log_norm", key=jax.random.key(k)),
    "exact, diffusion": lambda k: uj.exact(*problem(k, diffusion), [1.0, 3.0 + k], "loss"),
    "event_time": lambda k: risen(k),
    "event_time, simulated": lambda k: risen(k, method="simulate"),
    "lyapunov": lambda k: uj.lyapunov(*problem(k, DESCENT), 10, 2, segments=5),
    "limit": lambda k: uj.limit(*problem(k, FLOW)),
    "hessian_spectrum": curvature,
    "sensitivity, flow": lambda k: slopes(k, FLOW, ["gamma", "eta", "noise"]),
    "sensitivity, descent": lambda k: slopes(k, DESCENT, ["decay_H", "eta", "s", "class_weights"]),
    "sensitivity, Adam": lambda k: slopes(k, adam, ["optimizer.b1", "optimizer.weight_decay"]),
    "sensitivity, two orders": lambda k: slopes(k, DESCENT, ["decay", "eta"], order=2),
    "sensitivity, reverse": lambda k: slopes(k, FLOW, ["W", "gamma"], mode="checkpointed"),
    "limit_sensitivity": kinks,
    "design": designed,
}


@contextlib.contextmanager
def compilations():
    """Collects what is compiled inside."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **said: event.endswith("backend_compile_duration") and compiled.append(said)
    )
    try:
        yield compiled
    finally:
        jax.monitoring.clear_event_listeners()


# Differentiated programs take long to compile; a limit stands for them at every change.
SLOW = {name for name in OPERATIONS if name.startswith(("sensitivity", "event_time, simulated"))}


@pytest.mark.long_for("limit_sensitivity", "event_time", "exact, expectations")
@pytest.mark.parametrize(
    "operation", [pytest.param(name, marks=[pytest.mark.long] * (name in SLOW)) for name in OPERATIONS]
)
def test_other_numbers_compile_nothing(operation):
    before = OPERATIONS[operation](0)
    with compilations() as compiled:
        again = OPERATIONS[operation](1)
    assert compiled == []
    both = zip(jax.tree.leaves(before), jax.tree.leaves(again), strict=True)
    assert any(np.any(one != other) for one, other in both)


def test_a_norm_of_arrays_of_the_same_shapes_is_traced_once():
    def norms(x):
        return [safe_norm(x * k, x) for k in range(5)]

    inner = [
        equation.params["jaxpr"]
        for call in jax.make_jaxpr(norms)(np.ones(3)).eqns
        for equation in getattr(call.params.get("call_jaxpr"), "eqns", ())
    ]
    assert len(inner) == 5 and len({id(jaxpr) for jaxpr in inner}) == 1
