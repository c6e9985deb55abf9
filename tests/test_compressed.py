"""The smaller problem that `exact` observes balanced classes on has the observables of the problem itself."""

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


@pytest.mark.parametrize("dim", [3, 30], ids=["narrow", "wide"])
def test_every_observable_is_that_of_the_states(dim):
    model, state = problem(dim)
    times = [0.0, 3.0, 40.0, 200.0]
    seen = uj.exact(model, uj.Flow(), state, times, uj.all_observables)
    # States switch the smaller problem off, and a state alone knows nothing of it.
    whole = uj.exact(model, uj.Flow(), state, times, uj.all_observables, states=True)
    assert len(seen.observables) > 40
    for name, values in seen.observables.items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-10, atol=1e-13, err_msg=name)
    for k in range(len(times)):
        alone = uj.observe_state(model, jax.tree.map(lambda leaf, k=k: leaf[k], whole.states))
        for name, value in alone.items():
            np.testing.assert_allclose(seen[name][k], value, rtol=1e-9, atol=1e-12, err_msg=name)


def test_derivatives_leave_the_span_of_the_start():
    """Moved out of that span, a state changes its observables to second order, which the smaller problem cannot see."""
    model, state = problem(30)
    rng = np.random.default_rng(5)
    out = rng.normal(size=state.H.shape)

    def norm(shift):
        moved = state.replace(H=state.H + shift * out)
        run = uj.exact(model, uj.Flow(), moved, [7.0], ("norm", "nc1"))
        return jnp.stack([run["norm"][0], run["nc1"][0]])

    first, second = jax.jacfwd(norm)(0.0), jax.jacfwd(jax.jacrev(norm))(0.0)
    step = 1e-3
    below, here, above = norm(-step), norm(0.0), norm(step)
    np.testing.assert_allclose(first, (above - below) / (2 * step), rtol=1e-5)
    np.testing.assert_allclose(second, (above - 2 * here + below) / step**2, rtol=1e-4)
