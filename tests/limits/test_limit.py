"""`limit` against eigenvectors of the whole dynamics, long exact runs and the paper's formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
import scipy.linalg

import unhinged_jax as uj

C, P = 3, 4
EVEN, UNEVEN = uj.balanced(C, 2), uj.from_counts([3, 2, 1])
N = 6


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def start(seed=0, classes=C, samples=N):
    rng = np.random.default_rng(seed)
    return uj.State(rng.normal(size=(samples, P)), rng.normal(size=(classes, P)), np.zeros(classes))


def signal_of(labels, gamma):
    return oracles.signal_matrix(np.full(N, 1 / N), oracles.one_hot(labels.index, C), gamma)


COUPLED = {
    "unconstrained": (uj.unconstrained(EVEN, P, gamma=0.3), uj.Flow(), [300.0, 400.0]),
    "regularized": (
        uj.regularized(UNEVEN, P, decay=(0.05, 0.4), gamma=0.3),
        uj.Flow(rate_H=0.7, rate_W=1.8),
        [300.0, 400.0],
    ),
    "momentum": (uj.regularized(UNEVEN, P, decay=(0.2, 0.05), gamma=0.3), uj.Descent(0.3, momentum=0.6), [600, 800]),
}


@pytest.mark.long_for("momentum")
@pytest.mark.parametrize("name", list(COUPLED))
def test_rates_and_direction_are_those_of_a_long_exact_run(name):
    model, dynamics, times = COUPLED[name]
    found = uj.limit(model, dynamics, start())
    run = uj.exact(model, dynamics, start(), times, ["log_distance", "log_distance_H", "log_distance_W", "log_norm"])
    for part, rate in (("", found.rate), ("_H", found.rate_H), ("_W", found.rate_W)):
        logs = np.asarray(run["log_distance" + part])
        assert float(rate) == pytest.approx((logs[0] - logs[1]) / (times[1] - times[0]), rel=1e-9), part
    logs = np.asarray(run["log_norm"])
    assert float(found.exponent) == pytest.approx((logs[1] - logs[0]) / (times[1] - times[0]), rel=1e-9)
    final = np.concatenate([run.final.H, run.final.W])
    direction = np.concatenate([found.direction.H, found.direction.W])
    np.testing.assert_allclose(direction, final / np.linalg.norm(final), atol=1e-12)


@pytest.mark.parametrize("name", ["unconstrained", "regularized"])
def test_rates_and_direction_are_those_of_the_eigenvectors(name):
    """The whole matrix A of Z' = A Z: its gap, its last eigenvalue, and what is left of a start in the end."""
    model, flow, _ = COUPLED[name]
    found = uj.limit(model, flow, start())
    decay, rates = (float(model.decay_H), float(model.decay_W)), (flow.rate_H, flow.rate_W)
    A = oracles.generator(signal_of(EVEN if name == "unconstrained" else UNEVEN, 0.3), None, decay, rates)
    values = np.sort(np.linalg.eigvals(A).real)[::-1]
    top = values > values[0] - 1e-9
    assert top.sum() == (C - 1 if name == "unconstrained" else 1)
    assert float(found.exponent) == pytest.approx(values[0], rel=1e-12)
    assert float(found.rate) == pytest.approx(values[0] - values[~top][0], rel=1e-12)
    Z = np.concatenate([start().H, start().W])
    # By the exponential: eigenvectors of equal eigenvalues may come out complex.
    limit = scipy.linalg.expm((A - values[0] * np.eye(len(A))) * 40 / (values[0] - values[~top][0])) @ Z
    direction = np.concatenate([found.direction.H, found.direction.W])
    np.testing.assert_allclose(direction, limit / np.linalg.norm(limit), atol=1e-12)


@pytest.mark.long
def test_the_exponent_has_two_derivatives_in_the_weights():
    """Those of the largest eigenvalue of the whole matrix, whose eigenvectors turn; by central differences."""

    def weights(x):
        raw = np.repeat([1.0, x, 1.4], [3, 2, 1])
        return raw / np.sum(raw)

    def largest(x):
        M = oracles.signal_matrix(weights(x), oracles.one_hot(UNEVEN.index, C), 0.3)
        return np.max(np.linalg.eigvals(oracles.generator(M, None, (0.1, 0.3), (0.7, 1.8))).real)

    def exponent(x):
        classes = jnp.stack([1.0, x, 1.4])
        model = uj.regularized(UNEVEN.weighted(classes=classes), P, decay=(0.1, 0.3), gamma=0.3)
        return uj.limit(model, uj.Flow(rate_H=0.7, rate_W=1.8), start()).exponent

    h, (value, slope, bend) = (
        1e-2,
        jax.jit(lambda x: (exponent(x), jax.grad(exponent)(x), jax.hessian(exponent)(x)))(0.8),
    )
    f = [largest(0.8 + k * h) for k in (-2, -1, 0, 1, 2)]
    assert float(value) == pytest.approx(f[2], rel=1e-12)
    assert float(slope) == pytest.approx((8 * (f[3] - f[1]) - (f[4] - f[0])) / (12 * h), rel=1e-6)
    assert float(bend) == pytest.approx((16 * (f[3] + f[1]) - (f[4] + f[0]) - 30 * f[2]) / (12 * h**2), rel=1e-5)


def test_anchored_prototypes_pull_features_along_a_line():
    model, flow = uj.anchored(UNEVEN, P, decay=0.15, gamma=0.3), uj.Flow(rate_H=0.7)
    found = uj.limit(model, flow, start())
    pull = signal_of(UNEVEN, 0.3) @ start().W
    np.testing.assert_allclose(found.direction.H, pull / np.linalg.norm(pull), rtol=1e-12)
    np.testing.assert_array_equal(found.direction.W, start().W)
    run = uj.exact(model, flow, start(), [300.0, 400.0], ["log_distance_H"])
    assert float(found.rate_H) == pytest.approx(0.7 * 0.15, rel=1e-12)
    logs = np.asarray(run["log_distance_H"])
    assert float(found.rate_H) == pytest.approx((logs[0] - logs[1]) / 100, rel=1e-9)
    assert found.side == "converges"
    free = uj.limit(uj.anchored(UNEVEN, P, gamma=0.3), flow, start())
    assert float(free.rate_H) == 0  # without decay like 1/t only


@pytest.mark.parametrize(("dynamics", "times"), [(uj.Flow(0.5), [4000.0, 4200.0]), (uj.Descent(0.5), [4000, 4200])])
def test_spherical_features_rescaled_twice_turn_at_one_rate(dynamics, times):
    model = uj.spherical(UNEVEN, P, gamma=0.3, rescale=2)
    found = uj.limit(model, dynamics, start())
    pull = signal_of(UNEVEN, 0.3) @ start().W
    lengths = np.linalg.norm(pull, axis=1)
    np.testing.assert_allclose(found.direction.H, pull / lengths[:, None], atol=1e-12)
    run = uj.exact(model, dynamics, start(), times, ["log_distance_H"])
    logs = np.asarray(run["log_distance_H"])
    scale = 0.5 if isinstance(dynamics, uj.Flow) else 1.0  # a flow's rate is one of zeta, a descent's one of updates
    assert float(found.rate) * scale == pytest.approx((logs[0] - logs[1]) / 200, rel=1e-9)
    slowest = np.min(lengths)
    want = slowest if isinstance(dynamics, uj.Flow) else -np.log1p(-0.5 * slowest)
    assert float(found.rate) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(("factor", "side"), [(0.9, "grows"), (1.0, "stays"), (1.1, "shrinks")])
def test_the_threshold_decides_whether_a_run_grows(factor, side):
    """Corollary 5, with unequal decays: growth iff lambda_1 lambda_2 < sigma^2."""
    gamma = 0.3
    sigma = (1 + gamma) / (C * np.sqrt(2))
    model = uj.regularized(EVEN, P, decay=(2 * factor * sigma, sigma / 2), gamma=gamma)
    found = uj.limit(model, uj.Flow(), start())
    assert found.side == side and side in repr(found)
    assert float(found.threshold) == pytest.approx(sigma**2, rel=1e-12)
    assert float(found.excess) == pytest.approx((1 - factor) * sigma**2, rel=1e-12, abs=1e-15)
    logs = uj.exact(model, uj.Flow(), start(), [300.0, 400.0], "log_norm")["log_norm"]
    change = float(logs[1] - logs[0])
    assert change == pytest.approx(100 * float(found.exponent), rel=1e-9, abs=1e-10)
    assert change > 1 if side == "grows" else change < -1 if side == "shrinks" else abs(change) < 1e-10


@pytest.mark.long_for("descent")
@pytest.mark.parametrize("dynamics", [uj.Flow(), uj.Descent(0.1)], ids=["flow", "descent"])
def test_without_a_signal_nothing_leads_and_parts_only_fade(dynamics):
    # Symmetric noise at (C-1)/C and gamma = 1/(C-1): labels say nothing, M is rounding.
    labels = EVEN.symmetric_noise((C - 1) / C)
    model = uj.regularized(labels, P, decay=(0.3, 0.2), gamma=1 / (C - 1))
    found = uj.limit(model, dynamics, start())
    slow = -0.2 if isinstance(dynamics, uj.Flow) else np.log1p(-0.1 * 0.2)
    assert float(found.exponent) == pytest.approx(slow, rel=1e-12)
    assert float(found.threshold) == 0 and float(found.rate) == 0 and found.side == "shrinks"
    run = uj.exact(model, dynamics, start(), [3000, 4000], "log_norm")
    assert np.diff(run["log_norm"])[0] / 1000 == pytest.approx(slow, rel=1e-3)


def test_the_rate_of_corollary_3_peaks_at_the_natural_trade_off():
    """min(gamma C, 2 + 2 gamma - gamma C)/(C sqrt(N)) for 0 < gamma < 2/(C - 2)."""
    gamma = np.array([0.05, 0.2, 0.45, 0.5, 0.55, 0.9, 1.5])
    rates = jax.jit(jax.vmap(lambda g: uj.limit(uj.unconstrained(EVEN, P, gamma=g), uj.Flow(), start()).rate))(gamma)
    want = np.minimum(gamma * C, 2 + 2 * gamma - gamma * C) / (C * np.sqrt(2))
    np.testing.assert_allclose(rates, want, rtol=1e-12)
    assert gamma[np.argmax(rates)] == 1 / (C - 1)


def test_beyond_the_critical_trade_off_all_prototypes_align():
    """gamma > 2/(C - 2): the common mean wins and accuracy falls to chance."""
    labels = uj.balanced(4, 2)
    state = start(classes=4, samples=8)
    model = uj.unconstrained(labels, P, gamma=1.5)
    found = uj.limit(model, uj.Flow(), state)
    W, H = np.asarray(found.direction.W), np.asarray(found.direction.H)
    np.testing.assert_allclose(W, np.tile(W[0], (4, 1)), atol=1e-14)
    np.testing.assert_allclose(H, np.tile(H[0], (8, 1)), atol=1e-14)
    assert np.sum(W[0] * H[0]) < 0  # features point away from the prototypes
    assert float(uj.exact(model, uj.Flow(), state, [200.0], "accuracy")["accuracy"][0]) == 0.25
    below = uj.limit(uj.unconstrained(labels, P, gamma=0.9), uj.Flow(), state).direction.W
    np.testing.assert_allclose(np.sum(below, axis=0), np.zeros(P), atol=1e-14)


@pytest.mark.parametrize(
    ("model", "dynamics", "words"),
    [
        (uj.unconstrained(EVEN, P, loss="cross_entropy"), uj.Flow(), "not linear in the logits"),
        (uj.unconstrained(EVEN, P), uj.Flow(rate_H=lambda t: 1 / (1 + t)), "not proportional"),
        (uj.unconstrained(EVEN, P), uj.Descent(rate_H=lambda k: 1 / (1 + k)), "not proportional"),
        (uj.unconstrained(EVEN, P), uj.Descent(0.1, optimizer=optax.adam(0.1)), "optimiser"),
        (uj.spherical(EVEN, P, free_prototypes=True), uj.Flow(), "free prototypes"),
        (uj.spherical(EVEN, P), uj.Descent(0.1, momentum=0.5), "momentum on spherical"),
        (uj.ntk_invariant(EVEN, P, np.eye(N * P)), uj.Flow(), "between feature coordinates"),
    ],
)
def test_without_a_closed_form_it_says_why(model, dynamics, words):
    with pytest.raises(uj.NoClosedForm, match=words):
        uj.limit(model, dynamics, start())


def test_a_traced_limit_says_so():
    seen = []

    def rate(gamma):
        found = uj.limit(uj.unconstrained(EVEN, P, gamma=gamma), uj.Flow(), start())
        seen.append(repr(found))
        return found.rate

    jax.eval_shape(rate, jnp.asarray(0.3))
    assert seen == ["Limit(traced)"]


def test_a_limit_says_on_which_side_of_the_threshold_the_decay_lies():
    model = uj.regularized(uj.balanced(4, 4), dim=8, decay=0.2)
    state = model.init(jax.random.key(0))
    assert "0.01222 above the threshold 0.02778" in repr(uj.limit(model, uj.Flow(), state))
    assert "0.02768 below the threshold 0.02778" in repr(uj.limit(model.replace(decay=0.01), uj.Flow(), state))


def test_a_flow_without_damping_swings():
    """Prototypes that are pulled and decay oscillate forever, with no limit; without decay they are thrown."""
    model = uj.frozen(EVEN, P, decay=0.5)
    state = start()
    assert np.isnan(uj.limit(model, uj.Flow(damping=0.0), state).direction.W).all()
    assert np.isfinite(uj.limit(model, uj.Flow(damping=0.3), state).direction.W).all()
    free = uj.frozen(EVEN, P)
    for damping, power in ((0.0, 2), ("nesterov", 2), (0.3, 1)):
        flow = uj.Flow(damping=damping)
        assert ("t²" in uj.limit(free, flow, state).note) == (power == 2)
        norms = uj.exact(free, flow, state, [1e5, 2e5], "norm_W")["norm_W"]
        assert norms[1] / norms[0] == pytest.approx(2**power, rel=1e-3)
