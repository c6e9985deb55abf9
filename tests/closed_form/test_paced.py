"""Sharpness-aware, clipped and normalised gradients: against NumPy loops, SciPy's DOP853, and formulas of one mode."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from scipy.integrate import solve_ivp

import unhinged_jax as uj

UNEVEN = uj.from_counts([3, 2, 1])
EVEN = uj.balanced(3, 2)
TWINS = uj.from_counts([3, 2, 2])
BIAS = np.array([0.1, 0.2, -0.3])
BOTH = {"sam_radius": 0.4, "clip_norm": 0.5}


def problem(labels=EVEN, make=uj.regularized, decay=(0.1, 0.05), bias=True, seed=0):
    model = make(labels, 4, gamma=0.3, decay=decay, **({"bias": True} if bias else {}))
    return model, model.init(jax.random.key(seed), bias=BIAS if bias else None, precision="float64")


def norm(parts):
    return np.sqrt(sum(np.sum(part**2) for part in parts))


def paced(gradient, parts, sam_radius=None, clip_norm=None, normalized=False):
    """The gradient that a step follows, in plain NumPy."""
    g = gradient(*parts)
    if sam_radius is not None:
        g = gradient(*(part + sam_radius * slope / norm(g) for part, slope in zip(parts, g, strict=True)))
    factor = 1 / norm(g) if normalized else 1.0 if clip_norm is None else min(1.0, clip_norm / norm(g))
    return [factor * slope for slope in g]


def gradient_of(model):
    with jax.enable_x64(True):
        M = np.asarray(model.signal().dense("float64"))
    slope = oracles.linear_gradient(M, decay=model.decays[:2], moves=model.moves)
    return lambda H, W, b: (*slope(H, W, b)[:2], model.moves.b * (model.decays.b * b - M.sum(axis=0)))


def stepped(model, state, rates, updates, **how):
    """H, W and b after some updates."""
    parts = [np.array(part, float) for part in (state.H, state.W, state.b)]
    gradient = gradient_of(model)
    for _ in range(updates):
        parts = [part - r * g for part, r, g in zip(parts, rates, paced(gradient, parts, **how), strict=True)]
    return parts


def integrated(model, state, rates, time, **how):
    """H, W and b at a time, by an integrator of SciPy."""
    parts = [np.array(part, float) for part in (state.H, state.W, state.b)]
    sizes, gradient = np.cumsum([part.size for part in parts])[:-1], gradient_of(model)

    def taken_apart(z):
        return [piece.reshape(part.shape) for piece, part in zip(np.split(z, sizes), parts, strict=True)]

    def velocity(_, z):
        g = paced(gradient, taken_apart(z), **how)
        return -np.concatenate([r * np.ravel(slope) for r, slope in zip(rates, g, strict=True)])

    start = np.concatenate([np.ravel(part) for part in parts])
    return taken_apart(solve_ivp(velocity, (0, time), start, "DOP853", rtol=1e-13, atol=1e-14).y[:, -1])


def apart(run, parts):
    state = run.final
    grown = np.exp(float(state.log_scale))
    found = np.asarray(state.H) * grown, np.asarray(state.W) * grown, np.asarray(state.b)
    return norm([np.ravel(one - other) for one, other in zip(found, parts, strict=True)]) / norm(parts)


@pytest.mark.parametrize(
    ("labels", "how"),
    [
        pytest.param(UNEVEN, BOTH, id="both"),
        pytest.param(EVEN, {"sam_radius": 0.4}, id="sharpness-aware", marks=pytest.mark.long),
        pytest.param(UNEVEN, {"normalized": True}, id="normalised", marks=pytest.mark.long),
        pytest.param(EVEN, {"clip_norm": 0.3}, id="clipped", marks=pytest.mark.long),
    ],
)
def test_updates(labels, how):
    """The recursion of the modes is the loop over H, W and b, at rates of their own, and so is the simulated run."""
    model, state = problem(labels)
    descent = uj.Descent(0.2, rate_H=0.8, rate_W=1.2, rate_b=1.1, **how)
    parts = stepped(model, state, (0.16, 0.24, 0.22), 40, **how)
    assert apart(uj.exact(model, descent, state, [40], ()), parts) < 1e-13
    assert apart(uj.simulate(model, descent, state, [40], ()), parts) < 1e-13


@pytest.mark.long_for("sharpness-aware")
@pytest.mark.parametrize(
    ("labels", "rates", "how"),
    [
        pytest.param(UNEVEN, (1.1, 1.1, 0.9), {"sam_radius": 0.4}, id="sharpness-aware"),
        pytest.param(EVEN, (0.8, 1.2, 1.2), {"clip_norm": 0.3}, id="clipped"),
        pytest.param(EVEN, (1.0, 1.0, 1.0), {"sam_radius": 0.4, "normalized": True}, id="both", marks=pytest.mark.long),
    ],
)
def test_flows(labels, rates, how):
    """exp(K zeta - K^2 q), with the scalars zeta and q of the norms of the modes, solves the flow."""
    model, state = problem(labels)
    schedule = uj.cosine(0.3, horizon=30)
    flow = uj.Flow(schedule, rate_H=rates[0], rate_W=rates[1], rate_b=rates[2], **how)
    with jax.enable_x64(True):
        zeta = float(schedule.integral(20.0))
    parts = integrated(model, state, rates, zeta, **how)
    assert apart(uj.exact(model, flow, state, [1.0, 20.0], ()), parts) < 1e-11
    if rates[0] == rates[1] == rates[2]:
        simulated = uj.simulate(model, dataclasses.replace(flow, rtol=1e-10), state, [1.0, 20.0], ())
        assert apart(simulated, parts) < 1e-8


@pytest.mark.long
@pytest.mark.parametrize("make", [uj.anchored, uj.frozen])
@pytest.mark.parametrize("how", [{"sam_radius": 0.4}, {"normalized": True}, BOTH], ids=str)
def test_one_part_moves(make, how):
    """The gradient, and its norm, are those of what moves."""
    model, state = problem(UNEVEN, make, decay=0.1, bias=make is uj.frozen)
    flow, descent = uj.Flow(0.5, rate_H=0.7, rate_W=0.9, **how), uj.Descent(0.2, rate_H=0.7, rate_W=0.9, **how)
    parts = integrated(model, state, (0.35, 0.45, 0.45), 8.0, **how)
    assert apart(uj.exact(model, flow, state, [8.0], ()), parts) < 1e-11
    parts = stepped(model, state, (0.14, 0.18, 0.18), 30, **how)
    assert apart(uj.exact(model, descent, state, [30], ()), parts) < 1e-13


def one_mode(size):
    """A start on the eigenvector of +sigma of one mode, so that ||Z|| = u obeys u' = sigma (u - rho); and sigma."""
    model = uj.unconstrained(EVEN, 4, gamma=0.3)
    sigma = 1.3 / (3 * np.sqrt(2))
    contrast = np.array([1.0, -1.0, 0.0]) / 2
    W = np.outer(contrast, [1.0, 0, 0, 0])
    H = np.repeat(W, 2, axis=0) / np.sqrt(2)
    state = uj.State(H[np.argsort(np.repeat([0, 1, 2], 2))], W)
    return model, state.replace(log_scale=np.log(size)), sigma


def test_a_saddle_takes_what_is_within_the_radius():
    """Within rho of the saddle a state dies at log(rho/(rho - u_0))/sigma; beyond, it grows like u - rho."""
    model, small, sigma = one_mode(0.6)
    dies = np.log(1 / (1 - 0.6)) / sigma
    times = np.array([0.5, 0.999999, 1.000001]) * dies
    flow = uj.Flow(sam_radius=1.0)
    run = uj.exact(model, flow, small, times, "norm")
    assert np.allclose(run["norm"][:2], 1 - 0.4 * np.exp(sigma * times[:2]), rtol=1e-9, atol=1e-12)
    assert list(run.reached) == [True, True, False] and np.isnan(run["norm"][2])
    assert run.result == uj.RunResult.UNDERFLOW
    _, large, _ = one_mode(1.5)
    assert np.allclose(uj.exact(model, flow, large, times, "norm")["norm"], 1 + 0.5 * np.exp(sigma * times), rtol=1e-11)


@pytest.mark.parametrize("log_scale", [-1000.0, pytest.param(1000.0, marks=pytest.mark.long)])
def test_any_size(log_scale):
    """A start may be so small or large that neither its norm nor rho over it is a number."""
    model, state, sigma = one_mode(1.0)
    state = state.replace(log_scale=log_scale)
    descent = uj.Descent(0.2, sam_radius=0.5)
    seen = uj.exact(model, descent, state, [1, 5], "log_norm")["log_norm"]
    if log_scale > 0:  # the radius is nothing beside the state
        assert np.allclose(seen, log_scale + np.array([1, 5]) * np.log1p(0.2 * sigma), rtol=1e-12)
    else:  # one step goes to eta rho sigma on the other side, and from there it bounces
        u = -0.2 * sigma * 0.5
        assert np.isclose(seen[0], np.log(-u), rtol=1e-12)
        for _ in range(4):
            u += 0.2 * sigma * (u - 0.5 * np.sign(u))
        assert np.isclose(seen[1], np.log(abs(u)), rtol=1e-10)
    normalised = uj.exact(model, uj.Flow(normalized=True), state, [2.0], "log_norm")["log_norm"]
    assert np.isclose(normalised[0], np.logaddexp(log_scale, np.log(2.0)), rtol=1e-11)  # ||Z||' = 1


def test_radius_0_is_the_plain_run():
    """Bit by bit, simulated and exact."""
    model, state = problem()
    for run in (uj.simulate, uj.exact):
        plain, idle = (run(model, uj.Descent(0.2, sam_radius=r), state, [20], "loss") for r in (None, 0.0))
        assert np.array_equal(plain["loss"], idle["loss"]) and plain.form.words == idle.form.words


@pytest.mark.long
def test_radius_0_is_one_among_others():
    """Mapped over, and in the dense form, where a radius of next to nothing changes no bit."""
    model, state = problem()
    with jax.enable_x64(True):
        radii = jnp.array([0.0, 0.1, 0.5])
        losses = jax.vmap(lambda r: uj.exact(model, uj.Descent(0.2, sam_radius=r), state, [20], "loss")["loss"])(radii)
    for radius, loss in zip(radii, losses, strict=True):
        one = uj.exact(model, uj.Descent(0.2, sam_radius=float(radius)), state, [20], "loss")["loss"]
        assert np.allclose(loss, one, rtol=1e-13)
    sphere = uj.spherical(EVEN, 4)
    start = sphere.init(jax.random.key(0), precision="float64")
    dense = [uj.simulate(sphere, uj.Descent(0.2, **how), start, [20], "loss", reduce=False)["loss"]
             for how in ({}, {"sam_radius": 1e-300})]  # fmt: skip
    assert np.array_equal(*dense)


def slopes(labels, dynamics_of):
    """Derivatives with respect to gamma, decay, the start, the radius and the rate; and finite differences."""
    model, state = problem(labels)
    wave = np.cos(np.arange(state.H.size)).reshape(state.H.shape)

    def value(x):
        changed = model.replace(gamma=0.3 + x[0], decay=(0.1 + x[1], 0.05 - x[1] / 2))
        start = state.replace(H=state.H * (1 + x[2] * wave))
        run = uj.exact(changed, dynamics_of(x[3], x[4]), start, [3, 9], ["loss", "norm_b"])
        return jnp.sum(run["loss"]) + jnp.sum(run["norm_b"])

    with jax.enable_x64(True):
        both = jax.jit(jax.value_and_grad(value))
        found = both(jnp.zeros(5))[1]
        return np.asarray(found), np.array([(both(h)[0] - both(-h)[0]) / 2e-5 for h in 1e-5 * np.eye(5)])


SLOPED = {
    "sharpness-aware descent": lambda x, y: uj.Descent(0.2 + y, rate_H=0.8, sam_radius=0.4 + x),
    "descent": lambda x, y: uj.Descent(0.2 + y, rate_H=0.8, sam_radius=0.4 + x, clip_norm=0.5 + x),
    "sharpness-aware": lambda x, y: uj.Flow(0.2 + y, sam_radius=0.4 + x),
    "clipped": lambda x, y: uj.Flow(0.2 + y, clip_norm=0.3 + x, rate_H=0.8),
}


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (EVEN, "sharpness-aware descent"),
        *(pytest.param(labels, name, marks=pytest.mark.long) for labels in (EVEN, TWINS) for name in SLOPED),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.samples),
)  # fmt: skip
def test_derivatives(labels, name):
    """Through the modes, the norms and the steps of the scalar equation, also where two singular values are equal."""
    found, differences = slopes(labels, SLOPED[name])
    assert np.allclose(found, differences, rtol=1e-7, atol=1e-7)


@pytest.mark.long
def test_cut_and_continued():
    model, state = problem()
    for dynamics, when in ((uj.Descent(0.2, sam_radius=0.5), (7, 20)), (uj.Flow(0.2, **BOTH), (7.0, 20.0))):
        whole = uj.exact(model, dynamics, state, [when[1]], "loss")["loss"]
        part = uj.exact(model, dynamics, uj.exact(model, dynamics, state, [when[0]], "loss"), [when[1]], "loss")["loss"]
        assert np.allclose(whole, part, rtol=1e-12)
    low = uj.exact(model, uj.Flow(0.2, **BOTH), state, [20.0], "loss", precision="float32")["loss"]
    assert low.dtype == np.float32 and np.allclose(low, whole, rtol=2e-5)


@pytest.mark.long
def test_distances_to_the_direction_of_plain_growth():
    """The leading part is the plain one, at the power p(mu) = product of 1 + eta (mu - mu^2 rho/||G Z||)."""
    model, state = problem(bias=False)
    descent = uj.Descent(0.2, sam_radius=0.5)
    run = uj.exact(model, descent, state, [30], ["log_distance"])
    ended = uj.exact(model, uj.Descent(0.2), run.final, [0], ["log_distance"])
    assert np.isclose(run["log_distance"][0], ended["log_distance"][0], rtol=1e-10)


def test_cross_entropy_is_simulated():
    """Any loss has a gradient at the ascended point."""
    labels = uj.from_counts([3, 2, 1])
    model = uj.regularized(labels, 4, decay=0.1, loss="cross_entropy")
    state = model.init(jax.random.key(1), precision="float64")
    Y = np.eye(3)[np.asarray(labels.index)]

    def gradient(H, W, b):
        grown = np.exp(H @ W.T)
        E = (grown / grown.sum(axis=1, keepdims=True) - Y) / 6
        return E @ W + 0.1 * H, E.T @ H + 0.1 * W, 0 * b

    parts = [np.array(part, float) for part in (state.H, state.W, state.b)]
    for _ in range(20):
        parts = [part - 0.5 * g for part, g in zip(parts, paced(gradient, parts, **BOTH), strict=True)]
    assert apart(uj.simulate(model, uj.Descent(0.5, **BOTH), state, [20], ()), parts) < 1e-13


def test_what_is_refused():
    model, state = problem()
    sharp = uj.Flow(sam_radius=0.1)
    for changed, dynamics, words in (
        (model, uj.Flow(rate_H=2.0, sam_radius=0.1), "do not commute"),
        (model, uj.Descent(sam_radius=0.1, momentum=0.9), "without momentum"),
        (model, uj.Descent(clip_norm=0.1, batch=2), "without noise"),
        (model, uj.Descent(clip_norm=0.1, optimizer=optax.adam(0.1)), "plain descent only"),
        (
            model,
            uj.Descent(optimizer=uj.Optimizer(uj.normalized_descent, learning_rate=0.1)),
            "give `Descent` normalized",
        ),
        (uj.spherical(EVEN, 4), sharp, "without spherical features"),
        (uj.ntk_invariant(EVEN, 4, np.eye(6)), sharp, "without a kernel"),
        (model.replace(loss="mse"), sharp, "plain gradients only"),
    ):
        with pytest.raises(uj.NoClosedForm, match=words):
            uj.exact(changed, dynamics, state, [1], "loss")
    with pytest.raises(uj.NoClosedForm, match="turns the direction"):
        uj.exact(model, uj.Descent(rate_H=2.0, sam_radius=0.1), state, [1], "log_distance")
    with pytest.raises(ValueError, match="whose norm says nothing"):
        uj.simulate(uj.ntk_invariant(EVEN, 4, np.eye(6)), sharp, state.replace(b=np.zeros(3)), [1.0], "loss")
    with pytest.raises(uj.NoClosedForm, match="size of its start"):
        uj.limit(model, sharp, state)
    with pytest.raises(ValueError, match="not both"):
        uj.Flow(clip_norm=1.0, normalized=True)
    for wrong in ({"sam_radius": -0.1}, {"clip_norm": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            uj.Descent(**wrong)


def drawn(seed, labels, make):
    """A random problem, its rates, and how its gradient is made."""
    rng = np.random.default_rng(seed)
    both = make is uj.regularized
    decay = tuple(rng.uniform(0, 0.3, 2)) if both else float(rng.uniform(0, 0.3))
    model = make(labels, 4, gamma=float(rng.uniform(0, 0.9)), decay=decay, **({"bias": True} if both else {}))
    bias = rng.normal(size=3) if both else None
    scale = float(10 ** rng.uniform(-1, 1))
    state = model.init(jax.random.key(seed), bias=bias, scale=scale, precision="float64")
    radius, bound = float(rng.uniform(0, 0.3)), float(10 ** rng.uniform(-1, 1))
    sharp, short, unit = {"sam_radius": radius}, {"clip_norm": bound}, {"normalized": True}
    how = (sharp, short, unit, sharp | short, sharp | unit)[seed % 5]
    return model, state, tuple(float(r) for r in rng.uniform(0.5, 1.5, 3)), how


@pytest.mark.long
@pytest.mark.parametrize("make", [uj.regularized, uj.anchored, uj.frozen])
@pytest.mark.parametrize("labels", [EVEN, TWINS], ids=["even", "uneven"])
def test_random_problems(labels, make):
    """Sixty of them, half of them flows, to 1e-10 of the state wherever the flow has not come near where it ends."""
    for seed in range(5):
        model, state, rates, how = drawn(seed, labels, make)
        given = dict(zip(("rate_H", "rate_W", "rate_b"), rates, strict=True))
        parts = stepped(model, state, [0.1 * rate for rate in rates], 12, **how)
        assert apart(uj.exact(model, uj.Descent(0.1, **given, **how), state, [12], ()), parts) < 1e-10, (seed, how)
        if "sam_radius" in how:
            rates = (rates[0],) * 3
            given = dict.fromkeys(given, rates[0])
        run = uj.exact(model, uj.Flow(**given, **how), state, [0.5], ())
        if bool(run.reached[-1]):
            assert apart(run, integrated(model, state, rates, 0.5, **how)) < 1e-10, (seed, how)


def test_distances_need_equal_rates_of_what_moves_alone():
    """With a radius: a rate of the part that stays changes nothing, and traced unequal rates have no direction."""
    model = uj.regularized(uj.balanced(3, 2), 4, decay=(0.3, 0.1))
    state = model.init(jax.random.key(1), precision="float64")

    def distance(model, rate_H, rate_W=1.0):
        descent = uj.Descent(0.5, rate_H=rate_H, rate_W=rate_W, sam_radius=0.5)
        return uj.exact(model, descent, state, [5], "log_distance")["log_distance"]

    with jax.enable_x64(True):
        traced = jax.jit(lambda rate: distance(model, rate))
        assert np.isnan(traced(5.0)).all()
        np.testing.assert_allclose(traced(1.0), distance(model, 1.0), rtol=1e-12)
    frozen = uj.frozen(uj.balanced(3, 2), 4, decay=0.3)
    np.testing.assert_allclose(distance(frozen, 5.0), distance(frozen, 1.0), rtol=1e-12)
    assert abs(distance(frozen, 1.0, 2.0)[0] - distance(frozen, 1.0)[0]) > 0.1
