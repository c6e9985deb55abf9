"""A batch of runs: the axes of `jax.vmap` are never taken for time, samples or classes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax.trajectory import RunResult

LABELS = uj.balanced(3, 2)
MODEL = uj.regularized(LABELS, dim=3, decay=5e-3)  # as many coordinates as classes and members: nothing hides
SQUARED = MODEL.replace(loss="mse")
TIMES = [0, 5, 10]
SEEN = {
    "norm": None,
    "W0": lambda model, state: state.W[0],
    "parts": lambda model, state: {"b": state.b[0], "W": state.W},
}
KEYS = jax.random.split(jax.random.key(0), 3)


def one(key):
    # Member 0 and 1 end where they should; squared error leaves the range of float32 at a rate of 1e30.
    rate = jnp.where(key[1] == jax.random.key_data(KEYS)[2, 1], 1e30, 0.5) if key.ndim else 0.5
    return uj.simulate(SQUARED, uj.Descent(rate), MODEL.init(jax.random.wrap_key_data(key)), TIMES, SEEN, states=True)


@pytest.fixture(scope="module")
def runs():
    return jax.vmap(one)(jax.random.key_data(KEYS))


def member(runs, *place):
    return jax.tree.map(lambda leaf: leaf[place], runs)


def last_reached(run, values):
    """Of one run, by a loop."""
    found = values[0]
    for k in range(len(TIMES)):
        if run.reached[k]:
            found = values[k]
    return np.asarray(found)


def test_last_is_the_last_time_of_each_member(runs):
    assert runs.batch == (3,) and runs.last("norm").shape == (3,)
    numpy = jax.tree.map(np.asarray, runs)
    deep = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf[::-1]]), runs)
    inside = jax.jit(jax.vmap(lambda run: (run.last("norm"), run.last("parts")["W"])))(runs)
    traced = jax.jit(lambda run: run.last("W0"))(runs)
    reached = [int(np.sum(row)) for row in runs.reached]
    assert len(set(reached)) > 1  # one of them stopped early
    for i in range(3):
        run = member(runs, i)
        assert run.batch == ()
        for name, take in (("norm", lambda x: x), ("W0", lambda x: x), ("parts", lambda x: x["W"])):
            right = last_reached(run, take(run[name]))
            for batch, place in ((runs, (i,)), (numpy, (i,)), (deep, (0, i)), (deep, (1, 2 - i))):
                np.testing.assert_array_equal(take(batch.last(name))[place], right)
        np.testing.assert_array_equal(inside[0][i], last_reached(run, run["norm"]))
        np.testing.assert_array_equal(inside[1][i], last_reached(run, run["parts"]["W"]))
        np.testing.assert_array_equal(traced[i], last_reached(run, run["W0"]))
    assert isinstance(numpy.last("norm"), np.ndarray) and deep.last("parts")["W"].shape == (2, 3, 3, 3)


def test_what_belongs_to_one_run_says_how_to_take_one(runs):
    deep = jax.tree.map(lambda leaf: leaf[None], runs)
    asked = {"`result`": lambda run: run.result}
    for what, ask in asked.items():
        with pytest.raises(ValueError, match=rf"{what} belongs to one run.*batch.*shape \(3,\).*leaf\[0\]"):
            ask(runs)
        with pytest.raises(ValueError, match=r"shape \(1, 3\).*leaf\[0, 0\]"):
            ask(deep)
        assert ask(member(runs, 0)) is not False
    text = repr(runs)
    assert "a batch of shape (3,), 3 times each" in text and "2 completed" in text and "leaf[0]" in text
    for ask in (
        lambda run: run.result,
        lambda run: run.to_xarray(),
        lambda run: run.to_dataframe(),
        lambda run: run.plot(),
    ):
        with pytest.raises(ValueError, match="is being traced"):
            jax.jit(ask)(member(runs, 0))
    assert member(runs, 0).result is RunResult.COMPLETED


def test_going_on_from_a_batch_says_what_is_possible(runs):
    flow = uj.Flow(0.5)
    began = jax.vmap(lambda key: uj.exact(MODEL, flow, MODEL.init(key), [2.0, 4.0], "norm"))(KEYS)
    whole = jax.vmap(lambda key: uj.exact(MODEL, flow, MODEL.init(key), [6.0, 9.0], "norm"))(KEYS)
    for solve in (uj.simulate, uj.exact):
        with pytest.raises(ValueError, match=r"continues a batch .* only if all have made the same number .* 1 to 10;"):
            solve(MODEL, uj.Descent(0.5), runs, [20], "norm")
        with pytest.raises(ValueError, match=r"continues a batch .* only if all have made the same number .* 1 to 10;"):
            jax.vmap(lambda run, solve=solve: solve(MODEL, uj.Descent(0.5), run, [20], "norm"))(runs)
        with pytest.raises(ValueError, match=r"a Descent cannot continue a trajectory that jax.jit traces.*`final`"):
            jax.jit(lambda run, solve=solve: solve(MODEL, uj.Descent(0.5), run, [20], "norm"))(member(runs, 0))
        with pytest.raises(ValueError, match="strictly ascending"):
            jax.vmap(lambda run, solve=solve: solve(MODEL, flow, run, [9.0, 6.0], "norm"))(began)
    after = jax.vmap(lambda run: uj.exact(MODEL, flow, run, [6.0, 9.0], "norm"))(began)
    np.testing.assert_allclose(after["norm"], whole["norm"], rtol=1e-5)


def test_batches_of_states_models_and_numbers_are_refused(runs):
    state, three = MODEL.init(KEYS[0]), np.array([0.1, 0.2, 0.3])
    for ask in (
        lambda s: uj.simulate(MODEL, uj.Flow(), s, [1.0]),
        lambda s: uj.exact(MODEL, uj.Flow(), s, [1.0]),
        lambda s: uj.limit(MODEL, uj.Flow(), s),
        lambda s: uj.observe_state(MODEL, s, "norm"),
    ):
        with pytest.raises(ValueError, match=r"a batch of states of shape \(3,\); map over it with"):
            ask(runs.final)
    with pytest.raises(ValueError, match=r"state.log_scale must have shape \(\)"):
        uj.simulate(MODEL, uj.Flow(), state.replace(log_scale=three), [1.0])
    with pytest.raises(ValueError, match="a path of them along one leading axis"):
        uj.hessian_spectrum(MODEL, runs.states)
    wide = uj.regularized(LABELS, dim=3, decay=0.1, loss="cross_entropy")
    models = jax.vmap(lambda decay: wide.replace(decay=decay))(three)
    for model, dynamics, name in (
        (models, uj.Flow(), "decay_H"),
        (wide, uj.Descent(0.1, momentum=three), "momentum"),
        (wide, uj.Descent(0.1, rate_H=three), "rate_H"),
        (wide, uj.Flow(rate_W=three), "rate_W"),
        (wide, uj.Flow(uj.cosine(three, horizon=10.0)), "the rate of the schedule"),
        (uj.unconstrained(LABELS, 3, gamma=three), uj.Flow(), "loss.gamma"),
    ):
        with pytest.raises(ValueError, match=rf"{name} must be one number, but has shape \(3,\)"):
            uj.simulate(model, dynamics, state, [1], "norm", reduce=False)
    with pytest.raises(ValueError, match=r"level must have shape \(\)"):
        uj.event_time(MODEL, uj.Flow(), state, "norm", three, times=[0.0, 1.0])


def test_factors_of_a_loss_are_not_spread_over_classes():
    logits, targets, three = jnp.ones((3, 3)), jnp.arange(3), np.array([0.1, 0.2, 0.3])
    for ask in (
        lambda: uj.losses.unhinged(logits, targets, gamma=three),
        lambda: uj.losses.unhinged(logits, targets, weights=three[:, None]),
        lambda: uj.losses.hinge(logits, targets, three),
        lambda: uj.losses.focal(logits, targets, three),
    ):
        with pytest.raises(ValueError, match=r"must have shape \(\).*map over others"):
            ask()
    weighed = uj.losses.unhinged(logits, targets, gamma=0.5, weights=three)
    np.testing.assert_allclose(weighed, three * uj.losses.unhinged(logits, targets, gamma=0.5), rtol=1e-6)


def test_a_loss_gives_one_value_a_sample():
    from unhinged_jax.losses import Loss

    class Column(Loss):
        def __call__(self, logits, targets):
            return jnp.sum((logits - targets) ** 2, axis=-1, keepdims=True)

    model = uj.LayerPeeled(LABELS, Column(), dim=3)
    for reduce in (True, False):
        with pytest.raises(ValueError, match=r"what .*Column.* returns must have shape \(6,\).*but got"):
            uj.simulate(model, uj.Descent(0.1), MODEL.init(KEYS[0]), [1], "norm", reduce=reduce)


def test_array_valued_observables_are_columns(runs, tmp_path):
    import pandas

    run = member(runs, 0)
    run.to_csv(tmp_path / "run.csv")
    read = pandas.read_csv(tmp_path / "run.csv", index_col="time")
    for table in (run.to_dataframe(), read):
        assert set(table.columns) == {
            "norm", "parts.b",
            *(f"W0[{i}]" for i in range(3)), *(f"parts.W[{i},{j}]" for i in range(3) for j in range(3)),
        }  # fmt: skip
        assert list(table.index) == TIMES
        for i in range(3):
            np.testing.assert_allclose(table[f"W0[{i}]"], run.states.W[:, 0, i], rtol=1e-6)
            for j in range(3):
                np.testing.assert_allclose(table[f"parts.W[{i},{j}]"], run.states.W[:, i, j], rtol=1e-6)
    dataset = run.to_xarray()
    assert dataset["parts.W"].dims == ("time", "parts.W_1", "parts.W_2")
    np.testing.assert_array_equal(dataset["parts.W"], run.states.W)


def test_a_comparison_does_not_broadcast(runs):
    run = member(runs, 0)
    flat = dataclasses.replace(run, observables={"W0": run["W0"][:, :1]})
    with pytest.raises(ValueError, match=r"'W0' has shape \(3, 1\) in one run and \(3, 3\) in the other"):
        uj.verify(flat, run)
    assert uj.verify(run, run).errors["parts.W"] == 0
