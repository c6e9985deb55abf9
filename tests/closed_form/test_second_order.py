"""Flows of second order against functions of a matrix by SciPy, and against SciPy's own integrator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

import unhinged_jax as uj
from unhinged_jax.closed_form import entire

R1, R2 = 0.8, 1.2


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def matrix(model, eta=1.0):
    """K of Z'' + c Z' = K Z + drift for Z = [H; W], written out."""
    M = np.asarray(model.signal().dense("float64"))
    n, C = M.shape
    a, c = (0 if decay is None else float(decay) for decay in (model.decay_H, model.decay_W))
    r1, r2 = R1 * model.moves.H, R2 * model.moves.W
    return eta * np.block([[-r1 * a * np.eye(n), r1 * M], [r2 * M.T, -r2 * c * np.eye(C)]])


def function(values, t, damping):
    """U and U' at eigenvalues."""
    mu = values.astype(complex)
    if damping == "nesterov":
        x = np.sqrt(np.where(mu == 0, 1.0, mu)) * t
        safe = np.where(x == 0, 1.0, x)
        still = (mu == 0) | (x == 0)
        U = np.where(still, 1.0, 2 * scipy.special.iv(1, safe) / safe)
        return U, np.where(still, 0.0, 2 * scipy.special.iv(2, safe) / safe * np.sqrt(mu))
    roots = np.sqrt(damping**2 / 4 + mu)
    high, low = -damping / 2 + roots, -damping / 2 - roots
    U = (high * np.exp(low * t) - low * np.exp(high * t)) / (high - low)
    return U, high * low * (np.exp(low * t) - np.exp(high * t)) / (high - low)


def oracle(model, state, times, damping, eta=1.0):
    """[H; W] and its velocity at the times."""
    values, vectors = np.linalg.eig(matrix(model, eta))
    parts = np.linalg.solve(vectors, np.vstack([state.H, state.W]))
    found = [[(vectors * p) @ parts for p in function(values, t, damping)] for t in times]
    return np.real(np.array(found)).swapaxes(0, 1)


def dense(states):
    H, W = np.asarray(states.H), np.asarray(states.W)
    return np.concatenate([H, W], axis=-2) * np.exp(np.asarray(states.log_scale))[..., None, None]


def apart(got, want):
    return float(np.max(np.linalg.norm(got - want, axis=(-2, -1)) / np.linalg.norm(want, axis=(-2, -1))))


LABELS = uj.balanced(3, 2)
EQUAL = uj.regularized(LABELS, 4, decay=(0.03 / R1, 0.03 / R2), gamma=0.5, bias=True)  # mu+ = mu- in a mode
COUNTS = uj.regularized(uj.from_counts([3, 2, 1]), 4, decay=(0.05, 0.02), gamma=0.3, bias=True)
TIMES = np.array([0.0, 0.5, 3.0, 20.0])
SEEN = ["norm", "log_distance"]


def flow(damping, **settings):
    return uj.Flow(rate_H=R1, rate_W=R2, damping=damping, rtol=1e-10, **settings)


@pytest.mark.parametrize(
    ("model", "damping"),
    [
        (EQUAL, "nesterov"),
        pytest.param(EQUAL, 0.3, marks=pytest.mark.long),
        pytest.param(COUNTS, 0.3, marks=pytest.mark.long),
        pytest.param(COUNTS, "nesterov", marks=pytest.mark.long),
    ],
)
def test_closed_form_and_simulation(model, damping):
    """Both agree with the matrix function, at any rate, and so does what they carry, with which both go on."""
    state = model.init(jax.random.key(0), precision="float64")
    seen = ["norm"] if (model, damping) == (EQUAL, "nesterov") else SEEN  # the ordinary one is quick
    exact = uj.exact(model, flow(damping), state, TIMES, seen, states=True)
    want, speed = oracle(model, state, TIMES, damping)
    assert apart(dense(exact.states), want) < 1e-12
    drift = np.asarray(model.signal().dense("float64")).sum(0)
    kinetic = {"H": speed[-1, : model.samples], "W": speed[-1, model.samples :]}
    size = np.exp(float(exact.final.log_scale))
    for name, part in kinetic.items():
        np.testing.assert_allclose(size * exact.memory[name], part, atol=1e-11 * np.abs(part).max())
    b = R2 * float(model.decay_W)
    fade, gain = (np.real(p) for p in function(np.array([-b]), TIMES[-1], damping))
    bias = state.b * fade + R2 * drift * (1 - fade) / b
    np.testing.assert_allclose(exact.final.b, bias, atol=1e-11)
    np.testing.assert_allclose(exact.memory["b"], state.b * gain - R2 * drift * gain / b, atol=1e-11)

    slower = uj.exact(model, flow(damping, schedule=0.49), state, TIMES, seen, states=True)
    assert apart(dense(slower.states), oracle(model, state, TIMES, damping, 0.49)[0]) < 1e-12

    run = uj.simulate(model, flow(damping), state, TIMES, seen, states=True)
    assert uj.verify(run, exact).worst < 1e-8
    if seen is not SEEN:
        return
    cut = uj.simulate(model, flow(damping), state, TIMES[:3], SEEN)
    gone_on = uj.simulate(model, flow(damping), cut, TIMES[3:], SEEN)
    np.testing.assert_allclose(gone_on["norm"], exact["norm"][3:], rtol=1e-8)
    np.testing.assert_allclose(gone_on["log_distance"], exact["log_distance"][3:], atol=1e-8)


@pytest.mark.long
@pytest.mark.parametrize("inertia", ["nesterov", "heavy ball"])
def test_random_problems(inertia):
    """Twenty-five of each kind, 50 in all, with growing, fading and swinging modes."""
    rng = np.random.default_rng(4)
    for draw in range(25):
        decay_H, decay_W, gamma, damping, until = rng.uniform([0.0, 0.01, 0.0, 0.0, 2.0], [0.4, 0.4, 1.0, 1.5, 25.0])
        model = COUNTS.replace(decay_H=decay_H, decay_W=decay_W, gamma=gamma)
        damping = damping if inertia == "heavy ball" else inertia
        state, times = model.init(jax.random.key(draw), precision="float64"), np.array([0.1, 0.5, 1.0]) * until
        exact = uj.exact(model, flow(damping), state, times, ["norm"], states=True)
        assert apart(dense(exact.states), oracle(model, state, times, damping)[0]) < 1e-10
        assert uj.verify(uj.simulate(model, flow(damping), state, times, ["norm"], states=True), exact).worst < 1e-8


def test_exact_goes_on_with_a_velocity():
    """A run of the closed form that is cut equals the whole one."""
    state = EQUAL.init(jax.random.key(0), precision="float64")
    want, _ = oracle(EQUAL, state, TIMES[2:], 0.3)
    cut = uj.exact(EQUAL, flow(0.3), state, TIMES[2:3], ())
    after = uj.exact(EQUAL, flow(0.3), cut, TIMES[3:], (), states=True)
    assert apart(dense(after.states), want[1:]) < 1e-12
    at_rest = uj.exact(EQUAL, flow("nesterov"), state, TIMES, ["norm"], states=True)
    with pytest.raises(uj.NoClosedForm, match="from rest at the time 0"):
        uj.exact(EQUAL, flow("nesterov"), at_rest, [25.0])
    with pytest.raises(ValueError, match="a velocity that this Flow would drop; continue with the same damping"):
        uj.simulate(EQUAL, uj.Flow(), cut, [30.0])


@pytest.mark.long
def test_distances_go_on_with_a_velocity():
    """Distances to the limit of a run that goes on, after an exact and after a simulated piece."""
    state = EQUAL.init(jax.random.key(0), precision="float64")
    whole = uj.exact(EQUAL, flow(0.3), state, TIMES, SEEN)
    for solve, slack in ((uj.exact, 1e-13), (uj.simulate, 1e-8)):
        cut = solve(EQUAL, flow(0.3), state, TIMES[:3], SEEN)
        after = uj.exact(EQUAL, flow(0.3), cut, TIMES[3:], SEEN)
        for name in SEEN:
            np.testing.assert_allclose(after[name], whole[name][3:], rtol=slack, atol=slack)
        np.testing.assert_allclose(after.final.b, whole.final.b, atol=slack)


@pytest.mark.parametrize("damping", ["nesterov", pytest.param(0.3, marks=pytest.mark.long)])
def test_any_loss_is_simulated(damping):
    """Cross-entropy, reduced and dense, and with a schedule, against SciPy."""
    model = uj.regularized(uj.from_counts([2, 1]), 2, decay=0.05, loss="cross_entropy")
    state = model.init(jax.random.key(1), precision="float64")
    shape, n = np.vstack([state.H, state.W]).shape, model.samples
    Y = np.eye(2)[[0, 0, 1]]

    def acceleration(t, Z):
        H, W = Z[:n], Z[n:]
        odds = np.exp(H @ W.T)
        M = (Y - odds / odds.sum(1, keepdims=True)) / n
        eta = 0.1 + 0.9 * np.exp(-0.2 * t)
        return eta * np.vstack([R1 * (M @ W - 0.05 * H), R2 * (M.T @ H - 0.05 * W)])

    def motion(t, y):
        Z, V = y.reshape(2, *shape)
        if damping == "nesterov":
            return np.concatenate([V.ravel(), (acceleration(t, Z) - 3 * V / t).ravel()])
        return np.concatenate([V.ravel(), (acceleration(t, Z) - damping * V).ravel()])

    Z = np.vstack([state.H, state.W])
    begin, V = (1e-4, 0.25e-4) if damping == "nesterov" else (0.0, 0.0)  # beyond the singular point: V = t Z''/4 + ...
    y = np.concatenate([(Z + V * begin / 2 * acceleration(0, Z)).ravel(), (V * acceleration(0, Z)).ravel()])
    want = scipy.integrate.solve_ivp(motion, (begin, 12.0), y, "DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    schedule = uj.schedules.numeric(lambda t: 0.1 + 0.9 * jnp.exp(-0.2 * t))
    for reduce in (True, False)[: 1 if damping == "nesterov" else 2]:
        run = uj.simulate(model, flow(damping, schedule=schedule), state, [12.0], "loss", reduce=reduce)
        got = np.vstack([run.final.H, run.final.W])
        np.testing.assert_allclose(got, want.reshape(2, *shape)[0], atol=3e-8)


def test_entire_functions():
    """Values and derivatives for small and large arguments of both signs, and the slope that JAX takes of them."""
    derivatives = jax.jit(entire.derivatives, static_argnums=(0, 3))
    x = np.concatenate([np.geomspace(1e-3, 1e4, 60), [3.999, 4.001, 39.99, 40.01]])
    for sign in (1, -1):
        y = jnp.asarray(sign * x**2)
        scale = entire.log_size(entire.NESTEROV, y)
        grown = np.exp((x if sign > 0 else 0) - np.asarray(scale))
        bessel = scipy.special.ive if sign > 0 else scipy.special.jv
        found = derivatives(entire.NESTEROV, y, scale, 13)
        for j in (0, 1, 2, 5, 12):
            want = 2 * 0.5**j * bessel(1 + j, x) / x ** (1 + j) * grown
            np.testing.assert_allclose(found[j], want * np.maximum(x, 1) ** j, atol=3e-12)
        found = derivatives(entire.COSH, y[:40], jnp.zeros(40), 3)
        cosh, sinh = (np.cosh, np.sinh) if sign > 0 else (np.cos, np.sin)
        few = x[:40]
        np.testing.assert_allclose(found[0], cosh(few), rtol=1e-13, atol=1e-13 * cosh(few).max() * (sign < 0))
        np.testing.assert_allclose(found[1], sinh(few) / (2 * few) * np.maximum(few, 1), rtol=1e-13, atol=1e-13)
    slope = jax.jit(jax.vmap(jax.grad(lambda y: entire.derivatives(entire.NESTEROV, y, 0.1 * y, 2)[0])))
    y = jnp.asarray([-2000.0, -3.0, 0.0, 5.0, 60.0])
    step = 1e-5
    up, down = (derivatives(entire.NESTEROV, y + s, 0.1 * (y + s), 2)[0] for s in (step, -step))
    np.testing.assert_allclose(slope(y) * np.exp(0.1 * y), (up - down) / (2 * step) * np.exp(0.1 * y), rtol=1e-5)


def test_what_is_refused():
    state = EQUAL.init(jax.random.key(0), precision="float64")
    with pytest.raises(ValueError, match="damping must be a number or 'nesterov'"):
        uj.Flow(damping="polyak")
    with pytest.raises(ValueError, match=r"damping must be .*0"):
        uj.Flow(damping=-0.1)
    with pytest.raises(uj.NoClosedForm, match="give a constant rate"):
        uj.exact(EQUAL, uj.Flow(uj.cosine(1.0, 5.0), damping=0.1), state, [1.0])
    for other in (EQUAL.replace(loss="cross_entropy"), EQUAL.replace(loss="mse", bias=False)):
        with pytest.raises(uj.NoClosedForm, match="damping"):
            uj.exact(other, uj.Flow(damping=0.1), state, [1.0])


@pytest.mark.long
@pytest.mark.parametrize("damping", [0.3, "nesterov"])
def test_limit_far_times_derivatives_batches_and_precision(damping):
    """Late slopes against `limit` and the roots; gradients against finite differences; a batch; float32; scales."""
    state = COUNTS.init(jax.random.key(0), precision="float64")
    mu = np.sort(np.linalg.eigvals(matrix(COUNTS)).real)[::-1]
    top = np.sqrt(mu[0]) if damping == "nesterov" else -0.15 + np.sqrt(0.0225 + mu[0])
    found = uj.limit(COUNTS, flow(damping), state)
    assert float(found.exponent) == pytest.approx(top, rel=1e-10)
    late = np.array([1e6, 1.001e6])
    run = uj.exact(COUNTS, flow(damping), state, late, ["log_norm", "log_distance"])
    assert np.diff(run["log_norm"])[0] / 1e3 == pytest.approx(float(found.exponent), rel=1e-5)
    assert -np.diff(run["log_distance"])[0] / 1e3 == pytest.approx(float(found.rate), rel=1e-5)

    def value(point, solve=uj.exact, start=state):
        labels = uj.from_counts([3, 2, 1])
        model = uj.regularized(labels, 4, gamma=point[0], decay=(point[1], point[2]), bias=True)
        c = damping if damping == "nesterov" else point[4]
        given = uj.Flow(point[3], rate_H=R1, rate_W=R2, damping=c, rtol=1e-11)
        return solve(model, given, start, jnp.stack([point[5]]), "log_norm")["log_norm"][0]

    here, step = np.array([0.3, 0.05, 0.02, 1.0, 0.3, 7.0]), 1e-6
    apart = [(float(value(here + step * e)) - float(value(here - step * e))) / (2 * step) for e in np.eye(6)]
    np.testing.assert_allclose(jax.grad(value)(jnp.asarray(here)), apart, atol=2e-8)
    many = jax.vmap(value)(jnp.stack([jnp.asarray(here), jnp.asarray(here) * 1.1]))
    assert float(many[0]) == pytest.approx(float(value(here)), rel=1e-13)
    for solve, slack in ((uj.exact, 1e-12), (uj.simulate, 1e-9)):
        for log_scale in (-500.0, 800.0):
            moved = float(value(here, solve, state.replace(log_scale=log_scale))) - log_scale
            assert moved == pytest.approx(float(value(here)), abs=slack)
        single = jax.tree.map(lambda leaf: jnp.asarray(leaf, "float32"), state)
        given = uj.Flow(rate_H=R1, rate_W=R2, damping=damping)
        rough = solve(COUNTS, given, single, [3.0, 7.0, 300.0], "log_norm")["log_norm"]
        fine = uj.exact(COUNTS, given, state, [3.0, 7.0, 300.0], "log_norm")["log_norm"]
        np.testing.assert_allclose(rough, fine, rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_late_times_stay_in_range(precision):
    """What an average keeps and what it forgets by then are beyond the range, each alone."""
    model = uj.regularized(uj.balanced(3, 2), 4, decay=1.0)
    flow = uj.Flow(memory=uj.MovingAverage(0.9))
    run = uj.exact(model, flow, model.init(jax.random.key(0)), [1e3, 8e3, 2e4], "log_norm", precision=precision)
    np.testing.assert_allclose(np.diff(run["log_norm"]), np.log(0.9) * np.array([7e3, 12e3]), rtol=1e-5)
    still = uj.anchored(uj.balanced(3, 2), 4)
    start = still.init(jax.random.key(0))
    late = uj.exact(still, uj.Flow(damping=0.0), start, [1e8, 1e10, 1e14], "log_norm", precision=precision)
    np.testing.assert_allclose(np.diff(late["log_norm"]), 2 * np.log([1e2, 1e4]), rtol=1e-5)


@pytest.mark.long
def test_biases_that_stay_are_handed_on():
    model = uj.regularized(uj.from_counts([4, 2, 1]), 4, decay=0.3)
    start = model.init(jax.random.key(0), precision="float64").replace(b=np.array([1.0, 2.0, 3.0]))
    flow = uj.Flow(memory=uj.PolyakAverage())
    after = uj.simulate(model, flow, uj.exact(model, flow, start, [2.0], ()), [6.0], "loss")
    np.testing.assert_allclose(after["loss"], uj.exact(model, flow, start, [6.0], "loss")["loss"], rtol=1e-6)
    np.testing.assert_array_equal(after.final.b, start.b)


@pytest.mark.parametrize(("damping", "times"), [(1e2, [1e4, 1e5]), (1e4, [1e7, 1e8])])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_strong_damping(damping, times, precision):
    """The growth is a small difference of two large numbers, c/2 and the root of c^2/4 + x."""
    model = uj.regularized(uj.balanced(3, 2), 4, decay=0.26)
    start = model.init(jax.random.key(0), precision=precision)
    found = np.asarray(uj.exact(model, uj.Flow(damping=damping), start, times, "log_norm")["log_norm"], float)
    x = 1 / 8**0.5 - 0.26
    growth = x / (damping / 2 + (damping**2 / 4 + x) ** 0.5)
    slack = 1e-11 if precision == "float64" else 1e-4
    assert found[1] - found[0] == pytest.approx(growth * (times[1] - times[0]), rel=slack)
