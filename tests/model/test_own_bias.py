"""A decay and a rate of the biases' own, beside matrix exponentials, NumPy loops and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm

import unhinged_jax as uj
from unhinged_jax.derivatives.parameters import available

INDEX, C, P = np.array([0, 0, 0, 1, 1, 2]), 3, 2
N, GAMMA, DECAY, OWN = len(INDEX), 0.4, (0.03, 0.05), 0.3
RATES, OWN_RATE, ETA = (0.7, 1.3), 2.1, 0.2
M = ((1 + GAMMA) * np.eye(C)[INDEX] - GAMMA) / N
KINDS = ("plain", "heavy ball", "Nesterov", "cosine")


def model_of(loss=None, **changes):
    given = {"gamma": GAMMA} if loss is None else {"loss": loss}
    return uj.regularized(uj.from_labels(INDEX, C), P, decay=DECAY, bias=True, **given, **{"decay_b": OWN, **changes})


def start():
    rng = np.random.default_rng(3)
    return uj.State(rng.normal(size=(N, P)), rng.normal(size=(C, P)), rng.normal(size=C))


def descent_of(kind, **more):
    schedule = uj.cosine(ETA, horizon=30) if kind == "cosine" else ETA
    momentum = {"momentum": 0.6, "nesterov": kind == "Nesterov"} if kind in ("heavy ball", "Nesterov") else {}
    return uj.Descent(schedule, *RATES, rate_b=OWN_RATE, **momentum, **more)


def pull_of(loss, S):
    if loss is None:
        return M
    if loss == "mse":
        return (np.eye(C)[INDEX] - S) / N
    odds = np.exp(S - S.max(axis=1, keepdims=True))
    return (np.eye(C)[INDEX] - odds / odds.sum(axis=1, keepdims=True)) / N


def descended(kind, loss, updates, rate_b=lambda k: OWN_RATE):
    """H, W, b after plain steps in NumPy."""
    state = start()
    parts, trace = [state.H, state.W, state.b], [0.0, 0.0, 0.0]
    beta = 0.6 if kind in ("heavy ball", "Nesterov") else 0.0
    for k in range(updates):
        H, W, b = parts
        pull = pull_of(loss, H @ W.T + b)
        down = [pull @ W - DECAY[0] * H, pull.T @ H - DECAY[1] * W, pull.sum(axis=0) - OWN * b]
        trace = [d + beta * v for d, v in zip(down, trace, strict=True)]
        step = [d + beta * v for d, v in zip(down, trace, strict=True)] if kind == "Nesterov" else trace
        eta = ETA * (1 + np.cos(np.pi * k / 30)) / 2 if kind == "cosine" else ETA
        rates = (*RATES, rate_b(k))
        parts = [part + eta * r * by for part, r, by in zip(parts, rates, step, strict=True)]
    return parts


def flowed(tau):
    """H, W, b of the linear flow, from the exponential of its whole matrix."""
    state, size = start(), N * P + C * P
    A = np.zeros((size + C + 1,) * 2)
    (r1, r2), (l1, l2) = RATES, DECAY
    A[: N * P, : N * P] = -r1 * l1 * np.eye(N * P)
    A[: N * P, N * P : size] = r1 * np.kron(M, np.eye(P))
    A[N * P : size, : N * P] = r2 * np.kron(M.T, np.eye(P))
    A[N * P : size, N * P : size] = -r2 * l2 * np.eye(C * P)
    A[size:-1, size:-1], A[size:-1, -1] = -OWN_RATE * OWN * np.eye(C), OWN_RATE * M.sum(axis=0)
    end = expm(A * tau) @ np.concatenate([state.H.ravel(), state.W.ravel(), state.b, [1.0]])
    return end[: N * P].reshape(N, P), end[N * P : size].reshape(C, P), end[size:-1]


def close(run, parts, tolerance=1e-11):
    for name, part in zip("HWb", parts, strict=True):
        np.testing.assert_allclose(np.asarray(getattr(run.final, name)), part, rtol=tolerance, atol=tolerance)


@pytest.mark.long_for("dense")
@pytest.mark.parametrize("how", ["exact", "simulate", "dense"])
def test_flow(how):
    flow = uj.Flow(uj.cosine(ETA, horizon=20), *RATES, rate_b=OWN_RATE, rtol=1e-10)
    tau = ETA * (9 + 20 / np.pi * np.sin(np.pi * 9 / 20)) / 2
    run = uj.exact if how == "exact" else uj.simulate
    settings = {"reduce": False} if how == "dense" else {}
    found = run(model_of(), flow, start(), [9.0], "objective", **settings)
    close(found, flowed(tau), 1e-11 if how == "exact" else 1e-7)


@pytest.mark.long_for("exact-Nesterov")
@pytest.mark.parametrize(
    ("how", "kind"),
    [
        *(pytest.param("exact", kind, marks=[pytest.mark.long] * (kind == "heavy ball")) for kind in KINDS),
        ("simulate", "plain"),
        ("simulate", "Nesterov"),
    ],
)
def test_descent_and_its_continuation(how, kind):
    run = uj.exact if how == "exact" else uj.simulate
    first = run(model_of(), descent_of(kind), start(), [0, 7], "objective")
    close(first, descended(kind, None, 7))
    close(uj.simulate(model_of(), descent_of(kind), first, [12], "objective"), descended(kind, None, 12))


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_descent_of_other_losses(loss):
    run = uj.simulate(model_of(loss), descent_of("heavy ball"), start(), [12], "objective")
    close(run, descended("heavy ball", loss, 12))


def test_flow_of_another_loss():
    flow = uj.Flow(1.0, *RATES, rate_b=OWN_RATE, rtol=1e-9)

    def field(t, z):
        H, W, b = z[: N * P].reshape(N, P), z[N * P : -C].reshape(C, P), z[-C:]
        pull = pull_of("cross_entropy", H @ W.T + b)
        parts = RATES[0] * (pull @ W - DECAY[0] * H), RATES[1] * (pull.T @ H - DECAY[1] * W)
        return np.concatenate([*(part.ravel() for part in parts), OWN_RATE * (pull.sum(axis=0) - OWN * b)])

    state = start()
    begin = np.concatenate([state.H.ravel(), state.W.ravel(), state.b])
    end = solve_ivp(field, (0, 6), begin, "DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    run = uj.simulate(model_of("cross_entropy"), flow, state, [6.0], "objective")
    close(run, (end[: N * P].reshape(N, P), end[N * P : -C].reshape(C, P), end[-C:]), 1e-6)


def test_adam_multiplies_its_updates_by_the_rates():
    optimizer = optax.adam(0.02)
    run = uj.simulate(
        model_of(), uj.Descent(1.0, *RATES, rate_b=OWN_RATE, optimizer=optimizer), start(), [9], "objective"
    )
    with jax.enable_x64(True):
        state = start()
        parts = {"H": jnp.asarray(state.H), "W": jnp.asarray(state.W), "b": jnp.asarray(state.b)}
        memory = optimizer.init(parts)
        for _ in range(9):
            H, W, b = parts.values()
            up = {"H": DECAY[0] * H - M @ W, "W": DECAY[1] * W - M.T @ H, "b": OWN * b - M.sum(axis=0)}
            updates, memory = optimizer.update(up, memory, parts)
            rates = {"H": RATES[0], "W": RATES[1], "b": OWN_RATE}
            parts = {name: part + rates[name] * updates[name] for name, part in parts.items()}
    close(run, [np.asarray(part) for part in parts.values()], 1e-10)


def test_a_schedule_of_the_biases_own_in_a_descent():
    descent = uj.Descent(ETA, *RATES, rate_b=uj.cosine(2.0, horizon=20))
    expected = descended("plain", None, 11, lambda k: 1 + np.cos(np.pi * k / 20))
    for run in (uj.exact, uj.simulate):
        close(run(model_of(), descent, start(), [11], "objective"), expected)


@pytest.mark.parametrize("loss", [None, "cross_entropy"])
def test_objective_and_curvature(loss):
    model, state = model_of(loss), start()
    S = state.H @ state.W.T + state.b
    risk = -np.sum(M * S) if loss is None else np.mean(np.log(np.exp(S).sum(axis=1)) - S[np.arange(N), INDEX])
    squares = [np.sum(part**2) for part in (state.H, state.W, state.b)]
    expected = risk + (DECAY[0] * squares[0] + DECAY[1] * squares[1] + OWN * squares[2]) / 2
    with jax.enable_x64(True):
        found = uj.observe_state(model, state, "objective")["objective"]
    assert float(found) == pytest.approx(expected, rel=1e-12)
    if loss is None:  # b stands alone in the Hessian, with curvature `decay_b`, far above that of H and W
        steep = model.replace(decay_b=9.0)
        assert uj.hessian_spectrum(steep, state, 2)[-1] == pytest.approx(9.0, rel=1e-10)


def test_limit_and_exponents():
    flow, state = uj.Flow(1.0, *RATES, rate_b=OWN_RATE), start()
    with jax.enable_x64(True):
        np.testing.assert_allclose(uj.limit(model_of(), flow, state).direction.b, M.sum(axis=0) / OWN, rtol=1e-12)
    assert np.sum(np.isclose(uj.exact_exponents(model_of(), flow), -OWN_RATE * OWN)) == C
    with pytest.raises(uj.NoClosedForm, match="rate_b"):
        uj.limit(model_of(), uj.Descent(ETA, rate_b=uj.cosine(1.0, horizon=9)), state)


def test_only_biases_with_their_own_have_parameters_for_them():
    flow = uj.Flow(1.0, *RATES, rate_b=OWN_RATE)
    own = {"decay_b", "rate_b"}
    assert own <= {*available(model_of(), flow, start())}
    assert not own & {*available(model_of(decay_b=None), uj.Flow(), start())}


@pytest.mark.long
def test_sensitivities_are_finite_differences_of_the_oracle():
    flow, tau = uj.Flow(1.0, *RATES, rate_b=OWN_RATE, rtol=1e-10), 3.0
    names = ["decay_b", "rate_b", "decay_W", "rate_W"]
    found = uj.sensitivity(model_of(), flow, start(), [tau], ["loss"], names)["first"]

    def loss(**changes):
        now = {"decay_b": OWN, "rate_b": OWN_RATE, "decay_W": DECAY[1], "rate_W": RATES[1]} | changes
        b = np.exp(-now["rate_b"] * now["decay_b"] * tau) * start().b
        b = b + (1 - np.exp(-now["rate_b"] * now["decay_b"] * tau)) / now["decay_b"] * M.sum(axis=0)
        K = np.block([
            [-RATES[0] * DECAY[0] * np.eye(N), RATES[0] * M],
            [now["rate_W"] * M.T, -now["rate_W"] * now["decay_W"] * np.eye(C)],
        ])  # fmt: skip
        end = expm(K * tau) @ np.concatenate([start().H, start().W])
        return -np.sum(M * (end[:N] @ end[N:].T + b))

    for name in names:
        value = {"decay_b": OWN, "rate_b": OWN_RATE, "decay_W": DECAY[1], "rate_W": RATES[1]}[name]
        step = 1e-4
        slope = (loss(**{name: value + step}) - loss(**{name: value - step})) / (2 * step)
        for source in ("simulated", "exact"):
            got = float(found.sel(source=source, parameter=name).values.squeeze())
            assert got == pytest.approx(slope, rel=1e-5), (name, source)


WRONG = {
    "negative": (lambda: model_of(decay_b=-0.1), "decay_b must be finite and at least 0"),
    "no bias": (lambda: uj.regularized(uj.balanced(2, 1), 2, decay=0.1, decay_b=0.1), "none that moves"),
    "anchored": (lambda: model_of().replace(prototypes_move=False), "none that moves"),
    "rate 0": (lambda: uj.Flow(rate_b=0.0), "rate_b must be finite and above 0.*bias=False"),
    "an array": (
        lambda: uj.exact(model_of(), uj.Flow(rate_b=np.ones(2)), start(), [1.0]), "rate_b must be one number",
    ),
    "a schedule in a flow": (
        lambda: uj.exact(model_of(), uj.Flow(rate_b=uj.cosine(1.0, horizon=3)), start(), [1.0]), "`rate_b`.*function",
    ),
    "negative later": (
        lambda: uj.simulate(model_of(), uj.Flow(rate_b=lambda t: 1.0 - t), start(), [3.0]), "negative",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "says"), WRONG.values(), ids=WRONG)
def test_what_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_files_and_sweeps(tmp_path):
    given = {
        "model": {"case": "regularized", "dim": P, "gamma": GAMMA, "decay": list(DECAY), "bias": True, "decay_b": OWN},
        "labels": {"layout": "labels", "labels": INDEX.tolist(), "classes": C},
        "state": {"features": start().H.tolist(), "prototypes": start().W.tolist(), "bias": start().b.tolist()},
        "dynamics": {"kind": "flow", "schedule": 1.0, "rate_H": RATES[0], "rate_W": RATES[1], "rate_b": OWN_RATE},
        "run": {"times": [3.0], "observe": ["loss"], "precision": "float64"},
        "sweep": {"method": "exact", "grid": {"model.decay_b": [0.1, OWN], "dynamics.rate_b": [1.0, OWN_RATE]}},
    }
    data = uj.sweep(uj.SweepPlan.of(given), tmp_path / "s.zarr", workers=0, progress=False).load()
    H, W, b = flowed(3.0)
    got = data["loss"].isel(decay_b=1, rate_b=1).values.squeeze()
    assert float(got) == pytest.approx(-np.sum(M * (H @ W.T + b)), rel=1e-10)
    assert np.unique(data["loss"].values).size == 4
