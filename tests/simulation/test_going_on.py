"""Runs that go on from others: with a rate of 0, other rates or decays, small states, and where they have ended."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj

LABELS = uj.balanced(3, 2)
DECAYING = uj.regularized(LABELS, 4, decay=0.1)


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def started(model, **settings):
    return model.init(jax.random.key(0), precision="float64", **settings)


def test_slots_meet_at_a_rate_of_0():
    """After the horizon of a schedule the state stays, but its average still approaches it."""
    descent = uj.Descent(uj.cosine(0.5, horizon=10), memory=uj.PolyakAverage())
    cut = uj.simulate(DECAYING, descent, started(DECAYING), [10], "norm")
    after = uj.simulate(DECAYING, descent, cut, [20], "norm")["norm"]
    whole = uj.exact(DECAYING, descent, started(DECAYING), [20], "norm")["norm"]
    np.testing.assert_allclose(after, whole, rtol=1e-13)
    assert abs(float(after[0] - cut["norm"][0])) > 1e-3


def test_derivatives_at_the_start_of_a_small_part():
    """d log|H|/dH = H/|H|^2 at time 0, however much larger prototypes are."""
    state = started(DECAYING)
    H, size = np.asarray(state.H), 1e-30
    small = state.replace(H=size * H)
    for solve in (uj.exact, uj.simulate):
        first = jax.grad(
            lambda s, solve=solve: solve(DECAYING, uj.Flow(), s, [0.0, 1.0], "log_norm_H")["log_norm_H"][0]
        )
        np.testing.assert_allclose(first(small).H, H / np.sum(H**2) / size, rtol=1e-12)


def test_small_states_of_other_losses_go_on():
    """Cross-entropy from a state of size 1e-8, with a velocity, in one go and cut."""
    model = uj.unconstrained(LABELS, 4, loss="cross_entropy")
    state, flow = started(model, scale=1e-8), uj.Flow(damping=0.5)
    cut = uj.simulate(model, flow, state, [1.0], "norm")
    after = uj.simulate(model, flow, cut, [2.0], "norm")["norm"]
    np.testing.assert_allclose(after, uj.simulate(model, flow, state, [2.0], "norm")["norm"], rtol=1e-7)


OTHER = uj.regularized(LABELS, 4, decay=(0.5, 0.02))


@pytest.mark.parametrize(
    ("dynamics", "times"),
    [
        (uj.Descent(0.3, momentum=0.9), (10, 16)),
        pytest.param(uj.Descent(0.3, memory=uj.ScheduleFree(0.7)), (10, 16), marks=pytest.mark.long),
        pytest.param(uj.Flow(damping=0.2, rtol=1e-10), (1.0, 2.0), marks=pytest.mark.long),
        pytest.param(uj.Flow(memory=uj.PolyakAverage(), rtol=1e-10), (1.0, 2.0), marks=pytest.mark.long),
    ],
)
def test_what_is_carried_into_other_decays(dynamics, times):
    """It does not lie along the new leading part; the run is the same whether or not distances are observed."""
    model = uj.unconstrained(LABELS, 4)
    cut = uj.simulate(model, dynamics, started(model), times[:1], "norm")
    read, slack = ["norm", "log_distance"], 1e-12 if isinstance(dynamics, uj.Descent) else 1e-8
    found, exact = (solve(OTHER, dynamics, cut, times[1:], read) for solve in (uj.simulate, uj.exact))
    dense = uj.simulate(OTHER, dynamics, cut, times[1:], "norm", reduce=False)
    np.testing.assert_allclose(found["norm"], dense["norm"], rtol=slack)
    for one in read:
        np.testing.assert_allclose(found[one], exact[one], rtol=slack)


def test_a_run_that_ends_early_says_when():
    """Where its normalised gradient vanishes: `exact` and `simulate` agree, and a run goes on from there."""
    model = uj.regularized(LABELS, 4, decay=0.5)
    flow = uj.Flow(uj.cosine(1.0, 20.0, 0.1), normalized=True)
    exact, simulated = (
        solve(model, flow, started(model), [1.0, 2.0, 100.0], "norm") for solve in (uj.exact, uj.simulate)
    )
    np.testing.assert_array_equal(exact.reached, [True, True, False])
    np.testing.assert_allclose(exact.elapsed, simulated.elapsed, rtol=1e-8)
    assert 2 < float(exact.elapsed) < 100
    uj.exact(model, flow, exact, [50.0], "norm")


def test_slots_are_not_those_of_another_memory():
    run = uj.exact(DECAYING, uj.Descent(0.3, memory=uj.Optimistic()), started(DECAYING), [5], "norm")
    with pytest.raises(ValueError, match="slots of Optimistic, which mean something else to PolyakAverage"):
        uj.exact(DECAYING, uj.Descent(0.3, memory=uj.PolyakAverage()), run, [6], "norm")
    two, three = (uj.Descent(0.3, memory=uj.AggregatedMomentum(betas)) for betas in ((0.0, 0.9), (0.0, 0.9, 0.99)))
    run = uj.exact(DECAYING, two, started(DECAYING), [5], "norm")
    with pytest.raises(ValueError, match="2 slots beside its state, but this AggregatedMomentum has 3"):
        uj.exact(DECAYING, three, run, [6], "norm")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: uj.Flow(damping=True), "damping must be a real number"),
        (lambda: uj.Flow(damping=[0.5]), "damping must be a real number"),
        (lambda: uj.Flow(memory=uj.MovingAverage(0.0)), "keep of a Flow must be finite and above 0"),
        (lambda: uj.Descent(0.3, memory=uj.MovingAverage("a")), "keep must be a real number"),
        (lambda: uj.Descent(0.3, memory=uj.AggregatedMomentum(np.array([0.0, 1.5]))), "must lie in"),
        (lambda: uj.Descent(0.3, memory=uj.AggregatedMomentum(())), "is empty"),
        (lambda: uj.Descent(0.3, memory=uj.AggregatedMomentum(0.9)), "must be a list of numbers"),
        (lambda: uj.Descent(0.3, memory=uj.AggregatedMomentum([[0.1], [0.2]])), "an entry of betas"),
        (lambda: uj.Descent(0.3, memory=[1]), "memory of a Descent must be one of"),
    ],
)
def test_what_is_no_number_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        uj.exact(DECAYING, given(), started(DECAYING), [5], "norm")


def test_a_batch_of_numbers_makes_no_difference():
    """`betas` as an array, and as data that jax.vmap maps over."""
    state = started(DECAYING)

    def last(beta):
        descent = uj.Descent(0.3, memory=uj.AggregatedMomentum((0.0, beta)))
        return uj.exact(DECAYING, descent, state, [5], "norm").last("norm")

    both = jax.vmap(last)(jnp.array([0.5, 0.9]))
    descent = uj.Descent(0.3, memory=uj.AggregatedMomentum(np.array([0.0, 0.9])))
    np.testing.assert_allclose(uj.exact(DECAYING, descent, state, [5], "norm")["norm"][0], both[1], rtol=1e-13)
