"""Steps whose stages are written out, or scanned, are those of the diffrax solver they belong to."""

import dataclasses
import itertools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax.simulation.large_states import DecayingTerm, Force, Unrolled
from unhinged_jax.simulation.scanned_stages import Scanned

TIMES = np.linspace(0.0, 2.0, 11)


def path(solver, speed, as_term=False):
    """y' = speed A y + sin t - d(t) y, where d jumps at 0.7 and the step size control with it; 11 points."""
    A = jnp.asarray(np.random.default_rng(0).standard_normal((4, 4)))

    def force(t, y, args):
        decay = jnp.where(t < 0.7, 0.1, 2.0) * speed
        return Force({"y": speed * args @ y["y"] + jnp.sin(t)}, {"y": decay}, y)

    controller = diffrax.PIDController(rtol=1e-6, atol=1e-6)
    return diffrax.diffeqsolve(
        DecayingTerm(force) if as_term else diffrax.ODETerm(lambda *point: force(*point).velocity()), solver, 0.0, 2.0,
        None, {"y": jnp.ones(4)}, args=A, saveat=diffrax.SaveAt(ts=TIMES),
        stepsize_controller=diffrax.ClipStepSizeController(controller, jump_ts=jnp.asarray([0.7])),
    )  # fmt: skip


@pytest.fixture(
    scope="module",
    params=[
        Unrolled(diffrax.Tsit5()), pytest.param(Unrolled(diffrax.Dopri5()), marks=pytest.mark.long),
        Scanned(diffrax.Dopri8()), pytest.param(Scanned(diffrax.Tsit5()), marks=pytest.mark.long),
    ],
    ids=["Tsit5", "Dopri5", "scanned Dopri8", "scanned Tsit5"],
)  # fmt: skip
def pair(request):
    return request.param.solver, request.param


@pytest.mark.long_for("Tsit5-whole velocity", "Tsit5-decay apart", "scanned Dopri8-decay apart")
@pytest.mark.parametrize("as_term", [False, True], ids=["whole velocity", "decay apart"])
def test_path_steps_and_derivatives_are_the_same(pair, as_term):
    with jax.enable_x64(True):
        theirs, ours = (path(solver, 0.5, apart) for solver, apart in zip(pair, (False, as_term), strict=True))
        assert int(theirs.stats["num_steps"]) == int(ours.stats["num_steps"])
        np.testing.assert_allclose(ours.ys["y"], theirs.ys["y"], rtol=1e-13)
        slopes = [
            jax.grad(lambda speed, s=solver, apart=apart: jnp.sum(path(s, speed, apart).ys["y"]))(0.5)
            for solver, apart in zip(pair, (False, as_term), strict=True)
        ]
        np.testing.assert_allclose(slopes[1], slopes[0], rtol=1e-11)


@pytest.mark.long_for("Tsit5-decay apart", "scanned Dopri8-decay apart")
@pytest.mark.parametrize("as_term", [False, True], ids=["whole velocity", "decay apart"])
def test_lanes_are_those_of_the_solver(pair, as_term):
    with jax.enable_x64(True):
        speeds = jnp.asarray([0.5, -0.3])
        theirs, ours = (
            jax.vmap(lambda speed, s=solver, apart=apart: path(s, speed, apart).ys["y"])(speeds)
            for solver, apart in zip(pair, (False, as_term), strict=True)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        # Steps of order 8 are so long that their ends move by 1e-12 with rounding, those of diffrax as well.
        np.testing.assert_allclose(ours[1], path(pair[1], -0.3, as_term).ys["y"], rtol=1e-11)


def test_float32_decays_to_its_last_digits():
    want = decaying(diffrax.Tsit5(), 0.3, as_term=False)
    got = decaying(Unrolled(diffrax.Tsit5()), 0.3, as_term=True)
    for name in ("y", "z"):
        assert got[name].dtype == jnp.float32
        np.testing.assert_allclose(got[name], want[name], rtol=3e-6, atol=3e-6)


def test_a_solver_without_a_shared_stage_is_refused():
    with pytest.raises(TypeError, match="Heun"):
        Unrolled(diffrax.Heun())


def decaying(solver, decay, as_term):
    """y' = (1 + cos t) tanh A y - d (1 + cos t) y beside a z that does not decay, in 50 equal steps, at 11 points."""
    A = jnp.asarray(np.random.default_rng(0).standard_normal((4, 4)))

    def force(t, y, args):
        rate = 1 + jnp.cos(t)
        push = {"y": rate * jnp.tanh(A @ y["y"]), "z": y["y"] - jnp.sin(y["z"])}
        return Force(push, {"y": rate * decay, "z": jnp.zeros(())}, y)

    term = DecayingTerm(force) if as_term else diffrax.ODETerm(lambda t, y, args: force(t, y, args).velocity())
    start = {"y": jnp.ones(4), "z": jnp.zeros(4)}
    return diffrax.diffeqsolve(term, solver, 0.0, 5.0, 0.1, start, saveat=diffrax.SaveAt(ts=jnp.linspace(0, 5, 11))).ys


@pytest.mark.long
def test_decay_in_the_weights_is_decay_in_the_velocity(pair):
    with jax.enable_x64(True):
        want = decaying(pair[0], 0.3, as_term=False)
        slope = jax.grad(lambda decay: jnp.sum(decaying(pair[0], decay, as_term=False)["z"]))(0.3)
        for solver in pair:
            got = decaying(solver, 0.3, as_term=True)
            for name in ("y", "z"):
                np.testing.assert_allclose(got[name], want[name], rtol=1e-13, atol=1e-14)
        ours = jax.grad(lambda decay: jnp.sum(decaying(pair[1], decay, as_term=True)["z"]))(0.3)
        np.testing.assert_allclose(ours, slope, rtol=1e-12)


LABELS = uj.from_counts([4, 2, 3])
CASES = {
    "both move": uj.regularized(LABELS, dim=8, decay=(0.02, 0.05), bias=True, loss="cross_entropy"),
    "features stay": uj.frozen(LABELS, dim=8, decay=0.05, bias=True, loss="cross_entropy"),
    "prototypes stay": uj.anchored(LABELS, dim=8, decay=0.02, loss="cross_entropy"),
}


QUICK = [("both move", 101)]


@pytest.mark.long_for("both move-101")
@pytest.mark.parametrize(
    ("name", "points"),
    [
        pair if pair in QUICK else pytest.param(*pair, marks=pytest.mark.long)
        for pair in itertools.product(CASES, (3, 101))  # few points, or with the logits carried
    ],
)
def test_flows_of_large_states_are_those_of_small_ones(name, points):
    model = CASES[name]
    state = model.init(jax.random.key(3), precision="float64")
    observe, times = ["loss", "objective", "accuracy", "norm_H", "norm_W"], np.linspace(0, 25, points)
    flow = uj.Flow(uj.cosine(1.0, horizon=30), rate_H=1.5, rate_W=0.7, rtol=1e-9, solver=Unrolled(diffrax.Tsit5()))
    large = uj.simulate(model, flow, state, times, observe)
    small = uj.simulate(model, dataclasses.replace(flow, solver=None), state, times, observe, reduce=False)
    for name in observe:
        np.testing.assert_allclose(large[name], small[name], rtol=2e-8, err_msg=name)
    np.testing.assert_allclose(large.final.H, small.final.H, rtol=2e-8, atol=2e-9)
    np.testing.assert_allclose(large.final.W, small.final.W, rtol=2e-8, atol=2e-9)
