"""What follows from other fields follows them: a replaced field gives what the constructor gives."""

import dataclasses

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import unhinged_jax as uj
from unhinged_jax.kernel import Kernel
from unhinged_jax.labels.balance import look
from unhinged_jax.losses import MSE
from unhinged_jax.signal import ClassSignal, unhinged_signal
from unhinged_jax.training.data import Dataset, held_out, noisy
from unhinged_jax.training.ntk import class_averages

C, N, P = 3, 4, 4
EVEN = uj.balanced(C, N)
RNG = np.random.default_rng(0)
WEIGHTS = RNG.uniform(0.1, 2.0, C * N)
WEIGHTS /= WEIGHTS.sum()
INDEX = np.array([0] * 6 + [1] * 4 + [2] * 2, np.int32)
STATE = uj.State(RNG.normal(size=(C * N, P)), RNG.normal(size=(C, P)), np.zeros(C))

WAYS = {
    "replace": lambda labels, **new: labels.replace(**new),
    "dataclasses": lambda labels, **new: dataclasses.replace(labels, **new),
    "tree_at": lambda labels, **new: eqx.tree_at(lambda x: [getattr(x, n) for n in new], labels, list(new.values())),
    "tree map": lambda labels, **new: jax.tree_util.tree_map_with_path(
        lambda path, leaf: new.get(path[-1].name, leaf), labels
    ),
    "constructor": lambda labels, **new: uj.Labels(
        **{"index": labels.index, "weights": labels.weights, "classes": labels.classes, **new}
    ),
}


same = chex.assert_trees_all_equal


def norm_after(labels, time):
    """log ||Z|| of the flow of the unhinged loss, by the exponential of the dense coupling."""
    gamma = 1 / (C - 1)
    Y = np.eye(C)[labels.index]
    M = np.asarray(labels.weights)[:, None] * ((1 + gamma) * Y - gamma)
    K = np.block([[np.zeros((C * N, C * N)), M], [M.T, np.zeros((C, C))]])
    return np.log(np.linalg.norm(scipy.linalg.expm(K * time) @ np.concatenate([STATE.H, STATE.W])))


@pytest.mark.parametrize("way", WAYS)
def test_balance_is_found_again_whatever_is_replaced(way):
    put = WAYS[way]
    assert EVEN.balanced and put(EVEN, weights=np.full(C * N, 1 / (C * N))).balanced
    changed = [put(EVEN, weights=WEIGHTS), put(EVEN, index=INDEX), put(EVEN, weights=np.full(C * N, 2 / (C * N)))]
    assert not any(labels.balanced for labels in changed)
    assert put(uj.from_labels(INDEX), index=EVEN.index).balanced
    if way not in ("replace", "constructor"):
        signal = unhinged_signal(EVEN, 0.5)
        assert isinstance(signal, ClassSignal) and signal.balanced and not put(signal, weights=WEIGHTS).balanced


def test_replaced_weights_and_labels_run_as_the_dense_problem_does():
    flow, time = uj.Flow(0.5), 20.0
    for labels in (EVEN.replace(weights=WEIGHTS), EVEN.replace(index=INDEX), eqx.tree_at(_weights, EVEN, WEIGHTS)):
        model, want = uj.unconstrained(labels, P), norm_after(labels, 0.5 * time)
        assert float(uj.exact(model, flow, STATE, [time], "log_norm").last("log_norm")) == pytest.approx(want, 1e-12)
    assert float(uj.simulate(model, flow, STATE, [time], "log_norm").last("log_norm")) == pytest.approx(want, 1e-8)


def _weights(labels):
    return labels.weights


def test_what_is_traced_is_known_from_the_arrays_that_entered_and_forgotten_when_it_is_replaced():
    seen = {}

    def inside(labels, weights):
        seen["entered"] = labels.balanced
        seen["same, rebuilt"] = jax.tree.map(lambda leaf: leaf, labels).balanced
        seen["deeper"] = eqx.filter_jit(lambda x: x.weights if x.balanced else 0 * x.weights)(labels)[0]
        for way in ("replace", "dataclasses", "tree_at", "constructor"):
            seen[way] = WAYS[way](labels, weights=weights).balanced
        seen["vouched for"] = labels.replace(weights=weights, balanced=True).balanced
        return weights

    with jax.enable_x64(True):
        jax.make_jaxpr(inside)(EVEN, jnp.asarray(WEIGHTS))
    known = {name for name, value in seen.items() if value is not False and name != "deeper"}
    assert known == {"entered", "same, rebuilt", "vouched for"}

    def differentiated(weights):
        seen["gradient"] = WAYS["tree_at"](EVEN, weights=weights).balanced
        return weights[0]

    jax.grad(differentiated)(jnp.ones(C * N) / (C * N))
    jax.vmap(lambda w: jnp.zeros(1 + EVEN.replace(weights=w).balanced))(jnp.ones((2, C * N)))
    assert seen["gradient"] is False


def test_balance_of_batches_is_that_of_every_lane():
    index, weights = np.stack([EVEN.index, EVEN.index]), np.full((2, C * N), 1 / (C * N))
    assert look(index, weights, C) is True
    assert look(np.stack([EVEN.index, INDEX]), weights, C) is False
    assert look(index, np.stack([weights[0], WEIGHTS]), C) is False


def test_kind_and_index_follow_the_targets():
    table, rows = np.full((C, C), 1 / C), RNG.dirichlet(np.ones(C), C * N)
    assert EVEN.replace(targets=table).kind == "table" and EVEN.replace(targets=rows).kind == "soft"
    assert EVEN.smoothed(0.1).replace(targets=None).balanced
    same(uj.soft(rows).replace(targets=rows[::-1].copy()), uj.soft(rows[::-1].copy()))
    given = uj.soft(rows, truth=INDEX)  # a truth of one's own stays
    np.testing.assert_array_equal(given.replace(targets=rows[::-1].copy()).truth, INDEX)
    with pytest.raises(ValueError, match="'hard' cannot have targets"):
        dataclasses.replace(EVEN, targets=table)
    with pytest.raises(ValueError, match="say which with kind"):
        uj.Labels(np.arange(C), np.full(C, 1 / C), table, classes=C)
    with pytest.raises(ValueError, match="balanced=True was given"):
        EVEN.replace(weights=WEIGHTS, balanced=True)


OTHER = uj.from_labels([0, 1, 2, 0, 1])
REPLACED = {
    "labels": (uj.unconstrained(EVEN, P).replace(labels=OTHER), uj.unconstrained(OTHER, P)),
    "a loss by name": (uj.unconstrained(EVEN, P).replace(loss="mse"), uj.unconstrained(EVEN, P, loss="mse")),
    "a loss and gamma": (
        uj.spherical(EVEN, P, loss="mse").replace(loss="adjusted_margin", gamma=0.3),
        uj.spherical(EVEN, P, loss="adjusted_margin", gamma=0.3),
    ),
    "a kernel": (
        uj.ntk_invariant(EVEN, P, np.eye(C * N)).replace(labels=OTHER, kernel=np.ones((5, 2))),
        uj.ntk_invariant(OTHER, P, np.ones((5, 2))),
    ),
    "rescale": (uj.spherical(EVEN, P, rescale=2).replace(rescale=0.5), uj.spherical(EVEN, P, rescale=0.5)),
    "decay, regularized": (
        uj.regularized(EVEN, P, decay=0.1).replace(decay=0.2), uj.regularized(EVEN, P, decay=0.2)
    ),
    "decay, anchored": (uj.anchored(EVEN, P, decay=0.1).replace(decay=0.2), uj.anchored(EVEN, P, decay=0.2)),
    "decay, frozen": (uj.frozen(EVEN, P, decay=0.1).replace(decay=0.2), uj.frozen(EVEN, P, decay=0.2)),
    "decay, spherical": (
        uj.spherical(EVEN, P, free_prototypes=True).replace(decay=0.2),
        uj.spherical(EVEN, P, free_prototypes=True, decay=0.2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REPLACED)
def test_a_replaced_field_gives_the_model_that_the_constructor_gives(what):
    same(*REPLACED[what])


def test_a_kernel_of_other_samples_is_refused_wherever_it_comes_from():
    model = uj.ntk_invariant(EVEN, P, np.eye(C * N))
    for change in (lambda: model.replace(labels=OTHER), lambda: model.replace(kernel=Kernel(np.eye(5)))):
        with pytest.raises(ValueError, match="give the kernel that belongs to these labels"):
            change()
    stale = dataclasses.replace(model, kernel=dataclasses.replace(model.kernel, matrix=np.ones((C * N, 2))))
    with pytest.raises(ValueError, match="must have 12 rows and columns"):
        uj.exact(stale, uj.Flow(), STATE, [1.0], "norm")
    with pytest.raises(ValueError, match="the class MSE itself; call it"):
        uj.exact(dataclasses.replace(model, loss=MSE), uj.Flow(), STATE, [1.0], "norm")


def images(labels):
    return np.zeros((len(labels), 1, 2, 2), np.uint8), np.asarray(labels)


def test_labels_before_noise_stay_those_of_their_images():
    data = Dataset("tiny", *images([0, 1, 2, 3] * 5), *images([0, 1, 2, 3]), 4, "none")
    once = noisy(data, 0.5, seed=1)
    np.testing.assert_array_equal(noisy(once, 0.5, seed=2).clean_y, data.train_y)
    rest, _ = held_out(once, 1)
    np.testing.assert_array_equal(rest.clean_y, data.train_y[once.train_y < 3])
    with pytest.raises(ValueError, match="replace both together"):
        once.replace(train_x=once.train_x[:8], train_y=once.train_y[:8])
    with pytest.raises(ValueError, match="must be integers"):
        data.replace(train_y=data.train_y * 1.0)


def test_class_means_need_the_equal_weights_that_they_assume():
    uneven = uj.from_labels([0, 0, 1]).weighted(samples=[1.0, 2.0, 1.0])
    with pytest.raises(ValueError, match="equal weights within each class"):
        class_averages(uneven)
    assert class_averages(uj.from_labels([0, 0, 1]).weighted(classes=[1.0, 2.0])).tolist()[0] == [0.5, 0.5, 0.0]
