"""Derivatives of observables: simulated, exact, central differences and matrix exponentials hold one another."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import unhinged_jax as uj
from unhinged_jax.derivatives.programs import _pairwise, best_mode
from unhinged_jax.derivatives.sensitivities import disagreement
from unhinged_jax.linear.spectrum import GeneralSpectrum

C, P = 3, 3


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def problem(dynamics, labels=None, decay=(0.1, 0.05), gamma=0.5):
    model = uj.regularized(uj.balanced(C, 2) if labels is None else labels, P, decay=decay, gamma=gamma)
    return model, dynamics, model.init(jax.random.key(3))


@pytest.fixture(scope="module")
def table():
    """A descent at gamma = 1/(C-1), where a singular value is 0; the certificate of derivatives does the rest."""
    with jax.enable_x64(True):
        wanted = ["gamma", "decay_H", "s", "eta"]
        start = problem(uj.Descent(0.3, rate_H=0.8))
        return uj.sensitivity(*start, [5, 30], ["loss", "log_norm_H"], wanted, order=2)


def test_simulated_descent_equals_exact_to_second_order(table):
    worst = disagreement(table)
    assert table.attrs["mode"] == "forward"
    assert worst["value"] < 1e-12
    assert worst["first"] < 1e-11
    assert worst["second"] < 1e-9


def test_swapped_observables_are_noticed(table):
    """The comparison itself is tested: two observables swapped in one source make it fail."""
    swapped = table.copy(deep=True)
    for name in ("value", "first", "second"):
        swapped[name].values[0] = swapped[name].values[0][::-1]
    worst = disagreement(swapped)
    assert min(worst[name] for name in ("value", "first", "second")) > 1e-2


def test_second_derivatives_are_one_program_whatever_their_number():
    """Of exp(a_i . x): values, slopes and every mixed derivative, from as many operations for 2 numbers as for 7."""

    def program(size):
        A = np.random.default_rng(size).normal(size=(3, size))
        x = np.linspace(-1, 1, size)
        value, first, second = _pairwise(lambda x: jnp.exp(A @ x), jnp.asarray(x))
        want = np.exp(A @ x)
        np.testing.assert_allclose(value, want, rtol=1e-14)
        np.testing.assert_allclose(first, (want[:, None] * A).T, rtol=1e-14)
        np.testing.assert_allclose(second, np.einsum("i,ij,ik->ijk", want, A, A), rtol=1e-13)
        return jax.jit(lambda x: _pairwise(lambda x: jnp.exp(A @ x), x)).lower(x).as_text().count("\n")

    assert program(2) == program(7)


@pytest.mark.long
def test_second_derivatives_beside_arrays(table):
    """An array of parameters is differentiated once and changes nothing in the second derivatives of numbers."""
    start = problem(uj.Descent(0.3, rate_H=0.8))
    found = uj.sensitivity(*start, [5, 30], "loss", ["gamma", "W", "eta"], order=2, sources="simulated")
    at = {"source": "simulated", "observable": "loss"}
    want = table.sel(**at, parameter=["gamma", "eta"], parameter_2=["gamma", "eta"])
    for name in ("value", "first", "second"):
        np.testing.assert_allclose(found[name].sel(at), want[name], rtol=1e-11)
    step = np.random.default_rng(0).normal(size=(C, P))
    model, dynamics, state = start

    def loss(size):
        return uj.simulate(model, dynamics, state.replace(W=state.W + size * step), [5, 30], "loss")["loss"]

    slope = np.sum(found["first_W"].sel(at).values * step, axis=(-2, -1))
    np.testing.assert_allclose(slope, (loss(1e-5) - loss(-1e-5)) / 2e-5, rtol=1e-6)


def test_values_are_those_of_a_run(table):
    found = uj.exact(*problem(uj.Descent(0.3, rate_H=0.8)), [5, 30], ["loss", "log_norm_H"])
    for name in ("loss", "log_norm_H"):
        np.testing.assert_allclose(table["value"].sel(source="exact", observable=name), found[name], rtol=1e-12)


@pytest.mark.long
def test_reverse_mode_through_momentum_reaches_arrays():
    """Whole arrays of features and class weights in reverse mode, against the exact solution."""
    start = problem(uj.Descent(0.2, momentum=0.5), uj.from_counts([2, 2, 1]))
    found = uj.sensitivity(*start, [20], "log_norm", ["H", "class_weights", "eta"])
    assert found.attrs["mode"] == "checkpointed"
    assert found["first_H"].shape == (2, 1, 1, 5, P)
    worst = disagreement(found)
    assert max(worst[name] for name in ("first", "first_H", "first_class_weights")) < 1e-9


WEIGHTS = np.array([[1.0, -0.4], [2.2, 0.7], [0.3, 1.6]])


@pytest.mark.parametrize(
    "values", [[1.0, 1.0, 2.0], [0.0, 1.0, 1.0 + 1e-9], [1.0, 1.0 + 1e-4, 2.0], [1.0, 1.0 + 4e-6, 2.0]]
)
def test_functions_of_a_matrix_have_two_derivatives_where_eigenvalues_meet(values):
    """exp(G t) X in a scan against central differences of SciPy's expm, each mode over each.

    Entries weigh differently, so that no error of the derivative is lost in its symmetric part.
    """
    rng = np.random.default_rng(0)
    Q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    A = rng.normal(size=(3, 3))
    G0, A, X = Q @ np.diag(values) @ Q.T, (A + A.T) / 2, rng.normal(size=(3, 2))

    def plain(x):
        return 2 * np.sum(WEIGHTS * (scipy.linalg.expm((G0 + x[0] * A) * (1 + x[1])) @ X) ** 2)

    h, E = 1e-3, np.eye(2)
    shifts = {(i, j): h * (i * E[0] + j * E[1]) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    at = {place: plain(step) for place, step in shifts.items()}
    fine = {place: plain(step / 2) for place, step in shifts.items()}

    def differences(f, h):
        slope = np.array([f[1, 0] - f[-1, 0], f[0, 1] - f[0, -1]]) / (2 * h)
        mixed = (f[1, 1] - f[1, -1] - f[-1, 1] + f[-1, -1]) / (4 * h**2)
        pure = [(f[1, 0] - 2 * f[0, 0] + f[-1, 0]) / h**2, (f[0, 1] - 2 * f[0, 0] + f[0, -1]) / h**2]
        return slope, np.array([[pure[0], mixed], [mixed, pure[1]]])

    # Richardson: the error of either is quadratic in h
    slope, curvature = ((4 * b - a) / 3 for a, b in zip(differences(at, h), differences(fine, h / 2), strict=True))
    found_slope, *found_curvature = _twice(jnp.asarray(G0), jnp.asarray(A), jnp.asarray(X))
    np.testing.assert_allclose(found_slope, slope, rtol=1e-8)
    for found in found_curvature:
        np.testing.assert_allclose(found, curvature, atol=1e-6 * np.max(np.abs(curvature)))


@jax.jit
def _twice(G0, A, X):
    def ours(x):
        gram, t = G0 + x[0] * A, 1 + x[1] * jnp.ones(2)
        d, u = jnp.linalg.eigh(jax.lax.stop_gradient(gram))
        spectrum = GeneralSpectrum(gram, d, u)
        f = jnp.exp(d * t[:, None])
        slopes = jnp.stack([t[:, None] * f, t[:, None] ** 2 * f], axis=1)
        return jnp.sum(jax.lax.map(lambda fd: jnp.sum(WEIGHTS * spectrum.apply(*fd, X) ** 2), (f, slopes)))

    x = jnp.zeros(2)
    forward, reverse = jax.jacfwd, jax.jacrev
    return jax.grad(ours)(x), *(one(other(ours))(x) for one in (forward, reverse) for other in (forward, reverse))


def test_the_rate_of_the_limit_has_its_kink_where_it_is():
    """min(gamma C, 2 + 2 gamma - gamma C)/(C sqrt(N)): slopes 1/sqrt(N) and (2-C)/(C sqrt(N)) at gamma = 1/(C-1)."""
    model = uj.unconstrained(uj.balanced(4, 4), 5)
    found = uj.limit_sensitivity(model, uj.Flow(), model.init(jax.random.key(0)), ["gamma"])
    at = {"quantity": "rate", "parameter": "gamma"}
    assert found["left"].sel(at).item() == pytest.approx(0.5, rel=1e-8)
    assert found["right"].sel(at).item() == pytest.approx(-0.25, rel=1e-8)
    assert found["kink"].sel(at).item()
    assert not found["kink"].sel({**at, "quantity": "exponent"}).item()


def test_one_sided_slopes_stop_at_the_edge_of_the_domain():
    left, right = uj.one_sided(lambda x: jnp.maximum(x, 1.0) ** 3, 1.0)
    assert abs(float(left)) < 1e-12
    assert float(right) == pytest.approx(3.0, rel=1e-9)
    assert np.isnan(uj.one_sided(jnp.sin, 0.0, least=0.0)[0])


def test_modes_are_chosen_by_size_and_refused_by_name():
    assert best_mode(4, 4) == "forward" and best_mode(4_000, 4) == "checkpointed"
    descent = problem(uj.Descent(0.1))
    with pytest.raises(ValueError, match="needs a Flow"):
        uj.sensitivity(*descent, [3], "loss", ["eta"], mode="backsolve")
    with pytest.raises(ValueError, match="forward mode"):
        uj.sensitivity(*descent, [3], "loss", ["eta"], mode="checkpointed", order=2)
    with pytest.raises(ValueError, match=r"unknown parameter 'speed'.* This problem has gamma"):
        uj.sensitivity(*descent, [3], "loss", ["speed"])
    with pytest.raises(ValueError, match="adjoint belongs to a Flow"):
        uj.simulate(*descent, [3], adjoint=diffrax.ForwardMode())
    sphere = uj.spherical(uj.balanced(C, 2), P, free_prototypes=True)
    with pytest.raises(uj.NoClosedForm):
        uj.sensitivity(sphere, uj.Flow(), sphere.init(jax.random.key(0)), [1.0], "loss", sources=["exact"])


@pytest.mark.long_for("opposite")
@pytest.mark.parametrize("side", [1.0, -1.0], ids=["at its target", "opposite"])
def test_a_sample_without_an_angle_has_right_slopes(side):
    """theta = 0 and theta = pi exactly, where a sample has no plane to move in: against the dense update."""
    rng = np.random.default_rng(4)
    W, H, D = rng.normal(size=(C, 4)), rng.normal(size=(6, 4)), rng.normal(size=(6, 4))
    W[0], H[0] = [2.0, 0.0, 0.0, 0.0], [side * 1.5, 0.0, 0.0, 0.0]
    model = uj.spherical(uj.balanced(C, 2), 4, gamma=0.0, decay=0.05)

    def logits(step, run, **how):
        state = uj.State(H + step * D, W, np.zeros(C))
        seen = {"logits": lambda model, state: state.H[0] @ state.W.T, "margin_mean": None}
        found = run(model, uj.Descent(0.5), state, [8], seen, **how)
        return jnp.append(found["logits"][0], found["margin_mean"][0])

    ours = jax.jit(jax.jacrev(lambda e: logits(e, uj.exact)))(0.0)
    want = jax.jit(jax.jacfwd(lambda e: logits(e, uj.simulate, reduce=False)))(0.0)
    assert np.max(np.abs(want[:3])) > 0.1
    np.testing.assert_allclose(ours, want, rtol=1e-10)


@pytest.mark.long
def test_the_direct_adjoint_of_a_single_time_is_finite_and_right():
    """diffrax evaluates what is saved in every step then, hundreds of steps' lengths away from it."""
    labels = uj.balanced(5, 6)
    state = uj.unconstrained(labels, 12).init(jax.random.key(0))

    def last(decay):
        flow = uj.Flow(0.5, rtol=1e-6, max_steps=256)
        run = uj.simulate(
            uj.regularized(labels, 12, decay=decay), flow, state, [100.0], "log_norm", adjoint=diffrax.DirectAdjoint()
        )
        return run["log_norm"][0]

    # Decay acts on every mode alike: log norm falls by it times the integral of the rate.
    np.testing.assert_allclose(jax.grad(last)(0.02), -50.0, rtol=1e-6)
