"""Observables of states far below the floating-point range, which only their logarithm of scale tells apart."""

import jax
import numpy as np
import pytest

import unhinged_jax as uj

LABELS = uj.from_counts([2, 3, 1])
FREE = ["accuracy", "accuracy_margin", "nc4"]


@pytest.mark.parametrize("bias", [None, [0.3, -0.2, 0.1]])
def test_what_does_not_depend_on_scale_survives_underflow(bias):
    """Scaling (H, W) by s and b by s^2 scales every logit by s^2: accuracy and margins in units of norms stay."""
    model = uj.unconstrained(LABELS, 4, bias=bias is not None)
    state = model.init(jax.random.key(0), bias=bias)
    want = uj.observe_state(model, state, FREE)
    shrink = -30.0 if bias is not None else -200.0  # e^-60 is a float32, e^-400 is none
    small = state.replace(b=np.asarray(state.b) * np.float32(np.exp(2 * shrink)), log_scale=np.float32(shrink))
    got = uj.observe_state(model, small, FREE)
    for name in FREE:
        assert float(got[name]) == pytest.approx(float(want[name]), rel=1e-5), name


def test_the_logarithm_of_the_loss_survives_underflow():
    model = uj.unconstrained(LABELS, 4)
    state = model.init(jax.random.key(0))
    want = uj.observe_state(model, state, "log_abs_loss")["log_abs_loss"]
    got = uj.observe_state(model, state.replace(log_scale=np.float32(-200.0)), "log_abs_loss")["log_abs_loss"]
    assert float(got) == pytest.approx(float(want) - 400, rel=1e-6)


def log_angles_in_the_plane(model, dynamics, H, W, times):
    """log distance to the target of plain updates with longdouble numbers, in Cartesian coordinates of each plane."""
    q, decay, n = model.rescaling, model.decay_H, len(H)
    with jax.enable_x64(True):
        pull = np.asarray(model.signal().dense("float64")) @ W
    size = np.linalg.norm(pull, axis=1)
    target = pull / size[:, None]
    along = np.sum(H * target, axis=1)
    across = np.linalg.norm(H - along[:, None] * target, axis=1)
    Z, velocity = np.array([along, across], np.longdouble), np.zeros((2, n), np.longdouble)
    eta, beta, found = np.longdouble(dynamics.schedule(0)), dynamics.momentum or 0.0, {}
    for k in range(times[-1] + 1):
        u, v = Z
        if k in times:
            # 2 sin(angle/2) without cancellation.
            angle = np.arctan2(np.abs(v), u)
            found[k] = 0.5 * np.log(np.sum((2 * np.sin(angle / 2)) ** 2))
        turn = size * np.hypot(u, v) ** (q - 3)
        velocity = beta * velocity + np.array([turn * v * v - decay * u, -turn * u * v - decay * v])
        Z = Z + eta * velocity
    return [float(found[k]) for k in times]


@pytest.mark.parametrize(
    ("labels", "decay", "dynamics", "times"),
    [
        # Steps that become too large as lengths shrink: what had come near its target leaves it again.
        (uj.balanced(3, 4), 2.0**-7, uj.Descent(0.5), [0, 200, 800, 1000, 1200]),
        (uj.from_counts([6, 4, 2]), 0.0, uj.Descent(2.0, momentum=0.5), [0, 10, 200, 1000]),
    ],
)
def test_angles_of_spherical_descents_fall_beyond_the_range_of_float32(labels, decay, dynamics, times):
    model = uj.spherical(labels, 4, decay=decay, rescale=1)
    rng = np.random.default_rng(0)
    H, W = rng.normal(size=(12, 4)).astype(np.float32), rng.normal(size=(3, 4)).astype(np.float32)
    want = log_angles_in_the_plane(model, dynamics, H.astype(float), W.astype(float), times)
    assert min(want) < -110
    start = uj.State(H, W, np.zeros(3, np.float32))
    for solve in (uj.simulate, uj.exact) if dynamics.momentum is None else (uj.simulate,):
        run = solve(model, dynamics, start, times, "log_distance")
        assert run.result is uj.RunResult.COMPLETED
        np.testing.assert_allclose(run["log_distance"], want, rtol=1e-5, atol=1e-5)


@pytest.mark.long
def test_angles_of_spherical_flows_fall_beyond_any_range():
    """tan(theta/2) falls by e^(kappa t) without decay and with q = 2, whatever the length."""
    model = uj.spherical(uj.balanced(3, 4), 4, rescale=2)
    state = model.init(jax.random.key(0))
    times = [0.0, 1e3, 1e5]
    slopes = []
    for solve in (uj.simulate, uj.exact):
        values = np.asarray(solve(model, uj.Flow(), state, times, "log_distance")["log_distance"], float)
        slopes.append(np.diff(values)[1] / np.diff(times)[1])
    pull = np.asarray(model.signal().dense("float32"), float) @ np.asarray(state.W, float)
    np.testing.assert_allclose(slopes, -np.linalg.norm(pull, axis=1).min(), rtol=1e-4)
