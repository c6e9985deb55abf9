"""A scale beside the arrays, whatever it is; parts of very different size; derivatives at states of zeros."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import unhinged_jax as uj
from unhinged_jax.special import safe_norm

LABELS = uj.balanced(3, 2)


def drawn(model, precision="float64", **more):
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(model.samples, model.dim)), rng.normal(size=(model.classes, model.dim))
    return uj.State(*(part.astype(precision) for part in parts), np.zeros(model.classes, precision), **more)


def test_a_scale_that_a_dense_run_cannot_hold_is_refused():
    linear = uj.unconstrained(LABELS, 3)
    entropy = uj.unconstrained(LABELS, 3, loss="cross_entropy")
    mixed = uj.ntk_invariant(LABELS, 3, np.eye(18) + 0.1, decay=0.01)
    ball = uj.spherical(LABELS, 3)
    step, flow = uj.Descent(0.1), uj.Flow()
    adam = uj.Descent(0.1, optimizer=optax.scale(-1.0))
    for log_scale in (-200.0, 200.0):
        state = drawn(linear, "float32", log_scale=log_scale)
        cases = [
            lambda s: uj.simulate(linear, step, s, [0, 2], "log_norm", reduce=False),
            lambda s: uj.simulate(mixed, step, s, [0, 2], "log_norm"),
            lambda s: uj.simulate(entropy, flow, s, [0.0, 2.0], "log_norm"),
            lambda s: uj.simulate(ball, step, s, [0, 2], "log_norm"),
            lambda s: uj.exact(ball, flow, s, [0.0, 2.0], "log_norm"),
            lambda s: uj.push_forward(entropy, flow, s, [0.0, 2.0], s),
            lambda s: uj.event_time(entropy, flow, s, "accuracy is 1", times=[0.0, 2.0], method="simulate"),
            lambda s: uj.sensitivity(entropy, flow, s, [2.0], "log_norm", ["eta"]),
            lambda s: uj.lyapunov(entropy, flow, s, 2.0, 1, segments=2),
            lambda s: uj.hessian_spectrum(entropy, s),
            lambda s: uj.simulate(linear, adam, s, [0, 2], "log_norm"),
        ]
        if log_scale > 0:
            cases.append(lambda s: uj.simulate(entropy, step, s, [0, 2], "log_norm"))
        for call in cases:
            with pytest.raises(ValueError, match=r"e\^log_scale times state.H .* precision='float64'"):
                call(state)
    with pytest.raises(ValueError, match="reduce=True"):
        uj.simulate(linear, step, drawn(linear, log_scale=-800.0), [2], "log_norm", reduce=False)


def test_a_scale_that_a_compiled_run_cannot_hold_gives_no_number():
    model = uj.unconstrained(LABELS, 3)

    @jax.jit
    def run(log_scale):
        state = drawn(model, "float32", log_scale=log_scale)
        out = uj.simulate(model, uj.Descent(0.1), state, [0, 2], "log_norm", reduce=False)
        return out["log_norm"], out.reached

    values, reached = run(jnp.float32(-200.0))
    assert not np.any(np.isfinite(values)) and not bool(reached[-1])
    assert np.all(np.isfinite(run(jnp.float32(-20.0))[0]))


@pytest.mark.parametrize("momentum", [pytest.param(None, marks=pytest.mark.long), 0.5])
def test_a_descent_of_cross_entropy_starts_from_any_small_scale_and_goes_on(momentum):
    """Of a state too small to see, log_norm moves by what a descent of one at the edge of sight makes of it."""
    model = uj.regularized(LABELS, 3, decay=0.5, loss="cross_entropy")
    dynamics = uj.Descent(0.1, momentum=momentum)
    seen = [
        uj.simulate(model, dynamics, drawn(model, "float32", log_scale=at), [0, 200, 400], ["log_norm", "accuracy"])
        for at in (-14.0, -200.0)
    ]
    np.testing.assert_allclose(seen[1]["log_norm"], np.asarray(seen[0]["log_norm"]) - 186, rtol=3e-7)
    half = uj.simulate(model, dynamics, drawn(model, "float32", log_scale=-200.0), [0, 200], ["log_norm"])
    whole = uj.simulate(model, dynamics, half, [200, 400], ["log_norm", "accuracy"])
    np.testing.assert_allclose(whole["log_norm"], seen[1]["log_norm"][1:], rtol=3e-7)
    assert float(half.final.log_scale) < -150 and whole["accuracy"].tolist() == seen[1]["accuracy"][1:].tolist()


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("push_forward", "to 40 cannot be followed.*overflow"),
        pytest.param("lyapunov", "the run stops between 0 and 40: overflow", marks=pytest.mark.long),
    ],
)
def test_maps_of_runs_that_end_early_are_refused(which, said):
    model = uj.unconstrained(LABELS, 3, loss="mse")
    state, diverging = drawn(model, "float32"), uj.Descent(1e4)
    with pytest.raises(ValueError, match=said):
        if which == "push_forward":
            uj.push_forward(model, diverging, state, [40], state)
        else:
            uj.lyapunov(model, diverging, state, 80, 1, segments=2)


def limit_direction(model, H, W):
    """The direction that (H, W) tends to without decay, from the eigenvectors of the dense coupling, in NumPy."""
    with jax.enable_x64(True):
        M = np.asarray(model.signal().dense("float64"))
    n, C = M.shape
    values, vectors = np.linalg.eigh(np.block([[np.zeros((n, n)), M], [M.T, np.zeros((C, C))]]))
    top = vectors[:, values > values[-1] * (1 - 1e-6)]
    size = max(np.abs(H).max(), np.abs(W).max())
    along = top @ (top.T @ (np.concatenate([H, W]) / size))
    return along[:n], along[n:]


def apart(X, Y):
    """Distance of two directions."""
    X, Y = (Z / np.abs(Z).max() for Z in (X, Y))
    return np.linalg.norm(X / np.linalg.norm(X) - Y / np.linalg.norm(Y))


@pytest.mark.parametrize(
    ("dynamics", "balanced", "precision"),
    [
        pytest.param(uj.Flow(0.5), True, "float64", marks=pytest.mark.long),
        pytest.param(uj.Descent(0.5), True, "float64", marks=pytest.mark.long),
        pytest.param(uj.Descent(0.5, momentum=0.5), False, "float32", marks=pytest.mark.long),
        pytest.param(uj.Descent(0.5), True, "float32", marks=pytest.mark.long),
        pytest.param(uj.Flow(0.5), False, "float32", marks=pytest.mark.long),
        pytest.param(uj.Descent(0.5), False, "float64", marks=pytest.mark.long),
    ],
)
def test_parts_of_very_different_size_are_read_as_given_beside_distances(dynamics, balanced, precision):
    """The leading part is as large as the larger of the two; the smaller one is no difference of such numbers."""
    model = uj.unconstrained(uj.balanced(3, 4) if balanced else uj.from_counts([6, 4, 2]), 4, gamma=0.2)
    beside = ("log_norm_H", "log_norm_W", "log_abs_loss", "accuracy_margin", "nc1")
    large, close = (1e150, 1e-9) if precision == "float64" else (1e18, 2e-4)
    small = 1e-30 / large if precision == "float64" else 1e-20
    sizes = [(small, large), (large, small), (small, 1.0), (small, small), (1.0, 1e-9)]
    kind = np.dtype(precision).type
    rng = np.random.default_rng(0)
    H, W = rng.normal(size=(12, 4)).astype(kind), rng.normal(size=(3, 4)).astype(kind)
    with jax.enable_x64(precision == "float64"):

        @jax.jit
        @jax.vmap
        def read(h, w):
            start = uj.State(h * H, w * W, np.zeros(3, kind))
            out = []
            for solve in (uj.simulate, uj.exact):
                run = solve(model, dynamics, start, [0, 8], [*beside, "distance_H", "distance_W", "distance"])
                out.append(dict(run.observables))
            return *out, {name: uj.observe_state(model, start, name)[name] for name in beside}

        found, truth, plain = read(*np.asarray(sizes, kind).T)
    for lane, (h, w) in enumerate(sizes):
        for name in beside:
            for run in (found, truth):
                assert float(run[name][lane, 0]) == pytest.approx(float(plain[name][lane]), rel=close), (name, h, w)
        lead_H, lead_W = limit_direction(model, float(h) * H.astype(float), float(w) * W.astype(float))
        for name, part, lead in (("distance_H", H, lead_H), ("distance_W", W, lead_W)):
            want = apart(part.astype(float), lead)
            for run in (found, truth):
                assert float(run[name][lane, 0]) == pytest.approx(want, rel=close), (name, h, w)
        for name in found:
            assert float(found[name][lane, 1]) == pytest.approx(float(truth[name][lane, 1]), rel=close), (name, h, w)


@pytest.mark.long
def test_what_goes_on_from_a_start_of_very_different_sizes_is_that_start():
    model = uj.unconstrained(uj.balanced(3, 4), 4, gamma=0.2)
    rng = np.random.default_rng(0)
    start = uj.State(1e-180 * rng.normal(size=(12, 4)), 1e150 * rng.normal(size=(3, 4)), np.zeros(3))
    standing = uj.Descent(uj.piecewise([0.0, 0.5], [3]), momentum=0.5)
    run = uj.simulate(model, standing, start, [0, 2], ["log_norm_H", "distance_H"])
    again = uj.simulate(model, standing, run, [2, 3, 4], ["log_norm_H", "distance_H"])
    for name in ("log_norm_H", "distance_H"):
        values = np.concatenate([run[name], again[name][:2]])
        np.testing.assert_allclose(values, values[0], rtol=1e-14)
    assert again["log_norm_H"][-1] > 300
    np.testing.assert_allclose(again.final.log_scale + np.log(np.linalg.norm(again.final.H)), again["log_norm_H"][-1])


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("count", [1, 5, 2**17])
def test_a_norm_and_its_gradient_are_right_at_every_size(precision, count):
    info = np.finfo(precision)
    direction = np.random.default_rng(0).normal(size=count) * np.logspace(0, -3, count)
    direction /= np.linalg.norm(direction)
    across = np.roll(direction, 1)
    across = np.asarray(across - direction * (direction @ across), precision)
    with jax.enable_x64(precision == "float64"):
        both = jax.jit(jax.value_and_grad(lambda x: safe_norm(x[:2], x[2:])))
        for size in np.logspace(np.log10(info.tiny) + 14, np.log10(info.max) - 2, 40):
            norm, gradient = both(jnp.asarray(size * direction, precision))
            np.testing.assert_allclose(norm, size, rtol=100 * info.eps)
            np.testing.assert_allclose(gradient, direction, rtol=100 * info.eps, atol=info.eps)
        zeros = jnp.zeros(count, precision)
        slope = functools.partial(jax.jvp, lambda x: safe_norm(x[:2], x[2:]))
        assert jax.jvp(lambda x: slope((x,), (across,))[1], (zeros,), (across,)) == (0, 0)
        assert not jnp.any(jax.jvp(lambda x: both(x)[1], (zeros,), (across,))[1])
        assert jax.jit(lambda x: safe_norm(x, jnp.zeros_like(x)))(zeros) == 0  # XLA squares what multiplies constants
        assert both(jnp.full(count, jnp.inf, precision))[0] == jnp.inf
        assert jnp.isnan(both(jnp.full(count, jnp.nan, precision))[0])
        assert both(jnp.zeros(count, precision))[0] == 0 and not jnp.any(both(jnp.zeros(count, precision))[1])
