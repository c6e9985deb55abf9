"""Runs that are joined: equal to the run in one go, and joined only if each continues the one before."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

import unhinged_jax as uj

MODEL = uj.regularized(uj.from_counts([2, 3, 1]), dim=2, decay=0.01)
START = MODEL.init(jax.random.key(3))
HEAVY = uj.Descent(0.5, momentum=0.9)
SEEN = {"norm": None, "gram": lambda model, state: state.W @ state.W.T}


def go(start, times, dynamics=HEAVY, model=MODEL, observe=("norm",), **settings):
    return uj.exact(model, dynamics, start, times, observe, **settings)


def test_joined_runs_are_the_run_in_one_go_and_go_on_as_the_last_one():
    adam, settings = uj.Descent(optimizer=optax.adam(0.05)), {"states": True, "precision": "float64"}
    pieces, run = [], START
    for times in ([0, 2], [5], [6, 8]):
        run = uj.simulate(MODEL, adam, run, times, SEEN, **settings)
        pieces.append(run)
    whole = uj.simulate(MODEL, adam, START, [0, 2, 5, 6, 8], SEEN, **settings)
    joined = uj.concat(pieces)
    assert joined.times.tolist() == [0, 2, 5, 6, 8] and int(joined.steps) == int(whole.steps) == 8
    for got, want in ((joined.observables, whole.observables), (joined.states, whole.states)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), got, want)
    assert joined.origin == whole.origin == START and int(joined.began) == 0 and str(joined.form) == str(run.form)
    after = [uj.simulate(MODEL, adam, one, [12], SEEN, **settings) for one in (joined, run)]
    assert after[0] == after[1] and int(after[0].began) == 8
    assert uj.concat([joined, after[0]]) == uj.concat([*pieces, after[0]])
    assert uj.concat((whole,)) == whole


def test_times_that_were_not_reached_are_left_out_and_one_read_twice_is_kept_once():
    squared, flow = MODEL.replace(loss="mse"), uj.Flow(0.5, max_steps=5)
    short = uj.simulate(squared, flow, START, [0.0, 0.1, 500.0], "norm")
    assert short.result is uj.RunResult.MAX_STEPS and 0.1 < float(short.elapsed) < 200
    rest = uj.simulate(squared, uj.Flow(0.5), short, [200.0, 300.0, 500.0], "norm")
    joined = uj.concat([short, rest])
    np.testing.assert_array_equal(joined.times, [0.0, 0.1, 200.0, 300.0, 500.0])
    assert np.all(joined.reached) and joined.result is uj.RunResult.COMPLETED
    first = go(START, [0, 3], observe=SEEN)
    joined = uj.concat([first, go(first, [3, 5], observe=SEEN)])
    assert joined.times.tolist() == [0, 3, 5] and joined["gram"].shape == (3, 3, 3)


def test_runs_that_do_not_follow_one_another_are_not_joined():
    first = jax.tree.map(np.asarray, go(START, [0, 3]))
    second, afresh = (jax.tree.map(np.asarray, go(start, [5])) for start in (first, first.final))
    elsewhere = dataclasses.replace(second, origin=START.replace(H=2 * START.H))
    seen = {"two": {"norm": second["norm"], "W": second.final.W[None]}}
    unknown = {"began": None, "origin": None}
    for runs, why in (
        ([], r"runs must be a list of one or more trajectories, but got \[\]"),
        (first, "runs must be a list of one or more trajectories, but got a Trajectory"),
        ([first, START], r"runs\[1\] must be a Trajectory, but got a State"),
        ([first, afresh], r"runs\[1\] does not continue runs\[0\], which ended at 3; give runs\[0\] itself, not its"),
        ([second, first], r"runs\[1\] does not continue runs\[0\], which ended at 5"),
        ([first, elsewhere], r"runs\[1\] does not continue runs\[0\], which ended at 3"),
        ([first, second, second], r"runs\[2\] does not continue runs\[1\], which ended at 5"),
        ([first, changed(second, observables=seen)], r"differ in what was observed, \['norm'\] and \['two'\]"),
        ([first, changed(second, states=first.states or START)], "differ in whether they kept states .*False and True"),
        ([first, jax.tree.map(wide, second)], "differ in precision, float32 and float64"),
        ([first, changed(second, kind="simulated")], "differ in kind, exact and simulated"),
        ([first, changed(second, clock="time")], "differ in what `elapsed` counts, updates and time"),
        ([first, jax.tree.map(lambda leaf: leaf[None], second)], r"in the shape of the batch, \(\) and \(1,\)"),
        ([changed(second, observables={"two": np.ones((1, 3))}), changed(second, observables=seen)],
         "differ in the shapes of observables"),
        ([changed(first, **unknown), changed(second, **unknown, times=np.array([1]))],
         r"runs\[1\] has times before 3, where runs\[0\] ended"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=why):
            uj.concat(runs)
    joined = uj.concat([changed(first, **unknown), second])  # nothing says that they do not belong together
    assert joined.times.tolist() == [0, 3, 5]
    with pytest.raises(ValueError, match="`concat` needs numbers, but the run is being traced"):
        jax.jit(lambda run: uj.concat([run, run]))(first)


def changed(run, **fields):
    return dataclasses.replace(run, **fields)


def wide(leaf):
    return leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf
