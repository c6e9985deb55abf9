"""Implicit solvers of diffrax for stiff flows, beside SciPy's Radau."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import unhinged_jax as uj

N, C, P, DECAY, FAST, END = 6, 3, 2, 0.01, 3000.0, 20.0
INDEX = np.repeat(np.arange(C), 2)
RNG = np.random.default_rng(4)
START = uj.State(RNG.normal(size=(N, P)), RNG.normal(size=(C, P)))
MODEL = uj.regularized(uj.from_labels(INDEX, C), P, decay=DECAY, loss="mse")


def flow(solver=None, **settings):
    """W moves 3,000 times as fast as H."""
    return uj.Flow(1.0, solver=solver, **{"rate_W": FAST, "rtol": 1e-8, "max_steps": 2_000, **settings})


def by_radau(decay=DECAY):
    def field(t, z):
        H, W = z[: N * P].reshape(N, P), z[N * P :].reshape(C, P)
        pull = (np.eye(C)[INDEX] - H @ W.T) / N
        return np.concatenate([(pull @ W - decay * H).ravel(), FAST * (pull.T @ H - decay * W).ravel()])

    begin = np.concatenate([START.H.ravel(), START.W.ravel()])
    end = solve_ivp(field, (0, END), begin, "Radau", rtol=1e-10, atol=1e-12).y[:, -1]
    return end[: N * P].reshape(N, P), end[N * P :].reshape(C, P)


@pytest.mark.long_for("Kvaerno3")
@pytest.mark.parametrize("solver", [diffrax.Kvaerno5(), diffrax.Kvaerno3()], ids=lambda solver: type(solver).__name__)
def test_an_implicit_solver_takes_the_steps_that_the_solution_needs(solver):
    run = uj.simulate(MODEL, flow(solver), START, [END / 2, END], "loss")
    assert run.code == uj.RunResult.COMPLETED
    for part, expected in zip((run.final.H, run.final.W), by_radau(), strict=True):
        np.testing.assert_allclose(part, expected, atol=1e-6)


def test_the_default_solver_says_that_it_ran_out_of_steps():
    run = uj.simulate(MODEL, flow(), START, [END], "loss")
    assert run.code == uj.RunResult.MAX_STEPS and "Kvaerno5" in run.result.message


@pytest.mark.long
def test_a_batch_and_other_forms_of_a_problem():
    states = jax.tree.map(lambda part: np.stack([part, 0.5 * part]), START)
    with jax.enable_x64(True):
        runs = jax.vmap(lambda state: uj.simulate(MODEL, flow(diffrax.Kvaerno5()), state, [END], "loss"))(states)
    alone = uj.simulate(MODEL, flow(diffrax.Kvaerno5()), START, [END], "loss", reduce=False)
    assert runs.code.tolist() == [uj.RunResult.COMPLETED] * 2
    assert float(runs["loss"][0, -1]) == pytest.approx(float(alone["loss"][-1]), rel=1e-6)
    linear = MODEL.replace(loss="unhinged")
    found = uj.simulate(linear, flow(diffrax.Kvaerno5(), rate_W=1.0), START, [2.0], "log_norm")
    expected = uj.exact(linear, flow(rate_W=1.0), START, [2.0], "log_norm")
    assert float(found["log_norm"][0]) == pytest.approx(float(expected["log_norm"][0]), rel=1e-6)


def slope_of(adjoint, until=END, **settings):
    """d norm_W / d decay, in forward mode where the adjoint asks for it."""

    def norm(decay):
        run = uj.simulate(MODEL.replace(decay=decay), flow(**settings), START, [until], "norm_W", adjoint=adjoint)
        return run.last("norm_W")

    forward = isinstance(adjoint, diffrax.ForwardMode)
    with jax.enable_x64(True):
        return float((jax.jacfwd if forward else jax.grad)(norm)(jnp.asarray(DECAY)))


@pytest.mark.long
@pytest.mark.parametrize("adjoint", [None, diffrax.ForwardMode()], ids=["reverse", "forward"])
def test_derivatives_pass_through_an_implicit_solver(adjoint):
    ends = [np.linalg.norm(by_radau(DECAY + step)[1]) for step in (-1e-5, 1e-5)]
    assert slope_of(adjoint, solver=diffrax.Kvaerno3()) == pytest.approx((ends[1] - ends[0]) / 2e-5, rel=1e-4)


@pytest.mark.long
def test_the_backsolve_adjoint_goes_back_through_a_loss_that_is_not_linear():
    found, expected = (slope_of(adjoint, 1.0, rate_W=1.0) for adjoint in (diffrax.BacksolveAdjoint(), None))
    assert found == pytest.approx(expected, rel=1e-5)


def test_what_is_no_solver_of_ordinary_equations_is_refused():
    with pytest.raises(ValueError, match="solver must be a diffrax solver"):
        uj.Flow(solver=diffrax.KenCarp4())
