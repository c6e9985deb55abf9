"""The linearised flow map, Lyapunov exponents and curvature against whole matrices."""

import jax
import numpy as np
import oracles
import pytest

import unhinged_jax as uj

C, P = 3, 2


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


COUNTS = uj.from_counts([2, 1, 1])
MODEL = uj.regularized(COUNTS, P, decay=(0.3, 0.1), gamma=0.7)


def signal():
    return oracles.signal_matrix(COUNTS.weights, oracles.one_hot(COUNTS.index, C), 0.7)


def test_spectrum_is_that_of_the_whole_matrix():
    A = oracles.generator(signal(), None, (0.3, 0.1), (0.7, 1.4))
    want = np.sort(np.repeat(np.linalg.eigvals(A).real, P))[::-1]
    flow = uj.Flow(rate_H=0.7, rate_W=1.4)
    np.testing.assert_allclose(uj.exact_exponents(MODEL, flow), want, atol=1e-12)
    descent = uj.Descent(0.3, rate_H=0.7, rate_W=1.4)
    per_update = np.sort(np.log(np.abs(1 + 0.3 * want)))[::-1]
    np.testing.assert_allclose(uj.exact_exponents(MODEL, descent), per_update, atol=1e-12)
    with pytest.raises(uj.NoClosedForm, match="momentum"):
        uj.exact_exponents(MODEL, uj.Descent(0.3, momentum=0.5))


# A solver's steps follow the state, which grows steady, and not the tangents: those of a flow are less exact.
@pytest.mark.long_for("dynamics0-5e-05")
@pytest.mark.parametrize(("dynamics", "bound"), [(uj.Flow(rtol=1e-10), 5e-5), (uj.Descent(0.5), 1e-5)])
def test_lyapunov_exponents_of_a_linear_dynamics_are_its_spectrum(dynamics, bound):
    found = uj.lyapunov(MODEL, dynamics, MODEL.init(jax.random.key(1)), 400, 6, segments=40, transient=30)
    want = uj.exact_exponents(MODEL, dynamics, 6)
    assert found.history.shape == (40, 6)
    np.testing.assert_allclose(found.exponents, want, atol=bound)
    # the last one has neighbours below that are not followed; all gaps here are wide
    assert np.ptp(want) > 0.1


def test_a_tangent_is_pushed_like_a_difference_of_runs():
    model = uj.regularized(COUNTS, P, decay=0.1, loss="cross_entropy", bias=True)
    rng = np.random.default_rng(2)
    state, step = (uj.State(rng.normal(size=(4, P)), rng.normal(size=(C, P)), rng.normal(size=C)) for _ in range(2))
    run, pushed = uj.push_forward(model, uj.Descent(0.4), state, [30], step)
    assert int(run.steps) == 30
    h = 1e-5

    def end(sign):
        moved = uj.State(state.H + sign * h * step.H, state.W + sign * h * step.W, state.b + sign * h * step.b)
        return uj.simulate(model, uj.Descent(0.4), moved, [30], ()).final

    up, down = end(1), end(-1)
    for name in ("H", "W", "b"):
        want = (getattr(up, name) - getattr(down, name)) / (2 * h)
        np.testing.assert_allclose(getattr(pushed, name), want, rtol=1e-6, atol=1e-8)


def test_curvature_is_that_of_the_blocks_and_matrix_free():
    """Eigenvalues (l1+l2)/2 +- sqrt((l1-l2)^2/4 + sigma^2) of the bilinear loss; small and large problems."""
    for dim in (P, 12):
        model = uj.regularized(COUNTS, dim, decay=(0.3, 0.1), gamma=0.7)
        sigma = np.linalg.svd(signal(), compute_uv=False)
        root = np.sqrt(0.01 + sigma**2)
        every = np.sort(np.concatenate([0.2 + root, 0.2 - root, [0.3] * (len(COUNTS.index) - C)]))
        found = uj.hessian_spectrum(model, model.init(jax.random.key(0)), count=4)
        assert found[0] == pytest.approx(every[0], abs=1e-10)
        assert found[-1] == pytest.approx(every[-1], abs=1e-10)
        assert np.all(np.min(np.abs(found[:, None] - every), axis=1) < 1e-9)


def test_curvature_along_a_path_of_cross_entropy_is_that_of_the_dense_hessian():
    model = uj.regularized(COUNTS, P, decay=0.05, loss="cross_entropy")
    run = uj.simulate(model, uj.Descent(0.5), model.init(jax.random.key(2)), [0, 40], (), states=True)
    found = uj.hessian_spectrum(model, run.states, count=2)
    for i in (0, 1):
        H, W, b = run.states.H[i], run.states.W[i], run.states.b[i]
        size = H.size

        def objective(z, b=b, size=size):
            H, W = z[:size].reshape(-1, P), z[size:].reshape(C, P)
            return model.data_loss(H, W, b) + 0.05 * (z @ z) / 2

        dense = np.linalg.eigvalsh(jax.hessian(objective)(np.concatenate([H.ravel(), W.ravel()])))
        np.testing.assert_allclose(found[i], dense[[0, -1]], atol=1e-10)


def test_counts_out_of_range_are_refused():
    state = MODEL.init(jax.random.key(0))
    with pytest.raises(ValueError, match="count must be at most 14"):
        uj.lyapunov(MODEL, uj.Flow(), state, 10.0, 15)
    with pytest.raises(ValueError, match="until must lie after the start of the run"):
        uj.lyapunov(MODEL, uj.Flow(), state, 0.0, 1)
    with pytest.raises(ValueError, match="equal segments"):
        uj.lyapunov(MODEL, uj.Descent(0.1), state, 33, 1, segments=10)
    with pytest.raises(ValueError, match="less than 14"):
        uj.hessian_spectrum(MODEL, state, count=14)
