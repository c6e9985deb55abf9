"""The type in which numbers arrive does not decide the result: labels, features, states, parameters, times."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest
from scipy.linalg import expm

import unhinged_jax as uj
from unhinged_jax import collapse, precision
from unhinged_jax.collapse import class_statistics
from unhinged_jax.labels import Labels
from unhinged_jax.losses import cross_entropy, unhinged
from unhinged_jax.special import segment_sum
from unhinged_jax.theories.ce_free import gap_on_etf
from unhinged_jax.theories.central_path import normalised
from unhinged_jax.training.data import Dataset
from unhinged_jax.training.heads import feature_norms
from unhinged_jax.training.metrics import reliability, scores
from unhinged_jax.training.penalties import feature_penalty

RNG = np.random.default_rng(5)
LABELS = uj.balanced(3, 4)
H, W = RNG.normal(size=(12, 4)), RNG.normal(size=(3, 4))
STATE = uj.State(H, W, np.zeros(3))
MODEL = uj.regularized(LABELS, 4, gamma=0.3, decay=0.01)
FLOW, TIME = uj.Flow(0.5), 3.0
TARGETS = np.repeat(np.eye(3), 4, axis=0)


def log_norm_of_flow(targets, gamma, decay=0.01, t=TIME):
    """log ||(H, W)|| at a time, by the exponential of the whole linear field."""
    M = ((1 + gamma) * targets - gamma) / len(targets)
    n, C = M.shape
    field = np.block([[-decay * np.eye(n), M], [M.T, -decay * np.eye(C)]])
    return float(np.log(np.linalg.norm(expm(0.5 * t * field) @ np.concatenate([H, W]))))


# --- labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int64", "uint64", ">i4"])
def test_labels_of_any_integer_type_count_alike(kind):
    index = np.repeat(np.arange(3), 300)
    features = RNG.normal(size=(900, 2)) + 2 * np.eye(3, 2)[index]
    stats = collapse.class_statistics(features, index.astype(kind), 3)
    means = np.stack([features[index == c].mean(axis=0) for c in range(3)])
    within = np.mean(np.sum((features - means[index]) ** 2, axis=1))
    between = np.mean(np.sum((means - means.mean(axis=0)) ** 2, axis=1))
    assert np.asarray(stats.counts).tolist() == [300] * 3
    np.testing.assert_allclose(stats.means, means, rtol=1e-12)
    assert abs(float(collapse.nc1_trace_ratio(stats)) / (within / between) - 1) < 1e-12
    made = {
        "directly": Labels(index=index.astype(kind), weights=np.full(900, 1 / 900), classes=3),
        "as truth": uj.soft(np.full((900, 3), 1 / 3), truth=index.astype(kind)),
        "by a constructor": uj.from_labels(index.astype(kind)),
        "by replace": uj.balanced(3, 300).replace(index=index.astype(kind)),
    }
    for way, labels in made.items():
        assert labels.index.dtype == np.int32 and np.array_equal(labels.index, index), way


def test_integer_targets_of_a_loss_are_not_compared_in_their_own_type():
    logits, index = RNG.normal(size=(20, 300)), RNG.integers(0, 250, 20)
    want = -np.log(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[np.arange(20), index]
    np.testing.assert_allclose(cross_entropy(logits, index.astype(np.uint8)), want, rtol=1e-12)
    with pytest.raises(ValueError, match="beyond 32 bits"):
        cross_entropy(logits, index + 2**32)
    # Soft targets beside logits that are whole numbers: not rounded to whole numbers.
    assert float(unhinged(np.array([2, 1, 0]), np.array([0.5, 0.25, 0.25]), gamma=0.0)) == -1.25


@pytest.mark.parametrize("labels", [np.array([True, False, True]), np.array([0.0, 1.0, 2.0]), np.array(["a", "b"])])
def test_labels_that_are_no_integers_are_refused(labels):
    with pytest.raises(ValueError, match="must hold integer labels"):
        Labels(index=labels, weights=np.full(3, 1 / 3), classes=3)


def test_float64_targets_do_not_tie_where_jax_is_in_float32():
    assert uj.soft([[0.5 - 1e-10, 0.5 + 1e-10]] * 2).index.tolist() == [1, 1]


# --- features of 16 bits, and long sums -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float16])
def test_features_of_16_bits_are_summed_in_float32(kind):
    index = np.repeat(np.arange(4), 2_000)
    rounded = jnp.asarray(RNG.normal(size=(8_000, 3)) + 3 * RNG.normal(size=(4, 3))[index], kind)
    wide = np.asarray(rounded, np.float64)
    means = np.stack([wide[index == c].mean(axis=0) for c in range(4)])
    centred, deviations = means - means.mean(axis=0), wide - means[index]
    stats = collapse.class_statistics(rounded, index, 4)
    assert stats.means.dtype == jnp.float32
    ratio = 4 * np.sum(deviations**2) / 8_000 / np.sum(centred**2)
    assert abs(float(collapse.nc1_trace_ratio(stats)) / ratio - 1) < 1e-5
    want = np.trace(deviations.T @ deviations / 8_000 @ np.linalg.pinv(centred.T @ centred / 4)) / 4
    assert abs(float(collapse.nc1(stats)) / want - 1) < 1e-4
    assert collapse.etf_distance(jnp.asarray(means, kind)).dtype == jnp.float32


def test_long_float32_sums_keep_their_digits():
    index = np.arange(6_000_000) % 3
    values = np.where(index == 1, 0.1, 1 / 3).astype(np.float32)
    want = np.bincount(index, values.astype(float))
    found = jax.jit(segment_sum, static_argnums=2)(values, index.astype(np.int32), 3)
    plain = jax.ops.segment_sum(values, index.astype(np.int32), 3)
    assert np.max(np.abs(found / want - 1)) < 3e-5 < 1e-3 < np.max(np.abs(plain / want - 1))


def test_training_takes_narrow_types():
    features = np.full((2, 4), 300.0, np.float16)
    assert feature_norms(jnp.asarray(features)).tolist() == [600.0, 600.0]
    assert float(feature_penalty(jnp.asarray(features), 0.5)) == 360_000.0
    rows = np.asarray(jax.nn.softmax(jnp.asarray(RNG.normal(size=(50, 7)), jnp.bfloat16)))
    found = reliability(rows, np.zeros(50, np.uint8))
    assert found.counts.sum() == 50
    right = np.mean(np.argmax(rows.astype(float), axis=1) == 0)
    assert abs(np.nansum(found.counts * found.accuracy) / 50 - right) < 1e-12
    rise = uj.warmup(np.uint8(200), uj.cosine(0.1, horizon=np.uint8(100)))  # 200 + 100 is 44 in 8 bits
    assert [float(t) for t in rise.breaks] == [200.0, 300.0]
    images, index = np.zeros((4, 1, 2, 2), np.uint8), np.array([0, 1, 1, 0], np.uint8)
    data = Dataset("toy", images, index, images, index, 2, "none")
    assert data.train_y.dtype == data.test_y.dtype == np.int32


# --- states ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [lambda a: a.astype(">f8"), lambda a: a.astype(np.longdouble), pandas.DataFrame, lambda a: a.tolist()],
    ids=["big-endian", "longdouble", "data frame", "list"],
)  # fmt: skip
def test_states_wider_than_float32_run_in_float64(kind):
    state = uj.State(kind(H), kind(W), np.zeros(3))
    run = uj.exact(MODEL, FLOW, state, [TIME], "log_norm")
    assert run["log_norm"].dtype == np.float64
    assert abs(float(run["log_norm"][0]) - log_norm_of_flow(TARGETS, 0.3)) < 1e-12


@pytest.mark.parametrize(
    "bad",
    [H + 1j, H.astype(str), H.astype(object), np.ma.masked_greater(H, 1.0)],
    ids=["complex", "text", "object", "mask"],
)
def test_states_of_other_things_are_refused(bad):
    for use in (
        lambda: uj.State(bad, W, np.zeros(3)),
        lambda: MODEL.init(jax.random.key(0), features=bad),
        lambda: uj.ntk_invariant(LABELS, 4, bad),
    ):
        with pytest.raises(ValueError, match=r"must hold real numbers|masked array"):
            use()
    with pytest.raises(ValueError, match="must hold real numbers"):
        uj.exact(MODEL, FLOW, STATE.replace(H=jnp.asarray(H + 1j)), [TIME], "log_norm")


MASKED = {
    "labels": lambda masked: uj.from_labels(masked([0, 1, 2, 1]), 3),
    "counts": lambda masked: uj.from_counts(masked([3, 2, 1])),
    "truth": lambda masked: uj.soft(np.eye(3), truth=masked([0, 1, 2])),
    "times": lambda masked: uj.exact(MODEL, FLOW, STATE, masked([1.0, 2.0])),
    "updates": lambda masked: uj.simulate(MODEL, uj.Descent(0.1), STATE, masked([1, 2])),
    "times of an event": lambda masked: uj.event_time(MODEL, FLOW, STATE, "norm", 3.0, times=masked([1.0, 2.0])),
    "log_scale": lambda masked: uj.exact(MODEL, FLOW, STATE.replace(log_scale=np.ma.masked), [1.0]),
    "breaks": lambda masked: uj.numeric(jnp.cos, breaks=masked([1.0, 2.0])),
    "labels of features": lambda masked: class_statistics(np.ones((4, 2)), masked([0, 0, 1, 1]), 2),
    "probabilities": lambda masked: reliability(masked([[0.9, 0.1], [0.5, 0.5]]), [0, 1]),
    "labels of probabilities": lambda masked: reliability([[0.9, 0.1], [0.5, 0.5]], masked([0, 1])),
    "norms": lambda masked: scores([[1.0, 2.0], [2.0, 3.0]], masked([1.0, 2.0])),
    "times of a theory": lambda masked: gap_on_etf(1.0, classes=2, per_class=1, times=masked([1.0, 2.0])),
    "features of a theory": lambda masked: normalised(masked(np.ones((4, 2))), [0, 1, 0, 1], classes=2),
}


@pytest.mark.parametrize("place", MASKED)
def test_no_mask_is_lost(place):
    with pytest.raises(ValueError, match="mask"):
        MASKED[place](lambda values: np.ma.masked_where(np.asarray(values) == np.ravel(values)[1], values))


# --- parameters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.float32, jnp.float32, np.float16, jnp.bfloat16])
def test_a_narrow_gamma_is_widened_before_it_is_used(kind):
    gamma = kind(0.3)
    want = log_norm_of_flow(TARGETS, float(gamma))
    found = uj.exact(MODEL.replace(gamma=gamma), FLOW, STATE, [TIME], "log_norm")
    assert abs(float(found["log_norm"][0]) - want) < 1e-12
    logits = RNG.normal(size=(5, 3))
    value = unhinged(logits, np.zeros(5, int), gamma=gamma)
    own, others = logits[:, 0], logits[:, 1:].sum(axis=1)
    np.testing.assert_allclose(value, -own + float(gamma) * others, rtol=1e-13)


@pytest.mark.long
@pytest.mark.parametrize("reduce", [True, False])
def test_a_narrow_gamma_is_widened_in_simulated_runs(reduce):
    flow = uj.Flow(0.5, rtol=1e-12)
    run = uj.simulate(MODEL.replace(gamma=np.float32(0.3)), flow, STATE, [TIME], "log_norm", reduce=reduce)
    assert abs(float(run["log_norm"][0]) - log_norm_of_flow(TARGETS, float(np.float32(0.3)))) < 1e-10


def test_narrow_targets_weights_and_rates_are_widened():
    targets = RNG.dirichlet(np.ones(3), 12).astype(np.float32)
    decay = np.float32(0.01)
    for given in (targets, jnp.asarray(targets)):
        model = uj.regularized(uj.soft(given), 4, gamma=jnp.float32(0.3), decay=decay)
        want = log_norm_of_flow(targets.astype(float), float(np.float32(0.3)), float(decay))
        assert abs(float(uj.exact(model, FLOW, STATE, [TIME], "log_norm")["log_norm"][0]) - want) < 1e-12
    for rate in (np.float32(0.3), jnp.float32(0.3), np.float16(0.3)):
        rho = float(rate)
        for table, other in ((LABELS.symmetric_noise(rate), rho / 2), (LABELS.smoothed(rate), rho / 3)):
            assert np.max(np.abs(np.sum(table.targets, axis=1) - 1)) < 1e-15
            np.testing.assert_allclose(table.targets[0][1], other, rtol=1e-15)
    factors = np.array([0.1, 0.2, 0.7], np.float32)
    wide = factors.astype(float)
    weights = LABELS.weighted(classes=jnp.asarray(factors)).weights
    np.testing.assert_allclose(weights, np.repeat(wide / wide.sum() / 4, 4), rtol=1e-14)


# --- times ----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_updates_beyond_32_bits():
    descent, state = uj.Descent(0.5), jax.tree.map(np.float32, STATE)
    size = 2**31 + 4
    lead = np.log1p(0.5 * (np.linalg.norm((1.3 * TARGETS - 0.3) / 12, 2) - 0.01))
    for count, kind in ((size, "float32"), (10**12, "float64")):
        run = uj.exact(MODEL, descent, state, [count], "log_norm", precision=kind)
        assert np.asarray(run.times).tolist() == [count] and int(run.elapsed) == count
        assert abs(float(run["log_norm"][0]) / (count * lead) - 1) < 1e-6
    on = uj.exact(MODEL, descent, uj.exact(MODEL, descent, state, [size], "log_norm"), [size + 7], "log_norm")
    assert np.asarray(on.times).tolist() == [size + 7]
    with pytest.raises(ValueError, match="float32 cannot tell"):
        uj.exact(MODEL, descent, state, [10**12], "log_norm")
    with pytest.raises(ValueError, match="updates one by one can make"):
        uj.simulate(MODEL, descent, state, [2**31], "log_norm")
    with pytest.raises(ValueError, match="counts updates in 32 bits"):
        jax.eval_shape(lambda scale: uj.exact(MODEL, descent, state.replace(log_scale=scale), [size], "norm"), 0.0)


def test_odd_numbers_of_updates_that_float32_does_not_hold():
    model, count = uj.regularized(LABELS, 4, gamma=0.3, decay=1.0), 2**25 + 1
    field = np.block([[-np.eye(12), M := (1.3 * TARGETS - 0.3) / 12], [M.T, -np.eye(3)]])
    vectors = np.linalg.eigh(field)[1][:, :2]  # of the two least eigenvalues; with a rate of 2 these turn and grow
    led = vectors @ vectors.T @ np.concatenate([H, W])
    run = uj.exact(model, uj.Descent(2.0), jax.tree.map(np.float32, STATE), [count], "log_norm")
    found = np.concatenate([run.final.H, run.final.W]).astype(float)
    cosine = np.sum(found * led) / np.linalg.norm(found) / np.linalg.norm(led)
    assert abs(cosine + 1) < 1e-3


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (np.array([5, 3], np.uint64), "5 is followed by 3"),
        (np.array([1, 2], np.uint64) * 2**63, "must fit 64 bits"),
        ([1 + 1j], "must be real numbers"),
        (["1"], "must be real numbers"),
        ([10**30], "must be real numbers"),
        ([1e30], "must fit 64 bits"),
    ],
)
def test_times_of_other_types(times, message):
    with pytest.raises(ValueError, match=message):
        uj.simulate(MODEL, uj.Descent(0.5), STATE, times, "norm")


def test_times_come_back_as_they_were_asked_for():
    asked, later, state = [0.1, 0.7, 2.3], [2.3, 2.7, 3.1], jax.tree.map(np.float32, STATE)
    truth = uj.exact(MODEL, FLOW, STATE, asked, "log_norm")
    for solve in (uj.exact, uj.simulate):
        run = solve(MODEL, FLOW, state, asked, "log_norm")
        assert np.asarray(run.times).tolist() == asked and float(run.elapsed) == 2.3
        assert max(uj.verify(run, truth).worst, uj.verify(truth, run).worst) < 1e-5
        assert float(run.to_xarray()["log_norm"].sel(time=0.7)) == float(run["log_norm"][1])
        on = solve(MODEL, FLOW, run, later, "log_norm")
        assert abs(float(on["log_norm"][0]) - float(run["log_norm"][2])) < 1e-5
    member = dataclasses.replace(run, times=np.float32(asked), elapsed=np.float32(2.3))  # as one of a batch
    assert uj.verify(member, truth).worst < 1e-5
    on = uj.exact(MODEL, FLOW, member, later, "log_norm")
    assert abs(float(on["log_norm"][0]) - float(truth["log_norm"][2])) < 1e-5
    with pytest.raises(ValueError, match="the same number in float32"):
        uj.simulate(MODEL, FLOW, state, [1e8, 1e8 + 1], "norm")


# --- float64 where JAX is in float32 --------------------------------------------------------------------------------

OPERATIONS = {
    "simulate": lambda state, rate: uj.simulate(MODEL, uj.Descent(rate), state, [2], "norm"),
    "exact": lambda state, rate: uj.exact(MODEL, uj.Flow(rate), state, [2.0], "norm"),
    "limit": lambda state, rate: uj.limit(MODEL, uj.Flow(rate), state),
    "event_time": lambda state, rate: uj.event_time(MODEL, uj.Descent(rate), state, "norm", 7.2, times=[0, 2]),
    "push_forward": lambda state, rate: uj.push_forward(MODEL, uj.Descent(rate), state, [2], state),
    "observe_state": lambda state, rate: uj.observe_state(MODEL, state, ["norm", "loss"]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_float64_comes_back_in_numpy_and_is_refused_inside_of_jit(name):
    operation = OPERATIONS[name]
    found = [leaf for leaf in jax.tree.leaves(operation(STATE, 0.5)) if hasattr(leaf, "dtype")]
    assert found and not any(isinstance(leaf, jax.Array) for leaf in found)
    assert all(leaf.dtype != np.float32 for leaf in found)
    with pytest.raises(ValueError, match="can be part of a compiled function"):
        jax.jit(lambda rate: jax.tree.leaves(operation(STATE, rate)))(0.5)


def test_observables_of_a_float64_state_are_computed_in_float64():
    seen = uj.observe_state(MODEL, STATE, ["norm"])
    np.testing.assert_allclose(seen["norm"], np.hypot(np.linalg.norm(H), np.linalg.norm(W)), rtol=1e-14)


def test_precision_follows_what_is_wide():
    assert precision.of(np.zeros(1, ">f8")) == precision.of(np.zeros(1, np.longdouble)) == "float64"
    assert precision.of((np.zeros(1, np.float16), np.zeros(1, int), jax.random.key(0))) == "float32"
