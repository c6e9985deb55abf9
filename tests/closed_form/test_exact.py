"""`exact` against matrix exponentials, plain loops, ODE solvers and decimal arithmetic."""

import math
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy.integrate import solve_ivp

import unhinged_jax as uj
from unhinged_jax.closed_form import modes
from unhinged_jax.kernel import Kernel
from unhinged_jax.labels import Labels
from unhinged_jax.losses import Unhinged

N, C, P = 6, 3, 4


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def random_settings(rng):
    """gamma, decays, rates and a time; decays equal, unequal, zero on either side."""
    decay = rng.choice([0.0, 0.05, 0.3, 1.5], size=2)
    if rng.random() < 0.3:
        decay[1] = decay[0]
    return {
        "gamma": rng.choice([0.0, 1 / (C - 1), rng.uniform(0, 4)]),
        "decay": decay,
        "rates": rng.choice([0.3, 1.0, 2.5], size=2),
        "time": np.exp(rng.uniform(np.log(1e-3), np.log(20.0))),
        "H": rng.normal(size=(N, P)),
        "W": rng.normal(size=(C, P)),
        "b": rng.normal(size=C),
    }


def random_labels(rng, kind):
    """index, weights and targets (a table, one row a sample, or None)."""
    index = np.concatenate([np.arange(C), rng.integers(0, C, N - C)])
    weights = np.full(N, 1 / N)
    targets = None
    if kind == "balanced":
        index = np.tile(np.arange(C), N // C)
    elif kind == "weighted":
        weights = rng.uniform(0.1, 2.0, N) * rng.uniform(0.2, 3.0, C)[index]
        weights /= weights.sum()
    elif kind == "table":
        targets = rng.dirichlet(np.ones(C), size=C)
    elif kind == "soft":
        targets = rng.dirichlet(np.ones(C), size=N)
        weights = rng.uniform(0.1, 2.0, N)
    return {"index": index, "weights": weights, "targets": targets}


def random_kernel(rng, kind):
    factor = rng.normal(size=(N, int(rng.integers(1, N + 1)))) / math.sqrt(N)
    if kind == "factor":
        return rng.normal(size=(N, 2))
    return factor @ factor.T if kind == "samples" else None


def labels_of(labels, kind):
    read = kind if kind in ("table", "soft") else "hard"
    return Labels(
        labels["index"], labels["weights"], labels["targets"], classes=C, kind=read, balanced=kind == "balanced"
    )


def batch(cases):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *cases)


def dense_targets(labels, kind):
    if kind == "soft":
        return labels["targets"]
    return labels["targets"][labels["index"]] if kind == "table" else oracles.one_hot(labels["index"], C)


def dense_kernel(theta, kind):
    return theta @ theta.T if kind == "factor" else theta


def solve(case, kind, kernel, dynamics_of, times_of):
    """The exact final state of one random problem; everything but the structure may be traced."""
    theta = None if case["kernel"] is None else Kernel(case["kernel"], kernel)
    model = uj.LayerPeeled(
        labels_of(case["labels"], kind), Unhinged(case["gamma"]), *case["decay"], theta, P, bias=True
    )
    start = uj.State(case["H"], case["W"], case["b"])
    final = uj.exact(model, dynamics_of(case), start, times_of(case), observe=()).final
    scale = jnp.exp(final.log_scale)
    return scale * final.H, scale * final.W, final.b


FLOW_GROUPS = [
    ("balanced", None, 30),
    ("counts", None, 30),
    ("weighted", None, 40),
    ("table", None, 30),
    ("soft", None, 30),
    ("soft", "samples", 25),
    ("weighted", "factor", 25),
]


def test_there_are_at_least_200_random_problems():
    assert sum(count for *_, count in FLOW_GROUPS) >= 200


@pytest.mark.parametrize(("kind", "kernel", "count"), FLOW_GROUPS)
def test_flow_equals_the_matrix_exponential(kind, kernel, count):
    rng = np.random.default_rng(len(kind) + 7 * count)
    cases = [
        {**random_settings(rng), "labels": random_labels(rng, kind), "kernel": random_kernel(rng, kernel)}
        for _ in range(count)
    ]
    run = jax.jit(
        jax.vmap(
            lambda case: solve(
                case,
                kind,
                kernel,
                lambda case: uj.Flow(rate_H=case["rates"][0], rate_W=case["rates"][1]),
                lambda case: case["time"][None],
            )
        )
    )
    found = run(batch(cases))
    for i, case in enumerate(cases):
        labels, theta = case["labels"], dense_kernel(case["kernel"], kernel)
        M = oracles.signal_matrix(labels["weights"], dense_targets(labels, kind), case["gamma"])
        A = oracles.generator(M, theta, case["decay"], case["rates"])
        H, W = oracles.flow_state(A, case["H"], case["W"], case["time"])
        b = oracles.flow_bias(M, case["b"], case["decay"][1], case["rates"][1], case["time"])
        for name, got, want in zip("HWb", found, (H, W, b), strict=True):
            assert oracles.relative(got[i], want) < 1e-10, (name, i)


@pytest.mark.parametrize("kind", ["samples", "coordinates"])
def test_a_singular_kernel_follows_the_corrected_theorem_8(kind):
    rng = np.random.default_rng(5)
    labels, tau, r1, r2 = uj.from_counts([3, 2, 1]), 1.7, 0.7, 1.3
    M = oracles.signal_matrix(np.full(N, 1 / N), oracles.one_hot(labels.index, C), 0.8)
    factor = rng.normal(size=(N, 2)) if kind == "samples" else rng.normal(size=(N * P, 5))
    theta = factor @ factor.T
    model = uj.ntk_invariant(labels, P, theta, gamma=0.8)
    assert model.kernel.kind == kind
    H, W = rng.normal(size=(N, P)), rng.normal(size=(C, P))
    state = uj.State(H, W, np.zeros(C))
    final = uj.exact(model, uj.Flow(rate_H=r1, rate_W=r2), state, [tau], observe=()).final

    big, wide = (M, theta) if kind == "samples" else (np.kron(M, np.eye(P)), theta)
    h, w = (H, W) if kind == "samples" else (H.reshape(-1, 1), W.reshape(-1, 1))
    g, U = np.linalg.eigh(r1 * r2 * big.T @ wide @ big)
    root = np.sqrt(np.maximum(g, 0)) * tau

    def of_G(values, X):
        return U @ (values[:, None] * (U.T @ X))

    def sinhc(x):
        return np.where(x < 1e-3, 1 + x**2 / 6 + x**4 / 120, np.sinh(x) / np.where(x < 1e-3, 1, x))

    want_W = of_G(np.cosh(root), w) + r2 * tau * of_G(sinhc(root), big.T @ h)
    inner = tau * of_G(sinhc(root), w) + r2 * tau**2 / 2 * of_G(sinhc(root / 2) ** 2, big.T @ h)
    want_H = h + r1 * wide @ big @ inner
    assert oracles.relative(final.W.reshape(want_W.shape), want_W) < 1e-12
    assert oracles.relative(final.H.reshape(want_H.shape), want_H) < 1e-12


# --- descent ----------------------------------------------------------------------------------------------------------

COUNTS = np.array([0, 1, 2, 7, 40])


def descent_case(rng, oscillating):
    case = random_settings(rng)
    top = 8.0 if oscillating else 0.8
    return {**case, "eta": rng.uniform(0.2, 1.0) * top, "labels": random_labels(rng, "weighted"), "kernel": None}


def check_descent(case, states, etas, rates, momentum=None, nesterov=False, theta=None, moves=(1, 1, 1)):
    """Relative to the largest norm so far: factors that oscillate grow and cancel in the loop itself."""
    labels = case["labels"]
    M = oracles.signal_matrix(labels["weights"], oracles.one_hot(labels["index"], C), case["gamma"])
    gradient = oracles.linear_gradient(M, theta, case["decay"], moves)
    both = [rates[0], rates[1], rates[1]]
    loop = oracles.descent(gradient, (case["H"], case["W"], case["b"]), etas, both, momentum, nesterov)
    wanted = list(loop)
    scale = np.exp(states.log_scale)
    for slot, count in enumerate(COUNTS):
        got = (scale[slot] * states.H[slot], scale[slot] * states.W[slot], states.b[slot])
        for name, x, y in zip("HWb", got, wanted[count], strict=True):
            largest = max(np.linalg.norm(parts["HWb".index(name)]) for parts in wanted[: count + 1])
            assert np.linalg.norm(x - y) < 1e-11 * largest, (name, count)


def descent_states(case, dynamics, theta=None, **settings):
    model = uj.LayerPeeled(
        labels_of(case["labels"], "weighted"),
        Unhinged(case["gamma"]),
        case["decay"][0],
        case["decay"][1],
        theta,
        P,
        bias=settings.pop("bias", True),
        **settings,
    )
    start = uj.State(case["H"], case["W"], case["b"])
    return uj.exact(model, dynamics, start, COUNTS, observe=(), states=True).states


@pytest.mark.long_for("frozen-settings3", "kernel-settings1", "anchored-settings2")
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("both", {}),
        ("kernel", {}),
        ("anchored", {"prototypes_move": False}),
        ("frozen", {"features_move": False}),
    ],
)
def test_descent_with_equal_steps_equals_a_loop(name, settings):
    """Half of the problems have steps so large that factors 1 + eta mu are negative."""
    rng = np.random.default_rng(len(name))
    cases = [descent_case(rng, oscillating=i % 2) for i in range(16)]
    theta = rng.normal(size=(N, 2)) if name == "kernel" else None

    @jax.jit
    @jax.vmap
    def run(case):
        dynamics = uj.Descent(case["eta"], rate_H=case["rates"][0], rate_W=case["rates"][1])
        return descent_states(case, dynamics, None if theta is None else Kernel(theta, "factor"), **settings)

    found = run(batch(cases))
    moves = (int(name != "frozen"), int(name != "anchored"), int(name != "anchored"))
    for i, case in enumerate(cases):
        states = jax.tree.map(lambda leaf, i=i: leaf[i], found)
        dense = None if theta is None else theta @ theta.T
        check_descent(case, states, np.full(40, case["eta"]), case["rates"], theta=dense, moves=moves)
    if name == "both":
        assert any(1 - case["eta"] * case["rates"][0] * case["decay"][0] < -0.1 for case in cases)


def cosine_rates(peak):
    k = np.arange(40)
    return 0.01 + (peak - 0.01) * (1 + np.cos(np.pi * np.minimum(k, 30) / 30)) / 2


@pytest.mark.long_for("None-False-both")
@pytest.mark.parametrize(
    ("momentum", "nesterov", "moves"),
    [
        (None, False, "both"),
        pytest.param(0.9, False, "both", marks=pytest.mark.long),
        (0.8, True, "both"),
        pytest.param(0.9, False, "anchored", marks=pytest.mark.long),
        (0.9, True, "frozen"),
    ],
)
def test_descent_with_a_schedule_equals_a_loop(momentum, nesterov, moves):
    """Cosine rates, and separate schedules for H and W that are not proportional."""
    rng = np.random.default_rng(11)
    cases = [descent_case(rng, oscillating=i % 4 == 3) for i in range(8)]
    slowing = 1 / (1 + 0.05 * np.arange(40))
    settings = {"prototypes_move": moves != "anchored", "features_move": moves != "frozen"}

    @jax.jit
    @jax.vmap
    def run(case):
        dynamics = uj.Descent(
            uj.cosine(case["eta"], 30.0, 0.01),
            rate_H=lambda k: 1 / (1 + 0.05 * k),
            rate_W=case["rates"][1],
            momentum=momentum,
            nesterov=nesterov,
        )
        return descent_states(case, dynamics, **settings)

    found = run(batch(cases))
    for i, case in enumerate(cases):
        states = jax.tree.map(lambda leaf, i=i: leaf[i], found)
        rates = (slowing, case["rates"][1])
        on = (int(moves != "frozen"), int(moves != "anchored"), int(moves != "anchored"))
        check_descent(case, states, cosine_rates(case["eta"]), rates, momentum, nesterov, moves=on)


# --- spherical --------------------------------------------------------------------------------------------------------


def sphere_problem():
    """Generic samples, one at theta = 0, one at pi, one without pull (g_i = 0: uniform soft target, W sums to 0)."""
    rng = np.random.default_rng(3)
    W = np.array([[1.0, 0.0], [-1.0, 1.0], [0.0, -1.0]])
    targets = np.concatenate([oracles.one_hot([0, 1, 2, 0, 0], 3), np.full((1, 3), 1 / 3)])
    labels = uj.soft(targets, truth=[0, 1, 2, 0, 0, 0])
    H = rng.normal(size=(6, 2))
    H[3], H[4] = [0.7, 0.0], [-1.3, 0.0]
    G = oracles.signal_matrix(np.full(6, 1 / 6), targets, 0.5) @ W
    G[5] = 0.0
    return labels, H, W, G


def sphere_force(H, G, q):
    length = np.linalg.norm(H, axis=1, keepdims=True)
    unit = H / length
    return length ** (q - 1) * (G - unit * np.sum(G * unit, axis=1, keepdims=True))


@pytest.mark.parametrize("q", [0, 1, 2])
@pytest.mark.parametrize("decay", [0.0, 0.4])
def test_spherical_flow_equals_an_ode_solution(q, decay):
    labels, H, W, G = sphere_problem()
    model = uj.spherical(labels, 2, decay=decay, rescale=q, gamma=0.5)
    times, r1 = np.array([0.5, 3.0, 9.0]), 1.5
    states = uj.exact(model, uj.Flow(rate_H=r1), uj.State(H, W, np.zeros(3)), times, observe=(), states=True).states
    free = [0, 1, 2, 3, 5]  # a solver cannot stay at pi

    def field(t, flat):
        now = flat.reshape(-1, 2)
        return (r1 * (sphere_force(now, G[free], q) - decay * now)).ravel()

    want = solve_ivp(field, (0, 9), H[free].ravel(), "DOP853", times, rtol=1e-12, atol=1e-14).y.T.reshape(3, -1, 2)
    np.testing.assert_allclose(states.H[:, free], want, rtol=1e-9, atol=1e-9)
    faded = np.exp(-r1 * decay * times)[:, None]
    np.testing.assert_allclose(states.H[:, 4], faded * H[4], rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(states.H[:, 5], faded * H[5], rtol=1e-13)


@pytest.mark.parametrize("q", [0, 1, 2])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_spherical_descent_equals_a_loop(q, decay):
    labels, H, W, G = sphere_problem()
    model = uj.spherical(labels, 2, decay=decay, rescale=q, gamma=0.5)
    times = np.array([1, 5, 60])
    found = uj.exact(
        model, uj.Descent(uj.cosine(1.2, 50.0), rate_H=0.8), uj.State(H, W, np.zeros(3)), times, observe=(), states=True
    ).states.H
    now, want = H.copy(), []
    for k in range(60):
        eta = 0.8 * 1.2 * (1 + np.cos(np.pi * min(k, 50) / 50)) / 2
        now = now + eta * (sphere_force(now, G, q) - decay * now)
        now[4] = H[4] * now[4, 0] / H[4, 0]  # at pi the loop's own rounding drives it off
        if k + 1 in times:
            want.append(now)
    np.testing.assert_allclose(found, np.stack(want), rtol=1e-11, atol=1e-12)


def test_fifty_thousand_spherical_updates_keep_their_digits():
    """Lengths that grow by rounding's size a step still decide how fast angles shrink; against extended precision."""
    classes, p, steps, eta = 4, 6, 50_000, 0.03
    rng = np.random.default_rng(5)
    H, W = rng.normal(size=(classes, p)), rng.normal(size=(classes, p))
    model = uj.spherical(uj.balanced(classes, 1), p, gamma=0.0)
    times = [1_000, 20_000, steps]
    run = uj.exact(model, uj.Descent(eta), uj.State(H, W, np.zeros(classes)), times, "log_distance")

    g = W.astype(np.longdouble) / classes
    kappa = np.sqrt(np.sum(g**2, axis=1))
    u = np.sum(H * g, axis=1) / kappa
    v = np.sqrt(np.sum((H - u[:, None] * g / kappa[:, None]) ** 2, axis=1))
    found = {}
    for k in range(1, steps + 1):
        turn = eta * kappa / (u * u + v * v) ** np.longdouble(1.5)
        u, v = u + turn * v * v, v - turn * u * v
        if k in times:
            found[k] = np.log(2 * np.sqrt(np.sum(np.sin(np.arctan2(np.abs(v), u) / 2) ** 2)))
    np.testing.assert_allclose(run["log_distance"], [float(found[k]) for k in times], rtol=0, atol=1e-13)


def test_spherical_error_of_1e_200_is_exact():
    """tan(theta/2) falls by e^-kappa tau: the distance of one sample at half its start angle times that."""
    W = np.array([[1.0, 0.0], [-1.0, 0.0]])
    H = np.array([[0.6, 0.8], [-1.0, 0.0]])
    model = uj.spherical(uj.balanced(2, 1), 2, gamma=1.0)
    tau, pull = 461.0, 1.0  # g = (1/2)(w_0 - w_1) = e_1
    run = uj.exact(model, uj.Flow(), uj.State(H, W, np.zeros(2)), [tau], observe=["distance", "log_distance"])
    want = math.log(2 * 0.5) - pull * tau  # tan(theta_0/2) = 1/2
    assert run["log_distance"][0] == pytest.approx(want, abs=1e-11)
    assert run["distance"][0] == pytest.approx(math.exp(want), rel=1e-11)
    assert 1e-201 < run["distance"][0] < 1e-200


# --- coefficients of the modes ----------------------------------------------------------------------------------------


def mode_matrix(g, a, c, r1, r2):
    """The generator of (carry or lift, own or feed, keep) by itself."""
    return np.array([[-a, r1, 0], [r2 * g, -c, r2], [0, 0, -a]])


def coefficients_of(X):
    """own, feed, carry, lift, keep from a function of the matrix above (r1, r2 are included in it)."""
    return [X[1, 1], X[1, 2], X[0, 1], X[0, 2], X[2, 2]]


def corner_parameters():
    """g, r1 l1, r2 l2, r1, r2 at and near every degenerate point."""
    rng = np.random.default_rng(8)
    corners = [
        (0.0, 0.0, 0.0, 1.0, 1.0),  # d = 0, nothing moves on its own
        (0.0, 0.3, 0.3, 1.0, 1.0),  # d = 0 with decay
        (0.0, 0.5, 0.1, 1.0, 2.0),  # g = 0, delta > 0
        (0.0, 0.1, 0.5, 1.0, 2.0),  # g = 0, delta < 0
        (1e-16, 0.3, 0.3, 1.0, 1.0),
        (1e-30, 0.4, 0.1, 0.5, 1.0),
        (0.25, 0.3, 0.3, 1.0, 1.0),  # delta = 0
        (0.09, 0.3, 0.3, 1.0, 1.0),  # l1 l2 = sigma^2
        (0.06, 0.3, 0.2, 1.0, 1.0),  # the same, unequal
        (1.0, 0.0, 0.0, 1.0, 1.0),
        (4.0, 0.0, 0.7, 0.3, 2.0),
        (1e-8, 0.2, 0.2 + 1e-9, 1.0, 1.0),
    ]
    random = [
        (10 ** rng.uniform(-6, 1), *rng.choice([0.0, 0.1, 0.7, 2.0], 2), *rng.uniform(0.1, 2.0, 2)) for _ in range(20)
    ]
    return np.array(corners + random)


FLOW_TIMES = np.array([0.0, 1e-12, 1e-4, 0.3, 1.0, 3.0, 17.0, 1e3, 1e6])
STEP_COUNTS = np.array([0, 1, 2, 3, 10, 101, 5000])


def flow_modes(parameters, tau):
    g, a, c, r1, r2 = parameters
    rates = modes.Rates(a, c, r1, r2)
    log_scale, _ = modes.exponents(g[None], rates, lambda nodes: nodes * tau, jnp.ones(1))
    return modes.flow_coefficients(g[None], rates, tau, log_scale), log_scale


def descent_modes(parameters, eta, count):
    g, a, c, r1, r2 = parameters
    rates = modes.Rates(a, c, r1, r2)
    log_scale, _ = modes.exponents(g[None], rates, lambda nodes: count * modes.log_factor(eta * nodes), jnp.ones(1))
    return modes.descent_coefficients(g[None], rates, eta, count, log_scale), log_scale


def listed(c):
    return jnp.stack(
        [c.W_from_W[..., 0], c.W_from_F[..., 0], c.H_from_W[..., 0], c.H_from_F[..., 0], c.H_from_H], axis=-1
    )


def compare_modes(got, log_scale, want, where, tolerance, zero=1e-270):
    """Every coefficient is a sum of non-negative terms, so each is held to relative accuracy by itself."""
    scale = Decimal(float(log_scale)).exp()
    size = max(abs(x) for x in want)
    for name, x, y in zip(("own", "feed", "carry", "lift", "keep"), got, want, strict=True):
        if abs(y) < size * Decimal("1e-280"):
            assert abs(Decimal(float(x)) * scale) <= size * Decimal(zero), (name, where)
        else:
            assert abs(Decimal(float(x)) * scale / y - 1) < tolerance, (name, where)


def test_flow_coefficients_equal_a_decimal_matrix_exponential():
    parameters = corner_parameters()
    run = jax.jit(jax.vmap(jax.vmap(flow_modes, (None, 0)), (0, None)))
    found, logs = run(parameters, FLOW_TIMES)
    found = listed(found)
    for i, row in enumerate(parameters):
        A = oracles.decimals(mode_matrix(*row))
        A[1, 0] = Decimal(float(row[0])) * Decimal(float(row[4]))
        for j, tau in enumerate(FLOW_TIMES):
            want = coefficients_of(oracles.decimal_expm(A, float(tau)))
            # a rounded mu tau shifts a coefficient by eps mu tau: unavoidable, and in its logarithm harmless
            slack = 2e-13 + 1e-15 * abs(tau) * np.max(np.abs(row))
            compare_modes(found[i, j], logs[i, j], want, (row, tau), slack)


@pytest.mark.parametrize("eta", [0.05, 0.4])
def test_descent_coefficients_equal_decimal_matrix_powers(eta):
    parameters = corner_parameters()
    run = jax.jit(jax.vmap(jax.vmap(descent_modes, (None, None, 0)), (0, None, None)))
    found, logs = run(parameters, eta, STEP_COUNTS.astype(float))
    found = listed(found)
    for i, row in enumerate(parameters):
        A = oracles.decimals(mode_matrix(*row))
        A[1, 0] = Decimal(float(row[0])) * Decimal(float(row[4]))
        step = oracles.decimals(np.eye(3)) + A * Decimal(eta)
        for j, count in enumerate(STEP_COUNTS):
            want = coefficients_of(oracles.decimal_power(step, int(count)))
            compare_modes(found[i, j], logs[i, j], want, (row, count), 2e-13 + 1e-15 * count, 1e-15)


def test_oscillating_descent_coefficients_equal_decimal_matrix_powers():
    """1 + eta mu < 0, and an exact hit 1 + eta mu = 0; relative to the largest coefficient, since signs differ."""
    parameters = np.array(
        [(0.2, 2.0, 1.0, 1.0, 1.0), (0.2, 1.0, 3.0, 0.5, 1.0), (1e-9, 2.0, 2.0, 1.0, 1.0), (2.25, 1.0, 1.0, 1.0, 1.0)]
    )
    eta, counts = 1.5, np.array([1, 2, 3, 50, 501])
    run = jax.jit(jax.vmap(jax.vmap(descent_modes, (None, None, 0)), (0, None, None)))
    for eta in (1.5, 0.4):  # at 0.4, 1 - eta (1 + 1.5) = 0 in the last row
        found, logs = run(parameters, eta, counts.astype(float))
        found = listed(found)
        for i, row in enumerate(parameters):
            step = oracles.decimals(np.eye(3)) + oracles.decimals(mode_matrix(*row)) * Decimal(eta)
            for j, count in enumerate(counts):
                want = coefficients_of(oracles.decimal_power(step, int(count)))
                scale, size = Decimal(float(logs[i, j])).exp(), max(abs(x) for x in want)
                for x, y in zip(found[i, j], want, strict=True):
                    assert abs(Decimal(float(x)) * scale - y) < size * Decimal("1e-12") * max(1, int(count) // 10)


def test_many_equal_steps_do_not_overflow_float32():
    with jax.enable_x64(False):
        parameters = jnp.asarray(corner_parameters(), jnp.float32)
        count = jnp.float32(20_000)
        found, logs = jax.jit(jax.vmap(lambda row: descent_modes(row, jnp.float32(0.05), count)))(parameters)
    assert np.all(np.isfinite(listed(found))) and np.all(np.isfinite(logs))


@pytest.mark.parametrize("form", ["flow", "descent"])
def test_coefficients_are_differentiable_at_degenerate_points(form):
    """Against central differences of decimal arithmetic, in g and both decays."""
    rows = corner_parameters()[:12]

    def scaled(row, argument):
        found, log_scale = flow_modes(row, argument) if form == "flow" else descent_modes(row, 0.1, argument)
        return listed(found) * jnp.exp(log_scale)

    arguments = np.array([0.5, 6.0]) if form == "flow" else np.array([4.0, 60.0])
    slopes = jax.jit(jax.vmap(jax.vmap(jax.jacrev(scaled), (None, 0)), (0, None)))(rows, arguments)
    slopes = slopes.reshape(len(rows), len(arguments), 5, 5)

    def reference(row, argument):
        g, a, c, r1, r2 = row
        A = np.array([[-a, r1, Decimal(0)], [r2 * g, -c, r2], [Decimal(0), Decimal(0), -a]], dtype=object)
        if form == "flow":
            return coefficients_of(oracles.decimal_expm(A, argument))
        step = oracles.decimals(np.eye(3)) + A * Decimal.from_float(0.1)
        return coefficients_of(oracles.decimal_power(step, int(argument)))

    h = Decimal("1e-25")
    for i, row in enumerate(rows):
        for j, argument in enumerate(arguments):
            for k in range(3):
                up, down = list(oracles.decimals(row)), list(oracles.decimals(row))
                up[k], down[k] = up[k] + h, down[k] - h
                pairs = zip(reference(up, argument), reference(down, argument), strict=True)
                want = np.array([float((x - y) / (2 * h)) for x, y in pairs])
                np.testing.assert_allclose(slopes[i, j, :, k], want, rtol=1e-8, atol=1e-10 * np.max(np.abs(want)))


# --- long horizons and small distances --------------------------------------------------------------------------------


def horizon_problem():
    """Imbalanced classes, a feature dimension of 3 and unequal decays: top mode simple, all rates distinct."""
    rng = np.random.default_rng(21)
    labels = uj.from_counts([2, 1, 1])
    model = uj.regularized(labels, 3, decay=(0.05, 0.02), gamma=0.7)
    state = uj.State(rng.normal(size=(4, 3)), rng.normal(size=(3, 3)), np.zeros(3))
    M = oracles.signal_matrix(np.full(4, 0.25), oracles.one_hot(labels.index, 3), 0.7)
    return model, state, oracles.generator(M, None, (0.05, 0.02))


def decimal_run(A, state, tau):
    Z = oracles.decimals(np.concatenate([state.H, state.W]))
    return oracles.decimal_expm(oracles.decimals(A), tau).dot(Z)


def test_a_horizon_of_a_million():
    model, state, A = horizon_problem()
    times = [1e3, 5e5, 1e6]
    names = ["log_norm", "log_distance", "log_abs_loss"]
    wide = uj.exact(model, uj.Flow(), state, times, names, precision="float64")
    narrow = uj.exact(model, uj.Flow(), state, times, names, precision="float32")
    assert narrow["log_norm"].dtype == np.float32
    for i, tau in enumerate(times):
        want = float(oracles.decimal_norm(decimal_run(A, state, tau)).ln())
        assert wide["log_norm"][i] == pytest.approx(want, rel=1e-12)
        assert narrow["log_norm"][i] == pytest.approx(want, rel=1e-6)
    assert wide["log_norm"][-1] > 1e5  # far beyond 1e300
    # the slowest rate, from the spectrum of A itself
    spectrum = np.sort(np.linalg.eigvals(A).real)
    omega = spectrum[-1] - spectrum[-2]
    constant = wide["log_distance"][0] + omega * 1e3
    np.testing.assert_allclose(wide["log_distance"], constant - omega * np.array(times), rtol=1e-9)
    np.testing.assert_allclose(narrow["log_distance"], wide["log_distance"], rtol=1e-5)


@pytest.mark.long_for("float64")
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_distances_down_to_1e_30_equal_decimal_arithmetic(precision):
    model, state, A = horizon_problem()
    if precision == "float32":
        state = jax.tree.map(np.float32, state)
    times = [0.0, 1.0, 40.0, 150.0, 600.0]
    names = ["distance", "distance_H", "distance_W"]
    run = uj.exact(model, uj.Flow(), state, times, names, precision=precision)
    limit = decimal_run(A, state, 2000.0)
    for i, tau in enumerate(times):
        Z = decimal_run(A, state, tau)
        for name, part in zip(names, (slice(None), slice(4), slice(4, None)), strict=True):
            want = float(oracles.direction_distance(Z[part], limit[part]))
            tolerance = 1e-10 if precision == "float64" else 1e-4
            assert run[name][i] == pytest.approx(want, rel=tolerance), (name, tau)
    assert run["distance"][-1] < 1e-30


@pytest.mark.parametrize("part", ["anchored", "frozen"])
def test_distances_of_a_driven_part_equal_decimal_arithmetic(part):
    """The other part stays: H -> M W, or W -> M^T H, at the rate of its decay."""
    _, state, _ = horizon_problem()
    labels = uj.from_counts([2, 1, 1])
    model = getattr(uj, part)(labels, 3, decay=0.1, gamma=0.7)
    M = oracles.signal_matrix(np.full(4, 0.25), oracles.one_hot(labels.index, 3), 0.7)
    times = [0.0, 3.0, 700.0]
    run = uj.exact(model, uj.Flow(), state, times, "distance")
    start, goal = (state.H, M @ state.W) if part == "anchored" else (state.W, M.T @ state.H)
    start, goal = oracles.decimals(start), oracles.decimals(goal) / Decimal.from_float(0.1)
    for i, tau in enumerate(times):
        fade = (-Decimal.from_float(0.1) * Decimal(tau)).exp()
        Z = fade * start + (1 - fade) * goal
        assert run["distance"][i] == pytest.approx(float(oracles.direction_distance(Z, goal)), rel=1e-9)
    assert run["distance"][-1] < 1e-30


@pytest.mark.long
def test_no_signal_at_all_leaves_only_decay():
    """Symmetric noise of rate (C-1)/C at gamma = 1/(C-1): M = 0, no direction wins."""
    model = uj.regularized(uj.balanced(3, 2).symmetric_noise(2 / 3), 4, decay=0.05)
    state = model.init(jax.random.key(0), precision="float64")
    start = math.log(np.linalg.norm(np.concatenate([state.H, state.W])))
    for run in (uj.exact, uj.simulate):
        found = run(model, uj.Descent(0.1), state, [0, 5, 50], ["log_norm", "distance"])
        np.testing.assert_allclose(found["log_norm"], start + np.array([0, 5, 50]) * math.log(1 - 0.005), rtol=1e-12)
        assert np.all(np.isnan(found["distance"]))


def test_a_class_without_weight_only_decays():
    labels = uj.from_counts([2, 2, 2]).weighted(samples=[1, 1, 1, 1, 0, 0])
    model = uj.regularized(labels, P, decay=0.1)
    rng = np.random.default_rng(2)
    H, W = rng.normal(size=(N, P)), rng.normal(size=(C, P))
    M = oracles.signal_matrix(labels.weights, oracles.one_hot(labels.index, C), 0.5)
    want = oracles.flow_state(oracles.generator(M, None, (0.1, 0.1)), H, W, 2.0)
    final = uj.exact(model, uj.Flow(), uj.State(H, W, np.zeros(C)), [2.0], "norm").final
    assert oracles.relative(final.H, want[0]) < 1e-12
    assert oracles.relative(final.W, want[1]) < 1e-12


@pytest.mark.parametrize("decay", [(-0.05, 0.0), (0.0, -0.05), (-0.05, -0.02)])
def test_differences_around_zero_decay_can_be_taken(decay):
    """Below 0 no model is built, but a number that is traced may lie there."""
    rng, labels = np.random.default_rng(3), uj.balanced(classes=3, per_class=2)
    model = uj.unconstrained(labels, dim=4)
    state = uj.State(rng.normal(size=(6, 4)), rng.normal(size=(3, 4)), np.zeros(3))
    times = np.array([1.0, 5.0])

    @jax.jit
    def solve(a, c):
        run = uj.exact(model.replace(decay=(a, c)), uj.Flow(), state, times, "distance", states=True)
        return run["distance"], run.states.H, run.states.W, run.states.log_scale

    distance, H, W, log_scale = (np.asarray(part) for part in solve(*decay))
    M = np.asarray(model.signal().dense("float64"))
    A = oracles.generator(M, None, decay)
    gap = np.diff(np.unique(np.linalg.eigvals(A).real.round(10)))[-1]
    shifted = A - np.linalg.eigvals(A).real.max() * np.eye(9)
    limit = np.concatenate(oracles.flow_state(shifted, state.H, state.W, 45 / gap))
    limit /= np.linalg.norm(limit)
    for i, time in enumerate(times):
        want = np.concatenate(oracles.flow_state(A, state.H, state.W, time))
        got = np.exp(log_scale[i]) * np.concatenate([H[i], W[i]])
        assert oracles.relative(got, want) < 1e-12
        assert distance[i] == pytest.approx(np.linalg.norm(want / np.linalg.norm(want) - limit), rel=1e-10)
