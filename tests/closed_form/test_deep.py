"""Deep models: simulated and in closed form against SciPy's DOP853 and loops of NumPy on the dense factors."""

import functools

import jax
import numpy as np
import optax
import pytest
from scipy.integrate import solve_ivp

import unhinged_jax as uj
from unhinged_jax.trajectory import RunResult

UNEVEN = uj.from_labels([0, 1, 1, 0, 2, 2, 2, 1, 1], 3)


def layers(model, H, inner):
    """Features after each factor, F_1 = H first."""
    found = [H]
    for factor in inner:
        after = found[-1] @ factor.T
        found.append(np.maximum(after, 0) if model.activation == "relu" else after)
    return found


def gradient(model, factors, pull):
    """Minus the gradient of the objective with respect to H, W_2, ..., W_L and b, by the chain rule by hand."""
    *stack, b = factors
    H, inner, W = stack[0], stack[1:-1], stack[-1]
    seen = layers(model, H, inner)
    M = pull(seen[-1] @ W.T + b)
    slopes, back = [M.T @ seen[-1]], M @ W
    for place in reversed(range(len(inner))):
        if model.activation == "relu":
            back = back * (seen[place + 1] > 0)
        slopes.insert(0, back.T @ seen[place])
        back = back @ inner[place]
    decays = model.decays
    weighed = [back - decays.H * H]
    weighed += [slope - decays.W * factor for slope, factor in zip(slopes, stack[1:], strict=True)]
    return [*weighed, M.sum(axis=0) - decays.b * b if model.bias else 0 * b]


def pull_of(model):
    """Minus the gradient of the loss with respect to logits."""
    with jax.enable_x64(True):
        q, Y = np.asarray(model.labels.weights, float), np.asarray(model.labels.probabilities(), float)
        if model.loss.linear:
            M = np.asarray(model.signal().dense("float64"))
            return lambda S: M
    if isinstance(model.loss, uj.losses.MSE):
        return lambda S: q[:, None] * (Y - S)

    def cross_entropy(S):
        odds = np.exp(S - S.max(axis=1, keepdims=True))
        return q[:, None] * (Y - odds / odds.sum(axis=1, keepdims=True))

    return cross_entropy


def parts(state):
    return [np.asarray(x, float) for x in (state.H, *state.inner, state.W, state.b)]


def rates_of(dynamics, count):
    return [dynamics.rate_H, *[dynamics.rate_W] * (count - 1)]


def integrated(model, flow, state, times):
    """The factors at each of the times."""
    start, pull = parts(state), pull_of(model)
    shapes, ends = [x.shape for x in start], np.cumsum([x.size for x in start])[:-1]
    rates = rates_of(flow, len(start))

    def split(z):
        return [piece.reshape(shape) for piece, shape in zip(np.split(z, ends), shapes, strict=True)]

    def velocity(_, z):
        return np.concatenate([r * v.ravel() for r, v in zip(rates, gradient(model, split(z), pull), strict=True)])

    z, now, found = np.concatenate([x.ravel() for x in start]), 0.0, []
    for time in times:  # to the end of an interval, because between its steps the solver is less accurate
        z = solve_ivp(velocity, (now, time), z, "DOP853", rtol=1e-13, atol=1e-15).y[:, -1] if time > now else z
        now, found = time, [*found, split(z)]
    return found


def descended(model, descent, state, counts):
    """The factors after some numbers of updates, by plain updates or with heavy-ball momentum."""
    now, pull, found = parts(state), pull_of(model), []
    rates, beta = rates_of(descent, len(now)), descent.momentum or 0.0
    memory = [0 * x for x in now]
    for k in range(max(counts) + 1):
        if k in counts:
            found.append(now)
        memory = [beta * m + g for m, g in zip(memory, gradient(model, now, pull), strict=True)]
        with jax.enable_x64(True):
            eta = float(descent.schedule(k))
        now = [x + eta * r * m for x, r, m in zip(now, rates, memory, strict=True)]
    return found


def close(state, place, want, rtol):
    """Whether a state at a place of the times is as wanted, factor by factor, in units of each factor."""
    scale = np.exp(np.asarray(state.log_scale, float)[place])
    found = [np.asarray(x, float)[place] for x in (state.H, state.inner, state.W, state.b)]
    ours = [scale * found[0], *(scale * found[1]), scale * found[2], found[3]]
    for one, other in zip(ours, want, strict=True):
        assert np.linalg.norm(one - other) <= rtol * max(np.linalg.norm(other), 1e-300)


# --- simulated ------------------------------------------------------------------------------------------------------

CHAINS = {
    "cross-entropy": ({"loss": "cross_entropy", "depth": 4, "bias": True}, uj.Flow(rtol=1e-11)),
    "squared error": ({"loss": "mse", "depth": 3}, uj.Flow(rtol=1e-11, rate_W=0.7)),
    "momentum": ({"depth": 3, "bias": True}, uj.Descent(0.1, rate_H=0.8, momentum=0.6)),
    "ReLU, descent": ({"activation": "relu", "depth": 4, "loss": "cross_entropy"},
                      uj.Descent(uj.cosine(0.2, horizon=40))),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
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


def test_runs_go_on_whatever_they_carry():
    model = uj.regularized(UNEVEN, 4, decay=0.05, depth=4, bias=True)
    start = model.init(jax.random.key(3), precision="float64")
    for more in ({"momentum": 0.5}, {"optimizer": optax.adam(0.01)}):
        descent = uj.Descent(0.1, **more)
        whole = uj.simulate(model, descent, start, [4, 8], "norm")
        cut = uj.simulate(model, descent, uj.simulate(model, descent, start, [4], "norm"), [8], "norm")
        np.testing.assert_allclose(cut.final.inner, whole.final.inner, rtol=1e-14)


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
    "name", [*list(CASES)[:2], *(pytest.param(n, marks=pytest.mark.long) for n in list(CASES)[2:])]
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
    below = uj.exact(
        model, uj.Flow(), model.init(jax.random.key(0), spectral=0.3, precision="float64"), [1e5], "log_norm"
    )
    np.testing.assert_allclose(below["log_norm"][0], -decay * 1e5, rtol=1e-3)


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
        "a loss that is linear": (model.replace(loss="mse"), flow, start),
        "rates that are numbers": (model, uj.Flow(rate_H=uj.cosine(1.0, horizon=3)), start),
        "for a plain Descent": (model, uj.Descent(0.1, momentum=0.5), start),
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
