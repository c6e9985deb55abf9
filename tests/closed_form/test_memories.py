"""Memories and averages against loops in NumPy that keep every state, and averages of flows against integrals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.linalg
from memory_loops import KINDS, aggregated, lookahead, moving, optimistic, polyak, quasi, schedule_free

import unhinged_jax as uj


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


R1, R2 = 0.8, 1.2
MODEL = uj.regularized(uj.balanced(3, 2), 4, decay=(0.05, 0.02), gamma=0.3, bias=True)
COUNTS = uj.regularized(uj.from_counts([3, 2, 1]), 4, decay=(0.05, 0.02), gamma=0.3, bias=True)
BIAS = np.array([-1.0, 0.0, 1.0])
READ = [0, 1, 2, 7, 20]


def affine(model, state):
    """The matrix K and the start of [H; W; b; 1], one column after the other of H and W, then b."""
    M = np.asarray(model.signal().dense("float64"))
    n, C = M.shape
    a, c = R1 * float(model.decay_H), R2 * float(model.decay_W)
    K = np.block([[-a * np.eye(n), R1 * M], [R2 * M.T, -c * np.eye(C)]])
    return K, np.vstack([state.H, state.W]), -c, R2 * M.sum(0)


def dense(states):
    both = np.concatenate([states.H, states.W], axis=-2)
    return both * np.exp(np.asarray(states.log_scale))[..., None, None]


def started(model):
    return model.init(jax.random.key(0), precision="float64", bias=BIAS)


def rate(k):
    return 0.05 + 0.2 * (1 + np.cos(np.pi * k / 40))


SCHEDULE = uj.cosine(0.45, 40.0, 0.05)


def check(model, memory, by_hand, solve, seen=("norm",)):
    state = started(model)
    K, Z, fade, drive = affine(model, state)
    want = np.array(by_hand(lambda x, k: rate(k) * (K @ x), Z, READ[-1]))[READ]
    bias = np.array(by_hand(lambda b, k: rate(k) * (fade * b + drive), BIAS, READ[-1]))[READ]
    descent = uj.Descent(SCHEDULE, rate_H=R1, rate_W=R2, memory=memory)
    run = solve(model, descent, state, READ, list(seen), states=True)
    assert np.max(np.abs(dense(run.states) - want)) < 1e-13 * np.max(np.abs(want))
    np.testing.assert_allclose(run.states.b, bias, atol=1e-13)
    np.testing.assert_allclose(run["norm"], np.linalg.norm(want, axis=(1, 2)), rtol=1e-13)
    return descent, run


@pytest.mark.parametrize(
    ("name", "quick"), [("lookahead", True), *(pytest.param(name, False, marks=pytest.mark.long) for name in KINDS)]
)
def test_a_memory_agrees_with_a_loop(name, quick):
    """Closed form and simulation, which is cut and goes on."""
    memory, by_hand = KINDS[name]
    check(MODEL, memory, by_hand, uj.exact)
    descent, whole = check(MODEL, memory, by_hand, uj.simulate)
    if quick:
        return
    cut = uj.simulate(MODEL, descent, started(MODEL), READ[3:4], ["norm"])
    after = uj.simulate(MODEL, descent, cut, READ[4:], ["norm"])
    np.testing.assert_allclose(after["norm"], whole["norm"][4:], rtol=1e-13)
    with pytest.raises(ValueError, match="a memory that this Descent would drop"):
        uj.simulate(MODEL, uj.Descent(0.1), cut, [30], ["norm"])
    with pytest.raises(ValueError, match="kept no memory"):
        uj.simulate(MODEL, descent, uj.simulate(MODEL, uj.Descent(0.1), started(MODEL), [3], ["norm"]), [30], ["norm"])


MODELS = {
    "even": MODEL, "counts": COUNTS, "anchored": uj.anchored(COUNTS.labels, 4, decay=0.1, gamma=0.3),
    "frozen": uj.frozen(COUNTS.labels, 4, decay=0.1, gamma=0.3, bias=True),
}  # fmt: skip


def test_exact_goes_on_with_a_memory():
    """Cut and continued, a run is the loop that is not."""
    memory, by_hand = KINDS["optimistic"]
    state, descent = started(COUNTS), uj.Descent(SCHEDULE, rate_H=R1, rate_W=R2, memory=memory)
    K, Z, fade, drive = affine(COUNTS, state)
    cut = uj.exact(COUNTS, descent, state, [7], ())
    after = uj.exact(COUNTS, descent, cut, [20], (), states=True)
    np.testing.assert_allclose(dense(after.states)[0], by_hand(lambda x, k: rate(k) * (K @ x), Z, 20)[-1], atol=1e-12)
    bias = by_hand(lambda b, k: rate(k) * (fade * b + drive), BIAS, 20)[-1]
    np.testing.assert_allclose(after.final.b, bias, atol=1e-12)


def test_what_stays_is_in_every_slot():
    """A simulated run with distances goes on as in one go, and so does one with another model, in which more stays."""
    model, read = MODELS["anchored"], ["norm", "log_distance"]
    state, descent = started(model), uj.Descent(0.3, rate_H=R1, rate_W=R2, memory=uj.Lookahead(3, 0.4))
    cut = uj.simulate(model, descent, state, [7], read)
    np.testing.assert_array_equal(cut.memory["W"], state.W[None])
    after, whole = uj.simulate(model, descent, cut, [20], read), uj.exact(model, descent, state, [20], read)
    for one in read:
        np.testing.assert_allclose(after[one], whole[one], rtol=1e-13)
    moved = dataclasses.replace(cut, final=dataclasses.replace(cut.final, W=2 * state.W))
    again = [solve(model, descent, moved, [20], read) for solve in (uj.simulate, uj.exact)]
    for run in again:
        np.testing.assert_allclose(run.memory["W"], 2 * state.W[None], rtol=1e-15)
        np.testing.assert_allclose(run["norm"], again[1]["norm"], rtol=1e-13)


@pytest.mark.long
@pytest.mark.parametrize("memory", [uj.PolyakAverage(), uj.Lookahead(3, 0.4), uj.ScheduleFree(0.7)])
def test_a_memory_on_the_sphere_in_any_form(memory):
    """Runs in planes and in full go on from each other."""
    model = uj.spherical(COUNTS.labels, 4)
    state, descent = started(model), uj.Descent(0.3, memory=memory)
    cuts = [uj.simulate(model, descent, state, [7], "norm", reduce=reduce) for reduce in (True, False)]
    afters = [uj.simulate(model, descent, cut, [20], "norm", reduce=reduce) for cut in cuts for reduce in (True, False)]
    for after in afters:
        np.testing.assert_allclose(after.final.H, afters[0].final.H, atol=1e-14)
        np.testing.assert_allclose(after.memory["W"], state.W[None], atol=1e-15)


@pytest.mark.long
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("case", MODELS)
def test_exact_and_simulated_runs_go_on_from_each_other(name, case):
    """With the same numbers as in one go, and with the same memory at the end."""
    model, read = MODELS[case], ["norm", "log_distance"]
    state = model.init(jax.random.key(0), precision="float64", bias=BIAS if model.bias else None)
    descent = uj.Descent(SCHEDULE, rate_H=R1, rate_W=R2, memory=KINDS[name][0])
    whole = uj.exact(model, descent, state, READ, read, states=True)
    simulated = uj.simulate(model, descent, state, READ, read)
    for part in ("H", "W", "b")[: 3 if model.bias else 2]:
        size = np.exp(float(whole.final.log_scale - simulated.final.log_scale)) if part != "b" else 1.0
        np.testing.assert_allclose(size * whole.memory[part], simulated.memory[part], atol=1e-12)
    cuts = [solve(model, descent, state, READ[3:4], read) for solve in (uj.exact, uj.simulate)]
    afters = [uj.exact(model, descent, cut, READ[4:], read, states=True) for cut in cuts]
    afters.append(uj.simulate(model, descent, cuts[0], READ[4:], read, states=True))
    for after in afters:
        np.testing.assert_allclose(dense(after.states), dense(whole.states)[4:], atol=1e-12)
        np.testing.assert_allclose(after.final.b, whole.final.b, atol=1e-12)
        for one in read:
            np.testing.assert_allclose(after[one], whole[one][4:], rtol=1e-12, atol=1e-12)


@pytest.mark.long
@pytest.mark.parametrize("name", KINDS)
def test_classes_of_any_size_and_distances(name):
    memory, by_hand = KINDS[name]
    found = [check(COUNTS, memory, by_hand, solve, ("norm", "log_distance"))[1] for solve in (uj.exact, uj.simulate)]
    assert uj.verify(found[1], found[0]).worst < 1e-11


def drawn(name, rng):
    """A memory of a kind with other numbers, and its loop."""
    x, y, z = (float(number) for number in rng.uniform(0.1, 0.95, 3))
    return {
        "polyak": (uj.PolyakAverage(), polyak),
        "moving": (uj.MovingAverage(x), lambda *given: moving(*given, x)),
        "lookahead": (uj.Lookahead(3, x), lambda *given: lookahead(*given, 3, x)),
        "schedule-free": (uj.ScheduleFree(x), lambda *given: schedule_free(*given, x)),
        "optimistic": (uj.Optimistic(x), lambda *given: optimistic(*given, x)),
        "quasi-hyperbolic": (uj.QuasiHyperbolic(x, y), lambda *given: quasi(*given, x, y)),
        "aggregated": (uj.AggregatedMomentum((x, y, z)), lambda *given: aggregated(*given, (x, y, z))),
    }[name]


@pytest.mark.long
@pytest.mark.parametrize("name", KINDS)
def test_random_problems(name):
    """Eight of each kind, 56 in all."""
    rng = np.random.default_rng(3)
    for _ in range(8):
        decay_H, decay_W, gamma = rng.uniform([0.0, 0.01, 0.0], [0.4, 0.4, 1.0])
        model = COUNTS.replace(decay_H=decay_H, decay_W=decay_W, gamma=gamma)
        memory, by_hand = drawn(name, rng)
        exact, run = (check(model, memory, by_hand, solve)[1] for solve in (uj.exact, uj.simulate))
        assert uj.verify(run, exact).worst < 1e-11


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (COUNTS.replace(loss="cross_entropy"), {}),
        (COUNTS.replace(loss="cross_entropy"), {"batch": 2}),
        (COUNTS, {"batch": 2}),
        (COUNTS, {"momentum": 0.8}),
        (COUNTS, {"optimizer": optax.adam(0.1)}),
        (uj.spherical(COUNTS.labels, 4), {}),
    ],
    ids=["cross-entropy", "cross-entropy in batches", "batches", "momentum", "Adam", "sphere"],
)
def test_an_average_of_any_descent(model, settings):
    """The mean of the states that a run without memory keeps, also with momentum or an optimiser."""
    state = model.init(jax.random.key(0), precision="float64")
    key = {"key": jax.random.key(5)} if "batch" in settings else {}
    states = uj.simulate(model, uj.Descent(0.3, **settings), state, range(13), "norm", states=True, **key).states
    descent = uj.Descent(0.3, memory=uj.PolyakAverage(), **settings)
    every = dense(states)
    want = np.array([every[0], every[:5].mean(0), every[:12].mean(0)])
    for reduce in (True, False):
        run = uj.simulate(model, descent, state, [0, 5, 12], "norm", states=True, reduce=reduce, **key)
        np.testing.assert_allclose(dense(run.states), want, atol=1e-13)
    if "momentum" in settings:
        run = uj.exact(model, descent, state, [0, 5, 12], "norm", states=True)
        np.testing.assert_allclose(dense(run.states), want, atol=1e-13)
        with pytest.raises(ValueError, match="does not hold a memory"):
            uj.simulate(model, descent, run, [20], "norm")


TIMES = np.array([0.0, 0.3, 4.0, 25.0])


def mean_over_time(model, state, t, keep):
    """An average by Gauss and Legendre, of states by SciPy's matrix exponential."""
    K, Z, fade, drive = affine(model, state)
    rest = -drive / fade
    nodes, weights = np.polynomial.legendre.leggauss(60)
    s, weights = t * (nodes + 1) / 2, t * weights / 2
    forgets = 0.0 if keep is None else -np.log(keep)
    weights = weights / t if keep is None else forgets * np.exp(-forgets * (t - s)) * weights
    left = 0.0 if keep is None else np.exp(-forgets * t)
    both = left * Z + sum(w * (scipy.linalg.expm(K * u) @ Z) for w, u in zip(weights, s, strict=True))
    b = left * BIAS + sum(w * (rest + np.exp(fade * u) * (BIAS - rest)) for w, u in zip(weights, s, strict=True))
    return both, b


@pytest.mark.parametrize(
    ("model", "keep", "quick"),
    [
        (MODEL, None, True),
        *(
            pytest.param(model, keep, False, marks=pytest.mark.long)
            for model in (MODEL, COUNTS)
            for keep in (None, 0.7)
        ),
    ],
)
def test_the_average_of_a_flow(model, keep, quick):
    state = started(model)
    memory = uj.PolyakAverage() if keep is None else uj.MovingAverage(keep)
    flow = uj.Flow(rate_H=R1, rate_W=R2, rtol=1e-10, memory=memory)
    exact = uj.exact(model, flow, state, TIMES, ["norm"], states=True)
    want, bias = zip(*(mean_over_time(model, state, t, keep) for t in TIMES[1:]), strict=True)
    np.testing.assert_allclose(dense(exact.states)[1:], want, atol=1e-13 * np.max(np.abs(want)))
    np.testing.assert_allclose(exact.states.b[1:], bias, atol=1e-12)
    if quick:
        return
    run = uj.simulate(model, flow, state, TIMES, ["norm"], states=True)
    assert uj.verify(run, exact).worst < 1e-8
    for solve in (uj.exact, uj.simulate):
        cut = uj.exact(model, flow, solve(model, flow, state, TIMES[:2], ["norm"]), TIMES[2:3], ["norm"])
        after = uj.exact(model, flow, cut, TIMES[3:], ["norm"], states=True)
        slack = 1e-12 if solve is uj.exact else 1e-8
        np.testing.assert_allclose(dense(after.states)[0], want[-1], atol=slack * np.max(np.abs(want)))
        np.testing.assert_allclose(after.states.b[0], bias[-1], atol=slack)
    cut = uj.exact(model, flow, state, TIMES[:3], ["norm"])
    np.testing.assert_allclose(uj.simulate(model, flow, cut, TIMES[3:], "norm")["norm"], exact["norm"][3:], rtol=1e-8)


@pytest.mark.long
def test_the_average_of_other_flows():
    """Cross-entropy, and a flow of second order: the integral of what the run without a memory passes through."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    entropy = COUNTS.replace(loss="cross_entropy")
    for model, settings in ((entropy, {}), (entropy, {"damping": "nesterov"}), (COUNTS, {"damping": 0.2})):
        state = model.init(jax.random.key(0), precision="float64")
        passed = uj.simulate(model, uj.Flow(rtol=1e-11, **settings), state, 3 * (nodes + 1), "norm", states=True)
        flow = uj.Flow(rtol=1e-11, memory=uj.PolyakAverage(), **settings)
        run = uj.simulate(model, flow, state, [6.0], "norm", states=True)
        np.testing.assert_allclose(dense(run.states)[0], np.tensordot(weights / 2, dense(passed.states), 1), atol=1e-8)


@pytest.mark.long
def test_derivatives_batches_and_precision():
    """Slopes with respect to numbers of memories against finite differences; a batch; float32; scales."""
    state = started(COUNTS)

    def value(solve, keep, dynamics=uj.Descent, at=9):
        given = dynamics(0.3, memory=uj.MovingAverage(keep))
        return solve(COUNTS, given, state, [at], "log_norm")["log_norm"][0]

    for solve, dynamics in ((uj.exact, uj.Descent), (uj.simulate, uj.Descent), (uj.exact, uj.Flow)):
        step = 1e-6
        slope = jax.grad(lambda keep: value(solve, keep, dynamics))(0.8)  # noqa: B023
        apart = (value(solve, 0.8 + step, dynamics) - value(solve, 0.8 - step, dynamics)) / (2 * step)
        assert float(slope) == pytest.approx(float(apart), rel=1e-7)
        many = jax.vmap(lambda keep: value(solve, keep, dynamics))(jnp.array([0.5, 0.8]))  # noqa: B023
        assert float(many[1]) == pytest.approx(float(value(solve, 0.8, dynamics)), rel=1e-14)
        given = dynamics(0.3, memory=uj.MovingAverage(0.8))
        for log_scale in (-500.0, 800.0):
            moved = solve(COUNTS, given, state.replace(log_scale=log_scale), [9], "log_norm")["log_norm"][0]
            assert float(moved) - log_scale == pytest.approx(float(value(solve, 0.8, dynamics)), abs=1e-12)
        single = jax.tree.map(lambda leaf: jnp.asarray(leaf, "float32"), state)
        assert float(solve(COUNTS, given, single, [9], "log_norm")["log_norm"][0]) == pytest.approx(
            float(value(solve, 0.8, dynamics)), abs=1e-5
        )


def test_what_a_memory_refuses():
    state = started(MODEL)
    for build, what in (
        (lambda: uj.MovingAverage(1.5), "keep must lie between 0 and 1"),
        (lambda: uj.Lookahead(0), "steps must be"),
        (lambda: uj.AggregatedMomentum((0.5, 1.0)), "betas must lie in"),
        (lambda: uj.Descent(memory="polyak"), r"memory of a Descent must be one of PolyakAverage\(\)"),
        (lambda: uj.Flow(memory=uj.Lookahead()), "a Flow takes PolyakAverage or MovingAverage"),
    ):
        with pytest.raises(ValueError, match=what):
            build()
    average = uj.PolyakAverage()
    for dynamics, what in (
        (uj.Flow(uj.cosine(1.0, 5.0), memory=average), "with a schedule the modes of an average"),
        (uj.Flow(damping=0.1, memory=average), "simulated only"),
        (uj.Descent(batch=2, memory=average), "moments of a descent with memory"),
    ):
        with pytest.raises(uj.NoClosedForm, match=what):
            uj.exact(MODEL, dynamics, state, [1])


@pytest.mark.parametrize("case", [uj.anchored, uj.frozen])
def test_distances_go_on_where_one_part_stays(case):
    """Each slot is pulled by what stays, too."""
    model = case(uj.balanced(3, 2), 4)
    state, descent = model.init(jax.random.key(0), precision="float64"), uj.Descent(0.3, memory=uj.PolyakAverage())
    after = uj.exact(model, descent, uj.exact(model, descent, state, [5], ()), [12, 30], "distance")
    whole = uj.exact(model, descent, state, [12, 30], ["distance", "norm"], states=True)
    np.testing.assert_allclose(after["distance"], whole["distance"], rtol=1e-12)
    signal = np.asarray(model.signal().dense("float64"))
    stays, moves = (state.W, whole.states.H) if case is uj.anchored else (state.H, whole.states.W)
    pull = (signal @ stays) if case is uj.anchored else (signal.T @ stays)
    size = np.linalg.norm(moves, axis=(1, 2))[:, None, None]
    by_hand = np.linalg.norm(moves / size - pull / np.linalg.norm(pull), axis=(1, 2))
    np.testing.assert_allclose(after["distance"], by_hand, rtol=1e-10)
