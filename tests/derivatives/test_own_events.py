"""Events of one's own, and the first of several, beside SciPy's roots of closed forms and NumPy loops."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

import unhinged_jax as uj


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


DECAY, GRID = 0.2, np.linspace(0.0, 30.0, 31)
MODEL = uj.frozen(uj.balanced(3, 2), 4, decay=DECAY)
M = (1.5 * np.repeat(np.eye(3), 2, axis=0) - 0.5) / 6
RNG = np.random.default_rng(0)
START = uj.State(RNG.normal(size=(6, 4)), 3 * RNG.normal(size=(3, 4)), np.zeros(3))


def W_at(t, decay=DECAY):
    """The closed form of frozen features."""
    fade = np.exp(-decay * t)
    return fade * START.W + (1 - fade) / decay * (M.T @ START.H)


def root(function, level, decay=DECAY):
    return brentq(lambda t: function(W_at(t, decay)) - level, 0, 4.4, xtol=1e-14, rtol=1e-14)


def corner(W):
    return W[0, 0] ** 2 + W[1, 1] ** 2


class Corner(eqx.Module):
    """An observable whose number is data."""

    times: jax.Array

    def __call__(self, model, state):
        return self.times * corner(jnp.exp(state.log_scale) * state.W)


def own(model, state):
    return corner(jnp.exp(state.log_scale) * state.W)


NORM, LOW = float(np.linalg.norm(W_at(4.0))), float(corner(W_at(3.0)))


@pytest.mark.parametrize("method", ["exact", pytest.param("simulate", marks=pytest.mark.long)])
def test_a_function_of_ones_own_with_its_derivatives(method):
    def time(decay, level, times):
        model, event = MODEL.replace(decay=(0.0, decay)), Corner(times)
        flow = uj.Flow(rtol=1e-11)
        return uj.event_time(model, flow, START, event, level, times=GRID, direction="below", method=method).time

    at = (DECAY, LOW, 1.0)
    found, slopes = jax.jit(jax.value_and_grad(time, argnums=(0, 1, 2)))(*at)
    close = 1e-11 if method == "exact" else 1e-8
    assert float(found) == pytest.approx(root(corner, LOW), rel=close) == pytest.approx(3.0, rel=close)
    h = 1e-5
    by_decay = (root(corner, LOW, DECAY + h) - root(corner, LOW, DECAY - h)) / (2 * h)
    by_level = (root(corner, LOW + h) - root(corner, LOW - h)) / (2 * h)
    np.testing.assert_allclose(slopes, [by_decay, by_level, -LOW * by_level], rtol=1e-5)


@pytest.mark.long
def test_the_first_of_several_flows():
    events, directions = [own, "norm_W"], ["below", "below"]

    def first(levels):
        found = uj.event_time(MODEL, uj.Flow(), START, events, list(levels), times=GRID, direction=directions)
        return found.time, found

    slope, found = jax.jacfwd(first, has_aux=True)((LOW, NORM))
    assert int(found.which) == 0 and float(found.time) == pytest.approx(3.0, rel=1e-11)
    h = 1e-5
    assert float(slope[0]) == pytest.approx((root(corner, LOW + h) - root(corner, LOW - h)) / (2 * h), rel=1e-5)
    assert float(slope[1]) == 0.0
    _, found = first((LOW / 3, NORM))
    assert int(found.which) == 1 and float(found.time) == pytest.approx(4.0, rel=1e-11)
    _, never = first((-1.0, -1.0))
    assert not bool(never.happened) and np.isinf(never.time)


@pytest.mark.long
def test_the_first_of_several_descents():
    descent, W, walk = uj.Descent(0.3), START.W, []
    for _ in range(40):
        walk.append(W)
        W = W + 0.3 * (M.T @ START.H - DECAY * W)
    corners, norms = np.array([corner(W) for W in walk]), np.array([np.linalg.norm(W) for W in walk])
    levels = [0.6 * corners[8] + 0.4 * corners[9], 0.3 * norms[8] + 0.7 * norms[9]]  # both between the same updates
    found = uj.event_time(MODEL, descent, START, [own, "norm_W"], levels, times=[0, 30], direction="below")
    assert int(found.which) == 0 and int(found.updates) == 9
    assert float(found.time) == pytest.approx(8.4, rel=1e-11)
    assert float(found.slope) == pytest.approx(corners[9] - corners[8], rel=1e-10)
    named = uj.event_time(MODEL, descent, START, ["accuracy is 1", own], [None, -1.0], times=[0, 30], direction="below")
    alone = uj.event_time(MODEL, descent, START, "accuracy is 1", times=[0, 30])
    assert bool(named.happened) == bool(alone.happened)
    assert float(named.time) == pytest.approx(float(alone.time), rel=1e-13)


@pytest.mark.long
def test_a_batch_of_levels_in_simulated_runs_is_every_one_of_them():
    """Lanes end at different steps; one holds from the first time on, one has no event, one meets the other event."""

    def first(level, low):
        return uj.event_time(
            MODEL, uj.Flow(rtol=1e-11), START, [own, "norm_W"], [low, level], times=[1.0, 9.0], direction="below",
            method="simulate",
        )  # fmt: skip

    norms = [float(np.linalg.norm(W_at(t))) for t in (0.5, 2.0, 4.0)]
    levels, lows = np.array([*norms, -1.0]), np.array([LOW, LOW, LOW, -1.0])
    found = jax.vmap(first)(levels, lows)
    assert found.happened.tolist() == [True, True, True, False]
    assert found.which.tolist() == [1, 1, 0, 0]
    np.testing.assert_allclose(found.time, [1.0, 2.0, 3.0, np.inf], rtol=1e-8)


def test_a_simulated_event_is_found_in_one_integration_and_corrected_by_another(monkeypatch):
    solves = []
    solve = diffrax.diffeqsolve
    monkeypatch.setattr(diffrax, "diffeqsolve", lambda *a, **k: solves.append(k["event"]) or solve(*a, **k))

    def bump(model, state):
        W = jnp.exp(state.log_scale) * state.W
        return -((corner(W) - LOW) ** 2)  # touches 0 at the time 3 and is below it before and after

    settings = {"direction": "above", "method": "simulate"}
    step = 1e-3  # far below a step of the solver, which would pass over the bump
    found = uj.event_time(MODEL, uj.Flow(), START, bump, -1e-8, times=[0.0, 3.0, 9.0], **settings)
    assert len(solves) == 2
    assert bool(found.happened) and 3 - step < float(found.time) < 3
    assert not bool(uj.event_time(MODEL, uj.Flow(), START, bump, -1e-8, times=[0.0, 2.0, 9.0], **settings).happened)


@pytest.mark.long
def test_a_batch_of_levels():
    def first(level):
        return uj.event_time(MODEL, uj.Flow(), START, [own, "norm_W"], [LOW, level], times=GRID, direction="below")

    levels = np.array([float(np.linalg.norm(W_at(t))) for t in (2.0, 4.0)])
    found = jax.vmap(first)(levels)
    assert found.which.tolist() == [1, 0]
    np.testing.assert_allclose(found.time, [2.0, 3.0], rtol=1e-11)


WRONG = {
    "number": ((3, 0.5), {}, "a function .model, state. -> one number, or a list"),
    "empty": (([], []), {}, "at least one event"),
    "no level": ((own,), {}, "give the level that 'your event'"),
    "array": ((lambda model, state: state.W, 0.5), {}, "must return one number"),
    "levels": ((["norm_W", own], [1.0]), {}, "level must hold one entry for each of the 2 events"),
    "directions": ((["norm_W", own], [1.0, 2.0]), {"direction": ["above"]}, "direction must hold one entry"),
    "flat": ((["accuracy", own], [1.0, 2.0]), {}, "accuracy is piecewise constant and cannot be searched beside"),
    "twice": ((["norm_W", "norm_W"], [1.0, 2.0]), {}, "one level only"),
}


@pytest.mark.parametrize(("asked", "settings", "says"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_searched_is_refused(asked, settings, says):
    with pytest.raises(ValueError, match=says):
        uj.event_time(MODEL, uj.Flow(), START, *asked, times=GRID, **settings)


def test_an_event_without_a_value_before_the_search_is_searched():
    """A cosine of features that begin at 0 has no value at the start of the run, which is before the search."""
    model = uj.unconstrained(uj.balanced(3, 4), dim=5)
    state = model.init(jax.random.key(0), precision="float64")

    def cosine(model, state):
        h, w = state.H[0], state.W[0]
        return h @ w / (jnp.linalg.norm(h) * jnp.linalg.norm(w))

    begin = state.replace(H=0 * state.H)
    found = uj.event_time(model, uj.Flow(), begin, cosine, 2.0, times=[1.0, 2.0, 3.0], method="simulate")
    assert not found.happened and found.time == np.inf
