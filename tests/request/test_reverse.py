"""Reverse mode of a flow by two programs of ours: the same derivatives as where JAX makes them, whoever asks."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax._request import compiling
from unhinged_jax.losses import CrossEntropy

MODEL = uj.regularized(uj.from_counts([3, 2, 1]), 4, decay=0.1)
START = MODEL.init(jax.random.key(0))
FLOW = uj.Flow(uj.cosine(0.5, horizon=10.0))
TIMES = [0.5, 2.0, 5.0]


def last(decay, state=START, model=MODEL, name="log_norm", **settings):
    return uj.simulate(model.replace(decay=decay), FLOW, state, TIMES, name, **settings).last(name)


def close(found, want, rtol=2e-5):
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * (1e-3 + np.max(np.abs(theirs))))


@pytest.fixture
def taken(monkeypatch):
    """Whether each derivative was made by our two programs."""
    found, ask = [], compiling.directly_below_grad

    def asked(args):
        found.append(ask(args))
        return found[-1]

    monkeypatch.setattr(compiling, "directly_below_grad", asked)
    return found


@pytest.mark.parametrize("adjoint", [None, diffrax.RecursiveCheckpointAdjoint(checkpoints=3)])
@pytest.mark.parametrize("loss", [MODEL.loss, CrossEntropy()], ids=["unhinged", "cross-entropy"])
def test_as_in_a_compiled_function(taken, loss, adjoint):
    slopes = jax.value_and_grad(lambda d, s: last(d, s, MODEL.replace(loss=loss), adjoint=adjoint), (0, 1))
    found = slopes(0.1, START)
    assert taken == [True]
    close(found, jax.jit(slopes)(0.1, START))
    assert taken[1:] == [False]


def test_runs_as_often_as_without_a_derivative_and_says_so():
    """The solver of a first gradient takes the steps of the usual one, and is called by its name."""
    run, plain = (
        jax.vjp(lambda decay: uj.simulate(MODEL.replace(decay=decay), FLOW, START, TIMES, "log_norm"), 0.1)[0],
        uj.simulate(MODEL, FLOW, START, TIMES, "log_norm"),
    )
    assert int(run.steps) == int(plain.steps) and run.form == plain.form
    close(run["log_norm"], plain["log_norm"], 1e-6)


def test_as_the_closed_form_and_a_pullback_used_twice():
    def values(solve, decay, state):
        run = solve(MODEL.replace(decay=decay), FLOW, state, TIMES, ["log_norm", "loss"])
        return run["log_norm"], run["loss"], run.final.W, run.code

    for cotangents in ([1.0, 0.0, 2.0], [0.0, 3.0, 0.0]):
        slopes = []
        for solve in (uj.simulate, uj.exact):
            (a, _, W, code), pull = jax.vjp(lambda d, s, solve=solve: values(solve, d, s), 0.1, START)
            rows = jnp.asarray(cotangents, a.dtype)
            back = (rows, 2 * rows, jnp.full_like(W, 0.1), np.zeros(np.shape(code), jax.dtypes.float0))
            slopes.append(pull(back))
            close(pull(jax.tree.map(lambda x: x, back)), slopes[-1], 0)
        close(slopes[0][0], slopes[1][0], 1e-4)
        close([slopes[0][1].H, slopes[0][1].W], [slopes[1][1].H, slopes[1][1].W], 1e-4)


def test_slopes_may_be_what_settings_may_not_be(taken):
    """A rate is above 0, a decay is not negative; their derivatives are any numbers, also on the way."""

    def lost(solve):
        def value(rate_H, rate_W, gamma, decay):
            model, flow = MODEL.replace(gamma=gamma, decay=decay), uj.Flow(0.3, rate_H=rate_H, rate_W=rate_W)
            return -solve(model, flow, START, TIMES, "log_norm").last("log_norm")

        return jax.grad(value, (0, 1, 2, 3))(1.0, 2.0, 0.3, 0.1)

    found = lost(uj.simulate)
    assert taken == [True] and min(found[:2]) < 0 < found[3]
    close(found, lost(uj.exact), 1e-4)


def test_batches_are_left_to_jax(taken):
    def truth(decay):
        return uj.exact(MODEL.replace(decay=decay), FLOW, START, TIMES, "log_norm").last("log_norm")

    decays = jnp.asarray([0.05, 0.1])
    want = jax.vmap(jax.grad(truth))(decays)
    close(jax.vmap(jax.grad(last))(decays), want, 1e-4)
    close(jax.grad(lambda ds: jnp.sum(jax.vmap(last)(ds)))(decays), want, 1e-4)
    assert not any(taken)


def test_a_function_that_reads_a_traced_number_keeps_its_derivative(taken):
    def read(factor):
        observe = {"mine": lambda model, state: factor * jnp.sum(state.W**2)}
        return uj.simulate(MODEL, FLOW, START.replace(W=START.W * factor), TIMES, observe).last("mine")

    step = 1e-2
    want = (read(1 + step) - read(1 - step)) / (2 * step)
    close(jax.grad(read)(1.0), want, 2e-3)
    assert taken == [False]


def test_forward_mode_is_refused_as_before():
    with pytest.raises(ValueError, match=r"give adjoint=diffrax\.ForwardMode"):
        jax.jvp(last, (0.1,), (1.0,))
    close(jax.jvp(lambda d: last(d, adjoint=diffrax.ForwardMode()), (0.1,), (1.0,))[1], jax.grad(last)(0.1), 1e-4)


def test_later_calls_compile_nothing():
    slope, compiled = jax.grad(lambda decay: last(decay, name="loss")), []
    first = slope(0.1)
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **said: event.endswith("backend_compile_duration") and compiled.append(said)
    )
    other = slope(0.11)
    assert compiled == []
    assert float(other) != float(first)
