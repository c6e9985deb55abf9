"""Cross-entropy: minimisers, flow without decay, saddles, minority collapse."""

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize

from unhinged_jax.theories import ce_decay, ce_free, minority, saddles


def risk(H, W, index, shares):
    S = H @ W.T
    logs = S - np.logaddexp.reduce(S, axis=1, keepdims=True)
    G = shares[:, None] * (np.exp(logs) - np.eye(len(W))[index])
    return -shares @ logs[np.arange(len(H)), index], G


@pytest.mark.parametrize("decay", [(1e-4, 1e-4), (0.02, 0.01), (0.2, 0.3)])
def test_the_gap_against_a_grid_and_bfgs(decay):
    C, N = 3, 2
    k = np.sqrt(N * decay[0] * decay[1])
    x = np.linspace(0, 20, 2_000_001)
    grid = x[np.argmin(np.log1p((C - 1) * np.exp(-x)) + (C - 1) * k * x)]
    found = ce_decay.etf_minimiser("cross_entropy", C, N, *decay)
    assert np.isclose(found.gap, grid, atol=2e-5)
    assert np.isclose(found.gap, ce_decay.cross_entropy_gap(C, N, *decay), atol=1e-9)
    index, n = np.repeat(np.arange(C), N), C * N

    def objective(z):
        H, W = z[: n * C].reshape(n, C), z[n * C :].reshape(C, C)
        value, G = risk(H, W, index, np.full(n, 1 / n))
        value += decay[0] / 2 * np.sum(H**2) + decay[1] / 2 * np.sum(W**2)
        return value, np.r_[(G @ W + decay[0] * H).ravel(), (G.T @ H + decay[1] * W).ravel()]

    run = scipy.optimize.minimize(objective, np.random.default_rng(1).standard_normal(n * C + C * C), jac=True,
                                  method="BFGS", options={"gtol": 1e-11})  # fmt: skip
    assert np.isclose(run.fun, found.objective, rtol=1e-9)
    assert np.allclose(np.linalg.norm(run.x[n * C :].reshape(C, C), axis=1), found.prototype_norm, atol=1e-4)
    assert np.allclose(np.linalg.norm(run.x[: n * C].reshape(n, C), axis=1), found.feature_norm, atol=1e-4)


def test_other_losses_on_the_ray():
    """Focal loss with focusing 0 is cross-entropy; smoothing moves the optimum to a finite gap even without decay."""
    from unhinged_jax.losses import Focal

    plain = ce_decay.etf_minimiser("cross_entropy", 4, 3, 0.01, 0.01)
    assert np.isclose(ce_decay.etf_minimiser(Focal(0.0), 4, 3, 0.01, 0.01).gap, plain.gap, atol=1e-9)
    smooth = ce_decay.etf_minimiser("cross_entropy", 4, 3, 1e-12, 1e-12, smoothing=0.2)
    own = 1 - 0.2 + 0.05  # the probability of the own class is its target
    assert np.isclose(smooth.gap, np.log(own / 0.05), atol=1e-6)
    with pytest.raises(ValueError, match="decay_H"):
        ce_decay.etf_minimiser("cross_entropy", 4, 3, 0.0, 0.01)


def test_the_gap_on_the_etf_against_the_whole_flow():
    C, N = 3, 2
    etf = np.linalg.svd(np.eye(C) - 1 / C)[0][:, : C - 1] * np.sqrt(C / (C - 1))
    index = np.repeat(np.arange(C), N)
    W, H = etf, etf[index] / np.sqrt(N)

    def velocity(t, z):
        H, W = z[:12].reshape(6, 2), z[12:].reshape(3, 2)
        G = risk(H, W, index, np.full(6, 1 / 6))[1]
        return -np.r_[(G @ W).ravel(), (G.T @ H).ravel()]

    times = np.array([1.0, 10.0, 100.0])
    start = np.r_[H.ravel(), W.ravel()]
    run = scipy.integrate.solve_ivp(velocity, (0, 100), start, t_eval=times, rtol=1e-10, atol=1e-11)
    logits = [z[:2] @ z[12:].reshape(3, 2).T for z in run.y.T]
    got = ce_free.gap_on_etf(float(H[0] @ (W[0] - W[1])), C, N, times)
    assert np.allclose(got, [s[0] - s[1] for s in logits], rtol=1e-7)


def test_curvature_along_the_top_singular_pair():
    C, N, p, decay = 3, 2, 2, (0.05, 0.02)
    index, n = np.repeat(np.arange(C), N), C * N
    G = risk(np.zeros((n, p)), np.zeros((C, p)), index, np.full(n, 1 / n))[1]
    slope = np.linalg.norm(G, 2)
    want = np.linalg.eigvalsh([[decay[0], -slope], [-slope, decay[1]]])[0]
    assert np.isclose(saddles.descending_curvature(slope, *decay), want)

    def objective(z):
        H, W = z[: n * p].reshape(n, p), z[n * p :].reshape(C, p)
        value = risk(H, W, index, np.full(n, 1 / n))[0]
        return value + decay[0] / 2 * np.sum(H**2) + decay[1] / 2 * np.sum(W**2)

    frame, h = np.eye(n * p + C * p), 1e-3

    def second(a, b):
        even = objective(h * (a + b)) + objective(-h * (a + b))
        return (even - objective(h * (a - b)) - objective(h * (b - a))) / (4 * h**2)

    hessian = np.array([[second(a, b) for a in frame] for b in frame])
    assert np.isclose(np.linalg.eigvalsh(hessian)[0], want, atol=1e-6)


@pytest.mark.parametrize("decay", [(0.05, 0.05), (0.03, 0.09)])
def test_minority_collapse_on_both_sides_of_its_threshold(decay):
    threshold = minority.collapse_ratio(2, 3, 2, *decay)
    for ratio, alive in ((threshold - 0.2, True), (threshold + 0.2, False)):
        counts = [2 * ratio] * 2 + [2.0] * 3
        spread = minority.contrast_ratio(minority.reduced_minimiser(counts, *decay), majorities=2)
        assert (spread > 0.02) == alive and (spread < 1e-4) == (not alive)


def test_spread_is_a_ratio_of_norms_without_the_means():
    W = np.array([[3.0, 1.0], [1.0, 1.0], [5.0, 5.5], [5.0, 4.5]])
    assert np.isclose(minority.contrast_ratio(W, 2), 0.5)
    assert np.isclose(minority.contrast_ratio(W + 7, 2), 0.5)
