"""The expected scatter between classes where the mean of all features dwarfs it, beside exact rational arithmetic."""

import itertools
from fractions import Fraction

import jax
import numpy as np
import pytest

import unhinged_jax as uj


def between(H):
    """The scatter of the means of the first and the last two of four rows."""
    means = [[(a + b) / 2 for a, b in zip(*H[k : k + 2], strict=True)] for k in (0, 2)]
    return sum((a - b) ** 2 for a, b in zip(*means, strict=True))


def rational(H, W, rate, decay, draws, updates):
    """Its mean over all paths, for four samples of two classes at gamma = 1."""
    M = [[Fraction(s, 4) for s in row] for row in ((1, -1), (1, -1), (-1, 1), (-1, 1))]
    paths = [(H, W)]
    for _ in range(updates):
        after = []
        for (H, W), D in itertools.product(paths, draws):
            DM = [[D[i] * M[i][c] for c in range(2)] for i in range(4)]
            p = range(len(W[0]))
            kept, n, C = 1 - rate * decay, range(4), range(2)
            pulls = [[sum(DM[i][c] * W[c][k] for c in C) for k in p] for i in n]
            pushes = [[sum(DM[i][c] * H[i][k] for i in n) for k in p] for c in C]
            after.append((
                [[kept * H[i][k] + rate * pulls[i][k] for k in p] for i in n],
                [[kept * W[c][k] + rate * pushes[c][k] for k in p] for c in C],
            ))  # fmt: skip
        paths = after
    return float(sum(between(H) for H, _ in paths) / len(paths))


@pytest.mark.parametrize("uneven", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("batch", [4, 3])
def test_a_small_scatter_between_classes_beside_a_large_mean(batch, uneven):
    rng, rate, decay, far = np.random.default_rng(0), 0.5, 0.25, 1e7
    H, W = rng.normal(size=(4, 2)) + far, rng.normal(size=(2, 2))
    draws = [[Fraction(4, batch) * (i in one) for i in range(4)] for one in itertools.combinations(range(4), batch)]
    whole = [[[Fraction(x) for x in row] for row in part.tolist()] for part in (H, W)]
    with jax.enable_x64(True):
        labels = uj.balanced(classes=2, per_class=2)
        if uneven:  # the same labels as a table of targets for each sample, whose groups have one sample each
            labels = uj.soft(np.eye(2)[np.asarray(labels.index)])
        model = uj.regularized(labels, dim=2, gamma=1.0, decay=decay)
        state = model.init(jax.random.key(0), features=H, prototypes=W)
        descent = uj.Descent(rate, batch=batch, replacement=False)
        names = ["between_scatter", "log_between_scatter"]
        got = uj.exact(model, descent, state, [0, 1, 2], names)
    want = [rational(*whole, Fraction(1, 2), Fraction(1, 4), draws, k) for k in range(3)]
    np.testing.assert_allclose(got["between_scatter"], want, rtol=1e-7)
    np.testing.assert_allclose(got["log_between_scatter"], np.log(want), rtol=1e-7)
