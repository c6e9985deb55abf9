"""The tangent kernel: against finite differences, a model linear in its parameters, and real networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax.kernel import Kernel
from unhinged_jax.training import ntk
from unhinged_jax.training.experiments import kernel as experiment
from unhinged_jax.training.experiments.kernel_report import fitted_slope

C, N, P, D = 3, 3, 2, 5
TIMES = np.array([0, 5, 20])


@pytest.fixture(scope="module")
def case():
    """Inputs, labels and prototypes in float64."""
    draw = np.random.default_rng(0)
    return draw.normal(size=(C * N, D)), uj.balanced(C, N, order="cyclic"), draw.normal(size=(C, P))


def random_features(parameters, inputs):
    """Linear in the parameters, not in the inputs."""
    return jnp.tanh(inputs @ jnp.sin(jnp.arange(D * 4.0)).reshape(D, 4)) @ parameters["out"] + parameters["shift"]


def test_a_model_linear_in_its_parameters_is_predicted(case):
    x, labels, W = case
    draw = np.random.default_rng(1)
    with jax.enable_x64(True):
        parameters = {"out": jnp.asarray(draw.normal(size=(4, P))), "shift": jnp.asarray(draw.normal(size=P))}
        truth = ntk.predict(random_features, parameters, W, x, labels, uj.Descent(0.2), TIMES)
        H, Wt, reached = ntk.descend(random_features, parameters, W, x, labels, 0.2, TIMES)
    assert np.all(reached) and np.linalg.norm(H[-1] - H[0]) > 1
    for seen, predicted in ((H, truth.states.H), (Wt, truth.states.W)):
        np.testing.assert_allclose(seen, predicted, rtol=1e-8, atol=1e-10)
    # Loss and accuracy of that very model, by loops.
    for k in range(len(TIMES)):
        S = H[k] @ Wt[k].T
        y = np.asarray(labels.index)
        own = S[np.arange(C * N), y]
        assert float(truth["loss"][k]) == pytest.approx(np.mean(-1.5 * own + 0.5 * S.sum(axis=1)), rel=1e-8)
        assert float(truth["accuracy"][k]) == np.mean(S.argmax(axis=1) == y)


def test_training_is_plain_descent_on_parameters_and_prototypes(case):
    """Against a loop in NumPy with the gradients of x @ theta derived by hand."""
    x, labels, W = case
    theta = np.random.default_rng(2).normal(size=(D, P))
    M = 1.5 * np.eye(C)[np.asarray(labels.index)] / (C * N) - 0.5 / (C * N)
    with jax.enable_x64(True):
        H, Wt, _ = ntk.descend(lambda p, z: z @ p, jnp.asarray(theta), W, x, labels, 0.1, [0, 3])
    for _ in range(3):
        theta, W = theta + 0.1 * x.T @ (M @ W), W + 0.1 * M.T @ (x @ theta)
    np.testing.assert_allclose(H[-1], x @ theta, rtol=1e-12)
    np.testing.assert_allclose(Wt[-1], W, rtol=1e-12)


def test_the_kernel_is_that_of_finite_differences(case):
    x, labels, _ = case
    with jax.enable_x64(True):
        network, parameters = ntk.ntk_network(jax.random.key(0), D, 4, P, depth=2)
        found = ntk.empirical_kernel(network, parameters, x).matrix
        means = ntk.class_mean_kernel(network, parameters, x, labels).matrix
        columns = []
        for place, weight in enumerate(parameters):
            for at in np.ndindex(weight.shape):
                both = [network([w.at[at].add(s) if i == place else w for i, w in enumerate(parameters)], x)
                        for s in (1e-6, -1e-6)]  # fmt: skip
                columns.append(np.asarray(both[0] - both[1]).ravel() / 2e-6)
    J = np.array(columns).T
    np.testing.assert_allclose(found, J @ J.T, atol=1e-6)
    index = np.asarray(labels.index)
    pooled = np.array([J.reshape(C * N, P, -1)[index == c].mean(axis=0) for c in range(C)]).reshape(C * P, -1)
    np.testing.assert_allclose(means, pooled @ pooled.T, atol=1e-6)
    blocks = found.reshape(C * N, P, C * N, P)
    expected = [[np.trace(blocks[i, :, j]) / P for j in range(C * N)] for i in range(C * N)]
    np.testing.assert_allclose(ntk.per_sample(Kernel(found, "coordinates"), P).matrix, expected, rtol=1e-12)


def test_class_means_need_only_the_kernel_of_class_means(case):
    """Unequal counts and class weights included: the small problem gives the class means of the large one."""
    x, _, W = case
    labels = uj.from_labels([0, 1, 2, 0, 1, 0, 0, 1, 0], C).weighted(classes=[1.0, 2.0, 3.0])
    with jax.enable_x64(True):
        network, parameters = ntk.ntk_network(jax.random.key(1), D, 6, P)
        whole, means = (
            ntk.predict(network, parameters, W, x, labels, uj.Flow(), [0.0, 0.5, 1.5], form=form)
            for form in ("coordinates", "class_means")
        )
    averages = ntk.class_averages(labels)
    np.testing.assert_allclose(means.states.H, np.einsum("cn,tnp->tcp", averages, whole.states.H), rtol=1e-9)
    np.testing.assert_allclose(means.states.W, whole.states.W, rtol=1e-9)
    np.testing.assert_allclose(means["loss"], whole["loss"], rtol=1e-9)


@pytest.mark.long
def test_wider_networks_are_predicted_better(case):
    x, labels, _ = case
    errors = {}
    for width in (16, 1024):
        found = []
        for seed in range(3):
            with jax.enable_x64(True):
                network, parameters = ntk.ntk_network(jax.random.key(seed), D, width, P)
                W = jax.random.normal(jax.random.key(seed + 10), (C, P))
                found.append(experiment.compared(network, parameters, W, x, labels, 0.1, TIMES)["features"][-1])
        errors[width] = np.array(found)
    assert fitted_slope([16, 1024], np.stack(list(errors.values()))).value < -0.45


def test_growth_beyond_the_range_of_numbers_is_reported_and_not_nan(case):
    x, labels, W = case
    network, parameters = ntk.ntk_network(jax.random.key(0), D, 8, P)
    W, x = W.astype("float32"), x.astype("float32")
    H, _, reached = ntk.descend(network, parameters, W, x, labels, 5.0, [0, 1, 400])
    assert reached.tolist() == [True, True, False] and np.all(np.isfinite(H))


def test_the_slope_of_a_power_law_is_found():
    widths = [64, 256, 1024]
    errors = np.array([[3.0 * w**-0.7, 5.0 * w**-0.7] for w in widths])
    slope = fitted_slope(widths, errors)
    assert slope.value == pytest.approx(-0.7, abs=1e-12) and slope.low < -0.7 < slope.high


def test_bad_input_is_refused(case):
    x, labels, W = case
    network, parameters = ntk.ntk_network(jax.random.key(0), D, 4, P)
    with pytest.raises(ValueError, match="form must be one of"):
        ntk.predict(network, parameters, W, x, labels, uj.Flow(), [1.0], form="full")
    with pytest.raises(ValueError, match="increasing whole numbers"):
        ntk.descend(network, parameters, W, x, labels, 0.1, [3, 1])
    with pytest.raises(ValueError, match="need one-hot labels"):
        ntk.class_averages(labels.smoothed(0.1))
    with pytest.raises(ValueError, match="kernel between coordinates"):
        ntk.per_sample(Kernel(np.eye(4), "samples"), 2)
    with pytest.raises(ValueError, match="width must be a whole number"):
        ntk.ntk_network(jax.random.key(0), D, 0, P)
