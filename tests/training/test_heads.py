"""Heads and penalties: gradients against derivations by hand in NumPy, and what must not move."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unhinged_jax.losses import AdjustedMargin, CrossEntropy, Unhinged
from unhinged_jax.training import heads, penalties, transforms

N, P, C, GAMMA = 5, 4, 3, 0.3
LABELS = np.array([0, 2, 1, 1, 0])


@pytest.fixture(params=["float32", "float64"])
def case(request):
    """Features, prototypes and a tolerance in one precision, inside its scope."""
    draw = np.random.default_rng(0)
    H, W = draw.normal(size=(N, P)), draw.normal(size=(C, P))
    with jax.enable_x64(request.param == "float64"):
        yield H, W, {"rtol": 1e-5, "atol": 1e-6} if request.param == "float32" else {"rtol": 1e-12, "atol": 1e-14}


def gradient(function, *arrays):
    """Gradient of a sum, in the scope's precision."""
    arrays = [jnp.asarray(a, jnp.result_type(float)) for a in arrays]
    return jax.tree.map(np.asarray, jax.grad(lambda *a: jnp.sum(function(*a)), tuple(range(len(arrays))))(*arrays))


def unhinged_force(W):
    """dL/dh of the unhinged loss of sample i: -(1 + gamma) w_y + gamma sum_j w_j, by hand."""
    return -(1 + GAMMA) * W[LABELS] + GAMMA * W.sum(axis=0)


def tangential(H, force):
    """(I - h h^T/|h|^2) force / |h|, row by row."""
    rows = []
    for h, g in zip(H, force, strict=True):
        length = np.sqrt(np.sum(h**2))
        unit = h / length
        rows.append((g - unit * np.dot(unit, g)) / length)
    return np.array(rows)


def loss_of(kind):
    def value(H, W):
        head = heads.Head(W, None, kind)
        return head.losses(Unhinged(GAMMA), H, jnp.asarray(LABELS))

    return value


def test_anchored_unhinged_gradients_are_those_derived_by_hand(case):
    H, W, near = case
    for_H, for_W = gradient(loss_of("pal"), H, W)
    np.testing.assert_allclose(for_H, unhinged_force(W), **near)
    assert np.all(for_W == 0)


def test_normalised_anchored_gradients_are_those_derived_by_hand(case):
    H, W, near = case
    for_H, for_W = gradient(loss_of("fnpal"), H, W)
    np.testing.assert_allclose(for_H, tangential(H, unhinged_force(W)), **near)
    assert np.all(for_W == 0)


def test_cross_entropy_gradients_of_a_linear_head_are_those_derived_by_hand(case):
    H, W, near = case
    b = np.array([0.1, -0.2, 0.3])

    def value(H, W, b):
        return heads.Head(W, b, "linear").losses(CrossEntropy(), H, jnp.asarray(LABELS))

    S = H @ W.T + b
    excess = np.exp(S) / np.exp(S).sum(axis=1, keepdims=True) - np.eye(C)[LABELS]
    for_H, for_W, for_b = gradient(value, H, W, b)
    np.testing.assert_allclose(for_H, excess @ W, **near)
    np.testing.assert_allclose(for_W, excess.T @ H, **near)
    np.testing.assert_allclose(for_b, excess.sum(axis=0), **near)


def test_the_adjusted_margin_pulls_as_derived_by_hand(case):
    """Opposite to its prototype a feature feels -(1 + gamma) of the shifted prototype's tangential part."""
    _, _, near = case
    w = np.array([[2.0, 0.0], [-1.0, 0.5]])
    h, gamma, epsilon = np.array([[-0.8, 0.6]]), 0.0, 0.5
    head = lambda H: heads.Head(jnp.asarray(w, H.dtype), None, "fnpal").losses(  # noqa: E731
        AdjustedMargin(gamma, epsilon), H, jnp.array([0])
    )
    unit = h[0]
    along = unit @ w[0]
    tangent = (w[0] - along * unit) / np.linalg.norm(w[0] - along * unit)
    pull = abs(along) * np.sqrt(1 - (1 - epsilon) ** 2) / (1 - epsilon)
    np.testing.assert_allclose(gradient(head, h)[0][0], -pull * tangent, **near)


def test_feature_penalty_pulls_every_feature_to_zero(case):
    H, _, near = case
    np.testing.assert_allclose(gradient(lambda h: penalties.feature_penalty(h, 0.7), H)[0], 1.4 * H, **near)


@pytest.mark.parametrize("exponent", [0, 1, 2])
def test_a_rescaled_loss_has_the_same_value_and_a_scaled_gradient(case, exponent):
    H, W, near = case
    lengths = np.sqrt((H**2).sum(axis=1, keepdims=True))

    def rescaled(H, W):
        return penalties.rescaled_loss(loss_of("fnpal")(H, W), H, exponent)

    floats = [jnp.asarray(a, jnp.result_type(float)) for a in (H, W)]
    assert np.array_equal(rescaled(*floats), loss_of("fnpal")(*floats))
    expected = lengths**exponent * tangential(H, unhinged_force(W))
    np.testing.assert_allclose(gradient(rescaled, H, W)[0], expected, **near)

    def through_features(H, W):
        return loss_of("fnpal")(penalties.scale_feature_gradient(H, exponent), W)

    np.testing.assert_allclose(gradient(through_features, H, W)[0], expected, **near)


def test_a_feature_of_zero_gives_zero_and_not_nan():
    zeros = jnp.zeros((1, P))
    W = jnp.ones((C, P))
    assert np.all(heads.fnpal_logits(zeros, W) == 0)
    assert np.all(jax.grad(lambda h: heads.fnpal_logits(h, W).sum())(zeros) == 0)
    assert np.all(jax.grad(lambda h: penalties.rescaled_loss(h[:, 0], h, 1).sum())(zeros) == 0)


def test_anchored_parameters_do_not_move_under_any_optimiser():
    params = {"net": jnp.ones(3), "head": {"prototypes": jnp.arange(3.0), "bias": jnp.ones(2)}}
    inner = optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.1))
    optimizer = transforms.anchor(inner, lambda path: "prototypes" in path)
    state, moved = optimizer.init(params), params
    for _ in range(3):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, moved), state, moved)
        moved = optax.apply_updates(moved, updates)
    assert np.array_equal(moved["head"]["prototypes"], params["head"]["prototypes"])
    assert np.all(moved["net"] < 1) and np.all(moved["head"]["bias"] < 1)
    with pytest.raises(ValueError, match="nothing is anchored; the parameters are"):
        transforms.anchor(inner, lambda path: "prototype_" in path).init(params)


def test_prototypes_start_as_asked():
    key = jax.random.key(0)
    W = np.asarray(heads.initial_prototypes(key, C, P, scale=3.0))
    np.testing.assert_allclose(W @ W.T, 9 * (1.5 * np.eye(C) - 0.5), atol=1e-5)
    assert heads.make_head(key, "linear", C, P, bias=False).bias is None
    for kind in ("kaiming", "normal"):
        assert heads.initial_prototypes(key, C, P, kind).shape == (C, P)
    with pytest.raises(ValueError, match="at least classes - 1 = 4"):
        heads.make_head(key, "pal", classes=5, dim=3)
    with pytest.raises(ValueError, match="kind of head must be one of"):
        heads.make_head(key, "anchored", C, P)
    with pytest.raises(ValueError, match="scale of prototypes"):
        heads.initial_prototypes(key, C, P, scale=0.0)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_class_weights_have_mean_one_over_the_samples(exponent):
    counts = np.array([10, 5, 1])
    weights = np.asarray(penalties.class_weights(counts, exponent), float)
    assert np.sum(counts * weights) == pytest.approx(counts.sum(), rel=1e-6)
    ratio = weights / weights[0]
    np.testing.assert_allclose(ratio, (counts / 10.0) ** -exponent, rtol=1e-6)


def test_effective_numbers_lie_between_no_weights_and_inverse_counts():
    counts = np.array([100, 1])
    weights = np.asarray(penalties.effective_number_weights(counts, 0.99), float)
    assert weights[1] / weights[0] == pytest.approx((1 - 0.99**100) / (1 - 0.99), rel=1e-5)
    with pytest.raises(ValueError, match="beta must lie in"):
        penalties.effective_number_weights(counts, 1.0)
    with pytest.raises(ValueError, match="every class needs a sample"):
        penalties.class_weights([3, 0])
