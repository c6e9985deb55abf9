"""Every function of a state or a run: a scale beside the arrays is the same as one multiplied into them.

The functions are found by their signatures, in every module of the package whose name is public, so that a new one
without a line here fails.
"""

import importlib
import inspect
import pkgutil
import re

import jax
import numpy as np
import optax
import pytest

import unhinged_jax as uj
from unhinged_jax.comparison import state_errors
from unhinged_jax.derivatives import parameters
from unhinged_jax.limits.linear import direction_of
from unhinged_jax.model.state import multiplied, settled
from unhinged_jax.theories import central_path, near_origin, off_path
from unhinged_jax.theories.diffusion_limit import first_order_gap

P, POWER = 2, 9
LABELS, EVEN = uj.from_counts([4, 2, 3]), uj.balanced(3, 3)
DECAY = {"decay": (2**-5, 2**-4), "bias": True}
MODELS = {
    "regularized": uj.regularized(LABELS, P, gamma=0.3, **DECAY),
    "cross-entropy": uj.regularized(LABELS, P, loss="cross_entropy", **DECAY),
    "balanced": uj.regularized(EVEN, P, gamma=0.3, decay=(2**-5, 2**-4)),
    "anchored": uj.anchored(LABELS, P, gamma=0.3, decay=2**-5),
    "frozen": uj.frozen(LABELS, P, gamma=0.3, decay=2**-4, bias=True),
    "spherical": uj.spherical(LABELS, P, gamma=0.3, decay=2**-5),
    "rescaled once": uj.spherical(LABELS, P, gamma=0.3, decay=2**-5, rescale=1),
    "kernel": uj.ntk_invariant(LABELS, P, np.eye(9) + 0.5, gamma=0.3, decay=(2**-5, 2**-4)),
    "squared error": uj.unconstrained(EVEN, P, loss="mse", bias=True),
    "squared error, balanced": uj.regularized(LABELS, P, decay=2**-5, loss="mse"),
    "deep": uj.regularized(LABELS, P, decay=2**-5, depth=3),
}
FLOW_EVEN = uj.Flow(0.5)
STEP, MOMENTUM, FLOW = uj.Descent(0.5, 0.75), uj.Descent(0.5, 0.75, momentum=0.5), uj.Flow(0.5, 0.75)
SQUARES = [*uj.moment_observables, "log_square_norm", "log_within_scatter"]
SEEN = ["objective", "margin_min", "log_norm_H", "log_norm_W", "nc1"]


def start(name):
    """Entries that a division by a power of two leaves exact; biases of another size than the scale."""
    model, rng = MODELS[name], np.random.default_rng(7)
    if name == "squared error, balanced":
        return model.init(jax.random.key(7), balanced=0.0, precision="float64")
    if name == "deep":
        return model.init(jax.random.key(7), spectral=[1.0, 0.5], precision="float64")
    H, W, b = rng.normal(size=(model.samples, P)), rng.normal(size=(model.classes, P)), rng.normal(size=model.classes)
    if name == "squared error":
        b = np.full(model.classes, 0.25)  # `linearised` is of equal biases
    return uj.State(H, W, b if model.bias else 0 * b)


def beside(state, power):
    inner = None if state.inner is None else state.inner / 2.0**power
    return state.replace(H=state.H / 2.0**power, W=state.W / 2.0**power, inner=inner, log_scale=power * np.log(2.0))


def grown(log, value):
    """e^log times an array, infinite or 0 where the product is beyond the range."""
    value = np.asarray(value)
    with np.errstate(all="ignore"):
        return np.sign(value) * np.exp(np.asarray(log)[..., None, None] + np.log(np.abs(value)))


def whole(state):
    """A state as numbers."""
    inner = {} if state.inner is None else {"inner": grown(state.log_scale, state.inner[..., 0, :, :])}
    return {"H": grown(state.log_scale, state.H), "W": grown(state.log_scale, state.W), "b": state.b, **inner}


def ran(run):
    return {**run.observables, **whole(run.final)}


def limit(dynamics):
    def numbers(model, state):
        found = uj.limit(model, dynamics, state)
        fields = {name: value for name, value in vars(found).items() if name not in ("direction", "moving")}
        return {**fields, **whole(found.direction)}

    return numbers


def derivatives(sources, seen, *parameters):
    def numbers(model, state):
        table = uj.sensitivity(model, STEP, state, [3], seen, parameters, sources=sources)
        found = {name: table[name].values for name in table if name != "theta"}
        return found | {"first_H": grown(-state.log_scale, found["first_H"])}  # H is one in units of e^log_scale

    return numbers


def observed(names=None):
    return lambda model, state: uj.observe_state(model, state, names)


def pushed(dynamics):
    def numbers(model, state):
        tangent = start("regularized")
        H, W = (grown(-state.log_scale, part) for part in (tangent.H, tangent.W))
        tangent = uj.State(H, W, np.ones(model.classes))
        return whole(uj.push_forward(model, dynamics, state, [0, 3], tangent)[1])

    return numbers


def exponents(dynamics):
    return lambda model, state: uj.lyapunov(model, dynamics, state, 4, 3, segments=2, transient=0).history


def named_parameters(model, state):
    found = {name: p.value for name, p in parameters.available(model, STEP, state).items()}
    return found | whole(uj.State(found["H"], found["W"], found["b"], state.log_scale))


def compared(model, state):
    other = uj.exact(model, STEP, start("regularized"), [0, 3], SEEN, states=True)
    run = uj.exact(model, uj.Descent(0.4, 0.75), state, [0, 3], SEEN, states=True)
    return uj.verify(run, other).errors


def apart(model, state):
    stacked, other = (jax.tree.map(lambda leaf: np.asarray(leaf)[None], s) for s in (state, start("regularized")))
    return state_errors(stacked, other.replace(H=2 * other.H, b=other.b + 1))


def event(method, dynamics):
    def numbers(model, state):
        times = np.arange(9) if isinstance(dynamics, uj.Descent) else np.arange(9.0)
        found = uj.event_time(model, dynamics, state, "log_norm_W", 0.9, times=times, method=method)
        return found.time, found.happened, found.slope

    return numbers


def simulated(dynamics, times=(0, 2, 5), **how):
    return lambda model, state: ran(uj.simulate(model, dynamics, state, times, SEEN, **how))


def solved(dynamics, more=()):
    return lambda model, state: ran(uj.exact(model, dynamics, state, [0, 2, 5], [*SEEN, *more]))


FUNCTIONS = {
    "hessian_spectrum": {
        "cross-entropy": lambda model, state: uj.hessian_spectrum(model, state, 4),
        "squared error": lambda model, state: uj.hessian_spectrum(model, state, 4),
    },
    "event_time": {"regularized": event("exact", STEP), "cross-entropy": event("simulate", FLOW)},
    "exact": {
        "regularized": solved(STEP, ["log_distance", "gap_W"]), "anchored": solved(FLOW), "frozen": solved(STEP),
        "spherical": solved(STEP), "kernel": solved(MOMENTUM),
        "squared error, balanced": lambda model, state: uj.exact(model, FLOW_EVEN, state, [0, 2, 5], SEEN).observables,
        "deep": solved(FLOW_EVEN),
    },
    "closed_form.expected.expectations": {
        name: lambda model, state: [
            uj.exact(model, uj.Descent(0.5, 0.75, batch=4), state, [0, 2, 5], name)[name] for name in SQUARES
        ]
        for name in ("regularized", "balanced", "anchored", "frozen")
    },
    "closed_form.diffused.diffused": {
        "regularized": lambda model, state: uj.exact(
            model, uj.Diffusion(0.5, 0.75, batch=4), state, [0, 2, 5], SQUARES
        ).observables
    },
    "simulate": {
        "cross-entropy": simulated(MOMENTUM), "squared error": simulated(FLOW, (0.0, 2.0)),
        "regularized": simulated(STEP, reduce=False), "spherical": simulated(STEP), "kernel": simulated(MOMENTUM),
        "deep": simulated(MOMENTUM),
    },
    "lyapunov": {
        "cross-entropy": exponents(MOMENTUM), "regularized": exponents(MOMENTUM), "spherical": exponents(STEP),
        "squared error": exponents(uj.Descent(0.5, optimizer=optax.adam(0.1))),
    },
    "push_forward": {"regularized": pushed(STEP), "cross-entropy": pushed(MOMENTUM)},
    "limit": {
        "regularized": limit(STEP), "anchored": limit(FLOW), "frozen": limit(STEP), "spherical": limit(STEP),
        "rescaled once": limit(FLOW), "kernel": limit(FLOW), "squared error, balanced": limit(FLOW_EVEN),
        "deep": limit(FLOW_EVEN),
    },
    "limit_sensitivity": {
        name: lambda model, state: uj.limit_sensitivity(model, STEP, state, "gamma")["left"]
        for name in ("spherical", "regularized")
    },
    **{
        f"layer_{name}": {"deep": getattr(uj, f"layer_{name}")}
        for name in ("alignments", "norms", "scatter_ratios", "unbalance")
    },
    "observe_state": {
        "cross-entropy": observed([*SEEN, "bias_ratio", "nc4"]), "regularized": observed(), "spherical": observed(),
    },
    "sensitivity": {
        "cross-entropy": derivatives("simulated", "objective", "decay_H", "H", "b"),
        "balanced": derivatives("exact", "log_norm_W", "decay_H", "H"),
    },
    "verify": {"regularized": compared},
    "comparison.state_errors": {"regularized": apart},
    "derivatives.parameters.available": {"regularized": named_parameters},
    "theories.central_path.snr_singular_values": {"squared error": central_path.snr_singular_values},
    "theories.near_origin.linearised": {
        "squared error": lambda model, state: whole(near_origin.linearised(state, model.labels.index, 3, 2.0))
    },
    "theories.off_path.split": {"squared error": off_path.split},
    "theories.off_path.late_rates": {"squared error": off_path.late_rates},
    "theories.diffusion_limit.first_order_gap": {
        "balanced": lambda model, state: first_order_gap(model, jax_state(state), 2.0)
    },
    "limits.linear.direction_of": {
        name: lambda model, state: whole(direction_of(model, jax_state(state))) for name in ("frozen", "spherical")
    },
    "model.state.multiplied": {"regularized": lambda model, state: multiplied(jax_state(state))},
    "model.state.settled": {"regularized": lambda model, state: whole(settled(jax_state(state)))},
}  # fmt: skip
"""Function -> models, and the numbers of a state that must not depend on where its scale stands."""

ELSEWHERE = {
    "citation": "names what a run used",
    "runs.files.write_run": "keeps a run as it is",
    "concat": "puts a run behind another, each with its scales",
    "comparison.fitted_rate": "reads the observables of a run",
    "training.learner.forward": "the state of a network, not of the model",
    "training.networks.features_of": "the state of a network, not of the model",
    "paper.reproduce.run_curve": "is given starts of the paper, whose scale is 0",
    "LayerPeeled.check_state": "returns nothing, and looks at shapes",
    "model.state.check_parts": "returns nothing, and looks at shapes",
    "Optimizer.update": "its state is the memory of an optimiser, whose numbers are those of the arrays",
    "model.held_out.trained": "leaves rows out of a state, whose scale stays",
    "model.state.must_fit": "returns nothing, and is there for scales",
    "simulation.run.scale_must_fit": "returns nothing, and is there for scales",
    "derivatives.chosen.chosen": "gives what `available` does",
    "derivatives.chosen.together": "puts values where `available` says",
    "derivatives.programs.Asked.run": "what `sensitivity` differentiates",
    "derivatives.programs.Asked.values": "what `sensitivity` differentiates",
    "derivatives.programs.most_steps": "counts the steps of a flow for `sensitivity`",
    "derivatives.flow_map.flow_map": "the core of `push_forward` and `lyapunov`",
    "limits.linear.coupled": "the core of `limit`",
    "limits.squared_error.squared": "the core of `limit`",
    "limits.linear.biases": "the limit of biases, which have no scale",
    "limits.linear.towards": "the core of `limit`",
    "limits.optimized.optimized": "the core of `limit`",
    "limits.deep.deep": "the core of `limit`",
    "limits.deep_squared.deep_squared": "the core of `limit`",
    "limits.averaged.averaged": "the core of `limit`",
    "limits.paced.paced": "the core of `limit`",
    "limits.deep.whole_direction": "a direction, which has no scale, of a core of `limit`",
    "limits.noise.noise": "the core of `limit`; sizes of starts are varied in its own tests",
    "limits.linear.driven": "the core of `limit`",
    "limits.spherical.spherical": "the core of `limit`",
    "closed_form.linear.exact_linear": "the core of `exact`",
    "closed_form.squared_error.start_of": "the core of `exact`",
    "closed_form.evaluation.ended_at": "reads the clock of a run",
    "closed_form.gradients.start_of": "the core of `exact`",
    "closed_form.paced.pace_of": "the core of `exact`",
    "closed_form.paced.Pace.marked": "marks the times that a run does not reach",
    "closed_form.constant_gradient.start_of": "the core of `exact`",
    "closed_form.constant_gradient.gradient_of": "the core of `exact`",
    "closed_form.aligned.why_turning": "gives words about ratios",
    "closed_form.deep.start_of": "the core of `exact`",
    "closed_form.deep_starts.why_not_aligned": "gives words about ratios",
    "closed_form.existence.why_no_closed_form": "gives words",
    "closed_form.balance.why_not_balanced": "gives words about ratios",
    "closed_form.balance.why_not_read": "gives words about ratios",
    "closed_form.balance.form_of": "asks whether kappa is 0 in units of the squared norm",
    "closed_form.expected.begun": "the core of `exact`",
    "closed_form.expected.values_of": "the core of `exact`",
    "closed_form.expected.moments_of_start": "the core of `exact`",
    "closed_form.scatter.of_descent": "the core of `exact`",
    "closed_form.scatter.log_of_deviations": "the core of `exact`",
    "theories.minibatch.every_path": "is given a start of the theory, whose scale is 0",
    "simulation.linear.linear_system": "the core of `simulate`",
    "simulation.run.crossing": "the core of `event_time`",
    "derivatives.event_searches.by_formula": "the core of `event_time`",
    "derivatives.event_searches.by_simulation": "the core of `event_time`",
    "derivatives.event_searches.by_updates": "the core of `event_time`",
    "derivatives.event_searches.How.at": "the core of `event_time`",
    "derivatives.event_searches.How.found": "the core of `event_time`",
    "derivatives.event_searches.How.heights": "the core of `event_time`",
    "simulation.deep.deep_system": "the core of `simulate`",
    "model.state.with_scale": "what `multiplied` does, of given arrays",
    "simulation.watched.batch_in_pieces": "gives what `simulate` does, some times at a time",
    "simulation.choose.choose": "asks for shapes, types and which modes a start has",
    "linear.leading_part.leading_part": "a part of the state, over the scale of the state",
    "linear.leading_part.leading_parts": "the same, with that of the first start",
    "simulation.columns.column_system": "the core of `simulate`",
    "simulation.group.group_of": "asks which group permutes a start, which a scale leaves",
    "simulation.group.group_system": "the core of `simulate`",
    "simulation.absent.lacks_modes": "asks which modes a start has, which a scale leaves",
    "simulation.columns.start_power": "the scale of a core of `simulate`",
}
"""Functions whose numbers are checked in another one, or that give none, and why."""


def jax_state(state):
    return jax.tree.map(jax.numpy.asarray, state)


def functions_of_states():
    """Every public function and method that is given a state, a run or a problem."""
    found = {}
    for info in pkgutil.walk_packages(uj.__path__, "unhinged_jax."):
        if any(part.startswith("_") for part in info.name.split(".")):
            continue
        for name, thing in vars(importlib.import_module(info.name)).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != info.name:
                continue
            place = "" if getattr(uj, name, None) is thing else info.name.removeprefix("unhinged_jax.") + "."
            members = {f"{place}{name}": inspect.unwrap(thing)}
            if inspect.isclass(thing):
                methods = {key: value for key, value in vars(thing).items() if not key.startswith("_")}
                members = {f"{place}{name}.{key}": value for key, value in methods.items()}
            found |= {key: value for key, value in members.items() if inspect.isfunction(value) and _takes(value)}
    return found


def _takes(function):
    """Whether a parameter is annotated as such, or is called a state."""
    given = inspect.signature(function).parameters.values()
    return any(re.search(r"\b(State|Trajectory|Problem)\b", str(p.annotation)) or p.name == "state" for p in given)


def test_every_function_of_a_state_has_a_line():
    assert {*functions_of_states()} == {*FUNCTIONS, *ELSEWHERE}


ROWS = [
    pytest.param(name, model, marks=[pytest.mark.long] if place else [])
    for name, models in FUNCTIONS.items()
    for place, model in enumerate(models)
]
"""The first model of every function; the others where there is time."""


@pytest.mark.long_for(
    "closed_form.expected.expectations-regularized",
    "event_time-regularized",
    "verify-regularized",
    "closed_form.diffused.diffused-regularized",
    "sensitivity-cross-entropy",
    "observe_state-cross-entropy",
)
@pytest.mark.parametrize(("function", "model"), ROWS)
def test_a_scale_beside_the_arrays_is_one_in_them(function, model):
    numbers, plain = FUNCTIONS[function][model], start(model)
    with jax.enable_x64(True):
        want = numbers(MODELS[model], plain)
        for power in (POWER, -POWER):
            got = numbers(MODELS[model], beside(plain, power))
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), got, want)


# What is pushed forward has no scale but the state's.
# A deep model of the size e^1000 is infinite at once.
UNTIL = {("exact", "deep"): 0.0}


@pytest.mark.long_for("closed_form.expected.expectations-regularized")
@pytest.mark.parametrize(("function", "model"), [row for row in ROWS if row.values[0] != "push_forward"])
def test_a_scale_that_cannot_be_multiplied_in_is_kept_apart_or_refused(function, model):
    numbers = FUNCTIONS[function][model]
    with jax.enable_x64(True), np.errstate(over="ignore", under="ignore"):
        known = jax.tree.map(np.isnan, numbers(MODELS[model], start(model)))
        for log_scale in (-1000.0, UNTIL.get((function, model), 1000.0)):
            try:
                got = numbers(MODELS[model], start(model).replace(log_scale=log_scale))
            except ValueError as refused:
                assert re.fullmatch(r"[^.\n]*\b(log_)?scale\b.*\.", str(refused)), refused
            else:
                jax.tree.map(lambda value, nan: np.testing.assert_array_equal(np.isnan(value), nan), got, known)
