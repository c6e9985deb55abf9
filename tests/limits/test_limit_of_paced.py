"""`limit` of runs whose gradients are clipped or normalised, and of spectral descent, against loops and integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import unhinged_jax as uj

R1, R2, RB = 0.8, 1.2, 0.9
GROWS = uj.regularized(uj.from_counts([3, 2, 1]), 3, decay=(0.05, 0.02), gamma=0.3)
DIES = GROWS.replace(decay_H=0.5, decay_W=0.4)
BIAS = np.array([0.1, 0.2, -0.3])


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def start(model):
    bias = BIAS if model.bias else None
    return model.init(jax.random.key(0), precision="float64", bias=bias)


def downhill_of(model):
    """Minus the gradient of everything that moves, as a function of H, W and b."""
    M, decays = np.asarray(model.signal().dense("float64")), [float(decay) for decay in model.decays]

    def downhill(*parts):
        H, W, _ = parts
        pulls = M @ W, M.T @ H, M.sum(0)
        of = zip(pulls, decays, parts, model.moves, strict=True)
        return [(pull - decay * part) * moves for pull, decay, part, moves in of]

    return downhill


def factor(size, clip_norm=None, normalized=False):
    return 1 / size if normalized else min(1.0, clip_norm / size)


def looped(model, eta, updates, reads, **how):
    """The moving parts of H and W as one matrix, and b, after some updates."""
    downhill = downhill_of(model)
    parts, found = [np.array(part, float) for part in (start(model).H, start(model).W, start(model).b)], {}
    for k in range(updates + 1):
        if k in reads:
            found[k] = np.vstack([part for part, moves in zip(parts[:2], model.moves, strict=False) if moves]), parts[2]
        down = downhill(*parts)
        by = factor(np.sqrt(sum(np.sum(part**2) for part in down)), **how)
        parts = [part + eta * by * rate * move for part, rate, move in zip(parts, (R1, R2, RB), down, strict=True)]
    return [found[k] for k in reads]


def moving(model, direction):
    return np.vstack([part for part, moves in zip((direction.H, direction.W), model.moves, strict=False) if moves])


def error(Z, direction):
    return np.linalg.norm(Z / np.linalg.norm(Z) - direction)


@pytest.mark.parametrize(
    ("how", "eta", "bias"),
    [
        ({"clip_norm": 0.5}, 0.3, False),
        pytest.param({"clip_norm": 0.5}, 8.0, False, marks=pytest.mark.long),
        pytest.param({"normalized": True}, 0.3, True, marks=pytest.mark.long),
        pytest.param({"normalized": True}, 8.0, False, marks=pytest.mark.long),
    ],
)
def test_steps_of_one_length(how, eta, bias):
    """The norm grows in proportion to the updates, however large they are, and the error falls like a power."""
    model = GROWS.replace(bias=bias)
    found = uj.limit(model, uj.Descent(eta, R1, R2, rate_b=RB, **how), start(model))
    assert found.side == "grows" and "one length" in found.note and float(found.rate) == 0 == float(found.exponent)
    reads = np.array([4_000, 40_000]) if eta < 1 else np.array([1_000, 10_000])
    (early, _), (late, _) = looped(model, eta, reads[1], reads, **how)
    speed = (np.linalg.norm(late) - np.linalg.norm(early)) / np.diff(reads)[0]
    assert float(found.speed) == pytest.approx(speed, rel=3e-3)
    direction = moving(model, found.direction)
    errors = error(early, direction), error(late, direction)
    assert float(found.power) == pytest.approx(np.log(errors[0] / errors[1]) / np.log(10), rel=3e-2), errors


@pytest.mark.long
@pytest.mark.parametrize("how", [{"clip_norm": 0.5}, {"normalized": True}])
@pytest.mark.parametrize("model", [GROWS, DIES], ids=["grows", "dies"])
def test_flows(how, model):
    """By the matrix exponential at a zeta, and the integral of the norms of gradients up to it, which is the time."""
    state = start(model)
    found = uj.limit(model, uj.Flow(0.7, R1, R2, **how), state)
    M, n = np.asarray(model.signal().dense("float64")), model.samples
    G = np.block([[-float(model.decay_H) * np.eye(n), M], [M.T, -float(model.decay_W) * np.eye(3)]])
    K = np.diag(np.repeat([R1, R2], [n, 3])) @ G
    Z = np.vstack([state.H, state.W])
    ends = np.linspace(0, 280.0 if model is GROWS else 400.0, 401)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    step = ends[1] / 2
    inside = [scipy.linalg.expm(K * step * (x + 1)) for x in nodes]
    made, times, zs = scipy.linalg.expm(K * ends[1]), [0.0], [Z]
    for _ in ends[1:]:
        sizes = [np.linalg.norm(G @ (E @ zs[-1])) for E in inside]
        times.append(times[-1] + step * sum(w / factor(size, **how) for w, size in zip(weights, sizes, strict=True)))
        zs.append(made @ zs[-1])
    direction = moving(model, found.direction)
    errors = [error(z, direction) for z in zs]
    if model is GROWS:
        assert float(found.speed) == pytest.approx(np.linalg.norm(zs[-1]) / times[-1], rel=1e-6)
        slope = -np.log(errors[300] / errors[200]) / np.log(times[300] / times[200])
        assert float(found.power) == pytest.approx(slope, rel=1e-3)
    elif "clip_norm" in how:
        assert float(found.exponent) == pytest.approx(
            np.log(np.linalg.norm(zs[300]) / np.linalg.norm(zs[200])) / (times[300] - times[200]), rel=1e-3
        )
        assert float(found.rate) == pytest.approx(
            np.log(errors[200] / errors[300]) / (times[300] - times[200]), rel=1e-2
        )
    else:
        assert np.isneginf(found.exponent) and np.isposinf(found.rate) and found.side == "shrinks"
        assert errors[-1] < 1e-4 and times[-1] - times[200] < 1e-2 * times[-1]
        run = uj.exact(model, uj.Flow(0.7, R1, R2, **how), state, np.array([0.9, 1.1]) * times[-1] / 0.7, ())
        assert run.reached.tolist() == [True, False]


CLIP, UNIT = {"clip_norm": 0.02}, {"normalized": True}
PULLED = {
    "clipped, dies": (DIES, 0.3, {"clip_norm": 0.2}),
    "clipped, a bias drifts": (DIES.replace(bias=True, decay_b=0.0), 0.3, CLIP),
    "normalised, a bias drifts": (DIES.replace(bias=True, decay_b=0.0), 0.1, UNIT),
    "clipped, anchored": (uj.anchored(GROWS.labels, 3, decay=0.4), 0.3, {"clip_norm": 0.2}),
    "clipped, anchored, no decay": (uj.anchored(GROWS.labels, 3), 0.3, {"clip_norm": 0.2}),
    "normalised, frozen, no decay": (uj.frozen(GROWS.labels, 3, bias=True), 0.3, UNIT),
    "normalised, frozen, a bias drifts": (uj.frozen(GROWS.labels, 3, decay=0.4, bias=True, decay_b=0.0), 0.1, UNIT),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", PULLED)
def test_what_does_not_grow(name):
    """Steps become plain ones, at a rate that what stays of the gradient decides."""
    model, eta, how = PULLED[name]
    found = uj.limit(model, uj.Descent(eta, R1, R2, rate_b=RB, **how), start(model))
    rate = float(found.rate)
    reads = [round(x / rate) for x in (5, 10)] if rate else [2000, 8000]
    reads = [
        k + (0 if model.moves.coupled else 200 if "clip_norm" in how else 40) for k in reads
    ]  # until clipping ends
    (early, _), (late, _) = looped(model, eta, reads[1], reads, **how)
    direction = moving(model, found.direction)
    errors = error(early, direction), error(late, direction)
    if rate == 0:
        assert found.side == "grows" and errors[1] < errors[0] / 2, errors
        return
    assert rate == pytest.approx(np.log(errors[0] / errors[1]) / (reads[1] - reads[0]), rel=3e-2), errors
    growth = np.log(np.linalg.norm(late) / np.linalg.norm(early)) / (reads[1] - reads[0])
    assert float(found.exponent) == pytest.approx(growth, abs=1e-3 * rate + 0.02 * abs(growth))
    flow = uj.limit(model, uj.Flow(1.0, R1, R2, rate_b=RB, **how), start(model))
    assert float(flow.rate) == pytest.approx(rate / eta, rel=0.3)


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "eta", "how"),
    [
        (DIES, 0.3, UNIT),
        (DIES, 9.0, {"clip_norm": 0.2}),
        (uj.anchored(GROWS.labels, 3, decay=0.4), 0.3, UNIT),
        (uj.anchored(GROWS.labels, 3, decay=0.4), 9.0, CLIP),
    ],
)
def test_steps_that_stay_long_end_in_oscillations(model, eta, how):
    found = uj.limit(model, uj.Descent(eta, R1, R2, **how), start(model))
    assert found.side == "oscillates" and "depend on its start" in found.note
    assert np.isnan(moving(model, found.direction)).all()
    last = [part for part, _ in looped(model, eta, 20_003, [20_000, 20_001, 20_003], **how)]
    moved = [np.linalg.norm(last[0] - last[1]), np.linalg.norm(last[1] - last[2])]
    assert moved[0] > 1e-2 * eta * min(how.get("clip_norm", 1.0), 1.0) and np.linalg.norm(last[2]) < 30


@pytest.mark.long
@pytest.mark.parametrize("how", [{"clip_norm": 0.5}, {"normalized": True}])
def test_derivatives_batches_precision_and_scale(how):
    state = start(GROWS)

    def numbers(point):
        eta, gamma, length = point
        given = {"clip_norm": length} if "clip_norm" in how else how
        found = uj.limit(GROWS.replace(gamma=gamma), uj.Descent(eta, R1, R2, **given), state)
        return jnp.stack([found.speed, found.power, found.excess])

    here, program = np.array([0.3, 0.3, 0.5]), jax.jit(numbers)
    apart = [(program(here + 1e-6 * e) - program(here - 1e-6 * e)) / 2e-6 for e in np.eye(3)]
    np.testing.assert_allclose(jax.jit(jax.jacfwd(numbers))(here), np.stack(apart, axis=1), rtol=1e-6, atol=1e-8)
    many = jnp.asarray(here) * (1 + jnp.arange(6.0).reshape(2, 3, 1) / 100)
    np.testing.assert_allclose(jax.vmap(jax.vmap(numbers))(many)[1, 2], program(many[1, 2]), rtol=1e-12)
    descent = uj.Descent(0.3, R1, R2, **how)
    fine = uj.limit(GROWS, descent, state)
    rough = uj.limit(GROWS, descent, jax.tree.map(lambda leaf: jnp.asarray(leaf, "float32"), state))
    for name in ("speed", "power"):
        assert getattr(rough, name).dtype == np.float32
        assert float(getattr(rough, name)) == pytest.approx(float(getattr(fine, name)), rel=1e-4)
    for moved in (state.replace(log_scale=700.0), uj.State(1e-140 * state.H, 1e-140 * state.W, state.b)):
        other = uj.limit(GROWS, descent, moved)
        np.testing.assert_allclose([other.speed, other.power], [fine.speed, fine.power], rtol=1e-9)
    for model in (GROWS, DIES):
        zeros = uj.limit(model, descent, uj.State(0 * state.H, 0 * state.W, state.b))
        assert not np.any(zeros.direction.H) and float(zeros.speed) == 0, zeros


@pytest.mark.parametrize("decay", [0.3, pytest.param(0.0, marks=pytest.mark.long)])
def test_spectral_descent_of_both_parts(decay):
    """Against many updates, each by the polar factors of its gradients."""
    model = uj.unconstrained(GROWS.labels, 5, gamma=0.3, bias=True)
    state = model.init(jax.random.key(0), spectral=[2.0, 1.0, 0.5], bias=BIAS, precision="float64")
    optimizer = uj.Optimizer(uj.spectral_descent, learning_rate=0.1, weight_decay=decay)
    found = uj.limit(model, uj.Descent(1.0, R1, R2, optimizer=optimizer), state)
    M, (H, W) = np.asarray(model.signal().dense("float64")), (np.array(state.H), np.array(state.W))
    path = []
    for _ in range(1401):
        path.append((np.vstack([H, W]), H, W))
        (U, s, V), (X, t, Y) = (np.linalg.svd(part, full_matrices=False) for part in (M @ W, M.T @ H))
        P, Q = (U[:, s > 1e-10 * s[0]] @ V[s > 1e-10 * s[0]], X[:, t > 1e-10 * t[0]] @ Y[t > 1e-10 * t[0]])
        H, W = H + 0.1 * R1 * (P - decay * H), W + 0.1 * R2 * (Q - decay * W)
    direction = np.vstack([found.direction.H, found.direction.W])
    errors = [error(path[k][0], direction) for k in (500, 700, 1400)]
    if decay == 0:
        assert found.side == "grows" and float(found.rate) == 0
        assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)
        return
    assert found.side == "converges" and float(found.exponent) == 0 and errors[2] < 1e-8
    assert float(found.rate) == pytest.approx(np.log(errors[0] / errors[1]) / 200, rel=1e-3)
    for place, rate, r in ((1, found.rate_H, R1), (2, found.rate_W, R2)):
        assert float(rate) == pytest.approx(-np.log1p(-0.1 * r * decay), rel=1e-12)
        last = path[1400][place] / np.linalg.norm(path[1400][0])
        np.testing.assert_allclose((found.direction.H, found.direction.W)[place - 1], last, atol=1e-8)
    np.testing.assert_allclose(found.direction.b, M.sum(0) / np.linalg.norm(M.sum(0)) / decay, rtol=1e-12)


def test_a_decaying_bias_alone_is_thrown_about_its_minimum():
    model = uj.unconstrained(uj.from_counts([3, 1]), 3, bias=True).replace(decay_b=0.5)
    state = model.init(jax.random.key(0), precision="float64")
    found = uj.limit(model, uj.Descent(0.1, normalized=True), state.replace(H=0 * state.H, W=0 * state.W))
    assert "oscillations" in found.note and np.isnan(found.direction.b).all()
    # Classes that pull alike leave biases of 0 where they are.
    alike = uj.unconstrained(uj.balanced(3, 1), 3, bias=True).replace(decay_b=0.5)
    state = alike.init(jax.random.key(0), precision="float64")
    found = uj.limit(alike, uj.Descent(0.1, normalized=True), state.replace(H=0 * state.H, W=0 * state.W))
    assert "oscillations" not in found.note and not np.isnan(found.direction.b).any()
