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


def signal_of(gamma=GAMMA, **more):
    """M, with rows of zeros for what is held out, by loops; `more` weight may be given to samples of these."""
    M, weights = np.zeros((N, C)), dict.fromkeys(TRAIN, 1 / len(TRAIN)) | more.get("weights", {})
    for i, weight in weights.items():
        for c in range(C):
            M[i, c] = weight * (1.0 if Y[i] == c else -gamma)
    return M


def generator(kind, decay=DECAY, gamma=GAMMA, rates=RATES, **more):
    """The matrix of d/dt (vec H, vec W), from its action on every unit vector."""
    K = {"none": np.eye(N), **KERNELS, "factor": KERNELS["samples"]}[kind] + more.get("bump", 0.0)
    M, (r1, r2), (a, b) = signal_of(gamma, **more), rates, decay

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
    one, other = uj.limit(whole, drawn, state), uj.limit(alone, drawn, begin)
    growths = [(found.second_moment_growth, found.mean_growth, found.critical_rate) for found in (one, other)]
    chex.assert_trees_all_close(*growths, rtol=1e-9)
    for diffusion in (uj.Diffusion(0.3, batch=2, step=0.5), uj.Diffusion(0.3, batch=2, replacement=False, step=0.5)):
        key = jax.random.key(6)
        runs = [
            uj.simulate(*each, [0, 3], DRAWN, key=key)
            for each in ((whole, diffusion, state), (alone, diffusion, begin))
        ]
        assert uj.verify(*runs).worst < 1e-11
    for paced, times in (
        (uj.Descent(0.2, sam_radius=0.3, clip_norm=0.5), [1, 20]),
        (uj.Flow(0.5, sam_radius=0.3), TIMES),
    ):
        pairs = [[solve(*each, times, ("loss", "norm")) for each in ((whole, paced, state), (alone, paced, begin))]
                 for solve in (uj.exact, uj.simulate)]  # fmt: skip
        assert max(uj.verify(*runs).worst for runs in pairs) < 1e-9  # not even its decay counts in the norm
    other_loss = [model.replace(loss="cross_entropy") for model in (whole, alone)]  # with samples as columns
    for clipped in (uj.Descent(0.2, clip_norm=0.1), uj.Descent(0.2, normalized=True)):
        runs = [
            uj.simulate(model, clipped, one, [20], "norm")
            for model, one in zip(other_loss, (state, begin), strict=True)
        ]
        assert uj.verify(*runs).worst < 1e-11
    seen = ("test_loss", "loss")  # what is held out does not meet the noise, so the mean run has its mean loss
    found = uj.exact(whole, drawn, state, [0, 3, 10], seen)
    keys = jax.random.split(jax.random.key(7), 2000)
    paths = jax.vmap(lambda key: uj.simulate(whole, drawn, state, [0, 3, 10], seen, key=key))(keys)
    assert uj.verify(paths, found).passed and float(np.std(paths["test_loss"][:, -1])) > 0.01
    with pytest.raises(ValueError, match="test_accuracy"):
        uj.exact(whole, drawn, state, [3], "test_accuracy")
    with pytest.raises(ValueError, match="from 6 samples"):
        uj.exact(whole, uj.Descent(0.3, batch=7, replacement=False), state, [3])


@pytest.mark.long
def test_derivatives_of_the_test_loss_are_its_differences():
    """With respect to numbers, to the kernel between training and test, and to the weight of what is held out."""
    model, state, h = model_of("samples"), start_of(model_of("samples")), 1e-5
    names = ["gamma", "decay_H", "decay_W", "eta", "kernel", "sample_weights"]
    found = uj.sensitivity(model, uj.Flow(0.6), state, [3.0], "test_loss", names, sources="exact").squeeze()
    bump, unit = np.outer(np.eye(N)[HELD[0]], np.eye(N)[TRAIN[1]]), {"gamma": 0, "decay_H": 0, "decay_W": 0, "eta": 0}

    def test_loss(gamma=0.0, decay_H=0.0, decay_W=0.0, eta=0.0, kernel=0.0, weight=0.0):
        decay = DECAY[0] + decay_H, DECAY[1] + decay_W
        more = {"bump": kernel * bump, "weights": {HELD[0]: weight}}
        gamma = GAMMA + gamma
        H, W = after(expm(3.0 * (0.6 + eta) * generator("samples", decay, gamma, (1.0, 1.0), **more)), state)
        return np.mean([gamma * np.sum(W @ H[i]) - (1 + gamma) * W[Y[i]] @ H[i] for i in HELD])

    got = {name: float(found["first"].sel(parameter=name)) for name in unit}
    got["kernel"] = float(found["first_kernel"][HELD[0], TRAIN[1]])
    got["weight"] = float(found["first_sample_weights"][HELD[0]])  # what training on it a little would do
    want = {name: (test_loss(**{name: h}) - test_loss(**{name: -h})) / (2 * h) for name in got}
    chex.assert_trees_all_close(got, want, rtol=1e-7)
    assert min(abs(value) for value in want.values()) > 1e-3


@pytest.mark.long
def test_splits_of_one_size_are_one_batch():
    """Which samples are held out is data: cross-validation by `jax.vmap`, compiled once."""
    whole, splits = uj.from_labels(Y), np.array([[1, 5, 6], [0, 2, 4], [3, 5, 7]])
    state, names, traced = start_of(model_of("samples")), (*NAMES, "log_distance", "nc1", "test_margin_min"), []

    def of(held):
        traced.append(1)
        model = model_of("samples", whole.hold_out(held))
        return {name: uj.exact(model, uj.Flow(0.6), state, TIMES, names)[name] for name in names}

    got = jax.jit(jax.vmap(of))(splits)
    assert len(traced) == 1
    for k, held in enumerate(splits):
        chex.assert_trees_all_close({name: value[k] for name, value in got.items()}, of(held), rtol=1e-9)


@pytest.mark.long
def test_runs_of_any_size_in_both_precisions_whole_and_cut():
    model, flow = model_of("samples"), uj.Flow(0.6, rate_H=RATES[0], rate_W=RATES[1], rtol=1e-10)
    state, names = start_of(model), ("test_log_abs_loss", "test_loss_sign", "test_accuracy", "log_distance")
    matrix = generator("samples")
    values, vectors = np.linalg.eig(matrix)
    begin = np.linalg.solve(vectors, np.concatenate([np.ravel(state.H), np.ravel(state.W)]))

    def expected(t, log_size):
        """The loss over e^(2 growth), so that any horizon is in range."""
        z = np.real(vectors @ (np.exp(0.6 * t * (values - values.real.max())) * begin))
        found = seen(z[: N * P].reshape(N, P), z[N * P :].reshape(C, P))
        log = np.log(abs(found["test_loss"])) + 2 * (0.6 * t * values.real.max() + log_size)
        return log, np.sign(found["test_loss"]), found["test_accuracy"]

    for log_size, solve, times in (
        (0.0, uj.exact, [5.0, 2e5]),
        (-340.0, uj.simulate, [5.0, 40.0]),
        (340.0, uj.exact, [5.0, 1e4]),
    ):
        start = state.replace(log_scale=log_size)
        whole = solve(model, flow, start, times, names)
        for k, t in enumerate(times):
            want = expected(t, log_size)
            got = [float(whole[name][k]) for name in names[:3]]
            np.testing.assert_allclose(got, want, rtol=1e-9 if solve is uj.exact else 1e-7)
        cut = solve(model, flow, solve(model, flow, start, [times[0] / 2], names), times, names)
        assert uj.verify(cut, whole).worst < (1e-9 if solve is uj.exact else 1e-6)
    flow = uj.Flow(0.6, rate_H=RATES[0], rate_W=RATES[1])
    single = uj.exact(model, flow, state, [5.0, 50.0], names, precision="float32")
    np.testing.assert_allclose(single["test_log_abs_loss"], [expected(t, 0.0)[0] for t in (5.0, 50.0)], rtol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["samples", "none"])
def test_the_limit_is_that_of_the_samples_to_train_on(kind):
    """With one sample to train on per class, no feature of these is left to decay, though those held out do.

    Without a kernel and at gamma 0 all modes are alike, so that nothing else than such features would be slowest.
    """
    labels = uj.from_labels(Y[:6]).hold_out([1, 3, 5])
    kernel = KERNELS["samples"][:6, :6]
    settings = {"decay": (0.02, 0.3), "gamma": 0.0 if kind == "none" else 0.2}
    model = uj.regularized(labels, P, **settings) if kind == "none" else uj.ntk_invariant(labels, P, kernel, **settings)
    state = start_of(model)
    limit = uj.limit(model, uj.Flow(), state)
    for target in (uj.exact, uj.simulate):
        run = target(model, uj.Flow(rtol=1e-10), state, [150.0, 180.0], ["log_distance", "log_distance_H", "log_norm"])
        for name, rate in (
            ("log_distance", limit.rate),
            ("log_distance_H", limit.rate_H),
            ("log_norm", -limit.exponent),
        ):
            slope = -np.diff(np.asarray(run[name]))[0] / 30
            assert slope == pytest.approx(float(rate), rel=1e-3), name
    far = uj.exact(model, uj.Flow(), state, [3000.0], ()).final
    trained_on = np.delete(np.arange(6), labels.held_out)
    size = np.sqrt(np.sum(np.square(far.H[trained_on])) + np.sum(np.square(far.W)))
    np.testing.assert_allclose(far.H / size, limit.direction.H, atol=1e-8)  # those held out are in the same unit
    np.testing.assert_allclose(far.W / size, limit.direction.W, atol=1e-8)


@pytest.mark.parametrize("see", [uj.layer_norms, uj.layer_scatter_ratios, uj.layer_alignments, uj.layer_unbalance])
def test_layers_are_seen_through_the_samples_to_train_on(see):
    model = uj.unconstrained(LABELS, 4, depth=3)
    state = model.init(jax.random.key(0))
    np.testing.assert_allclose(see(model, state), see(*trained(model, state)), rtol=1e-12)
    moved = state.replace(H=state.H.at[HELD].add(1.0))
    np.testing.assert_allclose(see(model, moved), see(model, state), rtol=1e-12)
