"""Initial states against independent generators, published norms and the laws they claim."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from unhinged_jax import initial
from unhinged_jax.initial import streams

MASK = 0xFFFFFFFF


def philox_scalar(counter, key):
    """Philox4x32-10 in Python integers, one block."""
    c, (k0, k1) = list(counter), key
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & MASK, (p0 >> 32) ^ c[3] ^ k1, p0 & MASK]
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c


def mersenne_twister(seed, count):
    """The first outputs (at most 227) of MT19937 in Python integers."""
    state = [seed]
    for i in range(1, 624):
        state.append((1812433253 * (state[-1] ^ (state[-1] >> 30)) + i) & MASK)
    words = []
    for i in range(count):
        y = (state[i] & 0x80000000) | (state[i + 1] & 0x7FFFFFFF)
        y = state[i + 397] ^ (y >> 1) ^ (0x9908B0DF if y & 1 else 0)
        y ^= y >> 11
        y ^= (y << 7) & 0x9D2C5680
        y ^= (y << 15) & 0xEFC60000
        words.append(y ^ (y >> 18))
    return words


def torch_normal_scalar(seed, blocks):
    """Normals of the CPU stream, one number at a time."""
    words = mersenne_twister(seed, 32 * blocks)
    uniform = [(((high << 32) | low) % 2**53) / 2**53 for high, low in zip(words[::2], words[1::2], strict=True)]
    numbers = []
    for start in range(0, 16 * blocks, 16):
        pairs = [(uniform[start + j], uniform[start + 8 + j]) for j in range(8)]
        for wave in (math.cos, math.sin):
            numbers += [math.sqrt(-2 * math.log1p(-u)) * wave(2 * math.pi * v) for u, v in pairs]
    return np.array(numbers)


# Known-answer vectors of the Random123 distribution: zeros, ones, digits of pi.
KNOWN_ANSWERS = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((MASK,) * 4, (MASK,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, expected):
    words = tuple(np.array([word], np.uint32) for word in counter)
    got = streams.philox4x32(words, key)
    assert tuple(int(word[0]) for word in got) == expected
    assert tuple(philox_scalar(counter, key)) == expected


@pytest.mark.parametrize("seed", [0, 123, 7 + (5 << 32), 2**64 - 1])
def test_cuda_uniform_equals_integer_arithmetic(seed):
    expected = []
    for i in range(40):
        a, b, *_ = philox_scalar((0, 0, i, 0), (seed & MASK, seed >> 32))
        expected.append((a ^ (b << 21)) * 2.0**-53 + 2.0**-54)
    np.testing.assert_array_equal(initial.cuda_uniform(seed, 40), expected)


def test_mersenne_twister_oracle_known_answer():
    assert mersenne_twister(5489, 2) == [3499211612, 581869302]


@pytest.mark.parametrize("seed", [0, 123, 2**32 - 1])
def test_torch_cpu_normal_equals_scalar_loop(seed):
    expected = torch_normal_scalar(seed, blocks=6)
    np.testing.assert_allclose(initial.torch_cpu_normal(seed, 96), expected, rtol=1e-13)
    np.testing.assert_allclose(initial.torch_cpu_normal(seed, 48, skip=32), expected[32:80], rtol=1e-13)


def test_empty_draws():
    assert initial.torch_cpu_normal(1, 0).shape == (0,)
    assert initial.cuda_uniform(1, 0).shape == (0,)


@pytest.mark.parametrize(
    ("make", "shape", "square"),
    [
        (initial.paper_features, (1000, 512), "512085.677421"),
        (initial.paper_prototypes, (100, 512), "200.038864"),
        (initial.paper_anchors, (100, 512), "51215.264983"),
        (lambda: initial.paper_anchors(centred=True), (100, 512), "51110.894144"),
    ],
)
def test_paper_state_has_published_norm(make, shape, square):
    array = make()
    assert array.shape == shape
    assert array.dtype == np.float64
    assert f"{math.fsum(array.ravel() ** 2):.6f}" == square
    assert make() is array
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 0.0


def test_paper_anchors_follow_the_features_and_centre_over_coordinates():
    features, anchors = initial.paper_features(), initial.paper_anchors()
    stream = initial.torch_cpu_normal(123, 1100 * 512)
    np.testing.assert_array_equal(stream, np.concatenate([features, anchors]).ravel())
    centred = initial.paper_anchors(centred=True)
    means = [math.fsum(row) / 512 for row in anchors]
    np.testing.assert_allclose(centred, anchors - np.array(means)[:, None], atol=1e-15, rtol=0)
    assert np.abs(centred.sum(axis=0)).max() > 1.0  # the classes are not centred


@pytest.mark.parametrize(
    ("draw", "law"),
    [
        (lambda key: initial.normal(key, (200, 300)), stats.norm(0, 1)),
        (lambda key: initial.normal(key, (200, 300), 0.25), stats.norm(0, 0.25)),
        (
            lambda key: initial.kaiming_uniform(key, (200, 300)),
            stats.uniform(-math.sqrt(6 / 300), 2 * math.sqrt(6 / 300)),
        ),
        (lambda key: initial.kaiming_normal(key, (200, 300)), stats.norm(0, math.sqrt(2 / 300))),
        (
            lambda key: initial.kaiming_normal(key, (4, 50, 300)),
            stats.norm(0, math.sqrt(2 / 300)),
        ),
    ],
)
def test_random_draws_follow_their_law(draw, law):
    values = np.asarray(draw(jax.random.key(1)), np.float64)
    assert stats.kstest(values.ravel(), law.cdf).pvalue > 1e-3


def test_scale_is_exact_differentiable_and_compiles_once():
    key = jax.random.key(3)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def total(scale):
        return jnp.sum(initial.normal(key, (4, 5), scale))

    unit = float(np.sum(np.asarray(jax.random.normal(key, (4, 5)))))
    for scale in (0.0, 0.5, 2.0):
        assert float(total(scale)) == pytest.approx(scale * unit, rel=1e-6)
    assert float(jax.grad(total)(0.7)) == pytest.approx(unit, rel=1e-6)


def test_normal_and_kaiming_map_over_keys():
    keys = jax.random.split(jax.random.key(0), 3)
    for draw in (initial.normal, initial.kaiming_uniform, initial.kaiming_normal):
        mapped = jax.vmap(lambda key, draw=draw: draw(key, (2, 4)))(keys)
        stacked = jnp.stack([draw(key, (2, 4)) for key in keys])
        np.testing.assert_allclose(mapped, stacked, rtol=1e-6)


def etf_error(prototypes, classes):
    gram = np.asarray(prototypes, np.float64) @ np.asarray(prototypes, np.float64).T
    expected = np.full((classes, classes), -1 / (classes - 1))
    np.fill_diagonal(expected, 1.0)
    return np.abs(gram - expected).max()


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize(("classes", "dim"), [(2, 1), (3, 2), (10, 9), (10, 10), (100, 512)])
def test_simplex_etf_gram_matrix(classes, dim, seed):
    with jax.enable_x64(True):
        key = None if seed is None else jax.random.key(seed)
        prototypes = initial.simplex_etf(classes, dim, key)
        assert prototypes.shape == (classes, dim)
        assert prototypes.dtype == np.float64
        assert etf_error(prototypes, classes) < 1e-14
        assert np.abs(np.asarray(prototypes).sum(axis=0)).max() < 1e-13


def test_simplex_etf_in_float32():
    with jax.enable_x64(False):
        prototypes = initial.simplex_etf(10, 16, jax.random.key(0))
    assert prototypes.dtype == np.float32
    assert etf_error(prototypes, 10) < 1e-6


def test_random_rotation_is_uniform_and_maps_over_keys():
    keys = jax.random.split(jax.random.key(2), 4000)
    draws = np.asarray(jax.jit(jax.vmap(lambda key: initial.simplex_etf(3, 4, key)))(keys))
    assert max(etf_error(draw, 3) for draw in draws[:20]) < 1e-6
    # One coordinate of a uniform direction in four dimensions: (x + 1)/2 ~ Beta(3/2, 3/2).
    law = stats.beta(1.5, 1.5, loc=-1, scale=2)
    for row in range(3):
        for axis in range(4):
            assert stats.kstest(draws[:, row, axis], law.cdf).pvalue > 1e-4


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: initial.normal(0, (2, 3)), TypeError, r"jax\.random\.key"),
        (lambda: initial.simplex_etf(3, 2, 7), TypeError, r"jax\.random\.key"),
        (lambda: initial.normal(KEY, 3), TypeError, "tuple"),
        (lambda: initial.normal(KEY, (2.0, 3)), ValueError, "whole number"),
        (lambda: initial.normal(KEY, (0, 3)), ValueError, "at least 1"),
        (lambda: initial.normal(KEY, (2, 3), -1.0), ValueError, "scale"),
        (lambda: initial.normal(KEY, (2, 3), math.nan), ValueError, "scale"),
        (lambda: initial.normal(KEY, (2, 3), np.ones(3)), ValueError, "scalar"),
        (lambda: initial.kaiming_uniform(KEY, (3,)), ValueError, "2 axes"),
        (lambda: initial.kaiming_normal(KEY, (3, -1)), ValueError, "at least 1"),
        (lambda: initial.simplex_etf(1, 5), ValueError, "classes"),
        (lambda: initial.simplex_etf(10, 8), ValueError, "at least classes - 1 = 9"),
        (lambda: initial.simplex_etf(10, 9.5), ValueError, "whole number"),
        (lambda: initial.torch_cpu_normal(123, 17), ValueError, "multiple of 16"),
        (lambda: initial.torch_cpu_normal(123, 16, skip=8), ValueError, "multiple of 16"),
        (lambda: initial.torch_cpu_normal(123, -16), ValueError, "at least 0"),
        (lambda: initial.torch_cpu_normal(2**32, 16), ValueError, "seed"),
        (lambda: initial.cuda_uniform(-1, 4), ValueError, "seed"),
        (lambda: initial.cuda_uniform(2**64, 4), ValueError, "seed"),
        (lambda: initial.cuda_uniform(1, 2**32), ValueError, "count"),
    ],
)
def test_bad_input_gives_one_clear_message(call, error, message):
    with pytest.raises(error, match=message):
        call()
