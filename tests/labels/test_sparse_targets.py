"""Sparse rows of targets: the same numbers as dense rows, and no (n, C) array where the loss is linear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import unhinged_jax as uj

N, C, P, DECAY = 9, 6, 4, (0.02, 0.05)
RNG = np.random.default_rng(5)
DENSE = np.where(RNG.random((N, C)) < 0.35, RNG.normal(size=(N, C)), 0.0)
DENSE[3] = 0.0  # a row without entries
TRUTH = np.arange(N) % C
SPARSE = scipy.sparse.csr_array(DENSE)
STATE = uj.State(RNG.normal(size=(N, P)), RNG.normal(size=(C, P)), RNG.normal(size=C))
FLOW, STEPS = uj.Flow(0.5, rtol=1e-10), uj.Descent(0.2)


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def both(build):
    """What is built on sparse rows and on dense ones."""
    return [build(uj.targets(rows, truth=TRUTH)) for rows in (SPARSE, DENSE)]


def equal(sparse, dense, close=1e-11):
    sparse, dense = jax.tree.leaves(sparse), jax.tree.leaves(dense)
    assert len(sparse) == len(dense)
    for one, other in zip(sparse, dense, strict=True):
        np.testing.assert_allclose(one, other, rtol=close, atol=close)


@pytest.mark.parametrize("form", ["csr_array", "coo_matrix", "csc_array", "lil_array"])
def test_every_format_of_scipy_is_taken(form):
    rows = uj.targets(getattr(scipy.sparse, form)(DENSE)).targets
    assert rows.shape == (N, C)
    np.testing.assert_array_equal(rows.dense(), DENSE)


def test_entries_given_twice_are_added():
    twice = scipy.sparse.coo_array(([1.0, 2.0, 4.0], ([0, 0, 1], [2, 2, 0])), shape=(2, 3))
    np.testing.assert_array_equal(uj.targets(twice).probabilities(), [[0, 0, 3], [4, 0, 0]])
    assert twice.nnz == 3  # what was given stays as it is


def test_the_signal_is_the_matrix_of_the_dense_rows():
    """Every product with M, beside NumPy's with M = diag(q) ((1 + gamma) Y - gamma)."""
    weights = RNG.random(N)
    labels = uj.targets(SPARSE).weighted(samples=weights)
    q = weights / weights.sum()
    signal = uj.regularized(labels, P, decay=DECAY, gamma=0.3).signal()
    M = q[:, None] * (1.3 * DENSE - 0.3)
    for found, expected in (
        (signal.times(STATE.W), M @ STATE.W),
        (signal.transpose_times(STATE.H), M.T @ STATE.H),
        (signal.column_sums("float64"), M.sum(axis=0)),
        (signal.gram("float64"), M.T @ M),
        (signal.dense("float64"), M),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.long_for("unhinged-dynamics1")
@pytest.mark.parametrize(
    ("loss", "dynamics"),
    [
        pytest.param("unhinged", FLOW, marks=pytest.mark.long),
        ("unhinged", STEPS),
        pytest.param("mse", FLOW, marks=pytest.mark.long),
        ("mse", STEPS),
    ],
)
def test_simulated_runs_agree(loss, dynamics):
    runs = both(
        lambda labels: uj.simulate(
            uj.regularized(labels, P, decay=DECAY, loss=loss, bias=True), dynamics, STATE, [0, 3, 6], states=True
        )
    )
    equal(runs[0].observables, runs[1].observables, 1e-9)
    equal(runs[0].states, runs[1].states, 1e-9)
    assert {"loss", "accuracy"} <= {*runs[0].observables}


@pytest.mark.long
def test_cross_entropy_and_batches_agree():
    positive = np.abs(DENSE)
    for loss, descent, key in (
        ("cross_entropy", STEPS, None),
        ("unhinged", uj.Descent(0.2, batch=4), jax.random.key(0)),
    ):
        sparse, dense = (
            uj.simulate(
                uj.unconstrained(uj.targets(rows).hold_out([1, 4]), P, loss=loss), descent, STATE, [5],
                ["loss", "test_loss", "norm"], states=True, key=key,
            )
            for rows in (scipy.sparse.csr_array(positive), positive)
        )  # fmt: skip
        equal(sparse.observables, dense.observables, 1e-12)


def test_closed_form_and_limit_agree():
    models = both(lambda labels: uj.regularized(labels, P, decay=DECAY))
    runs = [uj.exact(model, FLOW, STATE, [0.0, 4.0], ["loss", "distance", "nc1"]) for model in models]
    equal(runs[0].observables, runs[1].observables)
    limits = [uj.limit(model, FLOW, STATE) for model in models]
    equal(limits[0].direction, limits[1].direction)


@pytest.mark.long
def test_derivatives_with_respect_to_entries_are_those_of_the_dense_rows():
    labels = uj.targets(SPARSE)

    def loss(values):
        rows = values if values.shape == (N, C) else labels.replace(targets=rows_with(values)).targets
        model = uj.regularized(uj.targets(DENSE).replace(targets=rows), P, decay=DECAY)
        return uj.simulate(model, STEPS, STATE, [3], "loss").last("loss")

    def rows_with(values):
        import dataclasses

        return dataclasses.replace(labels.targets, values=values)

    sparse = jax.jit(jax.grad(loss))(jnp.asarray(labels.targets.values))
    dense = np.asarray(jax.grad(loss)(jnp.asarray(DENSE)))
    columns = np.asarray(labels.targets.columns)
    np.testing.assert_allclose(sparse, dense[np.arange(N)[:, None], columns], rtol=1e-11, atol=1e-13)
    both_at_once = jax.vmap(loss)(jnp.stack([labels.targets.values, 2 * labels.targets.values]))
    assert float(both_at_once[0]) == pytest.approx(float(loss(jnp.asarray(DENSE))), rel=1e-12)
    assert float(both_at_once[1]) == pytest.approx(float(loss(jnp.asarray(2 * DENSE))), rel=1e-12)


def test_single_precision_follows_the_state():
    state = STATE.replace(H=STATE.H.astype("float32"), W=STATE.W.astype("float32"), b=STATE.b.astype("float32"))
    runs = both(lambda labels: uj.simulate(uj.regularized(labels, P, decay=DECAY), STEPS, state, [4], "loss"))
    assert runs[0].final.H.dtype == np.float32
    equal(runs[0].final.H, runs[1].final.H, 1e-5)


def test_no_dense_array_is_made_under_a_linear_loss():
    """The largest array of the compiled update is far below n C."""
    rows = scipy.sparse.random_array((400, 900), density=3 / 900, rng=np.random.default_rng(0), format="csr")
    model = uj.unconstrained(uj.targets(rows), 8, bias=True)
    state = model.init(jax.random.key(0))

    def run(state):
        return uj.simulate(model, STEPS, state, [0, 5], ["loss", "norm"]).observables

    sizes = [
        var.aval.size
        for jaxpr in jax.core.jaxprs_in_params({"jaxpr": jax.make_jaxpr(run)(state)})
        for equation in every(jaxpr)
        for var in equation.outvars
    ]
    assert max(sizes) < 400 * 900 / 2


def every(jaxpr):
    """All equations of a program, inside and out."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from every(inner)


def test_what_sparse_rows_cannot_be_is_said():
    with pytest.raises(ValueError, match=r"soft takes dense rows; give a sparse matrix to `targets`"):
        uj.soft(SPARSE)
    with pytest.raises(ValueError, match="sparse rows are targets of kind 'values', but kind is 'soft'"):
        uj.targets(SPARSE).replace(kind="soft")
    with pytest.raises(ValueError, match="finite"):
        uj.targets(scipy.sparse.csr_array([[np.nan, 0.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match=r"\(n, C\)"):
        uj.targets(scipy.sparse.csr_array((0, 3)))
    with pytest.raises(ValueError, match="Focal has no meaning"):
        uj.unconstrained(uj.targets(SPARSE), P, loss="focal")
    with pytest.raises(ValueError, match="of at least 0"):
        uj.unconstrained(uj.targets(SPARSE), P, loss="cross_entropy")
    with pytest.raises(ValueError, match="not classes; give `truth`"):
        uj.simulate(uj.unconstrained(uj.targets(SPARSE), P), STEPS, STATE, [1], "accuracy")
    wide = scipy.sparse.csr_array(([1.0], ([0], [0])), shape=(2**21, 2**21))
    with pytest.raises(MemoryError, match=r"sparse targets of shape .* as a dense array"):
        uj.targets(wide).probabilities()
