"""`limit` where a run comes to rest before it gets anywhere: schedules of finite integral, lengths that change fast."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax.schedules import cosine, exponential, join, numeric, piecewise, polynomial, warmup
from unhinged_jax.schedules.total import remaining

C, P = 3, 4
LABELS = uj.from_counts([2, 2, 1])
RNG = np.random.default_rng(4)
START = uj.State(0.2 * RNG.normal(size=(5, P)), RNG.normal(size=(C, P)), np.zeros(C))
G = np.full((5, 1), 0.2) * ((1 + 0.3) * np.eye(C)[LABELS.index] - 0.3) @ START.W


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def unit(H):
    return H / np.linalg.norm(H, axis=1, keepdims=True)


def loop(H, q, eta, decay, updates):
    """Spherical descent by its definition."""
    for _ in range(updates):
        length = np.linalg.norm(H, axis=1, keepdims=True)
        e = H / length
        H = H + eta * (length ** (q - 1) * (G - e * np.sum(G * e, axis=1, keepdims=True)) - decay * H)
    return H


@pytest.mark.parametrize("log_scale", [0.0, 0.7])
def test_features_whose_lengths_shrink_fast_come_to_rest_before_their_targets(log_scale):
    model = uj.spherical(LABELS, P, gamma=0.3, rescale=3.0, decay=0.1)
    start = uj.State(START.H * np.exp(-log_scale), START.W * np.exp(-log_scale), START.b, log_scale)
    found = uj.limit(model, uj.Flow(), start)
    late = uj.exact(model, uj.Flow(), START, [300.0, 400.0], "log_distance_H")
    apart = np.asarray(late["log_distance_H"])
    assert apart[0] == pytest.approx(apart[1], abs=1e-12) and apart[1] > -3  # for ever
    assert float(found.rate) == 0 and "come to rest" in repr(found) and "short of their targets" in found.note
    np.testing.assert_allclose(found.direction.H, unit(np.asarray(late.final.H)), atol=1e-12)
    for q in (0.0, 1.0, 2.0):
        other = uj.limit(model.replace(rescale=q), uj.Flow(), start)
        assert float(other.rate) > 0 and other.note == ""
        np.testing.assert_allclose(other.direction.H, unit(G), atol=1e-14)


@pytest.mark.parametrize(
    ("q", "eta", "decay"),
    [(3.0, 0.5, 0.1), (2.5, 1.0, 0.1), (3.5, 0.3, 1.5), (0, 5.0, 0.5), (1, 9.0, 0.3), (0.5, 5.0, 0.7)],
)
def test_descents_come_to_rest_where_a_loop_does(q, eta, decay):
    """Also where lengths grow, because a step is more than twice the inverse decay, and the rescaling is weak."""
    model = uj.spherical(LABELS, P, gamma=0.3, rescale=q, decay=decay)
    found = uj.limit(model, uj.Descent(eta), START)
    assert float(found.rate) == 0 and "come to rest" in found.note
    H = loop(START.H, q, eta, decay, 2 * int(min(500, 100 / abs(np.log(abs(1 - eta * decay))))))
    np.testing.assert_allclose(found.direction.H, unit(H), atol=1e-7)
    assert ("sign changes" in found.note) == (eta * decay > 2)
    assert np.max(np.abs(unit(H) - unit(G))) > 0.01


@pytest.mark.parametrize(("eta", "decay"), [(0.3, 0.1), (1.9, 0.0), (9.0, 0.0), (8.0, 0.05), (3.0, 1.0), (0.7, 3.2)])
def test_the_rate_of_twice_rescaled_descent_is_that_of_a_loop_however_large_the_steps(eta, decay):
    model, aims = uj.spherical(LABELS, P, gamma=0.3, rescale=2, decay=decay), unit(G)
    found = uj.limit(model, uj.Descent(eta), START)

    def apart(updates):
        e = unit(loop(START.H, 2, eta, decay, updates))
        return np.linalg.norm(e - np.sum(e * aims, axis=1, keepdims=True) * aims, axis=1)

    if float(found.rate) > 0:
        late = 2 * int(6 / float(found.rate))
        slowest = np.min(np.log(apart(late) / apart(late + 8)) / 8)
        assert float(found.rate) == pytest.approx(slowest, rel=1e-3)
    else:
        assert np.max(apart(200)) > 1e-3 and "oscillate" in found.note


def test_lengths_that_a_descent_shrinks_make_its_steps_overshoot():
    model = uj.spherical(LABELS, P, gamma=0.3, rescale=0, decay=0.1)
    found = uj.limit(model, uj.Descent(0.5), START)
    assert "overshoot" in repr(found)
    worst = [np.max(np.abs(unit(loop(START.H, 0, 0.5, 0.1, k)) - unit(G))) for k in range(300, 420)]
    assert min(worst) < 1e-3 < 0.1 < max(worst)  # near the target, and thrown off it again


MODELS = {
    "regularized": uj.regularized(LABELS, P, gamma=0.3, decay=(0.05, 0.1), bias=True),
    "anchored": uj.anchored(LABELS, P, gamma=0.3, decay=0.05),
    "frozen": uj.frozen(LABELS, P, gamma=0.3),
    "spherical": uj.spherical(LABELS, P, gamma=0.3, rescale=1, decay=0.02),
}
ENDING = {
    "cosine": (cosine(0.4, horizon=20.0), 20.0),
    "exponential": (exponential(0.5, rate=0.1), 500.0),
    "straight line": (polynomial(0.4, horizon=30.0), 30.0),
    "pieces": (piecewise([0.4, 0.1, 0.0], [5.0, 9.0]), 9.0),
    "warmup": (warmup(4.0, cosine(0.4, horizon=20.0)), 24.0),
    "joined": (join([0.1, cosine(0.4, horizon=20.0), 0.0], [4.0, 9.0]), 9.0),
    "inverse power": (lambda t: 0.5 / (1 + t) ** 2, 1e9),
}


QUICK = [("cosine", "regularized"), ("inverse power", "spherical")]


@pytest.mark.long_for("cosine-regularized")
@pytest.mark.parametrize(
    ("how", "name"),
    [
        (how, name) if (how, name) in QUICK else pytest.param(how, name, marks=pytest.mark.long)
        for how in ("cosine", "inverse power")
        for name in MODELS
    ],
)
def test_a_schedule_of_finite_integral_ends_a_flow_where_it_is_by_then(how, name):
    model, (schedule, late) = MODELS[name], ENDING[how]
    found = uj.limit(model, uj.Flow(schedule), START)
    assert found.side == "stops" and "the run stops at" in repr(found)
    assert float(found.rate) == float(found.rate_H) == float(found.rate_W) == float(found.exponent) == 0
    last = uj.exact(model, uj.Flow(schedule), START, [late], ()).final
    parts = {"regularized": ("H", "W"), "anchored": ("H",), "frozen": ("W",), "spherical": ()}[name]
    size = np.sqrt(sum(np.sum(getattr(last, part) ** 2) for part in parts))
    for part in ("H", "W"):
        want = getattr(last, part) / size if part in parts else getattr(last, part)
        want = unit(want) if (part, name) == ("H", "spherical") else want
        np.testing.assert_allclose(getattr(found.direction, part), want, atol=2e-9)
    np.testing.assert_allclose(found.direction.b, last.b, atol=2e-9)


@pytest.mark.parametrize("how", [*ENDING])
@pytest.mark.parametrize("first", [0.0, 7.0])
def test_what_is_left_of_a_schedule(how, first):
    schedule, late = ENDING[how]
    schedule = numeric(schedule) if callable(schedule) and not hasattr(schedule, "integral") else schedule
    want = float(schedule.integral(late) - schedule.integral(first)) if how != "inverse power" else 0.5 / (1 + first)
    assert float(remaining(schedule, first)) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(
    "schedule",
    [
        cosine(0.4, 20.0, floor=1e-9), exponential(0.4, 0.0), polynomial(0.4, 5.0, final=1e-9), piecewise([0, 1], [3]),
        warmup(3.0, 0.1), join([cosine(0.4, 20.0), 1e-9], [3.0]), numeric(lambda t: 1 / (1 + t)),
        numeric(lambda t: 1 + jnp.cos(t)), numeric(lambda t: 1 / jnp.sqrt(1 + t)),
    ],
)  # fmt: skip
def test_what_is_left_of_schedules_that_go_on_is_infinite(schedule):
    assert np.isposinf(remaining(schedule, 2.0))


@pytest.mark.long
def test_a_run_that_goes_on_has_what_is_left_of_its_schedule():
    model, flow = MODELS["regularized"], uj.Flow(cosine(0.4, horizon=20.0))
    before = uj.exact(model, flow, START, [8.0], ())
    one, other = uj.limit(model, flow, before), uj.limit(model, flow, START)
    np.testing.assert_allclose(one.direction.H, other.direction.H, atol=1e-13)
    ended = uj.exact(model, uj.Descent(flow.schedule), START, [25], ())
    found = uj.limit(model, uj.Descent(flow.schedule), ended)
    assert found.side == "stops"
    np.testing.assert_allclose(
        found.direction.W, ended.final.W / np.linalg.norm(np.concatenate([ended.final.H, ended.final.W]))
    )


@pytest.mark.long
def test_limits_that_stop_are_traced_and_differentiated():
    model = MODELS["regularized"]

    def where(horizon):
        return uj.limit(model, uj.Flow(cosine(0.4, horizon=horizon)), START).direction.W[0, 0]

    slope = (where(20.0 + 1e-5) - where(20.0 - 1e-5)) / 2e-5
    for derivative in (jax.jit(jax.grad(where)), jax.jacfwd(where)):
        assert float(derivative(20.0)) == pytest.approx(float(slope), rel=1e-7)


def test_where_a_descent_rests_is_differentiated_in_both_modes():
    """Against differences, in the decay and in the start, and to second order."""
    sphere = uj.spherical(LABELS, P, gamma=0.3, rescale=3.0, decay=0.1)
    turned = np.random.default_rng(9).normal(size=START.H.shape)

    def rests(x):
        model = dataclasses.replace(sphere, decay_H=0.1 + x)
        state = uj.State(START.H + x * turned, START.W, START.b)
        return uj.limit(model, uj.Descent(0.5), state).direction.H[0, 0]

    far = jax.jit(jax.vmap(rests))(2e-3 * jnp.arange(-2, 3))
    first, second = (jnp.array(w) @ far for w in ([1, -8, 0, 8, -1], [-1, 16, -30, 16, -1]))
    for derivative in (jax.jacfwd, jax.grad):
        assert float(derivative(rests)(0.0)) == pytest.approx(float(first / 12 / 2e-3), rel=1e-6)
    curvature = jax.jit(jax.jacfwd(jax.grad(rests)))(0.0)
    assert float(curvature) == pytest.approx(float(second / 12 / 2e-3**2), rel=1e-4)
    assert float(far[2]) == pytest.approx(float(rests(0.0)), rel=1e-12)
