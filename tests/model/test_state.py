"""States without biases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj

H, W = np.arange(12.0).reshape(4, 3), np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("side", [np, jnp])
def test_a_state_without_biases_has_zeros_of_the_type_of_its_prototypes(side, kind):
    with jax.enable_x64(True):
        parts = side.asarray(H, kind), side.asarray(W, kind)
    state = uj.State(*parts)
    assert state == uj.State(H, W, np.zeros(2)) and state.b.dtype == kind
    assert isinstance(state.b, jax.Array if side is jnp else np.ndarray)


def test_sixteen_bits_whole_numbers_and_lists_have_the_zeros_of_what_they_become():
    assert uj.State(H, W.astype(np.float16)).b.dtype == np.float32
    assert uj.State(H, W.astype(int)).b.dtype == uj.State(H, W.tolist()).b.dtype == np.float64


def test_batches_and_traced_states_too():
    batch = uj.State(H[None], np.stack([W, W, W]))
    assert batch.b.shape == (3, 2)
    traced = jax.jit(lambda W: uj.State(H, W).b)(jnp.asarray(W))
    assert traced.shape == (2,) and not np.any(traced)


def test_such_a_state_is_run_like_one_with_zeros():
    model = uj.regularized(uj.balanced(2, 2), 3, decay=0.1, bias=True)
    runs = [uj.simulate(model, uj.Descent(0.1), uj.State(H, W, *b), [3], "loss") for b in ((), (np.zeros(2),))]
    assert np.array_equal(runs[0]["loss"], runs[1]["loss"])


def test_a_part_that_is_left_out_of_a_tree_stays_left_out():
    state = jax.tree.map(lambda leaf: None, uj.State(H, W, np.ones(2)))
    assert state.b is None
    assert uj.State(H=0, W=None, b=None).b is None


@pytest.mark.parametrize("wrong", [3.0, np.ones(3), None])
def test_prototypes_without_rows_are_refused(wrong):
    with pytest.raises(ValueError, match="must have shape") as refused:
        uj.State(H, wrong)
    assert "\n" not in str(refused.value)
