"""Descents that draw batches or labels: one key is one path, means are gradients, and batches are what they say."""

import dataclasses
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import unhinged_jax as uj
from unhinged_jax.simulation import sampled

LABELS = uj.balanced(classes=3, per_class=4)
KEY = jax.random.key(11)
KINDS = {
    "batch": {"batch": 5},
    "without replacement": {"batch": 5, "replacement": False},
    "epochs": {"batch": 5, "replacement": "epochs"},
    "fresh labels": {"fresh_labels": True},
    "both": {"batch": 5, "fresh_labels": True},
}
CASES = {
    "linear": lambda labels: uj.regularized(labels, dim=5, decay=0.1, bias=True),
    "cross-entropy": lambda labels: uj.regularized(labels, dim=5, decay=0.1, loss="cross_entropy", bias=True),
    "anchored": lambda labels: uj.anchored(labels, dim=5, decay=0.1, loss="cross_entropy"),
    "spherical": lambda labels: uj.spherical(labels, dim=5, free_prototypes=True, loss="cross_entropy", rescale=1),
    "kernel": lambda labels: uj.ntk_invariant(labels, dim=5, kernel=np.diag(np.linspace(0.5, 1.5, 12))),
}


def labels_for(drawn):
    return LABELS.symmetric_noise(0.2) if drawn.get("fresh_labels") else LABELS


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["batch", "without replacement", "both"])
def test_the_mean_of_one_update_is_the_update_of_all_samples(case, kind):
    model = CASES[case](labels_for(KINDS[kind]))
    state = model.init(jax.random.key(0))
    keys = jax.random.split(KEY, 4096)

    def end(descent, **settings):
        return uj.simulate(model, descent, state, [1], [], **settings).final

    drawn = jax.vmap(lambda key: end(uj.Descent(0.5, **KINDS[kind]), key=key))(keys)
    full = end(uj.Descent(0.5), reduce=False)
    for name in ("H", "W", "b"):
        values = np.asarray(getattr(drawn, name), float)
        error = values.std(axis=0) / np.sqrt(len(keys)) + 1e-6
        assert np.all(np.abs(values.mean(axis=0) - getattr(full, name)) < 5 * error), name


def test_updates_are_those_of_a_loop_in_numpy():
    # The batch of one update is read off the features that it moves, and the loop goes on with it.
    model = uj.unconstrained(LABELS, dim=5, loss="cross_entropy")
    descent = uj.Descent(0.3, batch=4, replacement=False)
    run = uj.simulate(model, descent, model.init(jax.random.key(0)), np.arange(8), [], states=True, key=KEY)
    H, W = (np.asarray(part[0], float) for part in (run.states.H, run.states.W))
    targets, n, m = np.eye(3)[np.asarray(LABELS.index)], 12, 4
    for k in range(7):
        chosen = np.flatnonzero(np.any(np.asarray(run.states.H[k + 1]) != np.asarray(run.states.H[k]), axis=1))
        assert len(chosen) == m
        D = np.zeros(n)
        D[chosen] = n / m
        odds = np.exp(H @ W.T)
        pull = D[:, None] / n * (targets - odds / odds.sum(1, keepdims=True))
        H, W = H + 0.3 * pull @ W, W + 0.3 * pull.T @ H
        np.testing.assert_allclose(run.states.H[k + 1], H, atol=2e-5)
        np.testing.assert_allclose(run.states.W[k + 1], W, atol=2e-5)


def test_an_epoch_visits_every_sample_once():
    model = uj.frozen(LABELS, dim=5)
    state = model.init(jax.random.key(0))
    with jax.enable_x64(True):
        state = model.init(jax.random.key(0))
        descent = uj.Descent(0.1, batch=4, replacement="epochs")
        run = uj.simulate(model, descent, state, [0, 3, 6], [], states=True, key=KEY)
        # Updates of W at frozen features are gradients of the batches, whose sum over an epoch is n/m times the whole.
        step = 0.1 * 3 * model.signal().transpose_times(jnp.asarray(state.H))
        for k in (1, 2):
            np.testing.assert_allclose(run.states.W[k] - run.states.W[k - 1], step, rtol=1e-12)
        first, second = (uj.simulate(model, descent, state, [k], [], key=KEY).final.W for k in (1, 4))
        assert np.max(np.abs((second - run.states.W[1]) - (first - state.W))) > 1e-3  # another order


def test_duplicates_in_a_batch_count_twice_and_share_a_label():
    labels = uj.balanced(classes=2, per_class=1).symmetric_noise(0.5)
    model = uj.anchored(labels, dim=2, gamma=1.0)
    state = model.init(jax.random.key(0), prototypes=np.eye(2))
    descent = uj.Descent(1.0, batch=4, fresh_labels=True)
    ends = jax.vmap(lambda key: uj.simulate(model, descent, state, [1], [], key=key).final.H)(
        jax.random.split(KEY, 200)
    )
    moved = np.asarray(ends - state.H)
    steps = np.abs(moved[:, :, 0]) / 0.25  # q n/m = 1/2 * 2/4 for each time that a sample is drawn
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-5)
    np.testing.assert_allclose(steps.sum(axis=1), 4, atol=1e-4)


@pytest.mark.long_for("without replacement", "batch", "fresh labels")
@pytest.mark.parametrize("kind", KINDS)
def test_one_key_is_one_path(kind):
    model = uj.regularized(labels_for(KINDS[kind]), dim=5, decay=0.1, loss="cross_entropy")
    state, descent = model.init(jax.random.key(0)), uj.Descent(0.5, **KINDS[kind])
    whole = uj.simulate(model, descent, state, [10, 33], ["norm"], key=KEY)
    other = uj.simulate(model, descent, state, [1, 7, 10, 20, 33], ["norm", "loss"], key=KEY)
    first = uj.simulate(model, descent, state, [10], ["norm"], key=KEY)
    second = uj.simulate(model, descent, first, [33], ["norm"], key=KEY)
    jitted = jax.jit(lambda key: uj.simulate(model, descent, state, [10, 33], ["norm"], key=key).final)(KEY)
    mapped = jax.vmap(lambda key: uj.simulate(model, descent, state, [10, 33], ["norm"], key=key).final)(
        jnp.stack([jax.random.key(1), KEY, jax.random.key(2)])
    )
    ends = [other.final, second.final, jitted, jax.tree.map(lambda leaf: leaf[1], mapped)]
    for end in ends[:2]:
        np.testing.assert_array_equal(end.H, whole.final.H)
    for end in ends[2:]:  # bit for bit with XLA's own optimization, of which the tests here use little; see below
        np.testing.assert_allclose(end.H, whole.final.H, rtol=1e-5, atol=1e-6)
    assert (
        np.max(np.abs(whole.final.H - uj.simulate(model, descent, state, [33], [], key=jax.random.key(5)).final.H))
        > 1e-3
    )


def test_a_linear_run_leaves_the_range_of_its_numbers_with_its_scale_carried():
    # Expected growth and decay beyond float32, against the same updates in float64, where both fit.
    for rate, decay, beyond in ((6.0, 0.0, 45), (0.5, 1.9, -45)):
        model = uj.regularized(LABELS, dim=5, decay=decay)
        state, descent = model.init(jax.random.key(0)), uj.Descent(rate, batch=5)
        narrow, wide = (
            uj.simulate(model, descent, state, [0, 100, 200], ["log_norm"], key=KEY, precision=precision, reduce=reduce)
            for precision, reduce in (("float32", True), ("float64", False))
        )
        assert beyond * np.log(10) * np.sign(beyond) < np.sign(beyond) * wide["log_norm"][2]
        assert narrow.result.name == "COMPLETED" and np.all(np.isfinite(narrow.final.H))
        np.testing.assert_allclose(narrow["log_norm"], wide["log_norm"], rtol=1e-5)
        # It goes on from there, and momentum is kept in the units of the state.
        later = uj.simulate(model, descent, narrow, [300], ["log_norm"], key=KEY)
        whole = uj.simulate(model, descent, state, [300], ["log_norm"], key=KEY)
        np.testing.assert_allclose(later["log_norm"], whole["log_norm"], rtol=1e-6)
        heavy = dataclasses.replace(descent, momentum=0.5)
        first = uj.simulate(model, heavy, state, [200], [], key=KEY)
        ends = [uj.simulate(model, heavy, one, [250], ["log_norm"], key=KEY)["log_norm"] for one in (first, state)]
        np.testing.assert_allclose(*ends, rtol=1e-6)


@pytest.mark.long_for("linear")
@pytest.mark.parametrize("case", ["linear", "spherical"])
def test_wide_features_stay_in_the_span_of_the_start(case):
    wide = {
        "linear": uj.regularized(LABELS, dim=40, decay=0.1, bias=True),
        "spherical": uj.spherical(LABELS, dim=40, free_prototypes=True, loss="cross_entropy", rescale=1),
    }[case]
    observed = ["norm", "loss", "nc1", "within_scatter"]
    mine = {**dict.fromkeys(observed), "first": lambda model, state: state.H[0]}
    with jax.enable_x64(True):
        state, descent = wide.init(jax.random.key(0)), uj.Descent(0.3, batch=5, momentum=0.3)
        runs = [
            uj.simulate(wide, descent, state, [0, 20], observe, key=KEY, reduce=reduce)
            for observe, reduce in ((observed, True), (mine, True), (mine, False))
        ]
        assert [("span" in str(run.form)) for run in runs] == [True, True, False]
        for run in runs[:2]:
            for name in observed:
                np.testing.assert_allclose(run[name], runs[2][name], rtol=1e-10, err_msg=name)
            for part in ("H", "W", "b"):
                np.testing.assert_allclose(getattr(run.final, part), getattr(runs[2].final, part), atol=1e-12)
        np.testing.assert_array_equal(runs[0].final.H, runs[1].final.H)
        np.testing.assert_allclose(runs[1]["first"], runs[2]["first"], atol=1e-12)
        np.testing.assert_allclose(runs[0].memory["H"], runs[2].memory["H"], atol=1e-12)

        if case == "spherical":
            return

        # A derivative with respect to the start may leave the span, so a traced start is taken as it is.
        def end(state, reduce):
            return uj.simulate(wide, uj.Descent(0.3, batch=5), state, [3], [], key=KEY, reduce=reduce).final.H

        moved = [jax.jvp(lambda s, r=reduce: end(s, r), (state,), (state,))[1] for reduce in (True, False)]
        np.testing.assert_allclose(*moved, atol=1e-12)


def test_samples_are_drawn_evenly_from_words():
    words = np.random.default_rng(0).integers(0, 2**32, 2000, dtype=np.uint64).astype(np.uint32)
    words[:2] = 0, 2**32 - 1
    for n in (1, 7, 1000, 65535, 65536, 65537, 10**6, 2**31 - 1):
        np.testing.assert_array_equal(sampled._below(n, jnp.asarray(words)), [int(word) * n >> 32 for word in words])


def test_an_ensemble_continues_with_one_key_each():
    model = uj.regularized(LABELS, dim=5, decay=0.1)
    state, descent, keys = model.init(jax.random.key(0)), uj.Descent(0.3, batch=4), jax.random.split(KEY, 3)
    first = jax.vmap(lambda key: uj.simulate(model, descent, state, [5], ["norm"], key=key))(keys)
    second = uj.simulate(model, descent, first, [9], ["norm"], key=keys)
    whole = jax.vmap(lambda key: uj.simulate(model, descent, state, [9], ["norm"], key=key))(keys)
    np.testing.assert_allclose(second["norm"], whole["norm"], rtol=1e-6)
    with pytest.raises(ValueError, match="one per member of the batch"):
        uj.simulate(model, descent, first, [9], ["norm"], key=KEY)


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_any_optimiser_takes_the_drawn_gradients(name):
    settings = {"momentum": {"momentum": 0.9}, "adam": {"optimizer": optax.adam(0.05)}}[name]
    model = uj.regularized(LABELS, dim=5, decay=0.1, loss="cross_entropy")
    state = model.init(jax.random.key(0))
    all_of_them = uj.Descent(0.1, batch=12, replacement=False, **settings)
    run = uj.simulate(model, all_of_them, state, [20], ["objective"], key=KEY)
    plain = uj.simulate(model, uj.Descent(0.1, **settings), state, [20], ["objective"])
    np.testing.assert_allclose(run["objective"], plain["objective"], rtol=1e-5)
    some = uj.simulate(model, uj.Descent(0.1, batch=3, **settings), state, [20], ["objective"], key=KEY)
    assert abs(some["objective"][0] / plain["objective"][0] - 1) > 1e-4


def test_a_path_can_be_differentiated():
    model = uj.regularized(LABELS, dim=5, decay=0.1, loss="cross_entropy")

    def value(rate):
        return uj.simulate(model, uj.Descent(rate, batch=4), state, [15], ["objective"], key=KEY)["objective"][0]

    with jax.enable_x64(True):
        state = model.init(jax.random.key(0))
        slope, h = float(jax.grad(value)(0.3)), 1e-6
        np.testing.assert_allclose(slope, float(value(0.3 + h) - value(0.3 - h)) / (2 * h), rtol=1e-6)


@pytest.mark.parametrize(
    ("descent", "settings", "message"),
    [
        (uj.Descent(0.1, batch=3), {}, "give a key"),
        (uj.Descent(0.1), {"key": KEY}, "a key belongs to a Descent"),
        (uj.Flow(), {"key": KEY}, "a key belongs to a Descent"),
        (uj.Descent(0.1, batch=13, replacement=False), {"key": KEY}, "13 cannot be drawn from 12"),
        (uj.Descent(0.1, batch=2.5), {"key": KEY}, "batch must be a whole number"),
        (uj.Descent(0.1, fresh_labels=True), {"key": KEY}, "one-hot"),
        (uj.Descent(0.1, batch=3), {"key": 3}, "key must be a JAX key"),
    ],
)
def test_what_cannot_be_drawn_is_refused(descent, settings, message):
    model = uj.regularized(LABELS, dim=5, decay=0.1)
    with pytest.raises(ValueError, match=message):
        uj.simulate(model, descent, model.init(jax.random.key(0)), [5], **settings)


def test_a_path_is_not_compared_with_an_expectation():
    model = uj.regularized(LABELS, dim=5, decay=0.1)
    state, descent = model.init(jax.random.key(0)), uj.Descent(0.1, batch=3)
    path = uj.simulate(model, descent, state, [5], ["loss"], key=KEY)
    with pytest.raises(ValueError, match="the mean of many paths"):
        uj.verify(path, uj.exact(model, descent, state, [5], ["loss"]))
    with pytest.raises(ValueError, match="the key of the run that is continued"):
        uj.simulate(model, descent, path, [9])


def test_bad_settings_of_a_descent_are_refused():
    with pytest.raises(ValueError, match="batch must be"):
        uj.Descent(0.1, batch=0)
    with pytest.raises(ValueError, match="replacement must be True, False or 'epochs'"):
        uj.Descent(0.1, batch=3, replacement="epoch")
    with pytest.raises(ValueError, match="fresh_labels"):
        uj.Descent(0.1, fresh_labels=3)


def test_operations_for_the_full_batch_say_so():
    model = uj.regularized(LABELS, dim=5, decay=0.1)
    state, descent = model.init(jax.random.key(0)), uj.Descent(0.1, batch=3)
    for call in (
        lambda: uj.event_time(model, descent, state, "norm", 5.0, times=[0, 9], method="simulate"),
        lambda: uj.lyapunov(model, descent, state, 10, 2),
    ):
        with pytest.raises(ValueError, match="draws batches or labels"):
            call()


DEVICES = """
    import jax, numpy as np, unhinged_jax as uj
    from jax.sharding import Mesh, PartitionSpec
    labels = uj.balanced(classes=3, per_class=4)
    keys = jax.random.split(jax.random.key(11), 8)
    mesh, here = Mesh(np.asarray(jax.devices()), ("runs",)), PartitionSpec("runs")
    apart, observed = [], []
    for loss, dim in (("cross_entropy", 5), ("unhinged", 40)):
        model = uj.regularized(labels, dim=dim, decay=0.1, loss=None if loss == "unhinged" else loss)
        state = model.init(jax.random.key(0))
        def end(key):
            run = uj.simulate(model, uj.Descent(0.5, batch=5), state, [7, 30], ["norm"], key=key)
            return run.final.H, run.final.W, run["norm"]
        whole = jax.tree.map(lambda *parts: np.stack(parts), *[end(key) for key in keys])
        together = jax.vmap(end)
        spread = jax.jit(jax.shard_map(together, mesh=mesh, in_specs=here, out_specs=here, check_vma=False))
        few = lambda keys: jax.lax.map(end, keys, batch_size=3)
        for way in (jax.jit(together), together, few, spread):
            gaps = [np.max(np.abs(np.asarray(one) - other)) for one, other in zip(way(keys), whole)]
            apart.append(max(gaps[:2]))
            observed.append(gaps[2] / np.max(whole[2]))
    print(jax.device_count(), max(apart), max(observed))
"""


@pytest.mark.long
def test_a_key_is_one_path_bit_for_bit_also_on_eight_devices():
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    code = textwrap.dedent(DEVICES)
    told = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=600
    )
    devices, apart, observed = told.stdout.split()
    assert devices == "8" and float(apart) == 0
    assert float(observed) < 1e-6  # sums over the state have an order of their own in a batch


def test_a_file_draws_as_python_does(tmp_path):
    tables = {
        "model": {"case": "regularized", "dim": 4, "decay": 0.1, "loss": "cross_entropy"},
        "labels": {"layout": "balanced", "classes": 3, "per_class": 4},
        "dynamics": {"kind": "descent", "schedule": 0.3, "batch": 5, "replacement": "epochs", "seed": 7},
        "run": {"times": [0, 9], "observe": ["norm"]},
        "sweep": {"seeds": 2, "seeded": ["dynamics.seed"]},
    }
    data = uj.sweep(uj.SweepPlan.of(tables), tmp_path / "draws.zarr", workers=0, progress=False).load()
    model = uj.regularized(LABELS, dim=4, decay=0.1, loss="cross_entropy")
    descent = uj.Descent(0.3, batch=5, replacement="epochs")
    for seed in (0, 1):
        run = uj.simulate(model, descent, model.init(jax.random.key(0)), [0, 9], ["norm"], key=jax.random.key(seed))
        np.testing.assert_allclose(data["norm"].sel(seed=seed), run["norm"], rtol=1e-5)
    assert data["norm"][0, 1] != data["norm"][1, 1]
    flow = {**tables, "dynamics": {"kind": "descent", "seed": 7}}
    with pytest.raises(ValueError, match="none draws anything"):
        uj.SweepPlan.of(flow)


@pytest.mark.parametrize("kind", ["batch", "epochs"])
def test_a_path_in_pieces_is_the_path(kind, monkeypatch):
    monkeypatch.setenv("UNHINGED_QUIET", "1")
    monkeypatch.setattr(uj.simulation.watched, "_SECONDS", 0.001)
    model = uj.regularized(LABELS, dim=5, decay=0.1, loss="cross_entropy")
    state, descent = model.init(jax.random.key(0)), uj.Descent(0.1, **KINDS[kind])
    whole = uj.simulate(model, descent, state, [100, 2000], ["norm"], key=KEY)
    pieces = uj.simulate(model, descent, state, [100, 2000], ["norm"], key=KEY, progress=True)
    np.testing.assert_allclose(pieces["norm"], whole["norm"], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_do_not_depend_on_the_precision(kind):
    model = uj.regularized(labels_for(KINDS[kind]), dim=5, decay=0.1, loss="cross_entropy")
    state, descent = model.init(jax.random.key(0)), uj.Descent(0.1, **KINDS[kind])
    narrow, wide = (
        uj.simulate(model, descent, state, [12], ["norm"], key=KEY, precision=precision)
        for precision in ("float32", "float64")
    )
    np.testing.assert_allclose(narrow["norm"], wide["norm"], rtol=1e-5)
