"""Losses of the logits, simulated with samples as columns: the same as the plain update, whatever the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import unhinged_jax as uj
from unhinged_jax import losses


class Cubic(losses.Loss):
    """A loss of a user's own, written for rows of logits."""

    def __call__(self, logits, targets):
        assert logits.ndim == 2
        return jnp.sum((logits - targets) ** 3, axis=1) / 3


def quartic(logits, targets):
    return jnp.sum((logits - targets) ** 4, axis=-1)


LOSSES = {
    "cross_entropy": losses.CrossEntropy(), "mse": losses.MSE(), "hinge": losses.Hinge(0.5),
    "focal": losses.Focal(1.5), "a function": losses.Custom(quartic), "a class": jax.tree_util.register_static(Cubic)(),
}  # fmt: skip
QUICK = ("cross_entropy", "a function")
LABELS = {
    "balanced": uj.balanced(classes=3, per_class=4),
    "weighted": uj.from_counts([5, 2, 3]).weighted(classes=[0.2, 0.5, 0.3]),
    "noise": uj.balanced(classes=3, per_class=4).symmetric_noise(0.3),
    "soft": uj.soft(np.random.default_rng(0).dirichlet(np.ones(3), 9)),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
def test_pull_and_value_are_those_of_rows(loss, labels):
    draw = np.random.default_rng(1)
    with jax.enable_x64(True):
        logits = jnp.asarray(draw.normal(size=(labels.samples, 3)))
        weights = jnp.asarray(labels.weights, float)
        # Off the simplex, too, where derivatives in targets look.
        targets = labels.probabilities() * jnp.asarray(draw.uniform(0.5, 2, (labels.samples, 1)))
        want = -jax.grad(lambda s: jnp.sum(weights * loss(s, targets)))(logits)
        np.testing.assert_allclose(loss.pull(logits.T, targets.T, weights).T, want, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(loss.of_columns(logits.T, targets.T), loss(logits, targets), rtol=1e-13)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in LOSSES]
)
@pytest.mark.parametrize("momentum", [None, pytest.param(0.7, marks=pytest.mark.long)], ids=["plain", "momentum"])
def test_descent_is_the_plain_update(name, momentum):
    loss = LOSSES[name]
    model = uj.regularized(LABELS["weighted"], dim=5, decay=(0.02, 0.05), bias=True, loss=loss)
    state = model.init(jax.random.key(2), precision="float64")
    descent, observe = uj.Descent(0.02, rate_H=1.3, rate_W=0.8, momentum=momentum), ["loss", "margin_min", "norm"]
    runs = [uj.simulate(model, descent, state, [0, 7, 30], observe, states=True, reduce=reduce)
            for reduce in (True, False)]  # fmt: skip
    for name in observe:
        np.testing.assert_allclose(runs[0][name], runs[1][name], rtol=1e-12, err_msg=name)
    for part in ("H", "W", "b"):
        ours, plain = (np.asarray(getattr(run.states, part)) for run in runs)
        np.testing.assert_allclose(ours, plain, rtol=1e-11, atol=1e-13, err_msg=part)


@pytest.mark.parametrize("name", ["soft", *(pytest.param(n, marks=pytest.mark.long) for n in LABELS if n != "soft")])
@pytest.mark.parametrize("anchored", [pytest.param(False, marks=pytest.mark.long), True], ids=["both", "anchored"])
def test_flow_is_the_plain_one(name, anchored):
    labels = LABELS[name]
    of = uj.anchored if anchored else uj.unconstrained
    model = of(labels, dim=5, loss="cross_entropy", **({"decay": 0.1} if anchored else {}))
    state = model.init(jax.random.key(2), precision="float64")
    runs = [uj.simulate(model, uj.Flow(rtol=1e-10), state, [1.0, 20.0], reduce=reduce) for reduce in (True, False)]
    np.testing.assert_allclose(runs[0].final.H, runs[1].final.H, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(runs[0].final.W, runs[1].final.W, rtol=1e-11, atol=1e-13)


def test_kernels_and_spheres_keep_their_own_form():
    labels, key = LABELS["balanced"], jax.random.key(4)
    factor = np.random.default_rng(3).normal(size=(labels.samples, labels.samples))
    models = [
        uj.ntk_invariant(labels, 5, factor @ factor.T / labels.samples, loss="cross_entropy"),
        uj.spherical(labels, 5, rescale=1, free_prototypes=True, loss="cross_entropy"),
    ]
    for model in models:
        state = model.init(key, precision="float64")
        ours, plain = (uj.simulate(model, uj.Descent(0.1), state, [9], reduce=reduce).final for reduce in (True, False))
        np.testing.assert_allclose(ours.H, plain.H, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(ours.W, plain.W, rtol=1e-12, atol=1e-14)


@pytest.mark.long
def test_momentum_passes_between_the_two_forms():
    model = uj.unconstrained(LABELS["balanced"], dim=5, loss="cross_entropy")
    state, descent = model.init(jax.random.key(0), precision="float64"), uj.Descent(0.1, momentum=0.8)
    whole = uj.simulate(model, descent, state, [40], reduce=False)
    half = uj.simulate(model, descent, state, [15])
    for reduce in (True, False):
        rest = uj.simulate(model, descent, half, [40], reduce=reduce)
        np.testing.assert_allclose(rest.final.H, whole.final.H, rtol=1e-12, atol=1e-14)


def test_an_optimizer_sees_rows():
    seen = []

    def update(updates, memory, params=None):
        seen.append({name: part.shape for name, part in updates.items()})
        return updates, memory

    spy = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    model = uj.unconstrained(LABELS["balanced"], dim=5, loss="cross_entropy")
    uj.simulate(model, uj.Descent(0.1, optimizer=spy), model.init(jax.random.key(0)), [1])
    assert seen[0]["H"] == (12, 5) and seen[0]["W"] == (3, 5)
