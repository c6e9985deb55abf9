"""Elementary functions beside NumPy: reductions of large arrays, norms at any scale, and exponents near a size."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unhinged_jax import special
from unhinged_jax.linear.leading_part import put_together

RNG = np.random.default_rng(5)
LARGE = RNG.normal(size=(3, 80, 100)).astype(np.float32)  # more numbers than are reduced in one step


@pytest.mark.parametrize("array", [LARGE, LARGE[:, :, :3], LARGE[0, 0], LARGE[:1]], ids=lambda array: str(array.shape))
def test_reductions_of_many_numbers_are_those_of_numpy(array):
    for reduce, by_numpy in ((jnp.sum, np.sum), (jnp.max, np.max)):
        np.testing.assert_allclose(special.over_all(reduce, array), by_numpy(array.astype(float)), rtol=1e-5)
    assert float(special.largest(array, -2 * LARGE)) == 2 * np.max(np.abs(LARGE))
    assert float(special.largest(array[:0])) == 0.0


def test_reductions_of_many_numbers_have_derivatives_and_batches():
    slope = jax.grad(lambda x: special.over_all(jnp.sum, x**2) + special.over_all(jnp.max, x))(LARGE)
    expected = 2 * LARGE + (LARGE.max() == LARGE)
    np.testing.assert_allclose(slope, expected, rtol=1e-6)
    lanes = jax.vmap(lambda x: special.over_all(jnp.max, x))(np.stack([LARGE, -LARGE]))
    np.testing.assert_array_equal(lanes, [LARGE.max(), -LARGE.min()])


@pytest.mark.parametrize("scale", [1e-36, 1e-20, 1.0, 1e20, 1e34])
def test_norms_of_many_numbers_at_any_scale(scale):
    array = (scale * LARGE.astype(float)).astype(np.float32)
    assert float(special.safe_norm(array)) == pytest.approx(np.linalg.norm(array.astype(float).ravel()), rel=1e-5)
    np.testing.assert_allclose(
        jax.vmap(special.safe_norm)(np.stack([array, 0 * array])),
        [np.linalg.norm(array.astype(float).ravel()), 0],
        1e-5,
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_exponent_near_a_size(dtype):
    with jax.enable_x64(dtype == "float64"):
        info = np.finfo(dtype)
        logs = np.linspace(np.log2(float(info.tiny)) + 1, np.log2(float(info.max)) - 1, 4001)
        logs = logs[np.abs(logs - np.floor(logs) - 0.5) > 1e-3]  # between two exponents either will do
        sizes = jnp.asarray(2.0**logs, dtype)
        np.testing.assert_array_equal(special.drift(sizes, beyond=0), np.round(logs))
        np.testing.assert_array_equal(special.drift(sizes), np.where(np.abs(np.round(logs)) > 20, np.round(logs), 0))
        none = jnp.asarray([0.0, np.inf, np.nan, -np.inf], dtype)
        np.testing.assert_array_equal(special.drift(none, beyond=0), 0)
        assert float(jax.grad(lambda x: x * special.drift(x, beyond=0))(jnp.asarray(8.0, dtype))) == 3.0


def test_rows_in_which_only_rounding_is_left_are_zero():
    """But not rows that are small beside the others, and unknown rows stay unknown."""
    direction = jnp.asarray([[1.0, -2.0], [3.0, 1.0], [1e-9, 0.0], [0.0, 0.0], [1.0, 1.0]])
    rest = jnp.asarray([[-1.0, 2.0 + 1e-7], [1.0, 1.0], [0.0, 1e-4], [0.0, 0.0], [jnp.nan, 1.0]])
    rows, there = put_together(jnp.asarray(1.0), direction, rest)
    np.testing.assert_array_equal(there[:, 0], [True, True, True, True, True])  # nothing is known about sizes
    rows, there = put_together(jnp.asarray(1.0), direction[:4], rest[:4])
    np.testing.assert_array_equal(there[:, 0], [False, True, True, False])
    np.testing.assert_allclose(rows, [[0, 0], [4, 2], [1e-9, 1e-4], [0, 0]], rtol=1e-6)
    slope = jax.grad(lambda rest: jnp.sum(put_together(jnp.asarray(1.0), direction, rest)[0]))(rest)
    np.testing.assert_array_equal(slope, 1.0)  # also of the rows that are 0


def test_margins_of_many_logits_are_those_of_few(monkeypatch):
    """Class by class or at once, with ties on either side of the true class, and for two states at a time."""
    module = importlib.import_module("unhinged_jax.observables.accuracy")
    logits = jnp.asarray(RNG.integers(0, 3, size=(2, 5, 40)), jnp.float32)  # few values, so that many are ties
    truth = jnp.asarray(RNG.integers(0, 5, size=40))
    rows = np.asarray(logits)
    others = np.where(np.arange(5)[:, None] == np.asarray(truth), -np.inf, rows)
    for most in (2**15, 0):
        monkeypatch.setattr(module, "_ROWS_AT_ONCE", most)
        own, rival, right = jax.vmap(lambda logits: module._compared(logits, truth))(logits)
        np.testing.assert_array_equal(own, rows[:, truth, np.arange(40)])
        np.testing.assert_array_equal(rival, others.max(axis=1))
        np.testing.assert_array_equal(right, rows.argmax(axis=1) == np.asarray(truth))
