"""jit, vmap and grad of `simulate` and `exact`; compilations; symmetries."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis.extra.numpy import arrays

import unhinged_jax as uj
from unhinged_jax.labels import Labels
from unhinged_jax.losses import Unhinged

C, P = 3, 3


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


LAYOUTS = {"balanced": uj.balanced(C, 2), "equal counts": uj.from_counts([2, 2, 1])}
RUNS = {
    "simulated descent": (uj.simulate, lambda eta: uj.Descent(eta), [3, 20]),
    "simulated flow": (uj.simulate, lambda eta: uj.Flow(eta, rtol=1e-11), [0.5, 6.0]),
    "exact flow": (uj.exact, lambda eta: uj.Flow(eta), [0.5, 6.0]),
    "exact descent": (uj.exact, lambda eta: uj.Descent(eta), [3, 20]),
    "exact momentum": (uj.exact, lambda eta: uj.Descent(eta, momentum=0.7), [3, 20]),
}


def scalar(labels, run, dynamics_of, times, state, shift, x):
    """One number from x = (gamma, decay_H, decay_W, eta, step along a random direction of the state)."""
    gamma, decay_H, decay_W, eta, along = x
    model = uj.regularized(labels, P, decay=(decay_H, decay_W), gamma=gamma)
    moved = uj.State(state.H + along * shift.H, state.W + along * shift.W, state.b)
    found = run(model, dynamics_of(eta), moved, times, ["log_norm", "log_distance", "loss"])
    return sum(jnp.sum(found[name]) for name in found.observables)


@pytest.mark.long
@pytest.mark.parametrize(
    ("layout", "run"),
    [
        ("balanced", "simulated descent"),
        ("equal counts", "simulated flow"),
        ("balanced", "exact flow"),
        ("equal counts", "exact flow"),
        ("equal counts", "exact momentum"),
    ],
)
def test_gradients_equal_central_differences(layout, run):
    """At gamma = 1/(C-1) exactly, where a singular value vanishes, and with the top mode twofold."""
    rng = np.random.default_rng(1)
    labels = LAYOUTS[layout]
    state, shift = (
        uj.State(rng.normal(size=(labels.samples, P)), rng.normal(size=(C, P)), np.zeros(C)) for _ in range(2)
    )
    value = functools.partial(scalar, labels, *RUNS[run], state, shift)
    x = np.array([1 / (C - 1), 0.1, 0.1, 0.4, 0.0])
    h = 1e-4
    at = np.concatenate([[x], x + h * np.eye(5), x - h * np.eye(5), x + 2 * h * np.eye(5), x - 2 * h * np.eye(5)])
    values = jax.jit(jax.vmap(value))(at)
    up, down, far_up, far_down = values[1:].reshape(4, 5)
    want = (8 * (up - down) - (far_up - far_down)) / (12 * h)
    value_at, slopes = jax.jit(jax.value_and_grad(value))(x)
    assert value_at == pytest.approx(float(values[0]), rel=1e-9)
    np.testing.assert_allclose(slopes, want, rtol=1e-6, atol=1e-6 * np.max(np.abs(want)))


@pytest.mark.long_for("exact flow")
@pytest.mark.parametrize(
    "run",
    [
        "simulated descent",
        "exact flow",
        *(pytest.param(run, marks=pytest.mark.long) for run in ("simulated flow", "exact momentum")),
    ],
)
def test_three_learning_rates_compile_once_and_a_batch_equals_its_members(run):
    """Numbers are data: rates, decays and gamma do not recompile; mapped over with a seed they give the same."""
    traces = []

    def first_entry(model, state):
        traces.append(1)
        return state.W[0, 0]

    runner, dynamics_of, times = RUNS[run]
    labels = LAYOUTS["equal counts"]

    def values(eta, decay, gamma, seed):
        model = uj.regularized(labels, P, decay=decay, gamma=gamma)
        found = runner(model, dynamics_of(eta), model.init(jax.random.key(seed)), times, {"first": first_entry})
        return jnp.exp(found.final.log_scale) * found.final.H

    settings = [(0.1, 0.1, 0.5, 0), (0.2, 0.0, 0.7, 1), (0.3, 0.2, 0.1, 2)]
    once = values(*settings[0])
    assert traces
    traces.clear()
    singles = [once] + [values(*setting) for setting in settings[1:]]
    assert not traces, "a new learning rate, decay or gamma compiled again"
    batched = jax.jit(jax.vmap(values))
    columns = [np.array(column) for column in zip(*settings, strict=True)]
    np.testing.assert_allclose(batched(*columns), np.stack(singles), rtol=1e-9, atol=1e-10)
    traces.clear()
    batched(2 * columns[0], *columns[1:])
    assert not traces


def test_trajectories_pass_through_jit_and_vmap():
    labels = LAYOUTS["balanced"]
    model = uj.regularized(labels, P, decay=0.1)
    states = jax.vmap(lambda seed: model.init(jax.random.key(seed)))(jnp.arange(3))
    run = jax.jit(jax.vmap(lambda state: uj.exact(model, uj.Flow(), state, [1.0, 2.0], "norm")))(states)
    assert run["norm"].shape == (3, 2)
    one = uj.exact(model, uj.Flow(), jax.tree.map(lambda leaf: leaf[1], states), [1.0, 2.0], "norm")
    np.testing.assert_allclose(run["norm"][1], one["norm"], rtol=1e-13)


# --- symmetries, with hypothesis: one compiled function each ----------------------------------------------------------

N = 5
ENTRIES = st.floats(-2, 2, allow_nan=False, width=32)
HS, WS = arrays(np.float64, (N, P), elements=ENTRIES), arrays(np.float64, (C, P), elements=ENTRIES)
COUNTS = uj.from_counts([2, 2, 1])


@functools.cache
def evolve(name):
    runner, dynamics_of, times = RUNS[name]

    @jax.jit
    def run(index, weights, H, W, decay, rates):
        labels = Labels(index, weights, classes=C)
        model = uj.LayerPeeled(labels, Unhinged(0.4), decay, decay, dim=P)
        start = uj.State(H, W, jnp.zeros(C))
        dynamics = dynamics_of(0.3)
        dynamics = type(dynamics)(dynamics.schedule, *rates, **({"rtol": 1e-11} if name == "simulated flow" else {}))
        final = runner(model, dynamics, start, times[-1:], observe=()).final
        return jnp.exp(final.log_scale) * final.H, jnp.exp(final.log_scale) * final.W

    return run


FAST = ["exact flow", "exact descent", "simulated descent"]


@pytest.mark.parametrize("name", FAST)
@hypothesis.given(H=HS, W=WS, seed=st.integers(0, 2**20))
def test_rotations_and_relabellings_commute_with_the_dynamics(name, H, W, seed):
    rng = np.random.default_rng(seed)
    run, rates = evolve(name), (0.7, 1.3)
    index, weights = COUNTS.index, rng.uniform(0.1, 1.0, N)
    base_H, base_W = run(index, weights, H, W, 0.1, rates)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12)

    Q, _ = np.linalg.qr(rng.normal(size=(P, P)))
    turned_H, turned_W = run(index, weights, H @ Q, W @ Q, 0.1, rates)
    close(turned_H, base_H @ Q)
    close(turned_W, base_W @ Q)

    order = rng.permutation(N)
    mixed_H, mixed_W = run(index[order], weights[order], H[order], W, 0.1, rates)
    close(mixed_H, base_H[order])
    close(mixed_W, base_W)

    names = rng.permutation(C)  # class c is called names[c]
    renamed_H, renamed_W = run(names[index].astype(np.int32), weights, H, W[np.argsort(names)], 0.1, rates)
    close(renamed_H, base_H)
    close(renamed_W[names], base_W)


@pytest.mark.parametrize("name", ["exact flow", "simulated flow"])
@hypothesis.settings(max_examples=10)
@hypothesis.given(H=HS, W=WS, r1=st.floats(0.3, 2.0), r2=st.floats(0.3, 2.0))
def test_flow_without_decay_conserves_the_difference_of_squares(name, H, W, r1, r2):
    """d(||H||^2/r1)/dt = d(||W||^2/r2)/dt = 2 <M, H W^T>."""
    hypothesis.assume(np.linalg.norm(H) > 1e-3 or np.linalg.norm(W) > 1e-3)
    got_H, got_W = evolve(name)(COUNTS.index, COUNTS.weights, H, W, 0.0, (r1, r2))
    size = np.sum(got_H**2) + np.sum(got_W**2)
    before, after = (np.sum(h**2) - r1 / r2 * np.sum(w**2) for h, w in ((H, W), (got_H, got_W)))
    assert abs(after - before) < (1e-12 if name == "exact flow" else 1e-8) * size * max(1, r1 / r2)


@pytest.mark.long
def test_a_pullback_reaches_sample_weights_and_targets():
    """Gradients flow into the signal itself: against central differences."""
    rng = np.random.default_rng(2)
    targets, direction = rng.dirichlet(np.ones(C), size=N), rng.normal(size=(N, C))
    state = uj.State(rng.normal(size=(N, P)), rng.normal(size=(C, P)), np.zeros(C))

    def value(step):
        labels = Labels(np.zeros(N, int), np.full(N, 0.2), targets + step * direction, classes=C, kind="soft")
        model = uj.LayerPeeled(labels, Unhinged(0.5), 0.1, 0.05, dim=P)
        found = uj.exact(model, uj.Flow(), state, [3.0], ["log_norm", "log_distance"])
        return found["log_norm"][0] + found["log_distance"][0]

    both = jax.jit(jax.value_and_grad(value))
    want = (both(1e-5)[0] - both(-1e-5)[0]) / 2e-5
    assert float(both(0.0)[1]) == pytest.approx(float(want), rel=1e-7)


def test_oracles_agree_with_each_other():
    rng = np.random.default_rng(3)
    A, Z = rng.normal(size=(4, 4)), rng.normal(size=(4, 2))
    want = oracles.decimal_expm(oracles.decimals(A), 1.3).dot(oracles.decimals(Z))
    H, _ = oracles.flow_state(A, Z[:2], Z[2:], 1.3)
    assert oracles.relative(H, want[:2]) < 1e-13
