"""Everything public that takes runs or states, given a batch: what its members give, or a refusal with a way out.

`Trajectory` itself, with its tables, pictures and files, is tested in tests/trajectory/test_batched.py.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax.theories import central_path

MODEL, FLOW = uj.regularized(uj.from_counts([2, 3, 1]), dim=2, decay=0.01), uj.Flow(0.5)
INDEX = np.asarray(MODEL.labels.index)
SHAPES = [(1,), (3,), (2, 3)]
MAPPED, ALONE = "or map over it with jax.vmap|map over it with jax.vmap, or", "take a member"
"""The ways out: `jax.vmap` over the function, or a member."""

RUNS = {
    "simulate": lambda run: uj.simulate(MODEL, FLOW, run, [3.0], "loss")["loss"],
    "exact": lambda run: uj.exact(MODEL, FLOW, run, [3.0], "loss")["loss"],
    "concat": lambda run: uj.concat([run, uj.exact(MODEL, FLOW, run, [3.0], states=True)])["loss"],
}
"""What takes a batch of runs as it is."""

ONE = {
    "limit": (lambda run: uj.limit(MODEL, FLOW, run).direction.W, MAPPED),
    "event_time": (lambda run: uj.event_time(MODEL, FLOW, run, "norm", 9.0, times=[3.0, 9.0]).time, MAPPED),
    "push_forward": (lambda run: uj.push_forward(MODEL, FLOW, run, [3.0], run.final)[1].W, MAPPED),
    "observe_state": (lambda run: uj.observe_state(MODEL, run.final, "nc1")["nc1"], MAPPED),
    "layer_norms": (lambda run: uj.layer_norms(MODEL, run.final), MAPPED),
    "layer_scatter_ratios": (lambda run: uj.layer_scatter_ratios(MODEL, run.final), MAPPED),
    "layer_alignments": (lambda run: uj.layer_alignments(MODEL, run.final), MAPPED),
    "layer_unbalance": (lambda run: uj.layer_unbalance(MODEL, run.final), MAPPED),
    "simulate, states": (lambda run: uj.simulate(MODEL, FLOW, run.final, [1.0], "loss")["loss"], MAPPED),
    "exact, states": (lambda run: uj.exact(MODEL, FLOW, run.final, [1.0], "loss")["loss"], MAPPED),
    "sensitivity": (lambda run: uj.sensitivity(MODEL, FLOW, run, [3.0], "norm", ["gamma"]), ALONE),
    "limit_sensitivity": (lambda run: uj.limit_sensitivity(MODEL, FLOW, run.final, ["gamma"]), ALONE),
    "lyapunov": (lambda run: uj.lyapunov(MODEL, FLOW, run, 5.0, 2), ALONE),
    "hessian_spectrum": (lambda run: uj.hessian_spectrum(MODEL, run.states, 2), ALONE),
    "measure": (lambda run: uj.measure(run.final.H, INDEX), "must have shape"),
    "Collapse": (lambda run: uj.Collapse(3, 2).update(run.final.H, INDEX), "must have shape"),
    "snr": (lambda run: central_path.snr_singular_values(MODEL, run.final), MAPPED),
    "result": (lambda run: run.result, ALONE),
}
"""What takes one run, state or array of features, and what it says to a batch."""

OTHER = {"verify", "plot", "citation", "Trajectory"}
"""Public names with tests of their own, here or for the trajectory."""
PARTS = {"Limit", "LayerPeeled", "rescale_by_feature_norm"}
"""Public names that say "state" or "features" in their arguments, and are given neither."""


def began(key):
    return uj.exact(MODEL, FLOW, MODEL.init(key), [0.0, 2.0], states=True)


def mapped(function, shape):
    for _ in shape:
        function = jax.vmap(function)
    return function


@pytest.fixture(scope="module")
def batches():
    every = mapped(began, (2, 3))(jax.random.split(jax.random.key(0), (2, 3)))
    return {(1,): member(every, (0, slice(1))), (3,): member(every, 0), (2, 3): every}


def member(batch, place):
    return jax.tree.map(lambda leaf: leaf[place], batch)


def test_every_public_function_of_runs_and_states_is_here():
    kinds = ("Trajectory", "State", "Dataset", "features")
    asked = set()
    for name in uj.__all__:
        thing = getattr(uj, name)
        if not callable(thing) or (isinstance(thing, type) and issubclass(thing, Exception)):
            continue
        given = inspect.signature(thing).parameters.values()
        if any(kind in f"{entry.annotation} {entry.name}" for entry in given for kind in kinds):
            asked.add(name)
    assert asked - PARTS <= {*RUNS, *ONE, *OTHER}


SLOW = [("simulate", (1,)), ("simulate", (3,)), ("concat", (1,)), ("concat", (3,))]
CASES = [
    pytest.param(name, shape, marks=[pytest.mark.long] * ((name, shape) in SLOW), id=f"{name}-{shape}")
    for name in RUNS
    for shape in SHAPES
]
LATE = ("event_time", "push_forward", "observe_state", "snr")
WAYS = [
    pytest.param(name, marks=[pytest.mark.long] * (name in LATE)) for name, (_, way) in ONE.items() if way is MAPPED
]


@pytest.mark.long_for("simulate-(2, 3)", "concat-(2, 3)", "exact-(1,)", "exact-(3,)")
@pytest.mark.parametrize(("name", "shape"), CASES)
def test_a_batch_gives_what_its_members_give(name, shape, batches):
    found = RUNS[name](batches[shape])
    assert found.shape[:-1] == shape
    place = tuple(size - 1 for size in shape)
    np.testing.assert_allclose(found[place], RUNS[name](member(batches[shape], place)), rtol=2e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ONE)
def test_one_run_at_a_time_is_said(name, shape, batches):
    call, way = ONE[name]
    with pytest.raises(ValueError, match=way) as refused:
        call(batches[shape])
    assert ", ".join(map(str, shape)) in str(refused.value)


@pytest.mark.long_for("layer_scatter_ratios")
@pytest.mark.parametrize("name", WAYS)
def test_the_way_out_leads_to_what_the_members_give(name, batches):
    call, _ = ONE[name]
    found = mapped(call, (2, 3))(batches[2, 3])
    np.testing.assert_allclose(found[1, 2], call(member(batches[2, 3], (1, 2))), rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["sensitivity", "limit_sensitivity", "lyapunov", "hessian_spectrum", "exact_exponents"]
)
def test_tables_of_numbers_are_not_traced(name, batches):
    call = ONE[name][0] if name in ONE else lambda run: uj.exact_exponents(MODEL.replace(decay=run.elapsed), FLOW)
    with pytest.raises(ValueError, match=rf"`{name}` needs known numbers, but is being traced"):
        jax.vmap(call)(batches[3,])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_comparison_of_batches_is_the_worst_of_its_members(shape, batches):
    right = batches[shape]
    wrong = jax.tree.map(np.array, right)
    place = tuple(size - 1 for size in shape)
    wrong["loss"][(*place, 1)] *= 1 + 1e-3
    wrong.states.W[(*place, 0)] *= 1 - 1e-2
    found = uj.verify(wrong, right)
    assert found.errors["loss"] == pytest.approx(1e-3, rel=1e-3) and found.errors["W"] == pytest.approx(1e-2, rel=1e-3)
    assert found.errors["norm"] == found.errors["H"] == 0 and np.isnan(found.rate)
    with pytest.raises(ValueError, match="batches of different shapes"):
        uj.verify(right, member(right, place))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batches_are_drawn_and_cited(shape, batches):
    (figure, other) = uj.plot(batches[shape], "loss"), uj.plot(batches[shape].to_xarray(), "loss")
    for axes in (figure.axes[0], other.axes[0]):
        values = jnp.reshape(batches[shape]["loss"], (-1, 2))
        np.testing.assert_allclose(axes.lines[0].get_ydata(), np.median(values, axis=0), rtol=1e-5)
    assert uj.citation(batches[shape]) == uj.citation(member(batches[shape], (0,) * len(shape)))
