"""Very large and very small states: where runs end, what is observed of them, and derivatives at states of zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax import collapse

FREE_OF_SCALE = (
    "accuracy", "accuracy_margin", "nc1", "nc1_trace_ratio", "cdnv", "gnc2", "nc3_self_duality", "nc4", "unc3",
    "etf_distance_means", "nc2_equinorm_means",
)  # fmt: skip


def diverging(rate=48.0, switch=90):
    """The squared error at a rate that is too large from some update on."""
    model = uj.unconstrained(uj.balanced(4, 5), dim=8, loss="mse")
    return model, uj.Descent(uj.piecewise([0.125, rate], [switch])), model.init(jax.random.key(0), precision="float64")


def last_finite_update(model, state, rates):
    """(updates, H, W) of the plain update in NumPy, as long as every number is finite."""
    H, W = np.asarray(state.H), np.asarray(state.W)
    Y = np.eye(4)[np.asarray(model.labels.index)]
    for count, eta in enumerate(rates):
        with np.errstate(all="ignore"):
            R = (Y - H @ W.T) / len(Y)
            after = H + eta * R @ W, W + eta * R.T @ H
        if not all(np.all(np.isfinite(part)) for part in after):
            return count, H, W
        H, W = after
    raise AssertionError("it did not diverge")


def test_a_diverging_descent_ends_at_the_same_update_whatever_is_observed():
    model, dynamics, state = diverging()
    count, H, W = last_finite_update(model, state, [0.125] * 90 + [48.0] * 100)
    assert 91 < count < 110
    for times in ([400], [0, 90, 93, count, 400], list(range(0, 401, 50))):
        run = uj.simulate(model, dynamics, state, times, ["log_norm_H"])
        assert run.result is uj.RunResult.OVERFLOW and int(run.elapsed) == count, times
        assert np.asarray(run.reached).tolist() == [time <= count for time in times]
        # Every update of a diverging run multiplies what it rounded by three.
        assert np.log(np.abs(run.final.H).max()) == pytest.approx(np.log(np.abs(H).max()), rel=1e-3)
    # Squares of the last entries overflow, their norm does not.
    again = uj.simulate(model, dynamics, state, [count], ["log_norm_H", "log_norm_W"])
    for name, part in (("log_norm_H", H), ("log_norm_W", W)):
        size = np.abs(part).max()
        want = np.log(size) + np.log(np.linalg.norm(part / size))
        assert again[name][0] == pytest.approx(want, rel=1e-3)


@pytest.mark.long
def test_lanes_of_a_batch_end_where_they_end_alone():
    model, _, state = diverging()

    def run(eta):
        out = uj.simulate(model, uj.Descent(uj.piecewise([0.1, eta], [90])), state, [0, 95, 140], ["norm_W"])
        return out.elapsed, out.code, out.reached, out["norm_W"]

    with jax.enable_x64(True):
        etas = [50.0, 0.1, 20.0]
        batch = jax.jit(jax.vmap(run))(jnp.asarray(etas))
        for lane, eta in enumerate(etas):
            alone = run(eta)
            for got, want in zip(batch, alone, strict=True):
                np.testing.assert_allclose(got[lane], want, rtol=1e-6)
    assert batch[1].tolist() == [2, 0, 2] and batch[0][0] < batch[0][1] == 140


def test_a_group_that_grows_by_a_hundred_times_an_update_is_kept_within_float32():
    """Sixteen such updates leave float32; the run is repeated where they do, and goes on."""
    model = uj.unconstrained(uj.balanced(3, 2), 4)
    state = model.init(jax.random.key(0))
    eta = 3000.0
    run = uj.simulate(model, uj.Descent(eta), state, [0, 60], ["log_norm"])
    truth = uj.exact(model, uj.Descent(eta), state, [0, 60], ["log_norm"])
    assert run.result is uj.RunResult.COMPLETED and truth["log_norm"][1] > 300
    np.testing.assert_allclose(run["log_norm"], truth["log_norm"], rtol=1e-5)


def shrinking(precision, **more):
    model = uj.regularized(uj.balanced(5, 8), dim=16, decay=0.5, loss="cross_entropy", **more)
    return model, model.init(jax.random.key(0), precision=precision)


@pytest.mark.parametrize("momentum", [None, pytest.param(0.5, marks=pytest.mark.long)])
def test_descents_of_cross_entropy_shrink_beyond_float32(momentum):
    """Far below the range the softmax is uniform, and the log of the norm falls along a line."""
    model, state = shrinking("float32")
    run = uj.simulate(model, uj.Descent(0.1, momentum=momentum), state, [0, 2000, 4000, 8000], ["log_norm", "accuracy"])
    assert run.result is uj.RunResult.COMPLETED
    # Contrasts of H and W obey H' = sigma W, sigma = 1/(C sqrt N), in coordinates of unit weights.
    node = 1 / (5 * np.sqrt(8)) - 0.5
    factor = 1 + 0.1 * node
    if momentum:
        factor = np.roots([1, -(1 + momentum + 0.1 * node), momentum]).real.max()
    slope = np.diff(np.asarray(run["log_norm"], float))[1:] / np.array([2000, 4000])
    np.testing.assert_allclose(slope, np.log(factor), rtol=1e-4)
    assert run["log_norm"][-1] < -300 and run["accuracy"][-1] == 1.0


def test_states_that_cannot_carry_a_scale_stop_before_they_lose_digits():
    model, state = shrinking("float32")
    for times in ([5000], [0, 800, 5000]):
        run = uj.simulate(model, uj.Descent(0.1), state, times, ["log_norm"], reduce=False)
        assert run.result is uj.RunResult.UNDERFLOW and not bool(run.reached[-1])
        size = np.linalg.norm(np.asarray(run.final.W, float))
        assert 1e-31 < size < 1e-29
        elapsed = int(run.elapsed)
    assert "underflow" in repr(run) and 800 < elapsed < 5000


@pytest.mark.long
def test_flows_are_solved_relative_to_a_norm_that_shrinks():
    model, state = shrinking("float64")
    run = uj.simulate(model, uj.Flow(), state, [0, 100, 200, 400], ["log_norm", "accuracy"])
    node = 1 / (5 * np.sqrt(8)) - 0.5
    slope = np.diff(run["log_norm"])[1:] / np.array([100, 200])
    np.testing.assert_allclose(slope, node, rtol=1e-6)
    assert run["accuracy"][-1] == 1.0
    single = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), state)
    short = uj.simulate(model, uj.Flow(), single, [0, 100, 400], ["log_norm"])
    assert short.result is uj.RunResult.UNDERFLOW and np.asarray(short.reached).tolist() == [True, True, False]
    assert short["log_norm"][1] == pytest.approx(float(run["log_norm"][1]), abs=1e-2)


def test_a_state_of_zeros_stays_and_completes():
    model = uj.regularized(uj.balanced(2, 2), 3, decay=0.5, loss="cross_entropy")
    zeros = uj.State(np.zeros((4, 3)), np.zeros((2, 3)), np.zeros(2))
    for dynamics in (uj.Descent(0.1), uj.Flow()):
        run = uj.simulate(model, dynamics, zeros, [0, 40], ["norm"])
        assert run.result is uj.RunResult.COMPLETED and np.all(np.asarray(run["norm"]) == 0)


@pytest.mark.long
@pytest.mark.parametrize(
    ("precision", "sizes"),
    [("float32", (1e-30, 1e30)), ("float64", (1e-150, 1e150))],
)
def test_what_is_free_of_scale_is_the_same_at_all_sizes(precision, sizes):
    model = uj.unconstrained(uj.balanced(3, 4), 5)
    state = model.init(jax.random.key(0), precision=precision)
    kind, index = np.dtype(precision).type, np.asarray(model.labels.index)
    close = 1e-5 if precision == "float32" else 1e-10
    with jax.enable_x64(True):
        want = uj.observe_state(model, state, FREE_OF_SCALE)
        for by_H, by_W in [(1.0, sizes[0]), *((a, b) for a in sizes for b in sizes)]:
            moved = state.replace(H=state.H * kind(by_H), W=state.W * kind(by_W))
            got = uj.observe_state(model, moved, (*FREE_OF_SCALE, "log_norm_H", "norm_W"))
            direct = collapse.collapse_metrics(collapse.class_statistics(moved.H, index, 3), W=moved.W)
            for name in FREE_OF_SCALE:
                assert float(got[name]) == pytest.approx(float(want[name]), rel=close, abs=close), (name, by_H, by_W)
                if name in direct:
                    assert float(direct[name]) == pytest.approx(float(want[name]), rel=close, abs=close), name
            assert float(got["norm_W"]) == pytest.approx(by_W * np.linalg.norm(np.asarray(state.W, float)), rel=close)
            length = np.linalg.norm(np.asarray(state.H, float))
            assert float(got["log_norm_H"]) == pytest.approx(np.log(by_H) + np.log(length), rel=close)


@pytest.mark.long
def test_what_overflows_is_infinite():
    model = uj.unconstrained(uj.balanced(3, 4), 5, gamma=1e3)
    state = model.init(jax.random.key(0), precision="float64")
    for solve in (uj.simulate, uj.exact):
        run = solve(model, uj.Flow(), state, [30.0], ["gap_H", "gap_W", "norm", "loss", "log_norm"])
        assert run["log_norm"][0] > 9000
        assert [float(run[name][0]) for name in ("gap_H", "gap_W", "norm")] == [np.inf] * 3
        assert abs(float(run["loss"][0])) == np.inf


@pytest.mark.long
def test_a_start_without_the_leading_modes_tends_to_the_next_ones():
    """Equal class means and prototypes: the mean alone is there and grows, by sigma_2 = (1 - 2 gamma) / sqrt 36."""
    model = uj.unconstrained(uj.balanced(3, 4), 5, gamma=0.1)
    rng = np.random.default_rng(0)
    H, index = rng.normal(size=(12, 5)), np.asarray(model.labels.index)
    for c in range(3):
        H[index == c] -= H[index == c].mean(0)
    state = uj.State(H + rng.normal(size=5), np.tile(rng.normal(size=5), (3, 1)), np.zeros(3))
    seen = []
    for solve in (uj.simulate, uj.exact):
        run = solve(model, uj.Flow(), state, [0.0, 40.0, 50.0], ["log_distance"])
        seen.append(run["log_distance"])
        assert (seen[-1][1] - seen[-1][2]) / 10 == pytest.approx(0.8 / 6, rel=1e-3)
    np.testing.assert_allclose(*seen, rtol=1e-6)
    assert float(uj.limit(model, uj.Flow(), state).rate) == pytest.approx(0.8 / 6)


@pytest.mark.parametrize("classes", [3, 10, 50])
def test_a_bias_without_a_drift_stays_exactly(classes):
    labels = uj.balanced(classes, 7)
    for given in (labels, uj.soft(np.eye(classes)[np.asarray(labels.index)])):
        with jax.enable_x64(True):
            model = uj.unconstrained(given, 4, gamma=1 / (classes - 1))
            assert np.all(np.asarray(model.signal().column_sums("float64")) == 0)
            slope = jax.jacobian(lambda g, m=model: m.replace(gamma=g).signal().column_sums("float64"))
            np.testing.assert_allclose(slope(1 / (classes - 1)), -(classes - 1) / classes, rtol=1e-12)


@pytest.mark.parametrize("solve", [uj.exact, pytest.param(uj.simulate, marks=pytest.mark.long)])
def test_derivatives_at_features_of_zeros_are_finite_and_right(solve):
    model = uj.regularized(uj.balanced(3, 2), 4, decay=0.1)
    rng = np.random.default_rng(0)
    W, push = rng.normal(size=(3, 4)), rng.normal(size=(6, 4))

    @jax.jit
    def truth(x, decay):
        return last(x, decay, uj.exact)

    def last(x, decay, solve):
        state = uj.State(x * push, W, np.zeros(3))
        return solve(model.replace(decay=decay), uj.Flow(), state, [0.0, 5.0], ["log_norm"])["log_norm"][-1]

    with jax.enable_x64(True):
        slopes = jax.jit(jax.grad(lambda x, decay: last(x, decay, solve), argnums=(0, 1)))(0.0, 0.1)
        step = 1e-5
        by_x = (truth(step, 0.1) - truth(-step, 0.1)) / (2 * step)
        by_decay = (truth(0.0, 0.1 + step) - truth(0.0, 0.1 - step)) / (2 * step)
        np.testing.assert_allclose(slopes, [by_x, by_decay], rtol=1e-6)


def test_what_stays_is_nan_where_the_precision_loses_it_beside_what_grows():
    labels = uj.from_counts([3, 2])
    frozen, steps = uj.frozen(labels, dim=3, decay=0.1), uj.Descent(100.0)  # 1 - 100 * 0.1 = -9 in each update
    state, names = frozen.init(jax.random.key(0)), ["log_norm_W", "log_norm", "log_norm_H", "log_abs_loss", "accuracy"]
    truth = uj.exact(frozen, steps, state, [30, 50], names, precision="float64")
    for solve in (uj.exact, uj.simulate):
        run = solve(frozen, steps, state, [30, 50], names)
        for name in names:
            known = 2 if name in names[:2] else 1
            np.testing.assert_allclose(run[name][:known], truth[name][:known], rtol=1e-3)
            assert np.all(np.isnan(run[name][known:])), name


@pytest.mark.parametrize("solve", [uj.exact, pytest.param(uj.simulate, marks=pytest.mark.long)])
def test_what_is_held_out_is_nan_where_the_precision_loses_it_beside_what_grows(solve):
    model = uj.unconstrained(uj.from_counts([3, 2]).hold_out(per_class=1), dim=3)
    names = ["test_log_abs_loss", "test_loss_sign", "test_accuracy", "test_margin_mean"]
    run = solve(model, uj.Flow(), model.init(jax.random.key(0)), [80.0, 150.0], [*names, "log_norm", "accuracy"])
    assert [bool(np.isnan(run[name][1])) for name in (*names, "log_norm", "accuracy")] == [True] * 4 + [False] * 2
    assert np.all(np.isfinite([run[name][0] for name in names]))


def test_a_time_whose_square_overflows():
    model = uj.anchored(uj.from_counts([3, 2]), dim=3)
    state = model.init(jax.random.key(0))
    drift = np.linalg.norm(np.asarray(model.signal().dense("float64")) @ np.asarray(state.W, float))
    run = uj.exact(model, uj.Flow(), state, [1e20], ["log_norm_H", "log_norm_W"])
    np.testing.assert_allclose(run["log_norm_H"], np.log(1e20 * drift), rtol=1e-6)
    np.testing.assert_allclose(run["log_norm_W"], np.log(np.linalg.norm(state.W)), rtol=1e-6)


SMALL = uj.anchored(uj.balanced(3, 4), dim=5)
STAYS = {  # model, dynamics, times of which a simulated run reaches all but the last, and the power of time that grows
    "small": (SMALL, uj.Flow(), [1e10, 1e17, 1e22], 1),
    "many": (uj.anchored(uj.balanced(10, 100), dim=12), uj.Flow(), [1e10, 1e17, 1e22], 1),
    "frozen": (uj.frozen(uj.balanced(3, 4), dim=5), uj.Flow(), [1e10, 1e17, 1e22], 1),
    "slow": (SMALL, uj.Flow(1e-6), [1e16, 1e22, 1e30], 1),
    "fast": (SMALL, uj.Flow(1e10), [1e8, 1e12, 1e16], 1),
    "no damping": (SMALL, uj.Flow(damping=0.0), [1e8, 1e12, 1e16], 2),
    "its rate falls to 0": (
        uj.unconstrained(uj.balanced(3, 4), dim=5), uj.Flow(rate_W=lambda t: 0.0 * t), [1e10, 1e17, 1e22], 1
    ),
}  # fmt: skip


@pytest.mark.long_for("frozen", "slow", "fast", "no damping")
@pytest.mark.parametrize("case", STAYS)
def test_a_flow_ends_where_what_stays_vanishes_beside_what_grows(case):
    """Once its start is forgotten, the part that moves grows like a power of time."""
    model, flow, times, power = STAYS[case]
    run = uj.simulate(
        model, flow, model.init(jax.random.key(0)), times, "log_norm_H" if model.moves.H else "log_norm_W"
    )
    (values,) = run.observables.values()
    assert run.result == uj.RunResult.UNDERFLOW and np.isnan(values[-1])
    np.testing.assert_allclose(values[1] - values[0], power * np.log(times[1] / times[0]), rtol=1e-4)


@pytest.mark.parametrize("share", [1e-12, 1e-25])
def test_a_flow_whose_pull_is_tiny_is_solved(share):
    model = uj.anchored(uj.balanced(3, 4), dim=5)
    state = model.init(jax.random.key(0))
    small = state.replace(W=share * np.asarray(state.W))
    times = [1.0, 1e3]
    run, exact = (solve(model, uj.Flow(), small, times, "log_norm_H") for solve in (uj.simulate, uj.exact))
    assert run.result == uj.RunResult.COMPLETED
    np.testing.assert_allclose(run["log_norm_H"], exact["log_norm_H"], rtol=1e-5)
