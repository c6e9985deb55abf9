"""Steps of flows: none is so long that an explicit solver amplifies what should decay."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax.dynamics import PartRates
from unhinged_jax.simulation.system import Spread

OBSERVE = ("log_norm", "log_norm_H", "log_abs_loss")
EVEN, UNEVEN = uj.balanced(classes=4, per_class=3), uj.from_counts([4, 3, 2])
MODELS = {
    "balanced": uj.regularized(EVEN, 6, decay=0.02),
    "moving biases": uj.regularized(EVEN, 6, decay=0.02, decay_b=0.5, bias=True),
    "unequal classes": uj.regularized(UNEVEN, 6, decay=0.02),
    "anchored": uj.anchored(EVEN, 6, decay=0.05),
    "a kernel": uj.ntk_invariant(UNEVEN, 5, np.eye(9) + 0.3),
}
FLOWS = {
    "constant": uj.Flow(rtol=1e-6),
    "rates that differ": uj.Flow(rate_H=0.1, rate_W=3.0, rtol=1e-6),
    "a decaying schedule": uj.Flow(uj.schedules.exponential(2.0, 0.002), rtol=1e-6),
    "breaks": uj.Flow(uj.schedules.piecewise([1.0, 0.0, 2.0], [150.0, 400.0]), rtol=1e-6),
}
TIMES = np.linspace(0.0, 1000.0, 201)


@pytest.mark.parametrize(("model", "flow"), [
    ("balanced", "constant"), ("balanced", "a decaying schedule"), ("balanced", "breaks"),
    ("moving biases", "constant"), ("unequal classes", "rates that differ"), ("anchored", "constant"),
    ("a kernel", "constant"),
])  # fmt: skip
def test_a_state_that_has_found_its_direction_has_the_digits_of_its_start(model, flow):
    """Each reading, also between two long steps; without the bound of steps errors are as large as the tolerance."""
    model, flow = MODELS[model], FLOWS[flow]
    state = model.init(jax.random.key(0), precision="float64")
    run, truth = (solve(model, flow, state, TIMES, OBSERVE) for solve in (uj.simulate, uj.exact))
    assert run.code == uj.RunResult.COMPLETED
    late = TIMES > 500.0
    for name in OBSERVE:
        np.testing.assert_allclose(run[name][late], truth[name][late], rtol=0, atol=2e-9, err_msg=name)


def test_no_step_is_beyond_the_reach_of_the_solver():
    """A flow takes as many steps as the spread of its growth rates says, whatever the tolerance."""
    for name, model in MODELS.items():
        state = model.init(jax.random.key(0), precision="float64")
        M, theta = np.asarray(model.signal().dense("float32")), np.eye(12) + 0.3 * (name == "a kernel")
        apart = max(2 * np.sqrt(np.linalg.norm(M.T @ theta[: len(M), : len(M)] @ M, 2)), float(model.decay_b or 0))
        apart = float(model.decay_H) if name == "anchored" else apart
        for end in (500.0, 2000.0):
            run = uj.simulate(model, uj.Flow(rtol=1e-2), state, [end], "log_norm")
            assert apart * end / 4.5 <= run.steps <= 1.25 * apart * end / 4.5 + 12, name


def test_the_spread_is_that_of_the_eigenvalues():
    rates, decays, g = PartRates(0.3, 2.0, 0.7), (0.4, 0.01, 5.0), 0.9
    K = np.array([[-rates.H * decays[0], rates.H * g], [rates.W, -rates.W * decays[1]]])
    apart = np.ptp(np.linalg.eigvals(K).real)
    assert float(Spread(g, *decays[:2], 0.0).at(rates)) == pytest.approx(apart, rel=1e-6)
    assert float(Spread(g, *decays).at(rates)) == pytest.approx(0.7 * 5.0, rel=1e-6)


@pytest.mark.parametrize("schedule", [1.0, uj.schedules.exponential(1.0, 0.05), jnp.sqrt], ids=["1", "exp", "sqrt"])
@pytest.mark.parametrize("adjoint", [None, diffrax.DirectAdjoint(), diffrax.BacksolveAdjoint()])
def test_the_bound_of_steps_is_not_differentiated(adjoint, schedule):
    """Backwards, too, where the solver's time is minus that of the schedule."""
    model = MODELS["balanced"]
    state = model.init(jax.random.key(0), precision="float64")

    def end(solve, decay, **settings):
        run = solve(
            model.replace(decay=decay), uj.Flow(schedule, rtol=1e-7), state, [5.0, 30.0], "log_norm", **settings
        )
        return run["log_norm"][1]

    with jax.enable_x64(True):
        slope = jax.grad(lambda decay: end(uj.simulate, decay, adjoint=adjoint))(0.02)
        assert float(slope) == pytest.approx(float(jax.grad(lambda decay: end(uj.exact, decay))(0.02)), rel=1e-5)


def test_derivatives_with_respect_to_times_at_a_rate_of_0():
    model = MODELS["balanced"]
    state = model.init(jax.random.key(0), precision="float64")

    def late(times):
        return uj.simulate(model, uj.Flow(uj.cosine(0.5, horizon=4.0)), state, times, "log_norm")["log_norm"][-1]

    with jax.enable_x64(True):
        np.testing.assert_array_equal(jax.grad(late)(jnp.array([3.0, 8.0])), 0.0)


def test_long_flows_in_float32_keep_the_logarithm_of_their_norm():
    """Steps of equal length would round it in the same way every time."""
    model = uj.regularized(EVEN, 8, decay=0.01)
    state = model.init(jax.random.key(0))
    run, truth = (solve(model, uj.Flow(), state, [3e5], "log_norm") for solve in (uj.simulate, uj.exact))
    assert float(run["log_norm"][0]) == pytest.approx(float(truth["log_norm"][0]), rel=5e-5)


def test_biases_that_stay_are_not_carried_and_are_read():
    model = uj.unconstrained(EVEN, 6)
    start = model.init(jax.random.key(3), precision="float64").replace(b=np.array([0.5, -1.0, 0.25, 2.0]))
    observe = ("loss", "accuracy", "margin_min", "norm_b")
    for dynamics, times in (
        (uj.Flow(), [0.0, 2.0]),
        (uj.Descent(0.2), [0, 40]),
        (uj.Descent(0.2, momentum=0.5), [0, 40]),
    ):
        run = uj.simulate(model, dynamics, start, times, observe)
        dense = uj.simulate(model, dynamics, start, times, observe, reduce=False)
        for name in observe:
            np.testing.assert_allclose(run[name], dense[name], rtol=1e-6, err_msg=name)
        np.testing.assert_array_equal(run.final.b, start.b)
