"""Samples that are held out: against a matrix exponential, a linearised network, and the problem without them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.linalg import expm

import unhinged_jax as uj
from unhinged_jax.model import trained
from unhinged_jax.training import ntk

C, P, GAMMA, DECAY, RATES = 3, 2, 0.4, (0.03, 0.05), (0.8, 1.1)
Y, HELD = np.array([0, 1, 2, 0, 1, 2, 0, 1, 0]), np.array([1, 5, 6])
N, TRAIN = len(Y), np.array([0, 2, 3, 4, 7, 8])
LABELS = uj.from_labels(Y).hold_out(HELD)
NAMES = ("loss", "test_loss", "accuracy", "test_accuracy", "margin_mean", "test_margin_mean", "norm_H")
TIMES = [0.0, 2.0, 9.0]
rng = np.random.default_rng(0)
INPUTS = rng.normal(size=(N, 5)) + 2 * np.eye(C, 5)[Y]
ANY = rng.normal(size=(N * P, 7)) / 2  # derivatives of the features with respect to seven parameters
KERNELS = {"samples": INPUTS @ INPUTS.T / 5, "factor": INPUTS / 5**0.5, "coordinates": ANY @ ANY.T}


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def model_of(kind, labels=LABELS, **settings):
    settings = {"decay": DECAY, "gamma": GAMMA} | settings
    if kind == "none":
        return uj.regularized(labels, P, **settings)
    return uj.ntk_invariant(labels, P, KERNELS[kind], **settings)


def start_of(model, seed=1):
    return model.init(jax.random.key(seed), scale=0.7, precision="float64")


def signal_of(gamma=GAMMA):
    """M, with rows of zeros for what is held out, by loops."""
    M = np.zeros((N, C))
    for i in TRAIN:
        for c in range(C):
            M[i, c] = (1.0 if Y[i] == c else -gamma) / len(TRAIN)
    return M


def generator(kind, decay=DECAY, gamma=GAMMA, rates=RATES):
    """The matrix of d/dt (vec H, vec W), from its action on every unit vector."""
    K = {"none": np.eye(N), "factor": KERNELS["samples"], **KERNELS}.get(kind)
    M, (r1, r2), (a, b) = signal_of(gamma), rates, decay

    def velocity(z):
        H, W = z[: N * P].reshape(N, P), z[N * P :].reshape(C, P)
        push = K @ (M @ W).reshape(-1) if kind == "coordinates" else (K @ (M @ W)).reshape(-1)
        return np.concatenate([r1 * (push - a * z[: N * P]), r2 * ((M.T @ H).reshape(-1) - b * z[N * P :])])

    return np.array([velocity(unit) for unit in np.eye((N + C) * P)]).T


def seen(H, W):
    """The observables, by loops over samples."""
    S, found = H @ W.T, {"norm_H": np.sqrt(np.sum(H[TRAIN] ** 2))}
    for name, rows in (("", TRAIN), ("test_", HELD)):
        losses = [sum((GAMMA if c != Y[i] else -1.0) * S[i, c] for c in range(C)) for i in rows]
        margins = [S[i, Y[i]] - max(S[i, c] for c in range(C) if c != Y[i]) for i in rows]
        found |= {f"{name}loss": np.mean(losses), f"{name}margin_mean": np.mean(margins)}
        found[f"{name}accuracy"] = np.mean([margin > 0 for margin in margins])
    return found


def after(matrix, state):
    """H and W after a linear map."""
    z = matrix @ np.concatenate([np.ravel(state.H), np.ravel(state.W)])
    return z[: N * P].reshape(N, P), z[N * P :].reshape(C, P)


LONG = [pytest.param(kind, marks=pytest.mark.long) for kind in ("factor", "coordinates", "none")]


@pytest.mark.parametrize("kind", ["samples", *LONG])
def test_a_flow_is_the_exponential_of_its_generator(kind):
    model, flow = model_of(kind), uj.Flow(0.6, rate_H=RATES[0], rate_W=RATES[1], rtol=1e-10)
    state = start_of(model)
    run = uj.exact(model, flow, state, TIMES, NAMES, states=True)
    moved = np.linalg.norm(np.asarray(run.final.H)[HELD] - np.asarray(state.H)[HELD])
    assert moved > 0.1
    for k, t in enumerate(TIMES):
        H, W = after(expm(0.6 * t * generator(kind)), state)
        factor = np.exp(run.states.log_scale[k])
        np.testing.assert_allclose(factor * run.states.H[k], H, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(factor * run.states.W[k], W, rtol=1e-11, atol=1e-12)
        chex.assert_trees_all_close({name: float(run[name][k]) for name in NAMES}, seen(H, W), rtol=1e-11)
    if kind == "samples":
        assert uj.verify(uj.simulate(model, flow, state, TIMES, NAMES, states=True), run).worst < 1e-8


@pytest.mark.long
def test_a_descent_is_the_power_of_its_update_with_and_without_momentum():
    model, updates = model_of("samples"), [0, 4, 25]
    state = start_of(model)
    step = np.eye((N + C) * P) + 0.1 * generator("samples")
    descent = uj.Descent(0.1, rate_H=RATES[0], rate_W=RATES[1])
    run = uj.exact(model, descent, state, updates, NAMES)
    for k, count in enumerate(updates):
        want = seen(*after(np.linalg.matrix_power(step, count), state))
        chex.assert_trees_all_close({name: float(run[name][k]) for name in NAMES}, want, rtol=1e-11)
    descent = uj.Descent(0.05, momentum=0.6, nesterov=True)
    names = ("test_loss", "distance", "gap_H")
    ways = [solve(model, descent, state, updates, names) for solve in (uj.simulate, uj.exact)]
    assert uj.verify(*ways).worst < 1e-11


def tanh_network(parameters, inputs):
    return jnp.tanh(inputs @ parameters["in"]) @ parameters["out"]


def test_a_linearised_network_is_predicted_on_its_test_set():
    """f(theta_0, x) + J (theta - theta_0), whose parameters and prototypes follow the gradient of the training loss."""
    parameters = {"in": jnp.asarray(rng.normal(size=(5, 4))) / 2, "out": jnp.asarray(rng.normal(size=(4, P)))}
    W, x = rng.normal(size=(C, P)), INPUTS[TRAIN]
    flat, restore = ravel_pytree(parameters)
    jacobian = jax.jacobian(lambda theta, x: tanh_network(restore(theta), x).reshape(-1))
    J, M = np.asarray(jacobian(flat, x)), signal_of()[TRAIN]  # of the samples to train on alone
    size, H = len(flat), np.asarray(tanh_network(parameters, x)).reshape(-1)

    def velocity(z):
        theta, W = z[:size], z[size:-1].reshape(C, P)
        features = (z[-1] * H + J @ theta).reshape(-1, P)
        return np.concatenate([J.T @ (M @ W).reshape(-1), (M.T @ features).reshape(-1), [0.0]])

    generator = np.array([velocity(unit) for unit in np.eye(size + C * P + 1)]).T
    begin = np.concatenate([np.zeros(size), np.ravel(W), [1.0]])
    told = {"gamma": GAMMA, "observe": ("test_loss", "test_accuracy")}
    found = ntk.predict(tanh_network, parameters, W, INPUTS, LABELS, uj.Flow(), TIMES, **told)

    def linearised(theta, inputs):
        value, moved = jax.jvp(lambda theta: tanh_network(restore(theta), inputs), (flat,), (theta,))
        return np.asarray(value + moved)

    for k, t in enumerate(TIMES):
        z = expm(t * generator) @ begin
        want = seen(linearised(jnp.asarray(z[:size]), INPUTS), z[size:-1].reshape(C, P))
        for name in told["observe"]:
            assert float(found[name][k]) == pytest.approx(want[name], rel=1e-12)
        np.testing.assert_allclose(found.states.H[k], linearised(jnp.asarray(z[:size]), INPUTS), rtol=1e-12, atol=1e-12)
    assert abs(float(found["test_loss"][-1]) - float(found["test_loss"][0])) > 1
    for form in ("class_means", "class_kernel"):
        with pytest.raises(ValueError, match="held out"):
            ntk.predict(tanh_network, parameters, W, INPUTS, LABELS, uj.Flow(), TIMES, form=form)


ALONE = ("loss", "objective", "accuracy", "norm", "within_scatter", "nc1", "log_distance", "gap_H")
DRAWN = ("loss", "square_norm", "between_scatter")


@pytest.mark.long
def test_the_others_move_as_if_nothing_else_were_there():
    """Runs, limits, batches and their expectations: with samples held out, and without them."""
    for kind in ("samples", "none"):
        whole = model_of(kind)
        state = start_of(whole)
        alone, begin = trained(whole, state)
        assert alone.samples == len(TRAIN) and begin.H.shape == (len(TRAIN), P)
        runs = [uj.exact(*each, TIMES, ALONE) for each in ((whole, uj.Flow(), state), (alone, uj.Flow(), begin))]
        assert uj.verify(*runs).worst < 1e-10
        one, other = uj.limit(whole, uj.Flow(), state), uj.limit(alone, uj.Flow(), begin)
        chex.assert_trees_all_close(one.direction.H[TRAIN], other.direction.H, rtol=1e-11)
        rates = [(found.rate, found.rate_H, found.rate_W, found.exponent) for found in (one, other)]
        chex.assert_trees_all_close(*rates, rtol=1e-11)
    for replacement in (True, False):  # now without a kernel
        drawn = uj.Descent(0.3, batch=4, replacement=replacement)
        runs = [
            uj.simulate(*each, [0, 3, 10], DRAWN, key=jax.random.key(5))
            for each in ((whole, drawn, state), (alone, drawn, begin))
        ]
        assert uj.verify(*runs).worst < 1e-11  # the same samples are drawn
        runs = [uj.exact(*each, [0, 3, 10], DRAWN) for each in ((whole, drawn, state), (alone, drawn, begin))]
        assert uj.verify(*runs).worst < 1e-12
    with pytest.raises(ValueError, match="test_loss"):
        uj.exact(whole, drawn, state, [3], "test_loss")
    with pytest.raises(ValueError, match="from 6 samples"):
        uj.exact(whole, uj.Descent(0.3, batch=7, replacement=False), state, [3])
