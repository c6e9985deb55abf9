"""Shares of the variance among axes, seeds and combinations, beside sums written out point by point."""

import itertools

import numpy as np
import pytest

from unhinged_jax.sweeps.design import Axis, Dim
from unhinged_jax.sweeps.shares import REST, SEEDS, shares, sources


def dim(name, values, kind="grid"):
    return Dim(name, (Axis(name, tuple(values), name, f"label of {name}"),), kind)


GRID = (dim("a", range(3)), dim("b", range(4)))


def by_hand(values):
    """Analysis of variance of one time, with every sum of squares as a loop."""
    grand = values.mean()
    total = sum((v - grand) ** 2 for v in values.ravel())
    squares = [0.0, 0.0, 0.0]
    for a, b, s in itertools.product(*map(range, values.shape)):
        squares[0] += (values[a].mean() - grand) ** 2
        squares[1] += (values[:, b].mean() - grand) ** 2
        squares[2] += (values[a, b, s] - values[a, b].mean()) ** 2
    found = [square / total for square in squares]
    return [*found, 1 - sum(found)]


def test_on_a_grid_they_are_the_sums_of_squares_and_add_up_to_one():
    values = np.random.default_rng(0).normal(size=(3, 4, 5, 2)) + np.arange(3)[:, None, None, None]
    found = shares(values, GRID)
    for time in range(2):
        np.testing.assert_allclose(found[:, time], by_hand(values[..., time]), rtol=1e-12)
    np.testing.assert_allclose(found.sum(axis=0), 1, rtol=1e-12)
    assert sources(GRID, 5) == ["label of a", "label of b", SEEDS, REST]
    assert sources((*GRID, dim("c", [1])), 1) == ["label of a", "label of b", REST]


def test_points_without_a_value_are_left_out_and_no_share_is_above_one():
    values = np.random.default_rng(1).normal(size=(3, 4, 2, 1))
    values[0, :, :, 0], values[2, 3, 1, 0], values[1, 1, 0, 0] = np.nan, np.inf, np.nan
    there = [(a, v) for a in range(3) for v in values[a].ravel() if np.isfinite(v)]
    grand = np.mean([v for _, v in there])
    means = {a: np.mean([v for at, v in there if at == a]) for a in (1, 2)}
    want = sum((means[a] - grand) ** 2 for a, _ in there) / sum((v - grand) ** 2 for _, v in there)
    found = shares(values, GRID)[:, 0]
    assert found[0] == pytest.approx(want, rel=1e-12) and np.all((found >= 0) & (found <= 1))


@pytest.mark.parametrize("values", [np.full((3, 4, 2, 1), np.nan), 1e6 + 1e-3 * np.ones((3, 4, 2, 1))])
def test_nothing_that_varies_has_no_shares(values):
    values[0] *= 1 + 1e-9
    assert np.all(np.isnan(shares(values, GRID)))


def test_axes_of_a_random_design_have_the_shares_of_a_known_function():
    """y = 3 a + b + noise, a and b uniform: their shares are 9/10.5 and 1/10.5; what does nothing gets nothing."""
    rng = np.random.default_rng(2)
    columns = rng.uniform(size=(3, 4096))
    y = 3 * columns[0] + columns[1] + np.sqrt(0.5 / 12) * rng.normal(size=4096)
    point = Dim("point", tuple(Axis(n, tuple(c), n, n) for n, c in zip("abc", columns, strict=True)), "random")
    found = shares(y[:, None, None], (point,))[:, 0]
    np.testing.assert_allclose(found[:3], [9 / 10.5, 1 / 10.5, 0], atol=0.02)
    few = slice(0, 64)  # eight points in a class: without the correction the axis that does nothing would have 0.11
    small = Dim("point", tuple(Axis(n, tuple(c[few]), n, n) for n, c in zip("abc", columns, strict=True)), "random")
    assert shares(y[few, None, None], (small,))[2, 0] < 0.1
