"""Squared error from balanced starts: against SciPy's DOP853 and NumPy, 90-digit decimals, and finite differences."""

from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import expit

import unhinged_jax as uj
from unhinged_jax.derivatives.sensitivities import disagreement

TIMES = np.array([0.0, 0.5, 3.0, 20.0, 100.0])
SEEN = ["loss", "objective", "norm_H", "norm_W", "accuracy"]


def matrices(model, flow):
    """Y, the weight of a sample, rates and decays."""
    with jax.enable_x64(True):
        Y = np.asarray(model.labels.probabilities(), float)
    decays = float(model.decay_H), float(model.decay_W)
    return Y, float(model.labels.weights[0]), (float(flow.rate_H), float(flow.rate_W)), decays


def integrated(model, flow, state, times):
    """H and W at the times, (T, ...) each, by an integrator of SciPy."""
    Y, q, rates, decays = matrices(model, flow)
    shape, split = np.shape(state.H), np.size(state.H)

    def velocity(_, z):
        H, W = z[:split].reshape(shape), z[split:].reshape(-1, shape[1])
        E = q * (Y - H @ W.T - state.b)
        return np.concatenate(
            [rates[0] * (E @ W - decays[0] * H).ravel(), rates[1] * (E.T @ H - decays[1] * W).ravel()]
        )

    start = np.concatenate([np.ravel(state.H), np.ravel(state.W)])
    found = solve_ivp(velocity, (0, times[-1]), start, "DOP853", times, rtol=1e-13, atol=1e-15).y.T
    return found[:, :split].reshape(-1, *shape), found[:, split:].reshape(len(times), -1, shape[1])


def seen(model, flow, H, W, b):
    """The observables of one moment, by NumPy."""
    Y, q, _, decays = matrices(model, flow)
    S, of_H, of_W = H @ W.T + b, np.sum(H**2), np.sum(W**2)
    loss = q * np.sum((S - Y) ** 2) / 2
    right = np.mean(np.argmax(S, axis=1) == np.asarray(model.labels.truth))
    return [loss, loss + decays[0] * of_H / 2 + decays[1] * of_W / 2, np.sqrt(of_H), np.sqrt(of_W), right]


def stretched(state, flow):
    """A start that is balanced at equal rates, made one of these rates."""
    by = (flow.rate_H / flow.rate_W) ** 0.25
    return uj.State(np.asarray(state.H) * by, np.asarray(state.W) / by, state.b)


UNEVEN = uj.from_labels([0, 1, 1, 0, 2, 2, 2, 1, 1, 0], 3)
SOFT = uj.soft(np.random.default_rng(0).dirichlet(np.ones(3), 7))
CASES = {  # labels, p, kappa, common decay, rates
    "fewer dimensions than classes, decay, unequal rates": (UNEVEN, 2, 0.0, 0.02, (0.7, 1.3)),
    "noise, rich features": (UNEVEN.symmetric_noise(0.2), 4, 0.8, 0.0, (1.0, 1.0)),
    "rich prototypes": (UNEVEN, 3, -0.8, 0.0, (1.2, 0.6)),
    "fewer samples than classes": (uj.soft(np.eye(4)[:2] * 0.9 + 0.025), 7, 0.0, 0.0, (1.0, 1.0)),
}


def problem(name):
    labels, dim, kappa, decay, (r1, r2) = CASES[name]
    model = uj.regularized(labels, dim, decay=(decay / r1, decay / r2), loss="mse")
    flow = uj.Flow(rate_H=r1, rate_W=r2)
    return model, flow, stretched(model.init(jax.random.key(1), balanced=kappa, scale=0.7, precision="float64"), flow)


@pytest.mark.parametrize(
    "name", [*list(CASES)[:2], *(pytest.param(name, marks=pytest.mark.long) for name in list(CASES)[2:])]
)
def test_closed_form_is_the_flow_that_an_integrator_finds(name):
    model, flow, state = problem(name)
    run = uj.exact(model, flow, state, TIMES, SEEN)
    H, W = integrated(model, flow, state, TIMES)
    want = np.array([seen(model, flow, *at, state.b) for at in zip(H, W, strict=True)]).T
    for values, row in zip((run[name] for name in SEEN), want, strict=True):
        np.testing.assert_allclose(values, row, rtol=1e-10, atol=1e-13)
    # The end of the run has the same products, whatever its feature space is turned by.
    ends = np.vstack([run.final.H, run.final.W]), np.vstack([H[-1], W[-1]])
    np.testing.assert_allclose(*(Z @ Z.T for Z in ends), atol=1e-11)


def test_model_draws_balanced_starts():
    rng = np.random.default_rng(0)
    for labels, dim, kappa in ((UNEVEN, 4, 0.0), (UNEVEN, 12, 0.0), (UNEVEN, 4, 1.7), (UNEVEN, 3, -0.4)):
        model = uj.unconstrained(labels, dim, loss="mse")
        state = model.init(jax.random.key(2), balanced=kappa, scale=1.5, precision="float64")
        apart = state.H.T @ state.H - state.W.T @ state.W - kappa * np.eye(dim)
        assert np.abs(apart).max() < 1e-14 * (np.sum(state.H**2) + np.sum(state.W**2))
    # The part that is not the partner may be given, and stays what it is.
    given = rng.normal(size=(3, 4))
    model = uj.unconstrained(UNEVEN, 4, loss="mse")
    state = model.init(jax.random.key(2), prototypes=given, balanced=0.3, precision="float64")
    np.testing.assert_array_equal(state.W, given)
    few = uj.unconstrained(uj.soft(np.eye(5)[:2]), 4, loss="mse")
    features = rng.normal(size=(2, 4))
    np.testing.assert_array_equal(
        few.init(jax.random.key(2), features=features, balanced=0.0, precision="float64").H, features
    )
    # Every partner is as likely as any other: the mean over many of the products of two entries is that of a sphere.
    many = jax.vmap(lambda key: model.init(key, prototypes=given, balanced=0.0).H)(
        jax.random.split(jax.random.key(0), 4000)
    )
    spread = np.mean(np.asarray(many, float)[:, 0] ** 2, axis=0)
    np.testing.assert_allclose(spread, np.sum(given**2, axis=0) / 10, rtol=0.15)


def test_balanced_starts_that_do_not_exist_are_refused():
    model = uj.unconstrained(UNEVEN, 4, loss="mse")
    for change, words in (
        ({"balanced": -0.1}, "at least as many classes as dimensions"),
        ({"balanced": 0.1, "features": np.ones((10, 4))}, "features follow from the prototypes"),
        ({"balanced": np.nan}, "balanced must hold finite"),
        ({"balanced": np.ones(2)}, "balanced must have shape"),
    ):
        with pytest.raises(ValueError, match=words):
            model.init(jax.random.key(0), **change)
    with pytest.raises(ValueError, match="at least as many samples as dimensions"):
        model.replace(dim=11).init(jax.random.key(0), balanced=0.1)


def test_what_rules_the_closed_form_out_is_named():
    model = uj.regularized(UNEVEN, 4, decay=0.1, loss="mse")
    flow, free = uj.Flow(), model.replace(decay=0.0)
    start = model.init(jax.random.key(0), balanced=0.0)
    rich = free.init(jax.random.key(0), balanced=0.5)
    loose = uj.State(np.asarray(start.H) + 0.01, start.W)
    cases = {
        "a Flow only": (model, uj.Descent(0.1), start, {}),
        "a bias that moves": (model.replace(bias=True), flow, start, {}),
        "both move": (uj.anchored(UNEVEN, 4, loss="mse"), flow, start, {}),
        "a kernel": (uj.ntk_invariant(UNEVEN, 4, np.eye(10), loss="mse"), flow, start, {}),
        "spherical features": (uj.spherical(UNEVEN, 4, loss="mse", free_prototypes=True), flow, start, {}),
        "equal weight": (model.replace(labels=UNEVEN.weighted(classes=[1.0, 2.0, 3.0])), flow, start, {}),
        "rate_H decay_H = rate_W decay_W": (model.replace(decay=(0.1, 0.2)), flow, start, {}),
        "balanced starts only": (model, flow, loose, {}),
        r"H\^T H = W\^T W only": (model, flow, rich, {}),
        "proportional": (model, uj.Flow(rate_H=uj.cosine(1.0, horizon=3)), start, {}),
        r"times \(rate_H/rate_W\)": (model.replace(decay=(0.1, 0.05)), uj.Flow(rate_W=2.0), start, {}),
        "leave `states` out": (model, flow, start, {"states": True}),
        "the function 'first'": (model, flow, start, {"observe": {"first": lambda model, state: state.H[0, 0]}}),
        "CrossEntropy is not linear": (model.replace(loss="cross_entropy"), flow, start, {}),
    }
    for words, (m, dynamics, state, more) in cases.items():
        with pytest.raises(uj.NoClosedForm, match=words) as caught:
            uj.exact(m, dynamics, state, [1.0], **{"observe": "loss", **more})
        assert str(caught.value).count("'Squared error from balanced starts' of docs/exact-solutions.md") == (
            m.loss == model.loss
        )
    # Inside a trace nothing can be raised about numbers; they are NaN.
    traced = jax.jit(lambda state: uj.exact(model, flow, state, [1.0], "loss")["loss"])
    assert np.isfinite(traced(start)).all() and np.isnan(traced(loose)).all() and np.isnan(traced(rich)).all()
    weighted = jax.jit(
        lambda q: uj.exact(model.replace(labels=UNEVEN.replace(weights=q)), flow, start, [1.0], "loss")["loss"]
    )
    assert np.isfinite(weighted(np.full(10, 0.1))).all() and np.isnan(weighted(np.arange(1, 11) / 55)).all()


def decimal_grams(state, index, decay, kappa, time):
    """log |(H, W)|, log |H|, log |W| and log loss at a time, at equal weights and unit rates.

    The Gram matrix of [H; W] in the eigenbasis of A is d (1/phi - 1/phi T^-1 1/phi) d, with d = e^(mu t), phi the
    integral of e^(2 mu s), and T = 1/phi + X X^T for the rows X of the start.
    """
    H, W = (np.vectorize(Decimal, otypes=[object])(np.asarray(part, float)) for part in (state.H, state.W))
    n, C = len(H), len(W)
    q, kappa = Decimal(1) / n, Decimal(kappa)
    lost, T = Decimal(decay) * n, Decimal(time) / n
    vectors, mu = [], []
    for c in range(C):
        members = np.flatnonzero(index == c)
        s = Decimal(len(members)).sqrt()
        omega = (s**2 + kappa**2 / 4).sqrt()
        cos, sin = (((1 + sign * kappa / 2 / omega) / 2).sqrt() for sign in (1, -1))
        for of_H, of_W, sign in ((cos, sin, 1), (-sin, cos, -1)):
            vector = np.full(n + C, Decimal(0))
            vector[members], vector[n + c] = of_H / s, of_W
            vectors, mu = [*vectors, vector], [*mu, sign * omega - lost]
        for k in range(1, len(members)):  # differences within the class
            vector = np.full(n + C, Decimal(0))
            root = (Decimal(k) * (k + 1)).sqrt()
            vector[members[:k]], vector[members[k]] = 1 / root, -k / root
            vectors, mu = [*vectors, vector], [*mu, kappa / 2 - lost]
    basis, mu = np.array(vectors), np.array(mu)
    rows = basis.dot(np.vstack([H, W]))
    phi = np.array([((2 * m * T).exp() - 1) / (2 * m) if m else T for m in mu])
    left = rows.dot(rows.T) + np.diag(1 / phi)
    size = len(mu)
    both = np.hstack([left, np.vectorize(Decimal, otypes=[object])(np.eye(size))])
    for i in range(size):  # Gauss and Jordan; T is positive definite
        both[i] = both[i] / both[i, i]
        for j in set(range(size)) - {i}:
            both[j] = both[j] - both[j, i] * both[i]
    d = np.array([(m * T).exp() for m in mu])
    inner = (np.diag(1 / phi) - both[:, size:] / phi / phi[:, None]) * d * d[:, None]
    gram = basis.T.dot(inner).dot(basis)
    of_H, of_W = (np.trace(block) for block in (gram[:n, :n], gram[n:, n:]))
    Y = np.vectorize(Decimal, otypes=[object])(np.eye(C)[index])
    loss = q * np.sum((Y - gram[:n, n:]) ** 2) / 2
    return [((of_H + of_W).ln() / 2), of_H.ln() / 2, of_W.ln() / 2, loss.ln()]


@pytest.mark.parametrize(
    ("dim", "kappa", "decay", "time", "digits"),
    [
        (4, 0.0, 0.01, 1e6, 90), (4, 0.0, 0.3, 1e6, 90), (4, 0.0, 0.0, 4e3, 600), (4, 0.0, 0.0, 2e3, 601),
        (4, 0.0, 0.0, 60, 90), (4, 0.5, 0.0, 3e2, 200), (4, 0.5, 0.0, 6e3, 2000), (7, 0.5, 0.0, 2e2, 200),
        (3, -0.5, 0.0, 4e3, 700),
        pytest.param(3, -0.5, 0.0, 1e6, 90, marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_ten_digits_at_a_million(dim, kappa, decay, time, digits):
    """With a decay that leaves something, one that kills everything, e^-76395; a loss of e^-1131; and with kappa."""
    labels = uj.from_counts([5, 3, 2])
    model = uj.regularized(labels, dim, decay=decay, loss="mse")
    state = model.init(jax.random.key(3), balanced=kappa, scale=0.3, precision="float64")
    if digits == 601:  # a start without variability within classes, whose loss falls twice as fast
        index = np.asarray(labels.index)
        state = uj.State((np.asarray(state.W) / np.sqrt([[5], [3], [2]]))[index], state.W)
    names = ["log_norm", "log_norm_H", "log_norm_W", *["log_abs_loss"] * (time < 1e5 or kappa == 0)]
    run = uj.exact(model, uj.Flow(), state, [time], names)
    with localcontext() as context:
        context.prec, context.Emax, context.Emin = digits, 10**17, -(10**17)
        truth = decimal_grams(state, np.asarray(labels.index), decay, kappa, time)
        for name, value in zip(names, truth, strict=False):
            assert abs(Decimal(float(run[name][0])) - value) < Decimal("1e-13") * abs(value)


def test_small_losses_are_known_of_starts_that_are_traced():
    """In batches, by events, and in float32, as of a start that is looked at: kappa is rounding there."""
    model, flow, times = uj.unconstrained(UNEVEN, 4, loss="mse"), uj.Flow(), np.array([20.0, 600.0, 3e3])
    states = jax.vmap(lambda key: model.init(key, balanced=0.0))(jax.random.split(jax.random.key(0), 2))
    runs = jax.vmap(lambda state: uj.exact(model, flow, state, times, "log_abs_loss")["log_abs_loss"])(states)
    state = jax.tree.map(lambda leaf: np.asarray(leaf)[1], states)
    truth = uj.exact(model, flow, state, times, "log_abs_loss", precision="float64")["log_abs_loss"]
    assert truth[1] < -100
    np.testing.assert_allclose(runs[1], truth, rtol=1e-4)
    state = model.init(jax.random.key(3), balanced=0.0, precision="float64")
    level = uj.exact(model, flow, state, [600.0], "log_abs_loss")["log_abs_loss"][0]
    event = uj.event_time(model, flow, state, "log_abs_loss", level, times=[0.0, 3e3], direction="below")
    np.testing.assert_allclose(event.time, 600.0, rtol=1e-12)


def test_a_small_loss_has_its_derivative_with_respect_to_a_decay_of_zero():
    labels, time = uj.from_counts([5, 3, 2]), 60.0  # where terms that fade faster still count
    model = uj.unconstrained(labels, 4, loss="mse")
    state = model.init(jax.random.key(3), balanced=0.0, scale=0.3, precision="float64")

    def value(decay, name="log_abs_loss"):
        return uj.exact(model.replace(decay=decay), uj.Flow(), state, [time], name)[name][0]

    with localcontext() as context:
        context.prec, context.Emax, context.Emin = 200, 10**17, -(10**17)
        ends = [decimal_grams(state, np.asarray(labels.index), decay, 0.0, time)[-1] for decay in (1e-40, 0.0)]
        truth = float((ends[0] - ends[1]) / Decimal("1e-40"))
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(jax.grad(value))(0.0), truth, rtol=1e-9)


def test_a_start_near_its_targets_and_early_times_have_the_loss_of_its_logits():
    """Not that of terms which are far larger than their sum."""
    model, size = uj.unconstrained(uj.balanced(3, 2), 3, loss="mse"), 1 + 1e-6
    H = np.eye(3)[np.asarray(model.labels.index)] * size * 2**-0.25
    state = uj.State(H, np.eye(3) * size * 2**0.25)
    run = uj.exact(model, uj.Flow(), state, [0.0, 1e-9, 1e-3], "log_abs_loss")["log_abs_loss"]
    np.testing.assert_allclose(run, np.log((size**2 - 1) ** 2 / 2), atol=2e-3)


def turned_distance(A, B):
    """Distance of two matrices at norm 1, up to a rotation of their columns."""
    A, B = (np.asarray(Z, float) / np.linalg.norm(Z) for Z in (A, B))
    U, _, V = np.linalg.svd(A.T @ B)
    return np.linalg.norm(A @ (U @ V) - B)


LIMITS = {  # labels, p, kappa, decay, what is said
    "nothing dies": (UNEVEN, 4, 0.0, 0.0, ""),
    "one class dies": (UNEVEN, 4, 0.0, 0.1803, "classes 0 and 2 die"),
    "everything dies": (UNEVEN, 4, 0.0, 0.25, "classes 0, 1 and 2 die"),
    "too few dimensions": (uj.from_counts([5, 3, 2]), 2, 0.0, 0.02, "class 2 dies"),
    "rich features": (UNEVEN, 4, 0.5, 0.0, ""),
    "rich prototypes": (UNEVEN, 3, -0.5, 0.0, ""),
}


@pytest.mark.parametrize(
    "name", [*list(LIMITS)[:3], *(pytest.param(name, marks=pytest.mark.long) for name in list(LIMITS)[3:])]
)
def test_limit_is_where_the_run_ends_and_how_fast(name):
    labels, dim, kappa, decay, said = LIMITS[name]
    model, flow = uj.regularized(labels, dim, decay=decay, loss="mse"), uj.Flow(rate_H=2.0, rate_W=2.0)
    state = model.init(jax.random.key(3), balanced=kappa, scale=0.8, precision="float64")
    found = uj.limit(model, flow, state)
    assert found.survivors.note == said and said in found.note
    counts = np.bincount(np.asarray(labels.index))
    least = np.sort(counts)[-dim:].min() if dim < len(counts) else 0
    values = np.maximum(0, np.sqrt(counts) - labels.samples * decay) * (counts >= least)
    np.testing.assert_allclose(found.survivors.values, values, atol=1e-13)
    np.testing.assert_allclose(found.survivors.possible, values, atol=1e-13)
    assert found.side == ("shrinks" if not values.any() else "stays")
    for part in ("_W", "_H", ""):
        pick = {"": lambda s: np.vstack([s.H, s.W]), "_H": lambda s: s.H, "_W": lambda s: s.W}[part]
        rate = float(getattr(found, f"rate{part}"))
        times = np.array([15.0, 17.0]) / rate
        runs = [uj.exact(model, flow, state, [time], "log_norm") for time in times]
        apart = [turned_distance(pick(run.final), pick(found.direction)) for run in runs]
        fitted = -np.log(apart[1] / apart[0]) / np.diff(times)[0]
        assert apart[1] < 1e-5 and abs(fitted - rate) < 0.05 * rate
    slope = float(runs[1]["log_norm"][0] - runs[0]["log_norm"][0]) / np.diff(times)[0]
    np.testing.assert_allclose(slope, found.exponent, atol=1e-6)
    largest = np.sqrt(counts.max()) / labels.samples
    np.testing.assert_allclose([found.threshold, found.excess], [largest**2, largest**2 - decay**2], rtol=1e-12)


def test_class_that_the_start_lacks_dies_though_the_minimum_has_it():
    model, state = uj.regularized(UNEVEN, 4, decay=0.01, loss="mse"), np.zeros((3, 4))
    state[:2, :2] = [[1.0, 0.5], [-0.2, 0.8]]
    start = uj.State(
        np.eye(3)[np.asarray(UNEVEN.index)] / np.sqrt([[3], [4], [3]])[np.asarray(UNEVEN.index)] @ state, state
    )
    found = uj.limit(model, uj.Flow(), start)
    assert found.survivors.note == "class 2 dies from this start, but not at the minimum"


def along_common_decay_rate_scale_and_time(x, names):
    model = uj.regularized(UNEVEN, 4, decay=x[0], loss="mse")
    state = model.init(jax.random.key(5), balanced=0.0, scale=x[2])
    run = uj.exact(model, uj.Flow(x[1]), state, jnp.array([0.0, 1.0, 40.0]) * x[3], names)
    return jnp.stack([run[name] for name in names])


def along_kappa(x, names, times=(0.0, 1.0, 40.0)):
    model = uj.unconstrained(UNEVEN, 4, loss="mse")
    run = uj.exact(model, uj.Flow(), model.init(jax.random.key(5), balanced=x[0]), times, names)
    return jnp.stack([run[name] for name in names])


def along_kappa_late(x, names):
    return along_kappa(x, names, (150.0, 400.0, 2e3))


def across_no_kappa(x, names):
    """Late, along starts of which the one at x = 0 has kappa = 0, where the general formulas end."""
    model, sizes = uj.unconstrained(uj.balanced(3, 2), 3, loss="mse"), jnp.array([0.4, 0.5, 0.7])
    pairs = jnp.stack([jnp.sqrt(sizes**2 + x[0] - 0.01), jnp.full(3, 0.1)]) / 2**0.5  # means, and apart from them
    H = jnp.concatenate([jnp.diag(pairs[0] + pairs[1]), jnp.diag(pairs[0] - pairs[1])])
    run = uj.exact(model, uj.Flow(), uj.State(H, jnp.diag(sizes)), [3.0, 60.0, 400.0], names)
    return jnp.stack([run[name] for name in names])


@pytest.mark.parametrize(
    ("function", "point", "names"),
    [
        (along_common_decay_rate_scale_and_time, [0.03, 0.8, 0.7, 1.1], ["loss"]),
        (across_no_kappa, [0.0], ["log_abs_loss"]),
        pytest.param(along_kappa, [0.6], ["loss", "norm_H", "norm_W", "nc1"], marks=pytest.mark.long),
        pytest.param(along_kappa_late, [0.6], ["log_abs_loss"], marks=pytest.mark.long),
        pytest.param(
            along_common_decay_rate_scale_and_time, [0.03, 0.8, 0.7, 1.1], ["norm_H", "norm_W", "nc1"],
            marks=pytest.mark.long,
        ),
    ],
)  # fmt: skip
def test_derivatives_are_those_of_finite_differences_also_at_the_start(function, point, names):
    """In reverse mode, and, where there is time, in forward mode."""
    cotangent, h = np.random.default_rng(0).normal(size=(len(names), 3)), 1e-5
    with jax.enable_x64(True):
        point, value = jnp.array(point), jax.jit(lambda x: function(x, names))
        back = jax.jit(jax.grad(lambda x: jnp.sum(cotangent * value(x))))(point)
        for i, unit in enumerate(np.eye(len(point))):
            wanted = (value(point + h * unit) - value(point - h * unit)) / (2 * h)
            np.testing.assert_allclose(back[i], np.sum(cotangent * wanted), rtol=1e-6, atol=1e-8)
            if len(names) > 1:
                np.testing.assert_allclose(
                    jax.jvp(value, (point,), (jnp.array(unit),))[1], wanted, rtol=1e-6, atol=1e-8
                )


@pytest.mark.long
def test_float32_and_batches():
    """Each member of a batch is the run alone, and float32 is float64 to its digits, also far out."""
    model, flow = uj.regularized(UNEVEN, 4, decay=0.3, loss="mse"), uj.Flow()
    times, names = [0.0, 1.0, 1e4], ["log_norm", "loss"]
    states = jax.vmap(lambda key: model.init(key, balanced=0.0))(jax.random.split(jax.random.key(0), 2))
    runs = jax.vmap(lambda state: uj.exact(model, flow, state, times, names).observables)(states)
    for member in range(2):
        state = jax.tree.map(lambda leaf, at=member: np.asarray(leaf)[at], states)
        truth = uj.exact(model, flow, state, times, names, precision="float64")
        for name in names:
            np.testing.assert_allclose(runs[name][member], truth[name], rtol=1e-5)


@pytest.mark.parametrize(("precision", "unit", "digits"), [("float32", 1e-10, 3e-5), ("float64", 1e-100, 1e-12)])
def test_starts_far_below_one_and_classes_of_far_different_sizes(precision, unit, digits):
    model = uj.unconstrained(uj.balanced(3, 1), 3, loss="mse")
    q, sizes = float(model.labels.weights[0]), np.array([unit, unit**2, unit**3])
    start = np.diag(sizes).astype(precision)
    times = -np.log(sizes) / q + 1
    squares = expit(2 * (np.log(sizes)[:, None] + q * times))  # a' = q (1 - a^2) a of every class by itself
    run = uj.exact(
        model, uj.Flow(), uj.State(start, start, np.zeros(3, precision)), [0.0, *times], ["loss", "log_norm"]
    )
    np.testing.assert_allclose(run["loss"][1:], q / 2 * np.sum((1 - squares) ** 2, axis=0), rtol=digits)
    norms = np.log(2 * np.append(unit**2 * (1 + unit**2), np.sum(squares, axis=0))) / 2
    np.testing.assert_allclose(run["log_norm"], norms, rtol=digits, atol=digits)


def test_balance_of_starts_whose_squares_leave_the_range():
    model, flow = uj.unconstrained(uj.balanced(3, 1), 3, loss="mse"), uj.Flow()
    rng, none = np.random.default_rng(0), np.zeros(3, np.float32)
    apart = [np.float32(1e-25) * rng.normal(size=(3, 3)).astype(np.float32) for _ in range(2)]
    norm = jax.jit(lambda H, W: uj.exact(model, flow, uj.State(H, W, none), [1.0], ["norm"])["norm"])
    assert np.isnan(norm(*apart)[0])  # it is not balanced, which only the compiled program can see
    rich = uj.exact(model, flow, uj.State(1e10 * np.eye(3, dtype=np.float32), 0 * apart[0], none), [1.0], ["norm_W"])
    np.testing.assert_allclose(rich["norm_W"], 3**0.5 * 1e-10, rtol=1e-5)  # w h = 1 in each class


def test_derivatives_beside_a_balanced_problem_are_refused():
    model = uj.regularized(UNEVEN, 4, decay=0.03, loss="mse")
    state = model.init(jax.random.key(5), balanced=0.0)
    for parameters in (["decay_H"], ["eta", "rate_W"], ["H"], None):
        with pytest.raises(uj.NoClosedForm, match="alone changes; ask for 'decay'"):
            uj.sensitivity(model, uj.Flow(), state, [1.0], ["loss"], parameters, sources="exact")


@pytest.mark.long
def test_sensitivity_is_the_same_simulated_and_exact():
    model = uj.regularized(UNEVEN, 4, decay=0.03, loss="mse")
    state = model.init(jax.random.key(5), balanced=0.0, precision="float64")
    table = uj.sensitivity(model, uj.Flow(rtol=1e-10), state, [3.0, 30.0], ["loss", "norm_H"], ["decay", "eta"])
    assert max(disagreement(table).values()) < 1e-8
    assert list(uj.sensitivity(model, uj.Flow(), state, [1.0], ["loss"], ["decay_H"])["source"].values) == ["simulated"]


@pytest.mark.long
def test_event_times_and_runs_that_go_on_are_those_of_the_simulated_flow():
    model, flow = uj.regularized(UNEVEN, 4, decay=0.02, loss="mse"), uj.Flow(rtol=1e-10)
    state = model.init(jax.random.key(0), balanced=0.0, precision="float64")
    found = [
        uj.event_time(model, flow, state, "loss", 0.3, times=[0.0, 100.0], direction="below", method=method)
        for method in ("exact", "simulate")
    ]
    np.testing.assert_allclose(*((event.time, event.slope) for event in found), rtol=1e-8)
    whole = uj.exact(model, flow, state, [2.0, 7.0], SEEN)
    on = uj.exact(model, flow, uj.exact(model, flow, state, [2.0], SEEN), [7.0], SEEN)
    for name in SEEN:
        np.testing.assert_allclose(on[name][0], whole[name][1], rtol=1e-12)


def test_starts_of_wrong_shapes_are_refused_as_elsewhere():
    model = uj.unconstrained(UNEVEN, 4, loss="mse")
    wrong = uj.State(np.ones((10, 4)), np.ones((3, 5)))
    for ask in (lambda: uj.exact(model, uj.Flow(), wrong, [1.0]), lambda: uj.limit(model, uj.Flow(), wrong)):
        with pytest.raises(ValueError, match=r"state.W must have shape"):
            ask()
