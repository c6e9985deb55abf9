"""The logits of a state, and what is no state of the model."""

import jax
import numpy as np
import pytest

import unhinged_jax as uj

LABELS = uj.balanced(classes=3, per_class=2)


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_features_of_a_deep_model_go_through_its_factors(activation):
    model = uj.unconstrained(LABELS, 4, depth=4, activation=activation, bias=True)
    state = model.init(jax.random.key(0), bias=np.arange(3.0))
    features = np.asarray(state.H)
    for factor in np.asarray(state.inner):
        features = features @ factor.T
        features = np.maximum(features, 0) if activation == "relu" else features
    found = model.logits(state.H, state.W, state.b, state.inner)
    np.testing.assert_allclose(found, features @ np.asarray(state.W).T + state.b, rtol=1e-5)
    with pytest.raises(ValueError, match="model of depth 4 need `inner`, as in model"):
        model.logits(state.H, state.W, state.b)


def test_one_state_at_a_time():
    model = uj.unconstrained(LABELS, 4)
    state = model.init(jax.random.key(0))
    states = jax.tree.map(lambda *parts: np.stack(parts), state, state.replace(W=2 * state.W))
    with pytest.raises(ValueError, match=r"H has shape \(2, 6, 4\); map over a batch of states with jax"):
        model.logits(states.H, states.W, states.b)
    found = jax.vmap(model.logits)(states.H, states.W, states.b)
    np.testing.assert_allclose(found[1], 2 * found[0])
    with pytest.raises(ValueError, match="model of depth 2 need no `inner`"):
        model.logits(state.H, state.W, state.b, np.ones((1, 4, 4)))


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (uj.losses.CrossEntropy(0.0), "temperature must be finite and above 0"),
        (uj.losses.CrossEntropy(float("nan")), "temperature must be finite and above 0"),
        (uj.losses.Focal(-1.0), "focusing must be finite and at least 0"),
    ],
)
def test_numbers_of_a_loss_are_looked_at_when_a_model_is_built(loss, said):
    with pytest.raises(ValueError, match=said):
        uj.unconstrained(uj.balanced(3, 2), 4, loss=loss)
