"""Training of real networks on a small made-up set: what moves, what stays, what stops, what resumes."""

import dataclasses

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unhinged_jax.config import ConfigError
from unhinged_jax.training import learner as _learner
from unhinged_jax.training.augment import flipped, shifted
from unhinged_jax.training.data import Dataset
from unhinged_jax.training.heads import make_head
from unhinged_jax.training.loop import Trainer, train
from unhinged_jax.training.networks import features_of, make_network
from unhinged_jax.training.settings import Settings

SMALL = {
    "network": {"kind": "mlp", "width": 8, "depth": 1, "features": 4},
    "train": {"epochs": 3, "batch": 16, "seeds": 2, "shift": 0, "rate": 0.05},
    "watch": {"collapse": False},
}


@pytest.fixture(scope="module")
def data():
    """Three classes of noisy bars, 20 images each."""
    draw = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = draw.integers(0, 60, (60, 1, 4, 4)).astype(np.uint8)
    x[np.arange(60), 0, y] += 150
    return Dataset("bars", x, y.astype(np.int32), x, y.astype(np.int32), 3, "made here")


def settings(**changes):
    return Settings.of(SMALL).changed(**changes)


def leaves(run):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(run.learners, eqx.is_array))]


@pytest.fixture(scope="module")
def anchored(data):
    return train(settings(watch={"collapse": True}), data)


def test_a_network_learns_and_its_prototypes_do_not_move(data, anchored):
    start = Trainer(anchored.settings, data).start()
    assert np.array_equal(start.model.head.prototypes, anchored.learners.model.head.prototypes)
    first = jax.tree.leaves(eqx.filter(start.model.network, eqx.is_inexact_array))
    last = jax.tree.leaves(eqx.filter(anchored.learners.model.network, eqx.is_inexact_array))
    assert all(not np.array_equal(a, b) for a, b in zip(first, last, strict=True))
    assert np.all(anchored.last("test_accuracy") > 0.9)
    assert anchored.history["loss"].shape == (3, 2) and np.all(np.diff(anchored.history["loss"], axis=0) < 0)
    assert np.all(np.isfinite(anchored.last("nc1"))) and np.all(anchored.stopped == -1)


def test_a_seed_gives_the_same_run_whatever_is_beside_it(data, anchored):
    other = train(settings(train={"seeds": [1, 7]}), data)
    for one, both in zip(leaves(other), leaves(anchored), strict=True):
        np.testing.assert_allclose(one[0], both[1], rtol=2e-4, atol=2e-5)


def test_one_update_is_that_of_momentum_written_out(data):
    """Two updates of an anchored network against gradients taken here and a loop in NumPy."""
    asked = settings(
        train={"epochs": 2, "batch": 60, "seeds": 1, "precision": "float64", "schedule": "constant"},
        head={"feature_penalty": 1e-3},
    )
    trainer = Trainer(asked, data)
    with jax.enable_x64(True):
        start = jax.tree.map(lambda a: a[0] if eqx.is_array(a) else a, trainer.start())
        mean, deviation = data.scale()
        x, y = jnp.asarray((data.train_x / 255 - mean) / deviation), jnp.asarray(data.train_y)
        W = start.model.head.prototypes

        def objective(network):
            h, _ = features_of(network, start.stats, x)
            own, others = h @ W.T, (h @ W.T).sum(axis=1)
            picked = jnp.take_along_axis(own, y[:, None], axis=1)[:, 0]
            return jnp.mean(-1.5 * picked + 0.5 * others) + 1e-3 * jnp.sum(h**2)

        network, velocity = start.model.network, None
        for _ in range(2):
            moving, still = eqx.partition(network, eqx.is_inexact_array)
            slope = jax.grad(lambda part, still=still: objective(eqx.combine(part, still)))(moving)
            slope = jax.tree.map(lambda g, now: np.asarray(g) + 5e-4 * np.asarray(now), slope, moving)
            velocity = slope if velocity is None else jax.tree.map(lambda v, g: 0.9 * v + g, velocity, slope)
            moving = jax.tree.map(lambda now, v: now - 0.05 * v, moving, velocity)
            network = eqx.combine(moving, still)
    run = trainer.run()
    trained = eqx.filter(run.learners.model.network, eqx.is_inexact_array)
    chex.assert_trees_all_close(jax.tree.map(lambda part: part[0], trained), moving, rtol=1e-10, atol=1e-12)


def test_the_cosine_rate_falls_from_its_peak_to_zero(data):
    recipe = Trainer(settings(), data).recipe
    updates = float(recipe.updates)
    assert updates == 3 * (60 // 16)
    rates = [float(recipe.rate_at(jnp.asarray(k))) for k in (0, updates / 2, updates)]
    np.testing.assert_allclose(rates, [0.05, 0.025, 0.0], atol=1e-8)


def test_the_plain_unhinged_loss_is_stopped_before_it_overflows(data):
    asked = settings(
        head={"kind": "linear"}, train={"epochs": 40, "rate": 0.3, "schedule": "constant", "largest_norm": 1e4}
    )
    run = train(asked, data)
    assert np.all(run.stopped >= 0) and run.epochs == run.stopped.max() + 1 < 40
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves(run))
    assert np.nanmax(run.history["feature_norm"]) <= 1e4


def test_a_run_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(data, anchored, tmp_path):
    pytest.importorskip("orbax.checkpoint", reason="checkpoints need the train extra")
    from unhinged_jax.training.checkpoints import Checkpoints, identity_of

    asked = anchored.settings

    class Stop(Exception):
        pass

    def stop(epoch, facts):
        if epoch == 1:
            raise Stop

    identity = identity_of(asked, data)
    with Checkpoints(tmp_path / "c", identity) as kept, pytest.raises(Stop):
        train(asked, data, told=stop, keep=kept.save)
    trainer = Trainer(asked, data)
    with Checkpoints(tmp_path / "c", identity) as kept:
        assert kept.latest == 1
        run = trainer.run(before=kept.restore(trainer, asked), keep=kept.save)
        assert kept.latest == 3
    assert all(np.array_equal(a, b) for a, b in zip(leaves(run), leaves(anchored), strict=True))
    for name, values in anchored.history.items():
        np.testing.assert_array_equal(run.history[name], values)

    other = asked.changed(train={"rate": 0.01})
    refused = Checkpoints(tmp_path / "c", identity_of(other, data))
    with refused as kept, pytest.raises(ValueError, match=r"train\.rate = 0\.05, but now it is 0.01"):
        kept.restore(trainer, other)
    flipped_labels = data.replace(train_y=data.train_y[::-1].copy())
    refused = Checkpoints(tmp_path / "c", identity_of(asked, flipped_labels))
    with refused as kept, pytest.raises(ValueError, match="other images or labels"):
        kept.restore(trainer, asked)
    with Checkpoints(tmp_path / "none", identity) as kept, pytest.raises(ValueError, match="no checkpoint to resume"):
        kept.restore(trainer, asked)


def test_a_checkpoint_keeps_every_digit_of_double_precision(data, tmp_path):
    pytest.importorskip("orbax.checkpoint", reason="checkpoints need the train extra")
    from unhinged_jax.training.checkpoints import Checkpoints, identity_of

    asked = settings(train={"epochs": 1, "batch": 60, "seeds": 1, "precision": "float64", "schedule": "constant"})
    with Checkpoints(tmp_path, identity_of(asked, data)) as kept:
        run = train(asked, data, keep=kept.save)
        back = kept.restore(Trainer(asked, data), asked)
    assert np.dtype("float64") in {leaf.dtype for leaf in leaves(run)}
    for was, now in zip(leaves(run), leaves(back), strict=True):
        assert was.dtype == now.dtype and np.array_equal(was, now)


def test_half_precision_learns_with_parameters_in_single(data):
    run = train(settings(train={"precision": "bfloat16"}), data)
    parameters = jax.tree.leaves(eqx.filter(run.learners.model, eqx.is_inexact_array))
    assert {leaf.dtype for leaf in parameters} == {np.dtype("float32")}
    assert np.all(run.last("test_accuracy") > 0.9)


def test_a_small_convolutional_network_trains_on_a_padded_imbalanced_set(data):
    few = data.replace(train_x=data.train_x[:33], train_y=data.train_y[:33])
    asked = settings(
        network={"kind": "cnn", "width": 2},
        train={"epochs": 2, "shift": 1, "flip": True},
        head={"weight_exponent": 0.5},
    )
    run = train(asked, few, room=60)
    assert np.all(np.isfinite(run.last("loss"))) and run.history["loss"].shape == (2, 2)


def test_rows_beyond_the_count_are_never_seen(data):
    """The same learner, with poison in the spare rows and without."""
    few = data.replace(train_x=data.train_x[:33], train_y=data.train_y[:33])
    trainer = Trainer(settings(), few, room=60)
    learners = trainer.start()
    clean, _ = trainer.step(learners, 0)
    poisoned = trainer.material.images.at[33:].set(255)
    trainer.material = eqx.tree_at(lambda m: m.images, trainer.material, poisoned)
    spoiled, _ = trainer.step(learners, 0)
    for a, b in zip(jax.tree.leaves(clean.model), jax.tree.leaves(spoiled.model), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize(("kind", "count"), [("resnet18", 11_173_962 - 5_130), ("resnet34", 21_282_122 - 5_130)])
def test_residual_networks_have_the_published_number_of_parameters(kind, count):
    """Those for 32 x 32 images, less the last layer of 512 x 10 + 10."""
    network, _ = eqx.filter_eval_shape(make_network, jax.random.key(0), kind, (3, 32, 32), 512)
    shapes = [leaf for leaf in jax.tree.leaves(network) if isinstance(leaf, jax.ShapeDtypeStruct)]
    assert sum(leaf.size for leaf in shapes if leaf.dtype == jnp.float32) == count


def test_a_residual_network_maps_images_to_features_without_a_last_rectifier():
    shapes = eqx.filter_eval_shape(make_network, jax.random.key(0), "resnet18", (3, 8, 8), features=8, width=1)
    images = jax.ShapeDtypeStruct((2, 3, 8, 8), jnp.float32)
    features, _ = eqx.filter_eval_shape(features_of, *shapes, images)
    assert features.shape == (2, 8)
    assert [block.last for block in shapes[0].blocks] == [False] * 7 + [True]
    with pytest.raises(ValueError, match="set features = 8, or another width"):
        make_network(jax.random.key(0), "resnet18", (3, 8, 8), features=64, width=1)


def test_batch_statistics_are_those_of_the_batch(data):
    network, state = make_network(jax.random.key(0), "mlp", (1, 4, 4), features=3, width=5, depth=1)
    x = np.random.default_rng(0).normal(size=(7, 1, 4, 4)).astype(np.float32)
    z = x.reshape(7, -1) @ np.asarray(network.layers[0].weight).T
    z = np.maximum((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5), 0) @ np.asarray(network.layers[1].weight).T
    expected = (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5)
    found, _ = eqx.filter_jit(features_of)(network, state, jnp.asarray(x))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_images_are_shifted_whole_and_flipped_whole():
    image = np.arange(1, 10, dtype=np.uint8).reshape(1, 1, 3, 3)
    moved = np.asarray(shifted(jax.random.key(0), jnp.tile(image, (50, 1, 1, 1)), 1))
    padded = np.pad(image[0, 0], 1)
    allowed = {padded[a : a + 3, b : b + 3].tobytes() for a in range(3) for b in range(3)}
    assert {one[0].tobytes() for one in moved} <= allowed and len({one[0].tobytes() for one in moved}) > 5
    turned = np.asarray(flipped(jax.random.key(1), jnp.tile(image, (50, 1, 1, 1))))
    assert {one.tobytes() for one in turned} == {image.tobytes(), image[..., ::-1].tobytes()}


def test_a_loss_takes_its_parameters_from_a_table(data):
    recipe = Trainer(settings(head={"kind": "linear", "loss": {"name": "focal", "focusing": 1.0}}), data).recipe
    logits = np.array([[1.0, 0.0, -1.0]])
    p = np.exp(1.0) / np.exp(logits).sum()
    assert float(recipe.loss(jnp.asarray(logits), jnp.array([0]))[0]) == pytest.approx(-(1 - p) * np.log(p), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"classes": 4}}, r"\[data\] classes is 4, but bars has 3"),
        ({"network": {"features": 1}}, "at least classes - 1 = 2"),
        ({"train": {"devices": 99}}, r"\[train\] devices is 99, but there"),
        ({"head": {"loss": {"name": "focal", "gamma": 1.0}}}, "unknown key .gamma.. Known: focusing"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(data, changes, message):
    with pytest.raises(ValueError, match=message):
        train(settings(**changes), data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": {"kind": "anchored"}}, "kind must be one of"),
        ({"head": {"rescale": 3}}, "rescale must be one of"),
        ({"head": {"loss": "logistic"}}, "loss must be one of"),
        ({"head": {"kind": "pal", "loss": "adjusted_margin"}}, "unit features"),
        ({"train": {"momentum": 1.0}}, "momentum must lie in"),
        ({"train": {"precision": "float16"}}, "precision must be one of"),
        ({"train": {"seeds": [1, 1]}}, "seeds must be"),
        ({"train": {"epochs": 0}}, "epochs must be a whole number"),
        ({"data": {"imbalance": "none"}}, "imbalance must be one of"),
        ({"train": {"learning_rate": 1.0}}, "unknown key 'learning_rate'"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_their_place(changes, message):
    with pytest.raises(ConfigError, match=message):
        Settings().changed(**changes)


def test_settings_survive_their_tables():
    asked = settings(head={"loss": {"name": "hinge", "margin": 2.0}}, train={"seeds": [3, 5]})
    assert Settings.of(asked.tables()) == asked and asked.seeds == (3, 5)


def test_heads_keep_what_is_anchored_out_of_the_optimiser(data):
    for kind, moves in (("linear", True), ("fnpal", False)):
        moving, _ = _learner.split(_learner.Classifier(jnp.ones(2), make_head(jax.random.key(0), kind, 3, 4)))
        assert (moving.head.prototypes is not None) == moves


def test_a_run_is_frozen(anchored):
    with pytest.raises(dataclasses.FrozenInstanceError):
        anchored.stopped = None


@pytest.mark.parametrize("watched", [True, False])
def test_collapse_switched_on_or_off_on_the_way_is_nan_where_it_was_not_asked_for(data, anchored, watched):
    parts = []
    before, after = (settings(watch={"collapse": on}, train={"checkpoint_every": 1}) for on in (watched, not watched))
    train(before, data, keep=parts.append)
    run = train(after, data, before=parts[0])
    assert {values.shape for values in run.history.values()} == {(3, 2)}
    np.testing.assert_array_equal(run.history["loss"], anchored.history["loss"])
    seen = np.isfinite(run.history["nc1"]).all(axis=1)
    assert seen.tolist() == ([True, False, False] if watched else [False, True, True])
    np.testing.assert_array_equal(run.history["nc1"][seen], anchored.history["nc1"][seen])


def test_rows_without_a_class_are_said(data):
    asked = settings(watch={"collapse": True, "samples": 2}, train={"epochs": 1})
    with pytest.warns(UserWarning, match="of the 2 training images .* none is of class 1, .*raise .watch. samples"):
        run = train(asked, data)
    assert np.all(np.isnan(run.history["nc1"])) and run.history["nc1"].shape == (1, 2)
