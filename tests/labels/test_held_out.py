"""Samples that are held out: what is chosen, which weights are left, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import unhinged_jax as uj
from unhinged_jax.config import Files, build_labels
from unhinged_jax.config.sections import LabelsSection
from unhinged_jax.model import trained

Y = [0, 1, 2, 0, 1, 0]


def test_a_choice_is_a_mask_numbers_or_the_last_of_each_class():
    labels, mask = uj.from_labels(Y), np.array([False, False, False, True, True, True])
    ways = [mask, mask.tolist(), jnp.asarray(mask), [5, 3, 4, 3], np.array([3, 4, 5], np.uint8)]
    for way in ways:
        found = labels.hold_out(way)
        assert found.held_out.tolist() == [3, 4, 5] and found.held_out.dtype == np.int32
        np.testing.assert_allclose(found.weights, np.array([1, 1, 1, 0, 0, 0]) / 3, rtol=1e-15)
    assert uj.balanced(3, 4, order="cyclic").hold_out(per_class=2).held_out.tolist() == [6, 7, 8, 9, 10, 11]
    assert uj.balanced(2, 3).hold_out(per_class=1).held_out.tolist() == [2, 5]


def test_the_others_keep_the_sum_of_the_weights_and_their_ratios():
    weights = np.array([1.0, 2.0, 0.5, 4.0, 1.0, 3.0])
    labels = uj.from_labels(Y).weighted(samples=weights, normalise=False)
    found = np.asarray(labels.hold_out([1 - 1, 4]).weights)
    kept = np.array([0, 1, 1, 1, 0, 1]) * weights
    np.testing.assert_allclose(found, kept / kept.sum() * np.asarray(labels.weights).sum(), rtol=1e-15)
    again = labels.hold_out([0, 4]).weighted(classes=[1.0, 2.0, 3.0])
    assert again.held_out.tolist() == [0, 4] and np.asarray(again.weights)[[0, 4]].tolist() == [0, 0]
    assert np.sum(again.weights) == pytest.approx(1)


def test_both_parts_are_labels_of_their_own():
    labels = uj.from_labels(Y).hold_out([3, 5])
    assert labels.samples == 6 and labels.training_samples == 4 and labels.counts().tolist() == [1, 2, 1]
    train, test = labels.training(), labels.test()
    assert train.index.tolist() == [0, 1, 2, 1] and np.allclose(train.weights, 0.25) and train.held_out is None
    assert test.index.tolist() == [0, 0] and test.weights.tolist() == [0.5, 0.5]
    even = uj.balanced(3, 4).hold_out(per_class=1)
    assert not even.balanced and even.training().balanced and even.rows()["held out"] == "3"
    plain = uj.from_labels(Y)
    assert plain.training() is plain and plain.held_out is None and plain.training_samples == 6
    with pytest.raises(ValueError, match="no sample is held out"):
        plain.test()


def test_what_is_held_out_is_tested_on_the_truth():
    """Without label noise or smoothing; targets of their own stay what they are."""
    clean = uj.from_labels(Y)
    drawn = clean.symmetric_noise(0.6, jax.random.key(1)).hold_out([3, 4, 5])
    assert np.asarray(drawn.index)[3:].tolist() != Y[3:]
    for labels in (drawn, clean.smoothed(0.3).hold_out([3, 4, 5]), clean.symmetric_noise(0.2).hold_out([3, 4, 5])):
        test = labels.test()
        assert np.asarray(test.index).tolist() == Y[3:] and test.kind == "hard" and test.clean is None
    rows = np.random.default_rng(0).dirichlet([1.0, 1.0, 1.0], size=6)
    own = uj.soft(rows, truth=Y).hold_out([0, 3]).test()
    np.testing.assert_array_equal(own.targets, rows[[0, 3]])
    values = uj.targets(rows).hold_out([0, 3])
    assert values.test().kind == "values" and values.training().targets.shape == (4, 3)


def test_a_traced_choice_of_known_size_is_one():
    labels = uj.from_labels(Y)

    def of(held):
        chosen = labels.hold_out(held)
        return chosen.weights, chosen.training().index, chosen.test().index

    got = jax.jit(jax.vmap(of))(jnp.array([[5, 3], [0, 1]]))
    for k, held in enumerate(([3, 5], [0, 1])):
        want = labels.hold_out(held)
        for one, other in zip(got, (want.weights, want.training().index, want.test().index), strict=True):
            np.testing.assert_allclose(one[k], other, rtol=1e-6)
    with pytest.raises(ValueError, match="so that it is known how many"):
        jax.jit(lambda mask: labels.hold_out(mask).weights)(np.array([True] + [False] * 5))


@pytest.mark.parametrize(("say", "choice"), [
    ("one of the two", {}), ("one of the two", {"samples": [0], "per_class": 1}),
    ("one per sample", {"samples": [True, False]}), ("given by a mask", {"samples": [0.5]}),
    ("given by a mask", {"samples": 3}), ("numbers from 0 to 5, but got 6", {"samples": np.array([6])}),
    ("numbers from 0 to 5", {"samples": [-1]}), ("some of the 6 samples", {"samples": []}),
    ("class 2 would have no sample to train on", {"samples": [2]}), ("the smallest has 1", {"per_class": 1}),
    ("at least 1", {"per_class": 0}), ("every sample that has a weight", {"samples": [0, 1, 2, 3, 4, 5]}),
])  # fmt: skip
def test_what_is_refused(say, choice):
    with pytest.raises(ValueError, match=say):
        uj.from_labels(Y).hold_out(**choice)


def test_an_optimiser_that_looks_at_a_norm_or_a_matrix_is_refused_where_samples_held_out_move():
    """They would take part in the training; one that looks at each number alone leaves the others as they are."""
    labels, K = uj.from_labels(Y).hold_out([3, 5]), np.eye(6) + 0.5
    through = uj.ntk_invariant(labels, 3, K)
    decayed, alone = uj.regularized(labels, 3, decay=0.1), uj.regularized(labels, 3, decay=(0.0, 0.1))
    state = alone.init(jax.random.key(0))

    def chained(learning_rate):
        return optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(learning_rate))

    for make in (uj.normalized_descent, uj.spectral_descent, chained):
        descent = uj.Descent(optimizer=uj.Optimizer(make, learning_rate=0.1))
        for model in (through, decayed):
            with pytest.raises(ValueError, match="may look at their gradient"):
                uj.simulate(model, descent, state, [1])
    adam, norm = (
        uj.Descent(optimizer=uj.Optimizer(make, learning_rate=0.1)) for make in (optax.adam, uj.normalized_descent)
    )
    for model, descent in ((through, adam), (alone, norm)):
        trained_on, begin = trained(model, state)
        runs = [uj.simulate(each, descent, start, [3], "loss") for each, start in ((model, state), (trained_on, begin))]
        np.testing.assert_allclose(runs[0]["loss"], runs[1]["loss"], rtol=1e-5)


def test_held_out_samples_stay_without_weight():
    labels = uj.from_labels(Y).hold_out([3])
    with pytest.raises(ValueError, match="must have weight 0"):
        labels.replace(weights=np.full(6, 1 / 6))
    with pytest.raises(ValueError, match="hold samples out already"):
        labels.hold_out([4])
    for wrong, say in (([0.5], "must be integers"), ([3, 3], "increasing numbers from 0 to 5"), ([9], "increasing")):
        with pytest.raises(ValueError, match=say):
            uj.from_labels(Y).replace(held_out=wrong)
    changed = jax.tree.map(lambda leaf: leaf, labels)
    assert changed.held_out.tolist() == [3] and changed.replace(classes=4).held_out.tolist() == [3]


@pytest.mark.parametrize("reduce", [True, pytest.param(False, marks=pytest.mark.long)])
def test_logits_of_held_out_samples_may_be_infinite(reduce):
    model = uj.unconstrained(uj.from_labels(Y).hold_out([3]), 3, loss="mse")
    state = model.init(jax.random.key(0))
    state = state.replace(H=state.H.at[3].set(3e38))
    alone, begin = trained(model, state)
    assert model.data_loss(state.H, state.W, state.b) == alone.data_loss(begin.H, begin.W, begin.b)
    run, want = (
        uj.simulate(each, uj.Descent(0.1), start, [2], "loss", reduce=reduce)
        for each, start in ((model, state), (alone, begin))
    )
    np.testing.assert_allclose(run["loss"], want["loss"], rtol=1e-5)


def test_a_sample_of_weight_0_is_left_out_but_for_the_derivative_in_its_weight():
    model = uj.unconstrained(uj.from_labels([0, 1, 1]), 2, loss="mse")
    H, W, b = jnp.array([[1.0, 2.0], [3.0, 1.0], [1e25, 2.0]]), jnp.eye(2), jnp.zeros(2)
    values = [0.5 * (0 + 4), 0.5 * 9]  # squared errors of the first two samples

    def loss(weights, H):
        return model.replace(labels=model.labels.replace(weights=weights)).data_loss(H, W, b)

    np.testing.assert_allclose(loss(jnp.array([0.75, 0.25, 0.0]), H), 0.75 * values[0] + 0.25 * values[1], rtol=1e-6)
    np.testing.assert_allclose(jax.grad(loss)(jnp.array([1.0, 0.0, 0.0]), H)[:2], values, rtol=1e-6)


@pytest.mark.parametrize("choice", [
    {"held_out": [2, 5, 8]}, {"held_out": [False, False, True] * 3}, {"held_out_per_class": 1},
    {"held_out": "rows.npy"},
])  # fmt: skip
def test_a_file_holds_out_in_each_of_these_ways(choice, tmp_path):
    """Class weights then count the samples to train on."""
    np.save(tmp_path / "rows.npy", np.array([2, 5, 8]))
    section = LabelsSection("labels", labels=[0, 0, 0, 0, 1, 1, 1, 1, 1], weight_exponent=1.0, **choice)
    if "held_out_per_class" in choice:
        section = LabelsSection("balanced", classes=3, per_class=3, weight_exponent=1.0, **choice)
    found = build_labels(section, Files(tmp_path))
    assert found.held_out.tolist() == [2, 5, 8]
    shares = np.bincount(found.index, found.weights)
    np.testing.assert_allclose(shares, 1 / len(shares), rtol=1e-12)


def test_a_file_says_only_one_of_the_two(tmp_path):
    section = LabelsSection("balanced", classes=3, per_class=3, held_out=[0], held_out_per_class=1)
    with pytest.raises(ValueError, match="held_out or held_out_per_class, not both"):
        build_labels(section, Files(tmp_path))
