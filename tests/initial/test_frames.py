"""Prototypes of more classes than dimensions: cosines against bounds and best codes that others have proven."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import unhinged_jax as uj
from unhinged_jax import collapse, initial

LONG = pytest.mark.long


def cosines(W):
    W = np.asarray(W, float)
    W = W / np.linalg.norm(W, axis=1, keepdims=True)
    return (W @ W.T)[~np.eye(len(W), dtype=bool)].reshape(len(W), -1)


@pytest.mark.parametrize(("classes", "dim"), [(4, 3), (5, 3), (6, 3), (7, 5), (8, 4)])
def test_orthoplex(classes, dim):
    with jax.enable_x64(True):
        W = np.asarray(initial.orthoplex(classes, dim))
        turned = np.asarray(initial.orthoplex(classes, dim, jax.random.key(0)))
    found = cosines(W)
    # Rankin 1955: no code of more than p + 1 vectors has a largest cosine below 0; Welch: their mean cosine.
    assert found.max() == pytest.approx(0.0 if classes > dim + 1 else -1 / dim, abs=1e-15)
    assert found.mean() == pytest.approx(-1 / (classes - 1))
    np.testing.assert_allclose(W.sum(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(turned @ turned.T, W @ W.T, atol=1e-14)
    assert np.linalg.matrix_rank(W) == dim and not np.allclose(turned, W)
    if classes > dim + 1:
        assert float(collapse.one_vs_rest_distance(W)) == pytest.approx(1.0, abs=1e-7)
    if classes == 2 * dim:
        np.testing.assert_array_equal(initial.orthoplex(classes, dim), np.kron(np.eye(dim), [[1], [-1]]))


# Angles in degrees to the digits of Sloane's tables of spherical codes; those of 10 points as in OEIS A340918.
TAMMES = {
    (7, 3): 77.8695421, (8, 3): 74.8584922, (9, 3): 70.5287794, (10, 3): np.degrees(1.1544798334192707),
    (11, 3): 63.4349488, (12, 3): 63.4349488, (16, 5): np.degrees(np.arccos(0.2)), (27, 6): np.degrees(np.arccos(0.25)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("classes", "dim", "tries"),
    [(9, 3, 3), *(pytest.param(*pair, 16, marks=LONG) for pair in TAMMES)],
)
def test_a_softmax_code_is_the_best_that_is_known(classes, dim, tries):
    W = initial.softmax_code(classes, dim, jax.random.key(5), tries)
    best = TAMMES[classes, dim]
    np.testing.assert_allclose(np.degrees(np.arccos(cosines(W).max())), best, atol=3e-5)
    np.testing.assert_allclose(np.linalg.norm(W, axis=1), 1, rtol=1e-6)
    ideal = collapse.METRICS["minimal_angle_prototypes"].ideal(classes, dim)
    np.testing.assert_allclose(np.degrees(ideal), best, atol=6e-8)


def test_ideal_angles_by_classes_and_dimension():
    ideal = collapse.METRICS["minimal_angle_prototypes"].ideal
    for classes, dim, cosine in ((4, 9, -1 / 3), (4, 3, -1 / 3), (5, 3, 0.0), (10, 5, 0.0), (8, 2, 0.5**0.5)):
        assert np.cos(ideal(classes, dim)) == pytest.approx(cosine, abs=1e-15)
        # What the functions draw there has it.
        with jax.enable_x64(True):
            W = initial.softmax_code(classes, dim, jax.random.key(1))
        assert cosines(W).max() == pytest.approx(cosine, abs=1e-12)
    assert np.isnan(ideal(13, 3)) and np.isnan(ideal(28, 6))


@LONG
def test_a_code_is_a_local_minimum_for_another_optimiser():
    """SLSQP on (W, t): minimise t subject to every cosine being at most t; 13 points, whose best angle is proven."""
    W = np.asarray(initial.softmax_code(13, 3, jax.random.key(0)), float)
    first, second = np.triu_indices(13, 1)

    def unit(x):
        V = x[:-1].reshape(13, 3)
        return V / np.linalg.norm(V, axis=1, keepdims=True)

    def slack(x):
        V = unit(x)
        return x[-1] - np.sum(V[first] * V[second], axis=1)

    start = np.append(W.ravel(), cosines(W).max() + 1e-6)
    found = minimize(lambda x: x[-1], start, method="SLSQP", constraints={"type": "ineq", "fun": slack},
                     options={"maxiter": 200, "ftol": 1e-12})  # fmt: skip
    assert cosines(W).max() <= cosines(unit(found.x)).max() + 1e-6
    np.testing.assert_allclose(np.degrees(np.arccos(cosines(W).max())), 57.1367031, atol=1e-4)  # Musin & Tarasov 2012


def test_a_model_starts_from_frames():
    for labels, dim, name in ((uj.balanced(6, 2), 3, "orthoplex"), (uj.balanced(9, 1), 2, "softmax_code")):
        model = uj.spherical(labels, dim, loss=uj.losses.CrossEntropy(0.1))
        state = model.init(jax.random.key(0), prototypes=name, precision="float64")
        want = collapse.METRICS["minimal_angle_prototypes"].ideal(labels.classes, dim)
        assert np.arccos(cosines(state.W).max()) == pytest.approx(want, abs=1e-7)
    with pytest.raises(ValueError, match="initial state of the prototypes"):
        model.init(jax.random.key(0), features="orthoplex")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: initial.orthoplex(3, 3), "give 'etf'"),
        (lambda: initial.orthoplex(7, 3), "give 'softmax_code'"),
        (lambda: initial.softmax_code(3, 1, jax.random.key(0)), "in one dimension"),
        (lambda: jax.jit(lambda key: initial.softmax_code(7, 3, key))(jax.random.key(0)), "outside jax.jit"),
        (lambda: initial.softmax_code(7, 3, jax.random.key(0), tries=0), "at least 1"),
    ],
)
def test_what_is_no_frame(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_temperature_of_cross_entropy_divides_the_logits():
    draw = np.random.default_rng(0)
    logits, targets = draw.normal(size=(4, 3)), draw.dirichlet(np.ones(3), size=4)
    with jax.enable_x64(True):
        cold, plain = uj.losses.CrossEntropy(temperature=0.1), uj.losses.CrossEntropy()
        z = logits / 0.1
        want = -np.sum(targets * (z - np.log(np.sum(np.exp(z), axis=1, keepdims=True))), axis=1)
        np.testing.assert_allclose(cold(logits, targets), want, rtol=1e-13)
        np.testing.assert_allclose(cold.of_columns(logits.T, targets.T), want, rtol=1e-13)
        weights = jnp.asarray(draw.uniform(size=4))
        slope = -jax.grad(lambda s: jnp.sum(weights * cold(s, targets)))(jnp.asarray(logits))
        np.testing.assert_allclose(cold.pull(logits.T, targets.T, weights).T, slope, rtol=1e-12)
        np.testing.assert_array_equal(plain(logits, targets), uj.losses.CrossEntropy(1.0)(logits, targets))
        in_T = jax.grad(lambda T: jnp.sum(uj.losses.CrossEntropy(T)(logits, targets)))(0.7)
        near = [np.sum(uj.losses.CrossEntropy(0.7 + h)(logits, targets)) for h in (1e-6, -1e-6)]
        np.testing.assert_allclose(in_T, (near[0] - near[1]) / 2e-6, rtol=1e-8)
    with pytest.raises(ValueError, match="temperature"):
        uj.losses.CrossEntropy(0.0)(logits, targets)
