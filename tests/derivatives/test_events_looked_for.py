"""What an event is: ties, jumps, runs that end early, runs that go on, steady states; against dense oracles."""

import jax
import numpy as np
import pytest
import scipy.linalg
from scipy.optimize import brentq

import unhinged_jax as uj


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


RNG = np.random.default_rng(0)
LABELS = uj.balanced(3, 4)
MODEL = uj.unconstrained(LABELS, 4)
START = uj.State(RNG.normal(size=(12, 4)), RNG.normal(size=(3, 4)), np.zeros(3))
ZERO = START.replace(W=0 * START.W)
GRID = np.linspace(0.0, 40.0, 41)


def least_margin(state, t):
    """The least margin of the dense linear flow, by SciPy's matrix exponential."""
    M = np.asarray(MODEL.signal().dense("float64"))
    A = np.block([[np.zeros((12, 12)), M], [M.T, np.zeros((3, 3))]])
    H, W = np.split(scipy.linalg.expm(A * t) @ np.concatenate([state.H, state.W]), [12])
    scores, truth = H @ W.T, np.asarray(LABELS.index)
    own = scores[np.arange(12), truth]
    scores[np.arange(12), truth] = -np.inf
    return np.min(own - np.max(scores, axis=1))


def when_all_are_right(state):
    signs = [least_margin(state, t) > 0 for t in GRID]
    place = int(np.argmax(signs))
    assert place > 0
    return brentq(lambda t: least_margin(state, t), GRID[place - 1] + 1e-9, GRID[place], xtol=1e-13)


@pytest.mark.long
def test_a_tie_is_no_success_and_a_jump_is_located_where_it_is():
    """With prototypes of zeros every margin is 0 at the start; the accuracy, too, is looked for at its own jump."""
    for state in (ZERO, START):
        found = uj.event_time(MODEL, uj.Flow(), state, "accuracy is 1", times=GRID)
        assert float(found.time) == pytest.approx(when_all_are_right(state), rel=1e-10)
    jump = uj.event_time(MODEL, uj.Flow(), START, "accuracy", 1.0, times=GRID)
    assert float(jump.time) == pytest.approx(when_all_are_right(START), rel=1e-10)
    assert np.isinf(jump.slope)
    same = float(np.linalg.norm(START.W))
    fading = uj.frozen(LABELS, 4, decay=0.2)
    big = START.replace(W=10 * START.W)
    exactly = float(uj.exact(fading, uj.Flow(), big, [0.0], "norm_W")["norm_W"][0])
    assert exactly == pytest.approx(10 * same, rel=1e-12)
    assert not bool(uj.event_time(fading, uj.Flow(), big, "norm_W", exactly, times=[0.0, 3.0]).happened)


@pytest.mark.long_for("accuracy")
@pytest.mark.parametrize(
    "observable", ["accuracy", *(pytest.param(name, marks=pytest.mark.long) for name in ("loss_sign", "nc4"))]
)
def test_the_time_of_a_jump_is_not_differentiated(observable):
    def time(eta):
        return uj.event_time(MODEL, uj.Descent(eta), START, observable, 1.0, times=[0, 2]).time

    for slope in (jax.grad(time), jax.grad(jax.jit(time)), jax.jit(jax.jacfwd(time))):
        with pytest.raises(ValueError, match="piecewise constant"):
            slope(0.5)


@pytest.mark.long
def test_a_run_that_ends_early_has_not_looked():
    few = uj.Flow(max_steps=3)

    def look(level):
        return uj.event_time(MODEL, few, START, "norm", level, times=[0.0, 0.01, 50.0], method="simulate")

    with pytest.raises(ValueError, match=r"whether it does\. Its result is max_steps"):
        look(1e9)
    traced = jax.jit(look)(1e9)
    assert np.isnan(traced.time) and not bool(traced.happened)
    assert float(look(1.0).time) == 0.0  # found before it ended
    with pytest.raises(ValueError, match="NaN at some of the times"):
        uj.event_time(MODEL, uj.Flow(), ZERO.replace(H=0 * ZERO.H), "energy_3", 0.5, times=[0.0, 1.0])


@pytest.mark.long
def test_the_search_goes_on_from_a_trajectory():
    """Times are those of the whole run, under a schedule that has a clock."""
    flow, steps = uj.Flow(uj.cosine(0.5, 60.0)), uj.Descent(uj.cosine(0.5, 60.0), momentum=0.5)
    whole = uj.event_time(MODEL, flow, START, "norm", 80.0, times=[4.0, 20.0, 60.0])
    begun = uj.exact(MODEL, flow, START, [0.0, 4.0], ())
    later = uj.event_time(MODEL, flow, begun, "norm", 80.0, times=[4.0, 20.0, 60.0])
    assert float(later.time) == pytest.approx(float(whole.time), rel=1e-12)
    whole = uj.event_time(MODEL, steps, START, "norm", 80.0, times=[4, 40])
    begun = uj.simulate(MODEL, steps, START, [4], ())
    later = uj.event_time(MODEL, steps, begun, "norm", 80.0, times=[4, 40], method="simulate")
    assert float(later.time) == pytest.approx(float(whole.time), rel=1e-10)
    with pytest.raises(ValueError, match="must not lie before the start"):
        uj.event_time(MODEL, flow, uj.exact(MODEL, flow, START, [5.0], ()), "norm", 80.0, times=[0.0, 60.0])


@pytest.mark.long
def test_a_plateau_is_no_steady_state_and_the_start_is_read():
    fading, times = uj.frozen(LABELS, 4, decay=0.2), [0.0, 7.0, 30.0, 4000.0]
    for schedule in (uj.warmup(10.0, 0.5), uj.piecewise([0.5, 0.0, 0.5], [5.0, 9.0])):
        run = uj.simulate(fading, uj.Flow(schedule, steady=True), START, times, "norm_W")
        want = uj.exact(fading, uj.Flow(schedule), START, times, "norm_W")["norm_W"]
        np.testing.assert_allclose(run["norm_W"][:3], want[:3], rtol=1e-7)
        assert run.result is uj.RunResult.STEADY and np.isnan(run["norm_W"][3])
    nothing = START.replace(H=0 * START.H, W=0 * START.W)
    model = uj.regularized(LABELS, 4, decay=0.05, loss="mse", bias=False)
    rest = uj.simulate(model, uj.Flow(0.5, steady=True), nothing, [0.0, 7.0, 20.0], "loss")
    assert rest.result is uj.RunResult.STEADY and float(rest["loss"][0]) == pytest.approx(0.5)
