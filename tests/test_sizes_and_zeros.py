"""A scale beside the arrays, whatever it is; parts of very different size; derivatives at states of zeros."""


import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import unhinged_jax as uj
from unhinged_jax.theories.near_origin import linearised
from unhinged_jax.theories.off_path import late_rates, split

LABELS = uj.balanced(3, 2)


def drawn(model, precision="float64", **more):
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(model.samples, model.dim)), rng.normal(size=(model.classes, model.dim))
    return uj.State(*(part.astype(precision) for part in parts), np.zeros(model.classes, precision), **more)


def test_a_scale_that_a_dense_run_cannot_hold_is_refused():
    linear = uj.unconstrained(LABELS, 3)
    entropy = uj.unconstrained(LABELS, 3, loss="cross_entropy")
    mixed = uj.ntk_invariant(LABELS, 3, np.eye(18) + 0.1, decay=0.01)
    ball = uj.spherical(LABELS, 3)
    step, flow = uj.Descent(0.1), uj.Flow()
    adam = uj.Descent(0.1, optimizer=optax.scale(-1.0))
    for log_scale in (-200.0, 200.0):
        state = drawn(linear, "float32", log_scale=log_scale)
        cases = [
            lambda s: uj.simulate(linear, step, s, [0, 2], "log_norm", reduce=False),
            lambda s: uj.simulate(mixed, step, s, [0, 2], "log_norm"),
            lambda s: uj.simulate(entropy, flow, s, [0.0, 2.0], "log_norm"),
            lambda s: uj.simulate(ball, step, s, [0, 2], "log_norm"),
            lambda s: uj.exact(ball, flow, s, [0.0, 2.0], "log_norm"),
            lambda s: uj.push_forward(entropy, flow, s, [0.0, 2.0], s),
            lambda s: uj.event_time(entropy, flow, s, "accuracy is 1", times=[0.0, 2.0], method="simulate"),
            lambda s: uj.sensitivity(entropy, flow, s, [2.0], "log_norm", ["eta"]),
            lambda s: uj.lyapunov(entropy, flow, s, 2.0, 1, segments=2),
            lambda s: uj.hessian_spectrum(entropy, s),
            lambda s: uj.simulate(linear, adam, s, [0, 2], "log_norm"),
        ]
        if log_scale > 0:
            cases.append(lambda s: uj.simulate(entropy, step, s, [0, 2], "log_norm"))
        for call in cases:
            with pytest.raises(ValueError, match=r"e\^log_scale times state.H .* precision='float64'"):
                call(state)
    with pytest.raises(ValueError, match="reduce=True"):
        uj.simulate(linear, step, drawn(linear, log_scale=-800.0), [2], "log_norm", reduce=False)


def test_a_scale_that_a_compiled_run_cannot_hold_gives_no_number():
    model = uj.unconstrained(LABELS, 3)

    @jax.jit
    def run(log_scale):
        state = drawn(model, "float32", log_scale=log_scale)
        out = uj.simulate(model, uj.Descent(0.1), state, [0, 2], "log_norm", reduce=False)
        return out["log_norm"], out.reached

    values, reached = run(jnp.float32(-200.0))
    assert not np.any(np.isfinite(values)) and not bool(reached[-1])
    assert np.all(np.isfinite(run(jnp.float32(-20.0))[0]))


@pytest.mark.parametrize("momentum", [pytest.param(None, marks=pytest.mark.long), 0.5])
def test_a_descent_of_cross_entropy_starts_from_any_small_scale_and_goes_on(momentum):
    """Of a state too small to see, log_norm moves by what a descent of one at the edge of sight makes of it."""
    model = uj.regularized(LABELS, 3, decay=0.5, loss="cross_entropy")
    dynamics = uj.Descent(0.1, momentum=momentum)
    seen = [
        uj.simulate(model, dynamics, drawn(model, "float32", log_scale=at), [0, 200, 400], ["log_norm", "accuracy"])
        for at in (-14.0, -200.0)
    ]
    np.testing.assert_allclose(seen[1]["log_norm"], np.asarray(seen[0]["log_norm"]) - 186, rtol=3e-7)
    half = uj.simulate(model, dynamics, drawn(model, "float32", log_scale=-200.0), [0, 200], ["log_norm"])
    whole = uj.simulate(model, dynamics, half, [200, 400], ["log_norm", "accuracy"])
    np.testing.assert_allclose(whole["log_norm"], seen[1]["log_norm"][1:], rtol=3e-7)
    assert float(half.final.log_scale) < -150 and whole["accuracy"].tolist() == seen[1]["accuracy"][1:].tolist()


def test_functions_of_a_state_use_its_scale():
    log_scale = 9 * np.log(2)
    ball = uj.spherical(LABELS, 3, decay=2**-5)
    plain = drawn(ball)
    beside = plain.replace(H=plain.H / 512, W=plain.W / 512, log_scale=log_scale)
    for q in (0, 1, 2):
        model = ball if q == 0 else uj.spherical(LABELS, 3, decay=2**-5, rescale=q)
        for dynamics in (uj.Descent(0.5, 0.75), uj.Flow()):
            one, other = (uj.limit(model, dynamics, state) for state in (plain, beside))
            np.testing.assert_allclose(other.rate, one.rate, rtol=1e-12)
            np.testing.assert_allclose(other.direction.W, one.direction.W, rtol=1e-12)
            assert q != 0 or not isinstance(dynamics, uj.Descent) or abs(float(one.rate)) > 1e-4
    squared = uj.unconstrained(LABELS, 3, loss="mse", bias=True)
    np.testing.assert_allclose(split(squared, beside), split(squared, plain), rtol=1e-12)
    np.testing.assert_allclose(late_rates(squared, beside), late_rates(squared, plain), atol=2e-12)
    with jax.enable_x64(True):
        one, other = (linearised(state, LABELS.index, 3, 2.0) for state in (plain, beside))
        np.testing.assert_allclose(np.exp(other.log_scale) * other.H, one.H, rtol=1e-12)
        np.testing.assert_allclose(uj.hessian_spectrum(squared, beside), uj.hessian_spectrum(squared, plain), rtol=1e-9)


@pytest.mark.parametrize("which", ["push_forward", pytest.param("lyapunov", marks=pytest.mark.long)])
def test_maps_of_runs_that_end_early_are_refused(which):
    model = uj.unconstrained(LABELS, 3, loss="mse")
    state, diverging = drawn(model, "float32"), uj.Descent(1e4)
    with pytest.raises(ValueError, match=r"to 40 cannot be followed.*overflow"):
        if which == "push_forward":
            uj.push_forward(model, diverging, state, [40], state)
        else:
            uj.lyapunov(model, diverging, state, 80, 1, segments=2)
