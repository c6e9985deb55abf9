"""Lyapunov exponents of descents that remember: the whole state is followed, whatever the segments."""

import jax
import numpy as np
import optax
import oracles
import pytest

import unhinged_jax as uj

C, P = 3, 2
COUNTS = uj.from_counts([2, 1, 1])


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def signal():
    return oracles.signal_matrix(COUNTS.weights, oracles.one_hot(COUNTS.index, C), 0.7)


def update(eta, beta, nesterov):
    """One update of (H, W, velocity) in every feature dimension, written out."""
    K = oracles.generator(signal(), None, (0.3, 0.1), (1.0, 1.0))
    one = np.eye(len(K))
    velocity = np.concatenate([K, beta * one], axis=1)
    look = np.concatenate([K, np.zeros_like(K)], axis=1) + beta * velocity if nesterov else velocity
    return np.concatenate([np.concatenate([one, np.zeros_like(K)], axis=1) + eta * look, velocity])


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_part_of_what_is_stretched(nesterov):
    model = uj.regularized(COUNTS, P, decay=(0.3, 0.1), gamma=0.7)
    descent = uj.Descent(0.5, momentum=0.6, nesterov=nesterov)
    want = np.log(np.max(np.abs(np.linalg.eigvals(update(0.5, 0.6, nesterov)))))
    # Every direction but the top ones falls behind by a factor of e^-0.05 or less per update.
    state = model.init(jax.random.key(1)).replace(log_scale=3.0)
    for segments in (5, 20):
        found = uj.lyapunov(model, descent, state, 1200, P, segments=segments, transient=segments * 3 // 5)
        np.testing.assert_allclose(found.exponents, want, atol=1e-9)


def test_directions_of_a_linear_dynamics_ask_for_no_state():
    """Those at a state of zeros are those at any other, and at any scale, with momentum and a bias."""
    model = uj.regularized(COUNTS, P, decay=(0.3, 0.1), gamma=0.7, bias=True)
    state = model.init(jax.random.key(1), precision="float64")
    zeros = jax.tree.map(lambda leaf: 0 * leaf, state)
    want, *others = (
        uj.lyapunov(model, uj.Descent(0.5, momentum=0.6), at, 8, 3, segments=2, transient=0).history
        for at in (state, zeros, state.replace(log_scale=3000.0))
    )
    for found in others:
        np.testing.assert_allclose(found, want, rtol=1e-9)


def test_the_memory_of_an_optimiser_goes_on_from_segment_to_segment():
    """Sums of logarithms over segments are the logarithm of the whole stretch, and that is of differences of runs."""
    model = uj.regularized(COUNTS, P, decay=0.1, loss="cross_entropy", bias=True)
    rng = np.random.default_rng(3)
    state = uj.State(rng.normal(size=(4, P)), rng.normal(size=(C, P)), rng.normal(size=C))
    sums = []
    for segments in (1, 4):
        found = uj.lyapunov(
            model, uj.Descent(0.1, optimizer=optax.adam(0.3)), state, 12, 2, segments=segments, transient=0
        )
        sums.append(found.history.mean(axis=0))
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-9)
    assert found.history.shape == (4, 2)


def test_a_run_that_goes_on_is_pushed_with_its_memory():
    """A tangent at update 5 of a run with momentum, against differences of runs that go on."""
    model = uj.regularized(COUNTS, P, decay=0.1, gamma=0.7)
    rng = np.random.default_rng(2)
    state, step = (uj.State(rng.normal(size=(4, P)), rng.normal(size=(C, P)), np.zeros(C)) for _ in range(2))
    descent = uj.Descent(0.4, momentum=0.5)
    before = uj.simulate(model, descent, state, [5], ())
    run, pushed = uj.push_forward(model, descent, before, [9], step)
    assert int(run.elapsed) == 9
    velocity = {name: np.asarray(part) for name, part in before.memory.items()}
    M = signal()

    def end(sign):
        H, W = (np.asarray(getattr(before.final, n)) + sign * getattr(step, n) for n in "HW")
        V, U = velocity["H"].copy(), velocity["W"].copy()
        for _ in range(4):
            dH, dW = M @ W - 0.1 * H, M.T @ H - 0.1 * W
            V, U = 0.5 * V - dH, 0.5 * U - dW
            H, W = H - 0.4 * V, W - 0.4 * U
        return H, W

    for name, up, down in zip("HW", end(1.0), end(-1.0), strict=True):
        np.testing.assert_allclose(getattr(pushed, name), (up - down) / 2, rtol=1e-9, atol=1e-12)
        assert getattr(run.final, name) == pytest.approx((up + down) / 2, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("move", ["both", "features", "prototypes"])
def test_spectrum_of_fewer_samples_than_classes(samples, move):
    labels = uj.soft(np.eye(C)[:samples])
    model = {
        "both": uj.regularized(labels, P, decay=(0.3, 0.1), gamma=0.7),
        "features": uj.anchored(labels, P, decay=0.3, gamma=0.7),
        "prototypes": uj.frozen(labels, P, decay=0.1, gamma=0.7),
    }[move]
    M = oracles.signal_matrix(np.full(samples, 1 / samples), np.eye(C)[:samples], 0.7)
    A = oracles.generator(M, None, (0.3, 0.1), (0.7, 1.4))
    A = {"both": A, "features": A[:samples, :samples], "prototypes": A[samples:, samples:]}[move]
    want = np.sort(np.repeat(np.linalg.eigvals(A).real, P))[::-1]
    found = uj.exact_exponents(model, uj.Flow(rate_H=0.7, rate_W=1.4))
    np.testing.assert_allclose(found, want, atol=1e-12)


def test_what_has_no_single_exponent_is_refused():
    model = uj.regularized(COUNTS, P, decay=0.1)
    with pytest.raises(uj.NoClosedForm, match="constant rate"):
        uj.exact_exponents(model, uj.Descent(uj.cosine(0.5, horizon=9)))
    with pytest.raises(ValueError, match="the run stops between 0 and 3000: overflow"):
        uj.lyapunov(
            uj.unconstrained(COUNTS, P), uj.Descent(9.0, momentum=0.1), model.init(jax.random.key(0)), 3000, 1,
            segments=1,
        )  # fmt: skip
