"""Inputs that were once passed over: soft targets and the bias of the adjusted margin, digits, a descent's own rate."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax.losses import AdjustedMargin, CrossEntropy, adjusted_margin
from unhinged_jax.training.heads import Head
from unhinged_jax.training.penalties import class_weights, effective_number_weights

N, C, P, GAMMA, EPSILON = 8, 3, 4, 0.4, 0.6
RNG = np.random.default_rng(0)
H, W, B, Y = RNG.normal(size=(N, P)), RNG.normal(size=(C, P)), RNG.normal(size=C), RNG.dirichlet(np.ones(C), N)


def by_hand(H, targets, shifts=None):
    """Eq. 104 sample by sample and class by class, and the shifts delta; given ones stay."""
    losses, found = np.zeros(N), {}
    for i, h in enumerate(H):
        unit = h / np.sqrt(h @ h)
        logits = W @ unit + B
        for c, w in enumerate(W):
            cosine = w @ unit / np.sqrt(w @ w)
            if cosine >= -1 + EPSILON:
                losses[i] += targets[i, c] * (-(1 + GAMMA) * logits[c] + GAMMA * logits.sum())
                continue
            size = np.sqrt(1 - (1 - EPSILON) ** 2) / ((1 - EPSILON) * np.sqrt(1 - cosine**2))
            delta = -(1 + cosine * size) * (w - unit * (unit @ w))
            found[i, c] = delta = delta if shifts is None else shifts[i, c]
            losses[i] += targets[i, c] * -(1 + GAMMA) * ((w + delta) @ unit + B[c])
    return losses, found


def test_the_adjusted_margin_of_soft_targets_is_the_mean_over_them():
    index = RNG.integers(0, C, N)
    with jax.enable_x64(True):
        value = adjusted_margin(H, W, Y, GAMMA, EPSILON, B)
        gradient = jax.grad(lambda H: adjusted_margin(H, W, Y, GAMMA, EPSILON, B).sum())(H)
        hard = adjusted_margin(H, W, index, GAMMA, EPSILON, B)
    want, shifts = by_hand(H, Y)
    assert 2 <= len(shifts) < N * C - 2  # both branches
    np.testing.assert_allclose(value, want, rtol=1e-12)
    np.testing.assert_allclose(hard, by_hand(H, np.eye(C)[index])[0], rtol=1e-12)
    for i in np.ndindex(3, P):
        step = np.zeros_like(H)
        step[i] = 1e-6
        slope = (by_hand(H + step, Y, shifts)[0].sum() - by_hand(H - step, Y, shifts)[0].sum()) / 2e-6
        assert float(gradient[i]) == pytest.approx(slope, abs=1e-8)


LABELS = uj.from_labels([0, 0, 1, 1, 2, 2, 0, 1]).weighted(samples=np.arange(1.0, 9.0))
KINDS = {
    "smoothed": LABELS.smoothed(0.3),
    "noisy": LABELS.symmetric_noise(0.2),
    "soft": uj.soft(Y).weighted(samples=np.arange(1.0, 9.0)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_above_the_margin_a_model_has_the_unhinged_loss_and_gradient_of_its_targets(kind):
    model = uj.spherical(KINDS[kind], P, loss=AdjustedMargin(GAMMA, 1e-3))
    plain = uj.spherical(KINDS[kind], P, gamma=GAMMA)
    with jax.enable_x64(True):
        found, want = (jax.value_and_grad(m.data_loss, argnums=(0, 1, 2))(H, W, B) for m in (model, plain))
    chex.assert_trees_all_close(found, want, rtol=1e-12, atol=1e-15)
    unit = H / np.linalg.norm(H, axis=1, keepdims=True)
    targets = Y if kind == "soft" else KINDS[kind].targets[KINDS[kind].index]
    signal = KINDS[kind].weights[:, None] * ((1 + GAMMA) * targets - GAMMA)
    assert float(found[0]) == pytest.approx(-np.sum(signal * (unit @ W.T + B)), rel=1e-12)


def test_a_narrow_margin_keeps_its_digits():
    """1 - (1 - eps)^2 and 1 + cos cancel in float32: at eps = 1e-6 the pull lost 3 % of its value."""
    w, epsilon, angle = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), 1e-6, 2e-4
    h = np.array([[-np.cos(angle), np.sin(angle)]], np.float32)
    gradient = jax.grad(lambda h: adjusted_margin(h, w, np.array([0]), 0.0, epsilon)[0])(h)
    size = np.sqrt(epsilon * (2 - epsilon)) / (1 - epsilon) * np.cos(angle)
    assert float(np.linalg.norm(gradient)) == pytest.approx(size, rel=1e-5)


def test_an_adjusted_margin_needs_the_head_it_is_defined_on():
    with pytest.raises(ValueError, match="use 'fnpal'"):
        Head(W, B, "linear").losses(AdjustedMargin(), H, np.zeros(N, int))
    assert Head(W, B, "linear").losses(CrossEntropy(), jnp.asarray(H), np.zeros(N, int)).shape == (N,)


@pytest.mark.parametrize("beta", [0.0, 0.9, 1 - 1e-8, 1 - 1e-15])
def test_effective_numbers_keep_their_digits(beta):
    counts = np.array([1, 10, 100])
    sums = np.array([sum(beta**k for k in range(n)) for n in counts])  # (1 - beta^n) / (1 - beta)
    want = counts.sum() / sums / np.sum(counts / sums)
    np.testing.assert_allclose(effective_number_weights(counts, beta), want, rtol=1e-6)


def test_class_weights_neither_overflow_nor_vanish():
    np.testing.assert_allclose(class_weights([10**6, 10**7], 20.0), [11.0, 0.0], rtol=1e-6, atol=1e-18)
    np.testing.assert_allclose(class_weights([10**6, 10**7], -20.0), [0.0, 1.1], rtol=1e-6, atol=1e-18)


@pytest.mark.parametrize(
    ("dynamics", "exponent"), [(uj.Descent(0.1), np.log1p(-1e-3)), (uj.Flow(0.1), -0.01)], ids=["descent", "flow"]
)
def test_lengths_of_spherical_features_fade_as_a_run_shows(dynamics, exponent):
    model = uj.spherical(uj.balanced(C, 2), P, decay=0.01)
    start = uj.State(3 * H[:6], W, B)
    found = uj.limit(model, dynamics, start)
    assert float(found.exponent) == pytest.approx(exponent, rel=1e-12)
    assert found.side == "shrinks" and "length shrinks" in repr(found) and "converges" not in repr(found)
    run = uj.exact(model, dynamics, start, [1500, 1501], "log_norm_H")["log_norm_H"]
    zeta = 1.0 if isinstance(dynamics, uj.Descent) else 0.1
    assert float(np.diff(run)[0]) == pytest.approx(exponent * zeta, rel=2e-3)


def test_a_limit_says_what_its_norm_does():
    start, labels = uj.State(H[:6], W, B), uj.balanced(C, 2)
    for model, dynamics, side in [
        (uj.spherical(labels, P), uj.Flow(), "converges"),
        (uj.anchored(labels, P, decay=0.1), uj.Flow(), "converges"),
        (uj.anchored(labels, P), uj.Flow(), "grows"),
        (uj.anchored(labels, P, decay=0.1), uj.Descent(30.0), "grows"),
    ]:
        found = uj.limit(model, dynamics, start)
        assert found.side == side and "-0;" not in repr(found) and "-0 " not in repr(found)
    assert float(found.exponent) == pytest.approx(np.log(2), rel=1e-12)  # |1 - 30 * 0.1| = 2 each update
