"""Deep models: simulated and in closed form against SciPy's DOP853 and loops of NumPy on the dense factors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from deep_factors import (
    UNEVEN,
    close,
    descended,
    direction,
    gradient,
    integrated,
    layers,
    parts,
    pull_of,
)
from scipy.integrate import solve_ivp

import unhinged_jax as uj
from unhinged_jax.derivatives.sensitivities import disagreement
from unhinged_jax.trajectory import RunResult

# --- simulated ------------------------------------------------------------------------------------------------------

CHAINS = {
    "cross-entropy": ({"loss": "cross_entropy", "depth": 4, "bias": True}, uj.Flow(rtol=1e-11)),
    "squared error": ({"loss": "mse", "depth": 3}, uj.Flow(rtol=1e-11, rate_W=0.7)),
    "momentum": ({"depth": 3, "bias": True}, uj.Descent(0.1, rate_H=0.8, momentum=0.6)),
    "ReLU, descent": ({"activation": "relu", "depth": 4, "loss": "cross_entropy"},
                      uj.Descent(uj.cosine(0.2, horizon=40))),
}  # fmt: skip

LONG = ("cross-entropy", "momentum", "squared error")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long) if n in LONG else n for n in CHAINS])
def test_simulation_is_the_chain_rule_by_hand(name):
    given, dynamics = CHAINS[name]
    model = uj.regularized(UNEVEN, 4, decay=(0.03, 0.05), **given)
    start = model.init(jax.random.key(3), precision="float64")
    if isinstance(dynamics, uj.Flow):
        times, oracle, rtol = [0.5, 2.0], integrated, 1e-9
    else:
        times, oracle, rtol = [3, 12], descended, 1e-12
    run = uj.simulate(model, dynamics, start, times, ["loss", "norm", "objective", "accuracy"], states=True)
    want = oracle(model, dynamics, start, times)
    for place, factors in enumerate(want):
        close(run.states, place, factors, rtol)
        S = layers(model, factors[0], factors[1:-2])[-1] @ factors[-2].T + factors[-1]
        right = np.mean(np.argmax(S, axis=1) == np.asarray(UNEVEN.truth))
        norm = np.sqrt(sum(np.sum(x**2) for x in factors[:-1]))
        np.testing.assert_allclose([run["accuracy"][place], run["norm"][place]], [right, norm], rtol=1e-8)
        decay = 0.03 * np.sum(factors[0] ** 2) + 0.05 * sum(np.sum(x**2) for x in factors[1:])
        np.testing.assert_allclose(run["objective"][place] - run["loss"][place], decay / 2, rtol=1e-8)


@pytest.mark.long
def test_runs_go_on_whatever_they_carry_also_from_a_file(tmp_path):
    model = uj.regularized(UNEVEN, 4, decay=0.05, depth=4, bias=True)
    start = model.init(jax.random.key(3), precision="float64")
    for number, more in enumerate(({"momentum": 0.5}, {"optimizer": optax.adam(0.01)})):
        descent, path = uj.Descent(0.1, **more), tmp_path / f"{number}.npz"
        whole = uj.simulate(model, descent, start, [4, 8], "norm", states=True)
        first = uj.simulate(model, descent, start, [4], "norm", states=True)
        first.save(path)
        kept = uj.load(path, descent)
        assert kept.final == first.final and kept.states == first.states
        for run in (first, kept):
            rest = uj.simulate(model, descent, run, [8], "norm", states=True)
            np.testing.assert_allclose(rest.final.inner, whole.final.inner, rtol=1e-14)
        joined = uj.concat([first, rest])
        np.testing.assert_allclose(joined.states.inner, whole.states.inner, rtol=1e-14)


# --- in closed form -------------------------------------------------------------------------------------------------


def problem(depth, labels, dim, decay, rates, sizes, bias=False, gamma=0.2):
    """A model and a start from which it has a closed form at these rates of H and of the rest."""
    model = uj.regularized(labels, dim, decay=(decay / rates[0], decay / rates[1]), depth=depth, bias=bias, gamma=gamma)
    start = model.init(jax.random.key(1), spectral=sizes, precision="float64")
    return model, start.replace(H=start.H * np.sqrt(rates[0] / rates[1]))


CASES = {
    "depth 3, equal modes": (3, uj.balanced(4, 3), 6, 0.05, (1.0, 1.0), [0.8, 0.8, 0.8, 0.3]),
    "depth 4, rates, few dimensions": (4, UNEVEN, 2, 0.04, (0.7, 1.3), [0.9, 0.5], True),
    "depth 5, no decay, a mode absent": (5, UNEVEN.symmetric_noise(0.2), 7, 0.0, (1.0, 1.0), [0.9, 0.5]),
    "depth 3, modes of all sizes": (3, uj.soft(np.random.default_rng(0).dirichlet(np.ones(4), 7)), 5, 0.02, (1.2, 0.6),
                                    [1.0, 1e-3, 1e-6, 1e-9]),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long) if place != 1 else n for place, n in enumerate(CASES)]
)
def test_closed_form_is_the_flow_and_the_descent_of_the_dense_factors(name):
    rates = CASES[name][4]
    model, start = problem(*CASES[name])
    flow, descent = (kind(1.0, rate_H=rates[0], rate_W=rates[1]) for kind in (uj.Flow, uj.Descent))
    for dynamics, times, oracle in ((flow, [0.0, 0.4, 1.1], integrated), (descent, [0, 1, 2], descended)):
        run = uj.exact(model, dynamics, start, times, ["loss", "log_norm"], states=True)
        for place, factors in enumerate(oracle(model, dynamics, start, times)):
            close(run.states, place, factors, 1e-10)
            S = functools.reduce(lambda X, A: X @ A.T, factors[1:-1], factors[0]) + factors[-1]
            np.testing.assert_allclose(run["loss"][place], -np.sum(pull_of(model)(S) * S), rtol=1e-10)


def test_a_mode_above_the_threshold_is_infinite_at_a_finite_time():
    decay, size = 0.05, 0.8
    labels = uj.balanced(4, 3)
    model = uj.regularized(labels, 5, decay=decay, depth=4, gamma=0.25)
    start = model.init(jax.random.key(0), spectral=size, precision="float64")
    sigma = np.linalg.svd(pull_of(model)(None), compute_uv=False).max()
    end = -np.log(1 - decay / (sigma * size**2)) / (2 * decay)
    times = end * np.array([0.5, 1 - 1e-9, 1 + 1e-9, 2.0])
    run = uj.exact(model, uj.Flow(), start, times, ["norm", "nc1"])
    assert run.result is RunResult.OVERFLOW
    assert run.reached.tolist() == [True, True, False, False] and np.isnan(run["norm"][2:]).all()
    assert float(run.elapsed) == times[1] and run["norm"][1] > 1e4
    simulated = uj.simulate(model, uj.Flow(), start, times, "norm")
    assert simulated.result is RunResult.OVERFLOW and simulated.reached.tolist() == run.reached.tolist()
    np.testing.assert_allclose(float(simulated.elapsed), end, rtol=1e-7)
    # What is not reached is nothing to go on from.
    on = uj.exact(model, uj.Flow(), run, [times[1] * (1 + 1e-10)], "norm")
    assert on["norm"][0] > run["norm"][1]
    small = model.init(jax.random.key(0), spectral=0.3, precision="float64")
    below = uj.exact(model, uj.Flow(), small, [14.0, 1e5], "log_norm")["log_norm"]  # 2 lambda t is above 1 at both
    *factors, _ = integrated(model, uj.Flow(), small, [14.0])[0]
    np.testing.assert_allclose(below[0], np.log(np.sqrt(sum(np.sum(x**2) for x in factors))), rtol=1e-10)
    np.testing.assert_allclose(below[1], -decay * 1e5, rtol=1e-3)


@pytest.mark.long
def test_an_exact_descent_that_ends_early_says_where():
    model = uj.spherical(uj.balanced(3, 2), 4, decay=3.0)
    run = uj.exact(model, uj.Descent(1.0), model.init(jax.random.key(0)), [1, 50, 100, 300], "norm_H")
    assert run.result is RunResult.OVERFLOW and 50 <= int(run.elapsed) < 100


# --- what is refused ------------------------------------------------------------------------------------------------


def test_what_a_deep_model_cannot_be_is_said_at_the_door():
    labels = uj.balanced(3, 2)
    for words, build in {
        "depth must be a whole number of at least 2": lambda: uj.unconstrained(labels, 4, depth=1),
        "a model of depth 2 has W_2 = W alone": lambda: uj.unconstrained(labels, 4, activation="relu"),
        "activation must be one of": lambda: uj.unconstrained(labels, 4, depth=3, activation="tanh"),
        "cannot have a kernel": lambda: uj.unconstrained(labels, 4, depth=3).replace(kernel=np.eye(6)),
        "cannot have spherical": lambda: uj.unconstrained(labels, 4, depth=3).replace(spherical=True),
        "cannot have parts that stay": lambda: uj.unconstrained(labels, 4, depth=3).replace(prototypes_move=False),
    }.items():
        with pytest.raises(ValueError, match=words):
            build()
    model = uj.unconstrained(labels, 4, depth=3)
    key = jax.random.key(0)
    start = model.init(key, precision="float64")
    flow = uj.Flow()
    for words, call in {
        "needs an array of shape .1, 4, 4.": lambda: uj.simulate(model, flow, start.replace(inner=None), [1.0]),
        "needs None as state.inner": lambda: uj.simulate(model.replace(depth=2), flow, start, [1.0]),
        "state.inner must have shape": lambda: uj.simulate(model, flow, start.replace(inner=np.ones((1, 3, 4))), [1.0]),
        "of all samples": lambda: uj.simulate(model, uj.Descent(0.1, batch=2), start, [1], key=key),
        "`push_forward` takes models of depth 2": lambda: uj.push_forward(model, flow, start, [1.0], start),
        "`hessian_spectrum` takes models of depth 2": lambda: uj.hessian_spectrum(model, start),
        "known only from some starts": lambda: uj.simulate(model, flow, start, [1.0], "distance"),
        "balanced starts are those of depth 2": lambda: model.init(key, balanced=0.0),
        "features cannot be given": lambda: model.init(key, spectral=1.0, features=np.ones((6, 4))),
        "up to 3, one per mode": lambda: model.init(key, spectral=np.ones(4)),
        "sizes must be finite and at least 0": lambda: model.init(key, spectral=-1.0),
    }.items():
        with pytest.raises(ValueError, match=words):
            call()


def test_what_rules_the_closed_form_out_is_named():
    model = uj.regularized(UNEVEN, 4, decay=0.1, depth=3)
    flow, start = uj.Flow(), model.init(jax.random.key(0), spectral=[0.9, 0.5, 0.2], precision="float64")
    M = pull_of(model)(None)
    V, _, Q = np.linalg.svd(M, full_matrices=False)
    turned = start.replace(W=np.roll(start.W, 1, axis=0))
    cases = {
        "without an activation": (model.replace(activation="relu"), flow, start),
        "a loss that is linear": (model.replace(loss="cross_entropy"), flow, start),
        "rates that are numbers": (model, uj.Flow(rate_H=uj.cosine(1.0, horizon=3)), start),
        "for a plain Descent": (model, uj.Descent(0.1, momentum=0.5), start),
        "without inertia": (model, uj.Flow(damping=0.5), start),
        "for plain gradients": (model, uj.Descent(0.1, sam_radius=0.1), start),
        "rate_H decay_H = rate_W decay_W": (model, uj.Flow(rate_W=2.0), start),
        "have the same singular values": (model, flow, start.replace(H=2 * start.H)),
        r"with H times sqrt\(rate_H/rate_W\)": (model.replace(decay=(0.2, 0.1)), uj.Flow(rate_W=2.0), start),
        "share the singular vectors": (model, flow, turned),
    }
    for words, (m, dynamics, state) in cases.items():
        with pytest.raises(uj.NoClosedForm, match=words):
            uj.exact(m, dynamics, state, [1.0], "loss")
    # Any start of this kind is known for one, in a trace too, in float32; there all others are NaN.
    rotated = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 4, 4)))[0][:, :, :3]
    sizes = np.array([0.9, 0.5, 0.2])
    by_hand = uj.State((V * sizes) @ rotated[0].T, (Q.T * sizes) @ rotated[1].T,
                       inner=((rotated[1] * sizes) @ rotated[0].T)[None])  # fmt: skip
    traced = jax.jit(lambda state: uj.exact(model, flow, state, [1.0], "loss")["loss"])
    np.testing.assert_allclose(traced(by_hand), uj.exact(model, flow, start, [1.0], "loss")["loss"], rtol=3e-6)
    assert np.isnan(traced(turned)).all() and np.isnan(traced(start.replace(H=2 * start.H))).all()


# --- what goes with a closed form -----------------------------------------------------------------------------------

FLOW, TIMES = uj.Flow(), [0.7, 1.5]


def stack(decay=0.05, sizes=(0.9, 0.5, 0.3), labels=UNEVEN, **more):
    model = uj.regularized(labels, 4, decay=decay, depth=4)
    return model, model.init(jax.random.key(1), spectral=sizes, **{"precision": "float64", **more})


@pytest.mark.long
def test_derivatives_are_those_of_finite_differences():
    def value(decay, time, size):
        with jax.enable_x64(True):
            model, start = stack(decay, size * np.array([0.9, 0.5, 0.3]))
            run = uj.exact(model, FLOW, start, jnp.stack([jnp.asarray(time)]), ["log_norm", "loss"])
            return jnp.stack([run["log_norm"][0], run["loss"][0]])

    at = [0.05, 1.5, 1.0]
    with jax.enable_x64(True):
        found = jax.jit(jax.jacfwd(value, argnums=(0, 1, 2)))(*at)
        limits = jax.jacfwd(lambda decay: uj.limit(stack(decay)[0], FLOW, stack()[1]).blow_up)(0.05)
    for place, slopes in enumerate(found):
        low, high = ([x - s * 1e-5 * (i == place) for i, x in enumerate(at)] for s in (1, -1))
        np.testing.assert_allclose(slopes, (np.asarray(value(*high)) - np.asarray(value(*low))) / 2e-5, rtol=1e-6)
    ends = [float(uj.limit(stack(x)[0], FLOW, stack()[1]).blow_up) for x in (0.05 + 1e-6, 0.05 - 1e-6)]
    np.testing.assert_allclose(limits, (ends[0] - ends[1]) / 2e-6, rtol=1e-6)


@pytest.mark.long
def test_batches_are_their_members_and_runs_go_on():
    model, start = stack()
    decays = np.array([0.01, 0.05, 0.5])
    with jax.enable_x64(True):
        batch = jax.vmap(lambda decay: uj.exact(model.replace(decay=decay), FLOW, start, [*TIMES, 30.0], "log_norm"))(
            decays
        )
        for place, decay in enumerate(decays):
            one = uj.exact(model.replace(decay=float(decay)), FLOW, start, [*TIMES, 30.0], "log_norm")
            np.testing.assert_allclose(batch["log_norm"][place], one["log_norm"], rtol=1e-12)
            assert int(batch.code[place]) == int(one.code) and batch.elapsed[place] == one.elapsed
    whole = uj.exact(model, FLOW, start, TIMES, "log_norm")
    rest = uj.exact(model, FLOW, uj.exact(model, FLOW, start, TIMES[:1], "log_norm"), TIMES[1:], "log_norm")
    np.testing.assert_allclose(rest["log_norm"], whole["log_norm"][1:], rtol=1e-12)
    descent = uj.Descent(uj.cosine(0.5, horizon=20))
    whole = uj.exact(model, descent, start, [2, 4], "log_norm")
    rest = uj.exact(model, descent, uj.exact(model, descent, start, [2], "log_norm"), [4], "log_norm")
    np.testing.assert_allclose(rest["log_norm"], whole["log_norm"][1:], rtol=1e-12)


@pytest.mark.long
def test_any_size_and_precision():
    model, start = stack()
    plain = uj.exact(model, FLOW, start, TIMES, ["log_norm", "log_abs_loss"])
    single = uj.exact(model, FLOW, stack(precision="float32")[1], TIMES, ["log_norm", "log_abs_loss"])
    for name in plain.observables:
        np.testing.assert_allclose(single[name], plain[name], rtol=2e-5)
    for power in (-1000, -300, 200):  # time is shorter for larger starts, as a^(2-L)
        by = 2.0 ** (power / 4)
        scaled = start.replace(H=start.H * by, W=start.W * by, inner=start.inner * by)
        free = model.replace(decay=0.0)
        run = uj.exact(free, FLOW, scaled, np.array(TIMES) / by / by, ["log_norm", "log_abs_loss"])
        want = uj.exact(free, FLOW, start, TIMES, ["log_norm", "log_abs_loss"])
        np.testing.assert_allclose(run["log_norm"] - np.log(by), want["log_norm"], rtol=1e-11)
        np.testing.assert_allclose(run["log_abs_loss"] - 4 * np.log(by), want["log_abs_loss"], rtol=1e-11)
    below = uj.exact(model, FLOW, stack(sizes=0.3)[1], [1e6], ["log_norm"])
    assert np.isfinite(below["log_norm"]).all() and below["log_norm"][0] < -4.9e4


@pytest.mark.long
@pytest.mark.parametrize("sizes", [(0.9, 0.5, 0.3), (0.5, 0.3, 0.1)])
def test_limit_above_the_threshold_is_where_the_run_goes(sizes):
    model, start = stack(sizes=sizes)
    found = uj.limit(model, FLOW, start)
    assert (
        found.side == "grows"
        and found.note.startswith("it is infinite after zeta = ")
        and float(found.exponent) == np.inf
    )
    ends = float(found.blow_up) * np.array([1 - 1e-6, 1 - 1e-8])
    run = uj.exact(model, FLOW, start, ends, (), states=True)
    gaps = [
        np.linalg.norm(direction(jax.tree.map(lambda x, k=k: x[k], run.states)) - direction(found.direction))
        for k in (0, 1)
    ]
    assert gaps[1] < 1e-4 and gaps[1] < gaps[0] / 5
    M = pull_of(model)(None)
    sigma = np.linalg.svd(M, compute_uv=False)
    np.testing.assert_allclose(found.threshold, np.max(sigma * np.array(sizes) ** 2) ** 2, rtol=1e-10)
    np.testing.assert_allclose(found.excess, found.threshold - 0.05**2, rtol=1e-10)


def test_limit_below_the_threshold_and_on_it():
    model, start = stack(sizes=(0.3, 0.2, 0.1))
    found = uj.limit(model, FLOW, start)
    assert found.side == "shrinks" and float(found.blow_up) == np.inf
    run = uj.exact(model, FLOW, start, [60.0, 120.0, 400.0], "log_norm", states=True)
    gaps = [
        np.linalg.norm(direction(jax.tree.map(lambda x, k=k: x[k], run.states)) - direction(found.direction))
        for k in (0, 1)
    ]
    np.testing.assert_allclose(np.log(gaps[0] / gaps[1]) / 60, found.rate, rtol=1e-2)
    np.testing.assert_allclose((run["log_norm"][2] - run["log_norm"][1]) / 280, found.exponent, rtol=1e-4)
    sigma = np.linalg.svd(pull_of(model)(None), compute_uv=False)
    even = uj.limit(model, FLOW, stack(sizes=(np.sqrt(0.05 / sigma[0]), 0.1))[1])
    assert even.side == "stays" and float(even.rate) == 0.05
    # What is left of the rate may not suffice to be infinite.
    assert uj.limit(model, uj.Flow(uj.cosine(0.5, horizon=3.0)), stack()[1]).side == "stops"
    assert uj.limit(model, uj.Flow(uj.cosine(0.5, horizon=30.0)), stack()[1]).side == "grows"


@pytest.mark.long
def test_sensitivity_of_both_sources_agrees():
    model, start = stack()
    table = uj.sensitivity(model, uj.Flow(rtol=1e-10), start, TIMES, ["log_norm", "loss"], ["decay", "eta"])
    assert max(disagreement(table).values()) < 1e-6
    with pytest.raises(uj.NoClosedForm, match="'gamma' alone changes"):
        uj.sensitivity(model, FLOW, start, TIMES, "loss", ["gamma"], sources="exact")
    assert uj.sensitivity(model, FLOW, start, TIMES, "loss", ["gamma", "inner"])["source"].values.tolist() == [
        "simulated"
    ]


# --- layer by layer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "activation"), [(4, "relu"), (2, "linear")])
def test_layers_are_looked_at_one_by_one(depth, activation):
    model = uj.regularized(UNEVEN, 5, decay=0.1, depth=depth, activation=activation)
    start = model.init(jax.random.key(2), precision="float64")
    H, W = (np.asarray(x) for x in (start.H, start.W))
    inner = [] if depth == 2 else list(np.asarray(start.inner))
    seen, factors, index = layers(model, H, inner), [*inner, W], np.asarray(UNEVEN.index)
    ratios, shares, unbalance, before = [], [], [], H.T
    for F, A in zip(seen, factors, strict=True):
        means = np.array([F[index == c].mean(axis=0) for c in range(3)])
        within = sum(np.sum((F[i] - means[c]) ** 2) for i, c in enumerate(index))
        between = sum(np.sum((means[c] - F.mean(axis=0)) ** 2) for c in index)
        ratios.append(within / between)
        basis = np.linalg.qr(means.T)[0]
        shares.append(np.sum((A @ basis) ** 2) / np.sum(A**2))
        apart = A.T @ A - before @ before.T
        unbalance.append(np.linalg.norm(apart) / (np.sum(A**2) + np.sum(before**2)))
        before = A
    norms = [np.linalg.norm(x) for x in (H, *factors)]
    for function, want in (
        (uj.layer_norms, norms), (uj.layer_scatter_ratios, ratios), (uj.layer_alignments, shares),
        (uj.layer_unbalance, unbalance),
    ):  # fmt: skip
        with jax.enable_x64(True):
            np.testing.assert_allclose(function(model, start), want, rtol=1e-10)
    # They are observed by a name of one's own; the metrics look at the last layer.
    found = uj.observe_state(model, start, {"ratios": uj.layer_scatter_ratios, "nc1_trace_ratio": None})
    np.testing.assert_allclose(found["ratios"], ratios, rtol=1e-10)
    np.testing.assert_allclose(found["nc1_trace_ratio"], ratios[-1], rtol=1e-10)


@pytest.mark.long
def test_layers_are_those_of_the_samples_to_train_on():
    labels = UNEVEN.hold_out([0, 5, 7])
    model, alone = (uj.regularized(given, 5, decay=0.1, depth=3) for given in (labels, labels.training()))
    start = model.init(jax.random.key(2))
    kept = start.replace(H=np.delete(np.asarray(start.H), [0, 5, 7], axis=0))
    for function in (uj.layer_norms, uj.layer_scatter_ratios, uj.layer_alignments, uj.layer_unbalance):
        np.testing.assert_allclose(function(model, start), function(alone, kept), rtol=1e-6)


@pytest.mark.long
def test_other_steps_take_the_gradients_of_all_factors():
    model, start = stack()
    pull, now, radius = pull_of(model), parts(start), 0.1
    for _ in range(6):  # sharpness-aware
        slope = gradient(model, now, pull)
        norm = np.sqrt(sum(np.sum(x**2) for x in slope))
        ascended = [x - radius * g / norm for x, g in zip(now, slope, strict=True)]
        now = [x + 0.1 * g for x, g in zip(now, gradient(model, ascended, pull), strict=True)]
    aware = uj.simulate(model, uj.Descent(0.1, sam_radius=radius), start, [6], (), states=True)
    close(aware.states, 0, now, 1e-13)
    shapes, ends = [x.shape for x in parts(start)], np.cumsum([x.size for x in parts(start)])

    def velocity(_, both):  # with inertia
        z, v = np.split(both, 2)
        at = [piece.reshape(shape) for piece, shape in zip(np.split(z, ends[:-1]), shapes, strict=True)]
        return np.concatenate([v, np.concatenate([g.ravel() for g in gradient(model, at, pull)]) - 0.5 * v])

    z = np.concatenate([x.ravel() for x in parts(start)])
    end = solve_ivp(velocity, (0, 2.0), np.concatenate([z, 0 * z]), "DOP853", rtol=1e-12, atol=1e-14).y[: z.size, -1]
    damped = uj.simulate(model, uj.Flow(damping=0.5, rtol=1e-10), start, [2.0], (), states=True)
    close(damped.states, 0, [x.reshape(s) for x, s in zip(np.split(end, ends[:-1]), shapes, strict=True)], 1e-9)
    # They see, too, that the norm becomes infinite.
    for dynamics in (uj.Flow(damping=0.5), uj.Flow(sam_radius=0.01)):
        assert uj.simulate(model, dynamics, start, [50.0], "norm").result is RunResult.OVERFLOW


# --- random problems ------------------------------------------------------------------------------------------------

KINDS = {
    "balanced": lambda rng: uj.balanced(3, 2),
    "counts": lambda rng: uj.from_labels(rng.permutation([0, 0, 0, 1, 1, 2, 3, 3]), 4),
    "noise": lambda rng: UNEVEN.symmetric_noise(rng.uniform(0.1, 0.4)),
    "weights": lambda rng: UNEVEN.weighted(samples=rng.uniform(0.2, 2.0, 9)),
    "soft": lambda rng: uj.soft(rng.dirichlet(np.ones(4), 6)),
}


@pytest.mark.long
@pytest.mark.parametrize("number", range(10))
def test_fifty_random_problems(number):
    kind, depth = list(KINDS)[number % 5], 3 + number % 3
    for draw in range(5):
        rng = np.random.default_rng([7, number, draw])
        labels, dim, rates = KINDS[kind](rng), (2, 4, 7)[number % 3], rng.uniform(0.5, 2.0, 2)
        decay = 0.0 if draw == 0 else rng.uniform(0.01, 0.2)
        modes = min(labels.samples, labels.classes, dim)
        sizes = rng.uniform(0.2, 1.2, modes) * (rng.random(modes) > 0.2 * draw / 4)
        sizes[0] = max(sizes[0], 0.3)
        model, start = problem(
            depth, labels, dim, decay, rates, sizes, bias=number % 2 == 1, gamma=rng.uniform(0.05, 1.5)
        )
        flow = uj.Flow(1.0, rate_H=rates[0], rate_W=rates[1], rtol=1e-10)
        last = min(0.7 * float(uj.limit(model, flow, start).blow_up), 6.0)
        descent = uj.Descent(last / 12, rate_H=rates[0], rate_W=rates[1])
        for dynamics, times, oracle, bound in (
            (flow, [0.4 * last, last], integrated, 1e-8), (descent, [3, 8], descended, 1e-11),
        ):  # fmt: skip
            run = uj.exact(model, dynamics, start, times, ["loss", "log_norm"], states=True)
            for place, factors in enumerate(oracle(model, dynamics, start, times)):
                close(run.states, place, factors, 1e-10)
            found = uj.verify(uj.simulate(model, dynamics, start, times, ["log_norm"], states=True), run).errors
            found.pop("log_norm")  # which may be near 0
            assert max(found.values()) < bound, found
