"""The smaller problem on which balanced classes are observed has the observables of the problem itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj

C, PER_CLASS = 4, 5


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def problem(dim, **settings):
    rng = np.random.default_rng(3)
    index = rng.permutation(np.repeat(np.arange(C), PER_CLASS))
    model = uj.regularized(uj.from_labels(index), dim, decay=0.01, **settings)
    assert model.labels.balanced
    H, W = rng.normal(size=(C * PER_CLASS, dim)), rng.normal(size=(C, dim))
    return model, uj.State(H, W, rng.normal(size=C))


@pytest.mark.long
@pytest.mark.parametrize("solve", [uj.exact, uj.simulate])
@pytest.mark.parametrize("dim", [3, 30], ids=["narrow", "wide"])
def test_every_observable_is_that_of_the_states(solve, dim):
    model, state = problem(dim)
    times = [0, 3, 20, 60]  # later, float64 does not hold the sum of the prototypes beside their norm
    seen = solve(model, uj.Descent(0.9), state, times, uj.all_observables)
    # States switch the smaller problem off, and a state alone knows nothing of it.
    whole = solve(model, uj.Descent(0.9), state, times, uj.all_observables, states=True)
    assert len(seen.observables) > 40
    for name, values in seen.observables.items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-10, atol=1e-13, err_msg=name)
    for k in range(len(times)):
        alone = uj.observe_state(model, jax.tree.map(lambda leaf, k=k: leaf[k], whole.states))
        for name, value in alone.items():
            np.testing.assert_allclose(seen[name][k], value, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.long
@pytest.mark.parametrize("solve", [uj.exact, uj.simulate])
def test_derivatives_leave_the_span_of_the_start(solve):
    """Moved out of that span, a state changes its observables to second order, which the smaller problem cannot see."""
    model, state = problem(30)
    rng = np.random.default_rng(5)
    out = rng.normal(size=state.H.shape)

    def norm(shift):
        moved = state.replace(H=state.H + shift * out)
        run = solve(model, uj.Descent(0.9), moved, [7], ("norm", "nc1"))
        return jnp.stack([run["norm"][0], run["nc1"][0]])

    first, second = jax.jacfwd(norm)(0.0), jax.jacfwd(jax.jacrev(norm))(0.0)
    step = 1e-3
    below, here, above = norm(-step), norm(0.0), norm(step)
    np.testing.assert_allclose(first, (above - below) / (2 * step), rtol=1e-5)
    np.testing.assert_allclose(second, (above - 2 * here + below) / step**2, rtol=1e-4)


@pytest.mark.parametrize("momentum", [None, 0.8])
def test_two_columns_of_the_identity_tell_what_the_update_makes_of_all(momentum):
    """Against a plain loop over all rows, rates and decays of their own on both sides."""
    model, state = problem(6)
    model = model.replace(decay_H=0.02, decay_W=0.005, bias=True)
    descent = uj.Descent(0.7, rate_H=1.3, rate_W=0.4, momentum=momentum)
    run = uj.simulate(model, descent, state, [25])
    M = np.asarray(model.signal().dense("float64"))
    parts = [np.array(state.H), np.array(state.W), np.array(state.b)]
    trace = [np.zeros_like(part) for part in parts]
    for _ in range(25):
        H, W, b = parts
        moves = [M @ W - 0.02 * H, M.T @ H - 0.005 * W, M.sum(axis=0) - 0.005 * b]
        trace = [move + (momentum or 0.0) * old for move, old in zip(moves, trace, strict=True)]
        parts = [x + 0.7 * r * v for x, r, v in zip(parts, (1.3, 0.4, 0.4), trace, strict=True)]
    for got, want in zip((run.final.H, run.final.W, run.final.b), parts, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)


def test_lanes_of_a_sweep_are_the_runs_alone():
    """One lane diverges and stops; those beside it go on to the end."""
    model, state = problem(5)
    steps = [0, 30, 900]

    def run(eta):
        # The squared error is not homogeneous, so steps too long for it overflow and end the run.
        out = uj.simulate(model.replace(loss=uj.losses.MSE()), uj.Descent(eta), state, steps, ("norm", "loss"))
        return out["norm"], out.code

    etas = jnp.asarray([0.1, 300.0, 0.3])
    norms, codes = jax.jit(jax.vmap(run))(etas)
    assert codes.tolist() == [0, codes[1].item(), 0] and codes[1] != 0
    assert np.isnan(norms[1, -1]) and np.all(np.isfinite(norms[::2]))
    for lane in (0, 2):
        np.testing.assert_allclose(norms[lane], run(etas[lane])[0], rtol=1e-12)
