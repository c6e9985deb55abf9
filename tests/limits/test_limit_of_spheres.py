"""`limit` of spherical features: the rate of a descent against loops, and how fast lengths change."""

import jax
import numpy as np
import pytest

import unhinged_jax as uj

C, P, GAMMA = 3, 4, 0.3
LABELS = uj.balanced(C, 1)
RNG = np.random.default_rng(4)
W = RNG.normal(size=(C, P))
G = ((1 + GAMMA) * np.eye(C) - GAMMA) @ W / C
PULL = np.linalg.norm(G, axis=1)


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def leaning(angle, lengths):
    """Features at an angle to their targets, the rows of G."""
    target = G / PULL[:, None]
    aside = RNG.normal(size=(C, P))
    aside -= np.sum(aside * target, axis=1, keepdims=True) * target
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    return lengths[:, None] * (np.cos(angle) * target + np.sin(angle) * aside)


def final_lengths(H, q, eta, updates=400):
    """By the definition of the update, sample by sample."""
    for _ in range(updates):
        length = np.linalg.norm(H, axis=1, keepdims=True)
        e = H / length
        H = H + eta * length ** (q - 1) * (G - e * np.sum(G * e, axis=1, keepdims=True))
    return np.linalg.norm(H, axis=1)


def rates(H, q, eta):
    """(bound, right one, that without the growth of lengths): -log |1 - eta g r^(q - 2)| at the slowest sample."""
    model = uj.spherical(LABELS, P, gamma=GAMMA, rescale=q)
    found = float(uj.limit(model, uj.Descent(eta), uj.State(H, W, np.zeros(C))).rate)
    ends = [final_lengths(H, q, eta), np.linalg.norm(H, axis=1)]
    right, plain = (np.min(-np.log(np.abs(1 - eta * PULL * r ** (q - 2.0)))) for r in ends)
    return found, right, plain


@pytest.mark.parametrize(("q", "share"), [(0, 1.0), (1, 1.0), (0.5, 4 / 3)])
def test_the_bound_of_a_descent_counts_how_lengths_grow(q, share):
    """To leading order in the angle it is the rate itself (for whole q), and below it at larger angles.

    r^2 grows by at most 1 + loss, so r^(2 - q) by (1 + loss)^(1 - q / 2); a fractional q is bounded by 1 + loss.
    """
    start = np.array([1.0, 0.7, 1.3])
    eta = 0.6 / np.max(PULL * start ** (q - 2.0))
    bound, right, plain = rates(leaning(0.1, start), q, eta)
    assert plain - right > 1e-4
    assert (plain - bound) / (plain - right) == pytest.approx(share, rel=1e-3)
    for angle in (0.5, 1.2, 2.0, 2.8):
        for step in (0.5 * eta, eta, 1.5 * eta):
            bound, right, _ = rates(leaning(angle, start), q, step)
            assert 0.7 * right < bound < right, (angle, step)


def test_lengths_that_grow_make_a_strongly_rescaled_descent_no_slower():
    start = np.array([1.0, 0.7, 1.3])
    bound, right, plain = rates(leaning(0.3, start), 3.0, 0.3 / np.max(PULL * start))
    assert bound == pytest.approx(plain, rel=1e-12) and bound < right


@pytest.mark.parametrize("q", [0, 1, 2])
def test_lengths_fade_at_the_decay(q):
    model = uj.spherical(LABELS, P, gamma=GAMMA, rescale=q, decay=0.02)
    start = uj.State(leaning(0.3, np.ones(C)), W, np.zeros(C))
    flow = uj.limit(model, uj.Flow(rate_H=0.7), start)
    assert float(flow.exponent) == pytest.approx(-0.7 * 0.02, rel=1e-12)
    descent = uj.limit(model, uj.Descent(0.5, rate_H=0.7), start)
    assert float(descent.exponent) == pytest.approx(np.log(1 - 0.5 * 0.7 * 0.02), rel=1e-12)
