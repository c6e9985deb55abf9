"""Labels out of range, weights that weigh nothing, rates below 0: refused in a sentence, and never a number."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import unhinged_jax as uj
from unhinged_jax import _request, collapse, losses
from unhinged_jax.schedules import Constant, Joined, Piecewise, QuadratureWarning
from unhinged_jax.schedules.elapsed import elapsed
from unhinged_jax.training.heads import Head
from unhinged_jax.training.metrics import reliability

EVEN = uj.balanced(3, 2)
THIRDS = np.full((4, 3), 1 / 3)
RNG = np.random.default_rng(1)
STATE = uj.State(RNG.normal(size=(6, 4)), RNG.normal(size=(3, 4)), np.zeros(3))
MODEL = uj.unconstrained(EVEN, 4)
OUT = np.array([0, 3, -1])


def labels(index=(0, 1, 2), weights=(0.3, 0.3, 0.4), **more):
    return uj.Labels(np.asarray(index), np.asarray(weights), classes=3, **more)


BAD_LABELS = {
    "truth": (lambda: uj.soft(THIRDS, truth=[0, 1, 7, -1]), "truth must hold labels in 0 ... 2"),
    "truth that is not whole": (lambda: uj.soft(THIRDS, truth=[0.0, 1.0, 1.5, 2.0]), "integer labels"),
    "the constructor": (lambda: labels(OUT), "index must hold labels in 0 ... 2"),
    "truth values": (lambda: labels([True, False, True]), "integer labels"),
    "a clean label": (lambda: labels(clean=OUT), "clean must hold labels"),
    "a replaced index": (lambda: EVEN.replace(index=np.array([0, 1, 2, 3, 0, 1])), "index must hold labels"),
    "a replaced clean": (lambda: EVEN.replace(clean=np.arange(6)), "clean must hold labels"),
    "fewer classes": (lambda: EVEN.replace(classes=2), "index must hold labels in 0 ... 1"),
    "fewer labels": (lambda: EVEN.replace(index=np.array([0, 1, 2])), r"weights must have shape \(3,\)"),
    "a lone label": (lambda: labels(0), "one label per sample"),
    "weights NaN": (lambda: labels(weights=[0.5, np.nan, 0.5]), "weights must be finite"),
    "weights below 0": (lambda: EVEN.replace(weights=-np.ones(6)), "weights must be finite and at least 0"),
    "complex weights": (lambda: EVEN.replace(weights=np.ones(6) * 1j), "real number"),
    "weights 0": (lambda: labels(weights=[0.0, 0.0, 0.0]), "all sample weights are 0"),
    "sample weights 0": (lambda: EVEN.weighted(samples=np.zeros(6)), "leave some samples a weight"),
    "sample weights 0 as they are": (lambda: EVEN.weighted(samples=np.zeros(6), normalise=False), "are 0"),
    "infinite sample weights": (lambda: EVEN.weighted(samples=np.full(6, np.inf)), "must be finite"),
    "weights that vanish": (lambda: EVEN.weighted(classes=[1e-200] * 3, samples=[1e-200] * 6), "leave some samples"),
    "targets NaN": (lambda: labels(targets=np.full((3, 3), np.nan), kind="soft"), "targets must hold finite"),
    "a table NaN": (lambda: EVEN.transition(np.full((3, 3), np.nan)), "transition table must be finite"),
    "a rate of noise NaN": (lambda: EVEN.symmetric_noise(np.nan), "noise rate must be one number between 0 and 1"),
    "targets of another shape": (lambda: labels(targets=np.eye(4), kind="table"), r"must have shape \(3, 3\)"),
    "an unknown kind": (lambda: labels(kind="mixed"), "kind must be one of"),
    "statistics": (lambda: collapse.class_statistics(np.ones((3, 2)), OUT, 3), "lie in 0..2"),
    "calibration": (lambda: reliability(THIRDS[:3], OUT), "labels must hold labels in 0 ... 2"),
    "calibration of halves": (lambda: reliability(THIRDS[:2], [0.5, 1.0]), "integer labels"),
    "a margin": (lambda: losses.adjusted_margin(np.ones((3, 2)), np.ones((3, 2)), OUT, 1.0), "labels must hold"),
    **{
        name: (lambda name=name: getattr(losses, name)(jnp.zeros((3, 3)), OUT), "targets must hold labels in 0 ... 2")
        for name in ("unhinged", "cross_entropy", "mse", "hinge", "focal")
    },
}


@pytest.mark.parametrize("what", BAD_LABELS)
def test_labels_that_are_none_are_refused(what):
    make, message = BAD_LABELS[what]
    with pytest.raises(ValueError, match=message):
        make()


def test_traced_labels_out_of_range_give_nan_and_no_perfect_score():
    value = jax.jit(losses.cross_entropy)(jnp.zeros((3, 3)), OUT)
    np.testing.assert_allclose(value, [np.log(3), np.nan, np.nan], rtol=1e-6)
    head = Head(jnp.eye(3), None, "fnpal")
    margin = jax.jit(lambda y: head.losses(losses.AdjustedMargin(), jnp.eye(3), y))(OUT)
    assert np.isfinite(margin[0]) and np.all(np.isnan(margin[1:]))
    rows = jax.jit(lambda y: uj.Labels(y, jnp.ones(3) / 3, classes=3).probabilities())(OUT)
    assert np.all(np.isnan(rows[1:])) and rows[0].tolist() == [1, 0, 0]


def down(t):
    return 0.1 * (5.5 - t)


BAD_RATES = {
    "a constant below 0": (lambda: uj.Flow(lambda t: -0.1), "gives -0.1 at"),
    "a flow that turns": (lambda: uj.Flow(down), "gives -0.45 at 10"),
    "a descent that turns": (lambda: uj.Descent(down), "gives -0.35 at 9;"),
    "one of optax": (lambda: uj.Descent(optax.linear_schedule(0.1, -0.1, 8)), "gives -0.1 at 8"),
    "a warm-up before one": (lambda: uj.Flow(uj.warmup(4, down)), "gives -0.05 at 10"),
    "one that is joined": (lambda: uj.Flow(uj.join([0.1, down], [4.0])), "gives -0.05 at 10"),
    "NaN": (lambda: uj.Descent(lambda t: jnp.where(t > 3, jnp.nan, 1.0)), "gives nan at 4"),
    "infinity": (lambda: uj.Flow(lambda t: 1 / (5 - jnp.floor(t))), "gives inf at 5"),
    "one of the rates": (lambda: uj.Descent(0.1, rate_W=down), "gives -0.35 at 9"),
    "a class below 0": (lambda: uj.Flow(Constant(-0.1)), "at least 0"),
    "a class that turns": (lambda: uj.Flow(Piecewise((1.0, -1.0), (2.0,))), "at least 0"),
    "too few values": (lambda: uj.Flow(Piecewise((1.0,), (2.0,))), "one more value"),
    "a joined class below 0": (lambda: uj.Flow(Joined((Constant(0.1), Constant(-0.1)), (2.0,))), "at least 0"),
    "joined classes in disorder": (lambda: uj.Flow(Joined((Constant(0.1),) * 3, (2.0, 1.0))), "strictly ascending"),
    "a joined function": (lambda: uj.Flow(Joined((Constant(0.1), down), (2.0,))), "a schedule must be"),
    "momentum NaN": (lambda: uj.Descent(0.1, momentum=float("nan")), r"momentum must lie in \[0, 1\)"),
    "momentum True": (lambda: uj.Descent(0.1, momentum=True), "momentum must be a real number"),
    "complex momentum": (lambda: uj.Descent(0.1, momentum=0.5j), "momentum must be a real number"),
    "a complex rate": (lambda: uj.Flow(1j), "a schedule must be a number"),
    "a rate True": (lambda: uj.Descent(0.1, rate_H=True), "rate_H must be a real number"),
    "a schedule True": (lambda: uj.Flow(True), "a schedule must be a number"),
    "no steps": (lambda: uj.Flow(max_steps=0), "max_steps must be a whole number"),
    "a tolerance NaN": (lambda: uj.Flow(rtol=float("nan")), "rtol must lie"),
}


@pytest.mark.parametrize("what", BAD_RATES)
def test_rates_that_no_run_can_have_are_refused_before_it(what):
    make, message = BAD_RATES[what]
    for run in (uj.exact, uj.simulate):
        with pytest.raises(ValueError, match=message):
            run(MODEL, make(), STATE, [3, 10], "norm")


def test_numbers_of_a_model_must_be_real_numbers():
    for make in (
        lambda: uj.regularized(EVEN, 4, decay=True),
        lambda: uj.regularized(EVEN, 4, decay=0.1j),
        lambda: uj.unconstrained(EVEN, 4, gamma="much"),
        lambda: uj.spherical(EVEN, 4, rescale=1j),
        lambda: MODEL.check_state(STATE.replace(H=STATE.H * 1j)),
    ):
        with pytest.raises(ValueError, match=r"must (be a|hold) real number"):
            make()


def squares(t):
    return jnp.where(jnp.mod(t, 1.0) < 0.5, 1.0, 0.0)


def test_rapid_and_discontinuous_rates_are_integrated_or_warned_of():
    """Against the integrals by hand; log_norm depends on time through them alone."""
    waves = {
        lambda t: jnp.sin(40 * t) ** 2: lambda t: t / 2 - np.sin(80 * t) / 160,
        squares: lambda t: np.floor(t) / 2 + np.minimum(t % 1, 0.5),
        lambda t: t**-0.5: lambda t: 2 * np.sqrt(t),
    }
    times = np.array([0.1, 7.3, 1000.0])
    for rate, integral in waves.items():
        flow = uj.Flow(rate)
        found = uj.exact(MODEL, flow, STATE, times, "log_norm")
        want = uj.exact(MODEL, uj.Flow(1.0), STATE, integral(times), "log_norm")
        np.testing.assert_allclose(found["log_norm"], want["log_norm"], rtol=1e-12)
        np.testing.assert_array_equal(found.times, times)
        assert float(found.elapsed) == 1000
        # A start that is no edge of any mesh: jumps fall anywhere between the points of the rule.
        later = elapsed(flow.schedule, 1 / 30, times)
        np.testing.assert_allclose(later, integral(times) - integral(1 / 30), rtol=1e-11)
    with pytest.warns(QuadratureWarning, match="breaks"):
        elapsed(uj.numeric(lambda t: squares(1e5 * t)), 0.0, np.array([1.0]))
    fast = uj.Flow(lambda t: jnp.sin(40 * t) ** 2)
    with pytest.warns(QuadratureWarning, match="breaks"):  # a search integrates inside of what is compiled
        _request.prepare(MODEL, fast, STATE, [0.0, 1000.0], "norm", target="top", precision=None, caller="event_time")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for caller, last in (("event_time", 10.0), ("simulate", 1000.0)):
            _request.prepare(MODEL, fast, STATE, [0.0, last], "norm", target="top", precision=None, caller=caller)


@pytest.mark.long
def test_rates_that_are_traced_pass_and_are_as_they_were():
    """What closes over a traced value cannot be looked at: the same program as before, in every transformation."""

    def end(scale):
        flow = uj.Flow(lambda t: scale * jnp.exp(-t))
        return uj.exact(MODEL, flow, STATE, [2.0], "log_norm").last("log_norm")

    want = uj.exact(MODEL, uj.Flow(1.0), STATE, [-np.expm1(-2.0)], "log_norm").last("log_norm")
    with jax.enable_x64(True):
        assert float(jax.jit(end)(1.0)) == pytest.approx(float(want), rel=1e-12)
        inside = jax.jit(lambda: uj.exact(MODEL, uj.Flow(lambda t: jnp.exp(-t)), STATE, [2.0], "log_norm"))
        assert float(inside().last("log_norm")) == pytest.approx(float(want), rel=1e-12)
