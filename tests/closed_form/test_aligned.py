"""Spectral descent with features and prototypes free: against a NumPy loop that decomposes every gradient."""

import jax
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax.derivatives.sensitivities import sensitivity

UNEVEN = uj.from_counts([3, 2, 1])
ETA, DECAY, UPDATES = 0.05, 0.1, 30


def dense(model):
    with jax.enable_x64(True):
        return np.asarray(model.signal().dense("float64"))


def polar(X):
    U, s, Vt = np.linalg.svd(X, full_matrices=False)
    kept = s > 1e-12 * s[0]
    return U[:, kept] @ Vt[kept]


def stepped(model, state, rates, schedule, decay, eta=ETA):
    """H, W and b after the updates, by the polar factors of the present gradients."""
    M, (H, W, b) = dense(model), (np.array(part, float) for part in (state.H, state.W, state.b))
    of_b = M.sum(axis=0) / np.linalg.norm(M.sum(axis=0))
    for k in range(UPDATES):
        moves = (polar(M @ W), polar(M.T @ H), of_b)
        steps = [eta * float(schedule(k)) * rate for rate in rates]
        H, W, b = ((1 - step * decay) * z + step * move for step, z, move in zip(steps, (H, W, b), moves, strict=True))
    return H, W, b


def descent(decay=DECAY, schedule=1.0, eta=ETA):
    optimizer = uj.Optimizer(uj.spectral_descent, learning_rate=eta, weight_decay=decay)
    return uj.Descent(schedule, rate_H=0.7, optimizer=optimizer)


@pytest.mark.parametrize("start", ["spectral", pytest.param("features that follow", marks=pytest.mark.long)])
def test_updates(start):
    schedule = uj.cosine(1.0, horizon=40)
    if start == "spectral":
        model = uj.unconstrained(UNEVEN, 5, gamma=0.3, bias=True)
        state = model.init(jax.random.key(0), spectral=[2.0, 1.0, 0.5], precision="float64")
    else:
        model = uj.unconstrained(uj.balanced(3, 2), 5, gamma=0.3, bias=True)
        W = np.random.default_rng(0).normal(size=(3, 5))
        W -= W.mean(axis=0)
        state = uj.State(dense(model) @ W, W, np.ones(3))
    with jax.enable_x64(True):
        truth = stepped(model, state, (0.7, 1.0, 1.0), schedule, DECAY)
        for run in (uj.exact, uj.simulate):
            final = run(model, descent(schedule=schedule), state, [UPDATES], "loss").final
            for part, want in zip((final.H, final.W, final.b), truth, strict=True):
                got = np.asarray(part) * (1 if want.ndim == 1 else np.exp(float(final.log_scale)))
                assert np.linalg.norm(got - want) < 1e-13 * np.linalg.norm(want)


LAYOUTS = {
    "counts": lambda rng: UNEVEN,
    "weights": lambda rng: UNEVEN.weighted(samples=rng.uniform(0.5, 2.0, 6)),
    "class weights": lambda rng: UNEVEN.weighted(classes=rng.uniform(0.5, 2.0, 3)),
    "noise": lambda rng: UNEVEN.symmetric_noise(rng.uniform(0, 0.3)),
    "soft": lambda rng: uj.soft(rng.dirichlet(np.ones(3), size=6)),
}


@pytest.mark.parametrize(
    ("layout", "draws"), [("weights", 3), *(pytest.param(name, 10, marks=pytest.mark.long) for name in LAYOUTS)]
)
def test_random_problems(layout, draws):
    """Fifty in all, of any labels, sizes, rates and decays, against decompositions of every gradient."""
    for draw in range(draws):
        rng = np.random.default_rng([draw, len(layout)])
        model = uj.unconstrained(LAYOUTS[layout](rng), 5, gamma=rng.uniform(0.05, 1.5), bias=True)
        sizes = rng.uniform(0.1, 3.0, 3) * rng.choice([1e-3, 1.0, 1e3])
        state = model.init(jax.random.key(draw), spectral=sizes, bias=rng.normal(size=3), precision="float64")
        eta, decay, *rates = rng.uniform([0.01, 0.0, 0.5, 0.5, 0.5], [0.3, 1.0, 1.5, 1.5, 1.5])
        optimizer = uj.Optimizer(uj.spectral_descent, learning_rate=eta, weight_decay=decay)
        schedule = uj.cosine(1.0, horizon=40)
        given = uj.Descent(schedule, *rates[:2], rate_b=rates[2], optimizer=optimizer)
        final = uj.exact(model, given, state, [UPDATES], ()).final
        with jax.enable_x64(True):
            want = stepped(model, state, rates, schedule, decay, eta)
        for got, part in zip((final.H, final.W, final.b), want, strict=True):
            size = np.exp(float(final.log_scale)) if part.ndim == 2 else 1.0
            assert np.linalg.norm(size * got - part) < 1e-10 * np.linalg.norm(part), (layout, draw)


def test_every_singular_value_grows_alike_and_a_cut_changes_nothing():
    model = uj.unconstrained(UNEVEN, 5, gamma=0.3)
    state = model.init(jax.random.key(1), spectral=[2.0, 1.0, 0.5], precision="float64")
    assert np.allclose(np.linalg.svd(state.H, compute_uv=False)[:3], [2, 1, 0.5], rtol=1e-14)
    V, _, Q = np.linalg.svd(dense(model), full_matrices=False)
    assert np.allclose(Q @ state.W @ np.asarray(state.H).T @ V, np.diag([4, 1, 0.25]), atol=1e-13)
    whole = uj.exact(model, descent(0.0), state, [5, UPDATES], "loss")
    assert np.allclose(
        np.linalg.svd(whole.final.W, compute_uv=False), np.array([2, 1, 0.5]) + UPDATES * ETA, rtol=1e-13
    )
    again = uj.exact(model, descent(0.0), uj.exact(model, descent(0.0), state, [5], "loss"), [UPDATES], "loss")
    assert np.allclose(again["loss"], whole["loss"][1], rtol=1e-14)


def test_derivatives_are_those_of_rates():
    model = uj.unconstrained(UNEVEN, 5, gamma=0.3)
    state = model.init(jax.random.key(1), spectral=1.0, precision="float64")

    def loss(eta, scale=1.0):
        start = state.replace(H=scale * state.H)
        return uj.exact(model, descent(eta=eta), start, [UPDATES], "loss")["loss"][0]

    with jax.enable_x64(True):
        slope, unknown = jax.grad(loss, argnums=(0, 1))(ETA, 1.0)
        difference = (loss(ETA + 1e-6) - loss(ETA - 1e-6)) / 2e-6
    assert np.isclose(slope, difference, rtol=1e-8) and np.isnan(unknown)
    with pytest.raises(uj.NoClosedForm, match="nothing but rates changes"):
        sensitivity(model, descent(), state, [3], "loss", parameters=["gamma"], sources="exact")


def test_what_is_refused():
    model = uj.unconstrained(UNEVEN, 5, gamma=0.3)
    generic = model.init(jax.random.key(0), precision="float64")
    with pytest.raises(uj.NoClosedForm, match="keep their singular vectors"):
        uj.exact(model, descent(), generic, [3], "loss")
    with jax.enable_x64(True):
        traced = jax.jit(lambda H: uj.exact(model, descent(), generic.replace(H=H), [3], "loss")["loss"])(generic.H)
    assert np.isnan(traced).all()
    spectral = model.init(jax.random.key(0), spectral=1.0, precision="float64")
    with pytest.raises(uj.NoClosedForm, match="above 1; give a smaller one"):  # which turns it round at an update
        uj.exact(model, descent(30.0), spectral, [3], "loss")
    with jax.enable_x64(True):
        turned = jax.vmap(lambda decay: uj.exact(model, descent(decay), spectral, [3], "loss")["loss"][0])(
            np.array([19.0, 21.0])
        )
    want = uj.simulate(model, descent(19.0), spectral, [3], "loss")["loss"][0]
    assert np.isclose(turned[0], want, rtol=1e-13) and np.isnan(turned[1])
    with pytest.raises(uj.NoClosedForm, match="is part of the gradient"):
        uj.exact(model.replace(decay=0.1), descent(), spectral, [3], "loss")
