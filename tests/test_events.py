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


def test_time_slope_and_both_derivatives_equal_those_of_a_scalar_root():
    """The time at which ||W|| falls to a level; derivatives in level and decay from central differences of brentq."""

    def root(decay, level):
        return brentq(lambda t: norm_of_W(decay, t) - level, 0, 30, xtol=1e-14, rtol=1e-14)

    def when(x):
        return uj.event_time(
            MODEL.replace(decay=(0.0, x[0])), uj.Flow(), start(), "norm_W", x[1], times=GRID, direction="below"
        )

    x, h = np.array([0.2, 5.0]), 1e-4
    found, slope, curvature = jax.jit(
        lambda x: (when(x), jax.grad(lambda x: when(x).time)(x), jax.hessian(lambda x: when(x).time)(x))
    )(x)
    assert bool(found.happened)
    assert float(found.time) == pytest.approx(root(*x), rel=1e-12)
    near = (norm_of_W(0.2, root(*x) + h) - norm_of_W(0.2, root(*x) - h)) / (2 * h)
    assert float(found.slope) == pytest.approx(near, rel=1e-6)
    for i, e in enumerate(np.eye(2) * h):
        assert float(slope[i]) == pytest.approx((root(*(x + e)) - root(*(x - e))) / (2 * h), rel=1e-6)
        twice = (root(*(x + 10 * e)) - 2 * root(*x) + root(*(x - 10 * e))) / (10 * h) ** 2
        assert float(curvature[i, i]) == pytest.approx(twice, rel=1e-4)


def test_simulated_and_exact_times_and_gradients_agree():
    def when(decay, method):
        model = MODEL.replace(decay=(0.0, decay))
        flow = uj.Flow(rtol=1e-11)
        return uj.event_time(model, flow, start(), "norm_W", 5.0, times=GRID, direction="below", method=method).time

    (ours, slope), (truth, want) = (
        jax.jit(jax.value_and_grad(lambda d, method=method: when(d, method)))(0.2) for method in ("simulate", "exact")
    )
    assert float(ours) == pytest.approx(float(truth), rel=1e-8)
    assert float(slope) == pytest.approx(float(want), rel=1e-6)


def test_a_descent_says_the_update_and_interpolates_between():
    model = uj.unconstrained(uj.balanced(3, 2), 4)
    state = model.init(jax.random.key(5))
    found = uj.event_time(model, uj.Descent(0.2), state, "accuracy is 1", times=[0, 200])
    margins = np.asarray(uj.exact(model, uj.Descent(0.2), state, np.arange(201), "accuracy_margin")["accuracy_margin"])
    first = int(np.argmax(margins >= 0))
    assert first > 0 and int(found.updates) == first
    assert float(found.time) == pytest.approx(first - margins[first] / (margins[first] - margins[first - 1]), rel=1e-12)
    never = uj.event_time(model, uj.Descent(0.2), state, "norm", 1e30, times=[0, 200])
    assert not bool(never.happened) and np.isinf(never.time)


def test_what_holds_from_the_start_happens_then_and_bad_requests_are_refused():
    model, state = MODEL, start()
    found = uj.event_time(model, uj.Flow(), state, "norm_W", 1.0, times=GRID)
    assert bool(found.happened) and float(found.time) == 0.0
    with pytest.raises(ValueError, match="give the level"):
        uj.event_time(model, uj.Flow(), state, "norm_W", times=GRID)
    with pytest.raises(ValueError, match="has its level"):
        uj.event_time(model, uj.Flow(), state, "accuracy is 1", 0.5, times=GRID)
    with pytest.raises(ValueError, match="unknown observable"):
        uj.event_time(model, uj.Flow(), state, "happiness", 0.5, times=GRID)
    assert jnp.isfinite(found.slope)
