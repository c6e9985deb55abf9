"""`simulate` against plain NumPy loops, ODE solvers, optax by hand and its own unreduced form."""

import math
import subprocess
import sys
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from scipy.integrate import solve_ivp

import unhinged_jax as uj
from unhinged_jax.observables import View
from unhinged_jax.observables.accuracy import accuracy
from unhinged_jax.observables.features import ScoredFeatures

N, C, P = 6, 3, 4


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def start(rng, n=N, p=P, classes=C):
    return uj.State(rng.normal(size=(n, p)), rng.normal(size=(classes, p)), rng.normal(size=classes))


def targets_of(labels):
    return np.asarray(labels.probabilities(), dtype=float)


def signal_of(labels, gamma):
    return oracles.signal_matrix(labels.weights, targets_of(labels), gamma)


LAYOUTS = {
    "balanced": lambda: uj.balanced(C, 2, order="cyclic"),
    "counts": lambda: uj.from_counts([3, 2, 1]),
    "table": lambda: uj.from_counts([3, 2, 1]).symmetric_noise(0.2),
    "weights": lambda: uj.from_counts([2, 2, 2]).weighted(classes=[1, 2, 3], samples=[1, 2, 1, 2, 1, 2]),
}


def linear_loop(model, gamma, state, etas, rates=(1.0, 1.0), momentum=None, nesterov=False, kernel=None):
    M = signal_of(model.labels, gamma)
    moves = (int(model.features_move), int(model.prototypes_move), int(model.bias and model.prototypes_move))
    gradient = oracles.linear_gradient(M, kernel, (model.decay_H, model.decay_W), moves)
    parts = (state.H, state.W, state.b)
    return list(oracles.descent(gradient, parts, etas, (*rates, rates[1]), momentum, nesterov))


def check_parts(state, want, tolerance=1e-12):
    for name, got, expected in zip("HWb", (state.H, state.W, state.b), want, strict=True):
        assert np.linalg.norm(got - expected) <= tolerance * np.linalg.norm(expected), name


@pytest.mark.parametrize(("layout", "p"), [(name, P) for name in LAYOUTS] + [("weights", 40), ("balanced", 40)])
def test_class_sums_and_the_split_equal_a_plain_loop(layout, p):
    """With a distance to watch the state is split; with p = 40 > 2C the feature dimension is compressed too."""
    rng = np.random.default_rng(1)
    model = uj.regularized(LAYOUTS[layout](), p, decay=(0.1, 0.03), gamma=0.3, bias=True)
    state = start(rng, p=p)
    run = uj.simulate(model, uj.Descent(0.4, rate_H=0.7), state, [0, 1, 50], ["distance"], states=True)
    wanted = linear_loop(model, 0.3, state, np.full(50, 0.4), (0.7, 1.0))
    for slot, count in enumerate([0, 1, 50]):
        check_parts(jax.tree.map(lambda leaf, slot=slot: leaf[slot], run.states), wanted[count])


@pytest.mark.parametrize("part", ["anchored", "frozen"])
@pytest.mark.parametrize("observe", ["distance", "norm"])
def test_one_moving_part_equals_a_plain_loop_and_goes_on(part, observe):
    """Restarted half-way with momentum, with and without the split."""
    rng = np.random.default_rng(2)
    model = getattr(uj, part)(uj.from_counts([3, 2, 1]), P, decay=0.1, gamma=0.3)
    state, heavy = start(rng), uj.Descent(0.4, momentum=0.8)
    first = uj.simulate(model, heavy, state, [0, 20], "distance")
    both = uj.simulate(model, heavy, first, [20, 40], observe)
    wanted = linear_loop(model, 0.3, state, np.full(40, 0.4), momentum=0.8)
    check_parts(first.final, wanted[20])
    check_parts(both.final, wanted[40])


@pytest.mark.parametrize(("nesterov", "p"), [pytest.param(False, P, marks=pytest.mark.long), (True, 40)])
def test_momentum_with_a_schedule_equals_a_plain_loop_and_goes_on(nesterov, p):
    rng = np.random.default_rng(3)
    model = uj.regularized(uj.from_counts([3, 2, 1]), p, decay=(0.1, 0.03), gamma=0.3, bias=True)
    state = start(rng, p=p)
    dynamics = uj.Descent(uj.cosine(0.5, 60.0, 0.1), rate_W=1.4, momentum=0.9, nesterov=nesterov)
    etas = 0.1 + 0.4 * (1 + np.cos(np.pi * np.arange(60) / 60)) / 2
    wanted = linear_loop(model, 0.3, state, etas, (1.0, 1.4), 0.9, nesterov)
    first = uj.simulate(model, dynamics, state, [0, 33], ["distance"])
    both = uj.simulate(model, dynamics, first, [33, 60], ["distance"])
    check_parts(first.final, wanted[33])
    check_parts(both.final, wanted[60])
    assert int(both.elapsed) == 60


@pytest.mark.long
def test_momentum_goes_on_beyond_the_floating_point_range():
    model = uj.unconstrained(uj.balanced(2, 1), 4)
    state, dynamics = model.init(jax.random.key(0), precision="float64"), uj.Descent(0.5, momentum=0.9)
    first = uj.simulate(model, dynamics, state, [0, 1500], ["distance"])
    both = uj.simulate(model, dynamics, first, [1500, 3000], "log_norm")
    want = uj.exact(model, dynamics, state, [3000], "log_norm")["log_norm"][0]
    assert want > 1900
    assert both["log_norm"][-1] == pytest.approx(float(want), rel=1e-12)


def test_memory_of_another_optimizer_is_refused():
    model = uj.unconstrained(uj.balanced(2, 1), 4)
    state = model.init(jax.random.key(0))
    first = uj.simulate(model, uj.Descent(0.1, momentum=0.5), state, [3], "norm")
    with pytest.raises(ValueError, match="memory of another optimizer"):
        uj.simulate(model, uj.Descent(0.1, optimizer=optax.adam(1.0)), first, [5], "norm")


def test_a_sample_kernel_equals_a_plain_loop():
    rng = np.random.default_rng(4)
    J = rng.normal(size=(N, 2))
    model = uj.ntk_invariant(uj.from_counts([3, 2, 1]), P, J, decay=0.05, gamma=0.3)
    state = start(rng)
    run = uj.simulate(model, uj.Descent(0.3), state, [0, 40], ["distance"])
    check_parts(run.final, linear_loop(model, 0.3, state, np.full(40, 0.3), kernel=J @ J.T)[-1])


def test_a_coordinate_kernel_equals_a_plain_loop():
    rng = np.random.default_rng(5)
    J = rng.normal(size=(N * P, 3))
    labels = uj.from_counts([3, 2, 1])
    model, state = uj.ntk_invariant(labels, P, J @ J.T, gamma=0.3), start(rng)
    M = signal_of(labels, 0.3)

    def gradient(H, W, b):
        return -(J @ (J.T @ (M @ W).ravel())).reshape(H.shape), -M.T @ H, 0 * b

    wanted = list(oracles.descent(gradient, (state.H, state.W, state.b), np.full(20, 0.3), (1.0, 1.0, 1.0)))
    check_parts(uj.simulate(model, uj.Descent(0.3), state, [20], "norm").final, wanted[-1])


# --- other losses and optimisers --------------------------------------------------------------------------------------


def softmax(S):
    E = np.exp(S - S.max(axis=1, keepdims=True))
    return E / E.sum(axis=1, keepdims=True)


def slope_cross_entropy(S, Y):
    return softmax(S) - Y


def slope_mse(S, Y):
    return S - Y


def slope_hinge(S, Y):
    truth = Y.argmax(axis=1)
    rows = np.arange(len(S))
    rival = np.where(Y == 1, -np.inf, S).argmax(axis=1)
    open_margin = 1 + S[rows, rival] - S[rows, truth] > 0
    slope = np.zeros_like(S)
    slope[rows, truth] -= open_margin
    slope[rows, rival] += open_margin
    return slope


def slope_focal(S, Y):
    p = softmax(S)
    own = np.sum(p * Y, axis=1, keepdims=True)
    in_p = 2 * (1 - own) * np.log(own) - (1 - own) ** 2 / own  # d/dp of -(1 - p)^2 log p
    return in_p * own * (Y - p)


def custom_loss(logits, targets):
    return jnp.sum(jnp.logaddexp(0.0, (1 - 2 * targets) * logits), axis=-1)


def slope_custom(S, Y):
    sign = 1 - 2 * Y
    return sign / (1 + np.exp(-sign * S))


LOSSES = {
    "cross_entropy": slope_cross_entropy,
    "mse": slope_mse,
    "hinge": slope_hinge,
    "focal": slope_focal,
    custom_loss: slope_custom,
}


def loss_gradient(slope, labels, decay):
    q, Y = np.asarray(labels.weights)[:, None], targets_of(labels)

    def gradient(H, W, b):
        G = q * slope(H @ W.T + b, Y)
        return G @ W + decay[0] * H, G.T @ H + decay[1] * W, G.sum(axis=0) + decay[1] * b

    return gradient


@pytest.mark.parametrize("loss", list(LOSSES), ids=lambda loss: loss if isinstance(loss, str) else "custom")
def test_descent_on_other_losses_equals_a_plain_loop(loss):
    rng = np.random.default_rng(6)
    labels = uj.from_counts([3, 2, 1])
    model, state = uj.regularized(labels, P, decay=(0.1, 0.03), loss=loss, bias=True), start(rng)
    run = uj.simulate(model, uj.Descent(0.5, rate_W=0.7), state, [30], "loss")
    gradient = loss_gradient(LOSSES[loss], labels, (0.1, 0.03))
    *_, want = oracles.descent(gradient, (state.H, state.W, state.b), np.full(30, 0.5), (1.0, 0.7, 0.7))
    check_parts(run.final, want, 1e-11)


def test_cross_entropy_flow_equals_an_ode_solution():
    rng = np.random.default_rng(7)
    labels = uj.from_counts([3, 2, 1])
    model, state = uj.regularized(labels, P, decay=0.1, loss="cross_entropy", bias=True), start(rng)
    run = uj.simulate(model, uj.Flow(uj.exponential(1.0, 0.1), rate_W=0.5, rtol=1e-10), state, [1.0, 8.0], "loss")
    gradient = loss_gradient(slope_cross_entropy, labels, (0.1, 0.1))
    shapes = [(N, P), (C, P), (C,)]
    cuts = np.cumsum([math.prod(shape) for shape in shapes])[:-1]

    def field(t, flat):
        parts = [part.reshape(shape) for part, shape in zip(np.split(flat, cuts), shapes, strict=True)]
        pairs = zip((1.0, 0.5, 0.5), gradient(*parts), strict=True)
        return np.concatenate([(-math.exp(-0.1 * t) * rate * g).ravel() for rate, g in pairs])

    flat = np.concatenate([state.H.ravel(), state.W.ravel(), state.b])
    want = solve_ivp(field, (0, 8), flat, "DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    got = np.concatenate([np.ravel(part) for part in (run.final.H, run.final.W, run.final.b)])
    assert oracles.relative(got, want) < 1e-8


def test_adam_equals_adam_by_hand_and_goes_on():
    """Adam with separate rates for H and for W and b, its moments kept over a restart."""
    rng = np.random.default_rng(8)
    labels = uj.from_counts([3, 2, 1])
    model, state = uj.regularized(labels, P, decay=0.1, gamma=0.3, bias=True), start(rng)
    dynamics = uj.Descent(0.05, rate_W=0.4, optimizer=optax.adam(1.0, b1=0.8, b2=0.95))
    first = uj.simulate(model, dynamics, state, [10], "norm")
    both = uj.simulate(model, dynamics, first, [25], "norm")
    gradient = oracles.linear_gradient(signal_of(labels, 0.3), None, (0.1, 0.1))
    parts = [state.H, state.W, state.b]
    mean, square = [0 * part for part in parts], [0 * part for part in parts]
    for k in range(1, 26):
        grads = gradient(*parts)
        mean = [0.8 * m + 0.2 * g for m, g in zip(mean, grads, strict=True)]
        square = [0.95 * v + 0.05 * g**2 for v, g in zip(square, grads, strict=True)]
        change = [(m / (1 - 0.8**k)) / (np.sqrt(v / (1 - 0.95**k)) + 1e-8) for m, v in zip(mean, square, strict=True)]
        parts = [x - 0.05 * r * d for x, r, d in zip(parts, (1.0, 0.4, 0.4), change, strict=True)]
    check_parts(both.final, parts, 1e-11)


# --- spherical --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("q", [0, 1, 2])
@pytest.mark.parametrize("reduce", [True, False])
def test_spherical_descent_equals_a_plain_loop(q, reduce):
    rng = np.random.default_rng(9)
    labels = uj.from_counts([3, 2, 1])
    model, state = uj.spherical(labels, P, decay=0.2, rescale=q, gamma=0.3), start(rng)
    G = signal_of(labels, 0.3) @ state.W
    H = state.H
    for _ in range(30):
        length = np.linalg.norm(H, axis=1, keepdims=True)
        unit = H / length
        H = H + 0.5 * (length ** (q - 1) * (G - unit * np.sum(unit * G, axis=1, keepdims=True)) - 0.2 * H)
    run = uj.simulate(model, uj.Descent(0.5), state, [30], "distance", reduce=reduce)
    assert oracles.relative(run.final.H, H) < 1e-10  # short features turn fast: the loop itself is sensitive
    target = G / np.linalg.norm(G, axis=1, keepdims=True)
    want = np.linalg.norm(H / np.linalg.norm(H, axis=1, keepdims=True) - target)
    assert run["distance"][0] == pytest.approx(want, rel=1e-9)


def test_opposite_samples_stay_and_nearly_opposite_ones_leave_in_time():
    """theta = pi is kept for ever; from pi - 1e-12 simulated and exact descent leave at the same step."""
    W = np.array([[1.0, 0.0], [-1.0, 0.0]])
    model, names = uj.spherical(uj.balanced(2, 1), 2), ["distance"]
    for across, moved in ((0.0, False), (1e-12, True)):
        state = uj.State(np.array([[-2.0, across], [1.0, 0.5]]), W, np.zeros(2))
        found = [run(model, uj.Descent(0.5), state, [0, 120, 400], names) for run in (uj.simulate, uj.exact)]
        np.testing.assert_allclose(found[0]["distance"], found[1]["distance"], rtol=1e-10)
        assert (found[0]["distance"][-1] < 1e-5) == moved


@pytest.mark.parametrize("free", [False, True])
def test_spherical_flow_with_other_losses_equals_an_ode_solution(free):
    rng = np.random.default_rng(10)
    labels = uj.from_counts([3, 2, 1])
    model = uj.spherical(labels, P, decay=0.1, rescale=1, free_prototypes=free, loss="cross_entropy")
    state, Y, q = start(rng), targets_of(labels), 1 / N

    def field(t, flat):
        H, W = flat[: N * P].reshape(N, P), flat[N * P :].reshape(C, P)
        length = np.linalg.norm(H, axis=1, keepdims=True)
        unit = H / length
        slope = q * (softmax(unit @ W.T + state.b) - Y)
        G = slope @ W
        in_H = length * (G - unit * np.sum(unit * G, axis=1, keepdims=True)) / length
        return np.concatenate([(-in_H - 0.1 * H).ravel(), (-free * slope.T @ unit).ravel()])

    flat = np.concatenate([state.H.ravel(), state.W.ravel()])
    want = solve_ivp(field, (0, 5), flat, "DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    final = uj.simulate(model, uj.Flow(rtol=1e-10), state, [5.0], "loss").final
    assert oracles.relative(np.concatenate([np.ravel(final.H), np.ravel(final.W)]), want) < 1e-8


# --- flows, distances and horizons ------------------------------------------------------------------------------------


def imbalanced(decay=(0.05, 0.02)):
    rng = np.random.default_rng(21)
    labels = uj.from_counts([2, 1, 1])
    model = uj.regularized(labels, 3, decay=decay, gamma=0.7)
    state = uj.State(rng.normal(size=(4, 3)), rng.normal(size=(3, 3)), np.zeros(3))
    return model, state, oracles.generator(signal_of(labels, 0.7), None, decay)


def decimal_distance(step, state, count, far, part=slice(None)):
    Z = oracles.decimals(np.concatenate([state.H, state.W]))
    now, limit = (oracles.decimal_power(step, k).dot(Z)[part] for k in (count, far))
    return float(oracles.direction_distance(now, limit))


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_distances_of_a_descent_down_to_1e_30_equal_decimal_arithmetic(precision):
    model, state, A = imbalanced()
    if precision == "float32":
        state = jax.tree.map(np.float32, state)
    eta = 0.5
    step = oracles.decimals(np.eye(7)) + oracles.decimals(A) * Decimal(eta)
    names = ["distance", "distance_H", "distance_W"]
    counts = [0, 1, 25, 120, 1400]
    run = uj.simulate(model, uj.Descent(eta), state, counts, names, precision=precision)
    tolerance = 1e-6 if precision == "float64" else 1e-3
    for slot, count in enumerate(counts):
        for name, part in zip(names, (slice(None), slice(4), slice(4, None)), strict=True):
            want = decimal_distance(step, state, count, 6000, part)
            assert run[name][slot] == pytest.approx(want, rel=tolerance), (name, count)
    assert run["distance"][-1] < 1e-30


def test_distance_at_the_start_is_its_definition():
    """Balanced, equal rates and decays: the limit is the mean of (class contrasts of class means, of W) and swap."""
    rng = np.random.default_rng(12)
    model, state = uj.regularized(uj.balanced(3, 2), P, decay=0.1), start(rng)
    means = state.H.reshape(3, 2, P).mean(axis=1) * math.sqrt(2)
    lead = (means - means.mean(axis=0) + state.W - state.W.mean(axis=0)) / 2
    limit = np.concatenate([np.repeat(lead / math.sqrt(2), 2, axis=0), lead])
    Z = np.concatenate([state.H, state.W])
    want = np.linalg.norm(Z / np.linalg.norm(Z) - limit / np.linalg.norm(limit))
    for run in (uj.exact, uj.simulate):
        assert run(model, uj.Descent(0.1), state, [0], "distance")["distance"][0] == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_flow_equals_the_matrix_exponential_at_any_scale_and_its_distances_are_sharp(scale):
    model, state, A = imbalanced()
    state = state.replace(H=scale * state.H, W=scale * state.W)
    times, names = [0.0, 1.0, 40.0, 600.0], ["distance", "distance_H", "distance_W", "log_norm"]
    run = uj.simulate(model, uj.Flow(rtol=1e-11), state, times, names, states=True)
    Z = oracles.decimals(np.concatenate([state.H, state.W]))
    limit = oracles.decimal_expm(oracles.decimals(A), 2500.0).dot(Z)
    for slot, tau in enumerate(times):
        now = oracles.decimal_expm(oracles.decimals(A), tau).dot(Z)
        factor = math.exp(run.states.log_scale[slot])
        got = factor * np.concatenate([run.states.H[slot], run.states.W[slot]])
        assert oracles.relative(got, now) < 1e-8
        assert run["log_norm"][slot] == pytest.approx(float(oracles.decimal_norm(now).ln()), rel=1e-9)
        for name, part in zip(names, (slice(None), slice(4), slice(4, None)), strict=False):
            want = float(oracles.direction_distance(now[part], limit[part]))
            assert run[name][slot] == pytest.approx(want, rel=1e-6), (name, tau)
    assert run["distance"][-1] < 1e-30


def test_flow_of_a_frozen_part_reaches_small_distances():
    """W -> M^T H at the rate of its decay, beside a residual of H that stays."""
    _, state, _ = imbalanced()
    labels = uj.from_counts([2, 1, 1])
    M = signal_of(labels, 0.7)
    run = uj.simulate(uj.frozen(labels, 3, decay=0.1, gamma=0.7), uj.Flow(rtol=1e-11), state, [700.0], "distance")
    goal = oracles.decimals(M.T @ state.H) / Decimal.from_float(0.1)
    fade = (-Decimal.from_float(0.1) * 700).exp()
    want = float(oracles.direction_distance(fade * oracles.decimals(state.W) + (1 - fade) * goal, goal))
    assert want < 1e-30
    assert run["distance"][0] == pytest.approx(want, rel=1e-6)


@pytest.mark.long
def test_a_horizon_of_a_million_by_rescaling():
    model, state, _ = imbalanced()
    slow, times, names = uj.Flow(0.03), [300.0, 1e6], ["log_norm", "log_distance"]
    run, exact = (run(model, slow, state, times, names) for run in (uj.simulate, uj.exact))
    assert run.result is uj.RunResult.COMPLETED
    np.testing.assert_allclose(run["log_norm"], exact["log_norm"], rtol=1e-7)
    np.testing.assert_allclose(run["log_distance"], exact["log_distance"], rtol=1e-6)
    assert run["log_norm"][-1] > 800


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_descent_beyond_1e300_by_rescaling(precision):
    """10,000 updates that grow the state by a half each: within a block of updates alone float32 would overflow."""
    model, state, A = imbalanced(decay=(0.0, 0.0))
    eta = 0.5 / np.max(np.linalg.eigvals(A).real)
    times = [10, 700, 10_000]
    run = uj.simulate(model, uj.Descent(eta), state, times, ["log_norm", "log_distance"], precision=precision)
    assert run.result is uj.RunResult.COMPLETED
    step = oracles.decimals(np.eye(7)) + oracles.decimals(A) * Decimal(float(eta))
    Z = oracles.decimals(np.concatenate([state.H, state.W]))
    tolerance = 1e-12 if precision == "float64" else 1e-5
    for slot, count in enumerate(times):
        want = float(oracles.decimal_norm(oracles.decimal_power(step, count).dot(Z)).ln())
        assert run["log_norm"][slot] == pytest.approx(want, rel=tolerance)
    assert run["log_norm"][-1] > 4000
    spectrum = np.log1p(eta * np.sort(np.linalg.eigvals(A).real))
    rate = (run["log_distance"][1] - run["log_distance"][2]) / (times[2] - times[1])
    assert rate == pytest.approx(spectrum[-1] - spectrum[-2], rel=1e-4 if precision == "float32" else 1e-9)


OVERFLOWS = {
    "adam": (lambda labels: uj.unconstrained(labels, 3), uj.Descent(1e80, optimizer=optax.sgd(1.0))),
    "mse": (lambda labels: uj.unconstrained(labels, 3, loss="mse"), uj.Descent(50.0)),
    "spherical": (lambda labels: uj.spherical(labels, 3, decay=9.0), uj.Descent(1.0)),
    "flow": (lambda labels: uj.unconstrained(labels, 3, loss=lambda s, y: -jnp.sum(s * y, -1)), uj.Flow()),
}


@pytest.mark.parametrize("name", list(OVERFLOWS))
def test_other_runs_stop_before_overflow_and_keep_what_they_reached(name):
    make, dynamics = OVERFLOWS[name]
    model = make(uj.from_counts([2, 1, 1]))
    _, state, _ = imbalanced()
    times = [0.0, 0.1, 3e3] if name == "flow" else [0, 1, 1000]
    run = uj.simulate(model, dynamics, state, times, ["norm_H"])
    assert run.result is uj.RunResult.OVERFLOW
    assert "overflow" in repr(run)
    assert bool(run.reached[0]) and not bool(run.reached[-1])
    values = np.asarray(run["norm_H"])
    assert np.array_equal(np.isfinite(values), np.asarray(run.reached))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(run.final))


# --- times and restarts -----------------------------------------------------------------------------------------------


def halfway(a, b):
    return (a + b) // 2 if isinstance(a, int) else (a + b) / 2


@pytest.mark.long_for("exact-dynamics3-times3-1e-12", "exact-dynamics2-times2-1e-12")
@pytest.mark.parametrize(
    ("run", "dynamics", "times", "tolerance"),
    [
        (uj.exact, uj.Flow(uj.exponential(1.0, 0.2)), [0.0, 1.5, 4.0], 1e-12),
        (uj.simulate, uj.Flow(uj.exponential(1.0, 0.2), rtol=1e-11), [0.0, 1.5, 4.0], 1e-9),
        (uj.exact, uj.Descent(0.3), [0, 7, 20], 1e-12),
        (uj.exact, uj.Descent(uj.cosine(0.3, 15.0)), [0, 7, 20], 1e-12),
        (uj.simulate, uj.Descent(uj.cosine(0.3, 15.0)), [0, 7, 20], 1e-12),
    ],
)
def test_going_on_equals_going_through_and_zero_is_the_start(run, dynamics, times, tolerance):
    rng = np.random.default_rng(13)
    model = uj.regularized(uj.from_counts([3, 2, 1]), P, decay=0.1, gamma=0.3, bias=True)
    state = start(rng)
    begin, turn, end = times
    whole = run(model, dynamics, state, times, "norm", states=True)
    # Three times each, so that one compiled program serves all runs of a kind.
    first = run(model, dynamics, state, [begin, halfway(begin, turn), turn], "norm", states=True)
    rest = run(model, dynamics, first, [turn, halfway(turn, end), end], "norm", states=True)
    for name in "HWb":
        got, want = getattr(rest.final, name), getattr(whole.final, name)
        assert oracles.relative(got, want) < tolerance
        assert oracles.relative(getattr(whole.states, name)[0], getattr(state, name)) < 1e-15
        assert oracles.relative(getattr(whole.states, name)[1], getattr(first.final, name)) < tolerance
    np.testing.assert_allclose(rest["norm"][-1], whole["norm"][-1], rtol=tolerance)


@pytest.mark.parametrize("run", [uj.exact, uj.simulate])
def test_spherical_runs_go_on(run):
    rng = np.random.default_rng(14)
    model, state = uj.spherical(uj.from_counts([3, 2, 1]), P, decay=0.1, gamma=0.3), start(rng)
    dynamics = uj.Flow(uj.cosine(1.0, 5.0, 0.1), rtol=1e-11)
    whole = run(model, dynamics, state, [6.0], "distance")
    rest = run(model, dynamics, run(model, dynamics, state, [2.0], "distance"), [6.0], "distance")
    assert oracles.relative(rest.final.H, whole.final.H) < 1e-9


def test_a_steady_state_stops_the_flow():
    rng = np.random.default_rng(15)
    model = uj.regularized(uj.from_counts([3, 2, 1]), P, decay=0.5, loss="cross_entropy")
    run = uj.simulate(model, uj.Flow(steady=True), start(rng), [1.0, 1e6], "norm")
    assert run.result is uj.RunResult.STEADY
    assert list(run.reached) == [True, False]


@pytest.mark.long
def test_float32_distances_of_1e_7_are_right():
    model, state, _ = imbalanced()
    small = jax.tree.map(np.float32, state)
    wide = jax.tree.map(np.float64, small)
    times = [100, 300, 400]
    want = uj.exact(model, uj.Descent(0.5), wide, times, "distance")["distance"]
    assert want[1] < 1e-7
    for run in (uj.exact, uj.simulate):
        got = run(model, uj.Descent(0.5), small, times, "distance")["distance"]
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=1e-3)


LARGE = """
import re
import jax
import numpy as np
import unhinged_jax as uj
model = uj.regularized(uj.balanced(classes=1000, per_class=200), dim=64, decay=1e-5)
state = model.init(jax.random.key(0))
for run, dynamics, times in ((uj.exact, uj.Flow(), [0.0, 50.0, 5000.0]), (uj.simulate, uj.Descent(1.0), [0, 20])):
    found = run(model, dynamics, state, times, ["accuracy", "norm"])
    assert np.all(np.isfinite(found["norm"])), found
    assert found["norm"].dtype == np.float32
    assert 0 <= found["accuracy"][0] < 0.02, found["accuracy"]
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process that another one started is read on Linux")
def test_two_hundred_thousand_samples_fit_in_4_gb():
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    peak = int(done.stdout.split()[-1]) * 1024  # bytes; ru_maxrss is inherited from the process of the tests
    assert peak < 4e9, f"{peak / 1e9:.2f} GB"


@pytest.mark.parametrize("loss", ["cross_entropy", pytest.param("mse", marks=pytest.mark.long)])
def test_a_flow_that_carries_its_logits_is_the_plain_one(loss):
    labels = uj.from_counts([4, 2, 3])
    model = uj.regularized(labels, dim=8, decay=(0.02, 0.05), bias=True, loss=loss)
    state = model.init(jax.random.key(3), precision="float64")
    flow = uj.Flow(uj.cosine(0.5, horizon=30), rate_H=1.5, rate_W=0.7, rtol=1e-10)
    times, observe = np.linspace(0, 25, 101), ["loss", "objective", "accuracy", "margin_min", "log_norm", "norm_H"]
    carried = uj.simulate(model, flow, state, times, observe)
    plain = uj.simulate(model, flow, state, times, observe, reduce=False)
    for name in observe:
        np.testing.assert_allclose(carried[name], plain[name], rtol=2e-7, atol=1e-8, err_msg=name)
    np.testing.assert_allclose(carried.final.H, plain.final.H, rtol=1e-7, atol=1e-8)


def test_a_flow_that_carries_its_logits_may_start_at_zero_features():
    model = uj.unconstrained(uj.balanced(classes=2, per_class=2), dim=4, loss="cross_entropy")
    state = model.init(jax.random.key(0), features=np.zeros((4, 4)), precision="float64")
    times = np.linspace(0, 5, 101)
    run = uj.simulate(model, uj.Flow(rtol=1e-9), state, times, ["norm_H", "loss"])
    plain = uj.simulate(model, uj.Flow(rtol=1e-9), state, times, ["norm_H", "loss"], reduce=False)
    np.testing.assert_allclose(run["norm_H"], plain["norm_H"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(run["loss"], plain["loss"], rtol=1e-7)


@pytest.mark.long
@pytest.mark.parametrize("dynamics", [uj.Flow(), uj.Descent(0.5)], ids=["flow", "descent"])
def test_functions_observe_states_whose_scale_is_multiplied_in(dynamics):
    model = uj.unconstrained(uj.balanced(3, 2), 4)
    state = model.init(jax.random.key(0), precision="float64")

    def size(model, state):
        return jnp.sqrt(jnp.sum(state.H**2) + jnp.sum(state.W**2))

    for run in (uj.simulate, uj.exact):
        seen = run(model, dynamics, state, [0, 20, 60], {"size": size, "norm": None})
        np.testing.assert_allclose(seen["size"], seen["norm"], rtol=1e-12)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_accuracy_takes_the_first_of_equal_logits_and_is_unknown_if_a_logit_is(compiled):
    draw = np.random.default_rng(5)
    labels = uj.from_labels(draw.integers(0, 4, 200), classes=4)
    scores = draw.integers(-1, 2, (200, 4)) / 3.0  # ties everywhere
    bias, log_scale = np.array([0.1, 0.1, 0.1, 0.1]), 0.3

    def share(scores):
        # Of prototypes that are unit vectors.
        features = ScoredFeatures(scores.T, known_scores=scores, known_norm=jnp.asarray(1.0))
        view = View(uj.unconstrained(labels, 4), features, jnp.eye(4), jnp.asarray(bias), jnp.asarray(log_scale))
        return accuracy(view)

    found = (jax.jit(share) if compiled else share)(jnp.asarray(scores.T))
    right = [
        row[own] == max(row) and list(row).index(max(row)) == own
        for row, own in zip(scores, np.asarray(labels.truth), strict=True)
    ]
    assert float(found) == pytest.approx(np.mean(right), rel=1e-12) and np.mean(right) > 0.1
    scores[9, 1] = np.nan
    assert np.isnan((jax.jit(share) if compiled else share)(jnp.asarray(scores.T)))


@pytest.mark.long_for("True")
@pytest.mark.parametrize("spherical", [False, True])
def test_a_velocity_that_a_reduced_run_would_lose_is_refused(spherical):
    """Other labels go on with the first ones' velocity: a dense run keeps all of it, a reduced one would not."""
    rng = np.random.default_rng(0)
    models = [
        uj.spherical(labels, 4, gamma=0.2) if spherical else uj.regularized(labels, 4, gamma=0.2, decay=0.05)
        for labels in (uj.from_labels([0, 0, 0, 1, 1, 2, 2], 3), uj.from_labels([0, 1, 0, 1, 2, 2, 0], 3))
    ]
    state = uj.State(rng.normal(size=(7, 4)), rng.normal(size=(3, 4)), np.zeros(3))
    descent = uj.Descent(0.3, momentum=0.8)
    first = uj.simulate(models[0], descent, state, [6], "norm_H")
    same = [uj.simulate(models[0], descent, first, [20], "norm_H", reduce=how)["norm_H"] for how in (True, False)]
    np.testing.assert_allclose(same[0], same[1], rtol=1e-12)
    uj.simulate(models[1], descent, first, [20], "norm_H", reduce=False)
    with pytest.raises(ValueError, match="would lose a part of it; give reduce=False"):
        uj.simulate(models[1], descent, first, [20], "norm_H")
    traced = jax.jit(lambda model: uj.simulate(model, descent, first, [20], "norm_H")["norm_H"])
    np.testing.assert_allclose(traced(models[0]), same[1], rtol=1e-12)
    assert jnp.isnan(traced(models[1])).all()
