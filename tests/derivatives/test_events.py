"""Event times against closed forms and shifted roots."""

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


MODEL = uj.frozen(uj.balanced(3, 2), 4, decay=0.2)
GRID = np.linspace(0.0, 30.0, 61)


def start():
    rng = np.random.default_rng(0)
    return uj.State(rng.normal(size=(6, 4)), 3 * rng.normal(size=(3, 4)), np.zeros(3))


def norm_of_W(decay, t):
    """W(t) = e^{-lambda t} W_0 + (1 - e^{-lambda t})/lambda M^T H, the closed form of frozen features."""
    M = (1.5 * np.repeat(np.eye(3), 2, axis=0) - 0.5) / 6
    fade = np.exp(-decay * t)
    return np.linalg.norm(fade * start().W + (1 - fade) / decay * (M.T @ start().H))


def root(decay, level):
    return brentq(lambda t: norm_of_W(decay, t) - level, 0, 6, xtol=1e-14, rtol=1e-14)


def when(x, flow=None, **how):
    """The time at which ||W|| falls to x[1] under decay x[0]."""
    model = MODEL.replace(decay=(0.0, x[0]))
    return uj.event_time(
        model, flow or uj.Flow(), start(), "norm_W", x[1], times=GRID, direction="below", **how
    )  # fmt: skip


X, H = np.array([0.2, 5.5]), 1e-4


def test_time_slope_and_gradient_equal_those_of_a_scalar_root():
    """Derivatives in decay and level against central differences of SciPy's brentq on the closed form."""

    def time(x):
        found = when(x)
        return found.time, found

    slope, found = jax.jit(jax.jacfwd(time, has_aux=True))(X)
    assert bool(found.happened)
    assert float(found.time) == pytest.approx(root(*X), rel=1e-12)
    near = (norm_of_W(0.2, root(*X) + H) - norm_of_W(0.2, root(*X) - H)) / (2 * H)
    assert float(found.slope) == pytest.approx(near, rel=1e-6)
    for i, e in enumerate(np.eye(2) * H):
        assert float(slope[i]) == pytest.approx((root(*(X + e)) - root(*(X - e))) / (2 * H), rel=1e-6)


@pytest.mark.long
def test_a_simulated_time_has_the_same_gradient_in_reverse_mode():
    def time(decay):
        return when([decay, 5.5], uj.Flow(rtol=1e-11), method="simulate").time

    found, slope = jax.jit(jax.value_and_grad(time))(0.2)
    assert float(found) == pytest.approx(root(*X), rel=1e-8)
    assert float(slope) == pytest.approx((root(0.2 + H, 5.5) - root(0.2 - H, 5.5)) / (2 * H), rel=1e-6)


@pytest.mark.long
def test_a_descent_says_the_update_and_interpolates_between():
    model = uj.unconstrained(uj.balanced(3, 2), 4)
    state = model.init(jax.random.key(5))
    found = uj.event_time(model, uj.Descent(0.2), state, "accuracy is 1", times=[0, 200])
    margins = np.asarray(uj.exact(model, uj.Descent(0.2), state, np.arange(201), "accuracy_margin")["accuracy_margin"])
    first = int(np.argmax(margins >= 0))
    assert first > 0 and int(found.updates) == first
    rise = margins[first] - margins[first - 1]  # an update
    assert float(found.time) == pytest.approx(first - margins[first] / rise, rel=1e-12)
    assert float(found.slope) == pytest.approx(rise, rel=1e-12)
    fading = uj.regularized(uj.balanced(3, 2), 4, decay=0.5)
    norms = np.asarray(uj.exact(fading, uj.Descent(0.2), state, np.arange(21), "norm")["norm"])
    level = 0.3 * norms[9] + 0.7 * norms[10]
    falls = uj.event_time(fading, uj.Descent(0.2), state, "norm", level, times=[0, 20], direction="below")
    assert int(falls.updates) == 10 and float(falls.time) == pytest.approx(9.7, rel=1e-12)
    assert float(falls.slope) == pytest.approx(norms[10] - norms[9], rel=1e-12)
    never = uj.event_time(model, uj.Descent(0.2), state, "norm", 1e30, times=[0, 200])
    assert not bool(never.happened) and np.isinf(never.time)
    at_once = uj.event_time(model, uj.Descent(0.2), state, "norm", 1e-3, times=[0, 200])
    assert float(at_once.time) == 0 and float(at_once.slope) == 0 and int(at_once.updates) == 0


def test_what_holds_from_the_start_happens_then_and_bad_requests_are_refused():
    model, state = MODEL, start()
    found = uj.event_time(model, uj.Flow(), state, "norm_W", 1.0, times=GRID)
    assert bool(found.happened) and float(found.time) == 0.0
    with pytest.raises(ValueError, match="give the level"):
        uj.event_time(model, uj.Flow(), state, "norm_W", times=GRID)
    with pytest.raises(ValueError, match="has its level"):
        uj.event_time(model, uj.Flow(), state, "accuracy is 1", 0.5, times=GRID)
    with pytest.raises(ValueError, match="unknown event"):
        uj.event_time(model, uj.Flow(), state, "happiness", 0.5, times=GRID)
    assert jnp.isfinite(found.slope)
