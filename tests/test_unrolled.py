"""Steps written out stage by stage are those of the diffrax solver they belong to."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unhinged_jax.simulate.unrolled import Unrolled

TIMES = np.linspace(0.0, 2.0, 11)


def path(solver, speed):
    """y' = speed A y + sin t, with a jump of the step size control on the way; 11 points between steps."""
    A = jnp.asarray(np.random.default_rng(0).standard_normal((4, 4)))
    controller = diffrax.PIDController(rtol=1e-6, atol=1e-6)
    return diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: {"y": speed * args @ y["y"] + jnp.sin(t)}), solver, 0.0, 2.0, None,
        {"y": jnp.ones(4)}, args=A, saveat=diffrax.SaveAt(ts=TIMES),
        stepsize_controller=diffrax.ClipStepSizeController(controller, jump_ts=jnp.asarray([0.7])),
    )  # fmt: skip


@pytest.fixture(scope="module", params=[diffrax.Tsit5(), diffrax.Dopri5()], ids=lambda solver: type(solver).__name__)
def pair(request):
    return request.param, Unrolled(request.param)


@pytest.mark.long
def test_path_steps_and_derivatives_are_the_same(pair):
    with jax.enable_x64(True):
        theirs, ours = (path(solver, 0.5) for solver in pair)
        assert int(theirs.stats["num_steps"]) == int(ours.stats["num_steps"])
        np.testing.assert_allclose(ours.ys["y"], theirs.ys["y"], rtol=1e-13)
        slopes = [jax.grad(lambda speed, s=solver: jnp.sum(path(s, speed).ys["y"]))(0.5) for solver in pair]
        np.testing.assert_allclose(slopes[1], slopes[0], rtol=1e-11)


def test_lanes_are_single_runs(pair):
    with jax.enable_x64(True):
        lanes = jax.vmap(lambda speed: path(pair[1], speed).ys["y"])(jnp.asarray([0.5, -0.3]))
        np.testing.assert_allclose(lanes[1], path(pair[1], -0.3).ys["y"], rtol=1e-12)


def test_a_solver_without_a_shared_stage_is_refused():
    with pytest.raises(TypeError, match="Heun"):
        Unrolled(diffrax.Heun())
