"""A loss that only says `linear = True`: its signal is derived, and runs agree with the dense update of the loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax._values import registered
from unhinged_jax.derivatives.parameters import available
from unhinged_jax.losses import CustomTree, Loss, Unhinged, as_loss
from unhinged_jax.signal import ClassSignal, DenseSignal

C, P = 3, 4
INDEX = np.array([0, 0, 0, 1, 1, 2])
RNG = np.random.default_rng(7)
COSTS = RNG.normal(size=(C, C))
SOFT = RNG.dirichlet(np.ones(C), len(INDEX))
HARD = uj.from_labels(INDEX, C).weighted(samples=np.array([1.0, 2, 1, 1, 3, 2]))
LABELS = {"hard": HARD, "expected noise": HARD.symmetric_noise(0.2), "soft": uj.soft(SOFT, truth=INDEX)}


class Costs(Loss):
    """sum_j costs[y, j] s_j, with a power of the targets, so that it is linear in the logits alone."""

    costs: object
    power: float = 2.0
    linear = True

    def __call__(self, logits, targets):
        return jnp.sum((targets**self.power @ self.costs) * logits, axis=-1) + 0.7


@dataclasses.dataclass(frozen=True)
class Plain:
    """The same as a dataclass that knows nothing of the package."""

    costs: object
    power: float = 2.0
    linear = True

    def __call__(self, logits, targets):
        return jnp.sum((targets**self.power @ self.costs) * logits, axis=-1)


class Bent(Loss):
    """Linear near 0 only."""

    linear = True

    def __call__(self, logits, targets):
        return jnp.sum(jnp.maximum(-5.0, -targets * logits), axis=-1)


class OfTheBatch(Loss):
    """Depends on how many samples there are."""

    linear = True

    def __call__(self, logits, targets):
        return -jnp.sum(targets * logits, axis=-1) / logits.shape[0]


class WithField(Loss):
    linear: bool = True

    def __call__(self, logits, targets):
        return -jnp.sum(targets * logits, axis=-1)


def model_of(labels, loss):
    return uj.regularized(labels, P, decay=(0.03, 0.05), bias=True, loss=loss)


def pull_of(kind, power=2.0):
    """M in NumPy."""
    table = np.full((C, C), 0.1) + 0.7 * np.eye(C)
    targets = {"hard": np.eye(C)[INDEX], "expected noise": table[INDEX], "soft": SOFT}[kind]
    return -np.asarray(LABELS[kind].weights, float)[:, None] * (targets**power @ COSTS)


def looped(M, state, updates):
    H, W, b = (np.asarray(part, float) for part in (state.H, state.W, state.b))
    for _ in range(updates):
        H, W, b = H + 0.3 * (M @ W - 0.03 * H), W + 0.3 * (M.T @ H - 0.05 * W), b + 0.3 * (M.sum(axis=0) - 0.05 * b)
    return H, W, b


@pytest.mark.parametrize("kind", LABELS)
def test_signal_is_minus_the_gradient(kind):
    with jax.enable_x64(True):
        signal, expected = Costs(COSTS).signal(LABELS[kind]), pull_of(kind)
        np.testing.assert_allclose(signal.dense("float64"), expected, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(signal.column_sums("float64"), expected.sum(axis=0), rtol=1e-12, atol=1e-14)
    assert isinstance(signal, DenseSignal if kind == "soft" else ClassSignal)


@pytest.mark.long_for("hard-loss0", "soft-loss2")
@pytest.mark.parametrize(
    ("kind", "loss"), [("hard", Costs(COSTS)), ("expected noise", Plain(COSTS)), ("soft", Costs(COSTS))]
)
def test_closed_form_is_a_loop_of_gradients_of_the_loss(kind, loss):
    model = model_of(LABELS[kind], loss)
    state = model.init(jax.random.key(0), precision="float64")
    found = uj.exact(model, uj.Descent(0.3), state, [0, 12], ["loss", "distance"])
    for part, expected in zip("HWb", looped(pull_of(kind), state, 12), strict=True):
        np.testing.assert_allclose(getattr(found.final, part), expected, rtol=1e-10, atol=1e-12)


def test_equal_costs_are_the_unhinged_loss():
    costs = (1 - np.eye(C)) * 0.4 - np.eye(C)
    labels = uj.balanced(C, 2)
    got, expected = (
        uj.exact(model, uj.Flow(), model.init(jax.random.key(0), precision="float64"), [3.0], ["log_norm", "loss"])
        for model in (model_of(labels, Plain(costs)), model_of(labels, Unhinged(0.4)))
    )
    for name in got.observables:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-12)


@pytest.mark.parametrize("run", [uj.exact, uj.simulate])
def test_what_only_claims_to_be_linear_is_refused(run):
    state = uj.State(np.zeros((len(INDEX), P)), np.zeros((C, P)))
    for loss in (Bent(), OfTheBatch()):
        with pytest.raises(ValueError, match=f"{type(loss).__name__} says `linear = True`, but its gradient"):
            run(model_of(HARD, loss), uj.Descent(0.1), state, [1], "loss")
    with pytest.raises(TypeError, match="`linear` of WithField must not be a field"):
        WithField()


def test_numbers_of_a_dataclass_are_data():
    model = model_of(LABELS["expected noise"], Plain(COSTS))
    state = model.init(jax.random.key(0), precision="float64")
    assert isinstance(model.loss, CustomTree) and model.loss.linear
    parameter = available(model, uj.Descent(0.3), state)["loss.power"]
    with jax.enable_x64(True):

        def norm(power):
            moved, dynamics, start = parameter.put((model, uj.Descent(0.3), state), power)
            return uj.exact(moved, dynamics, start, [5], "log_norm_W").last("log_norm_W")

        slope = float(jax.grad(norm)(2.0))
    ends = [np.log(np.linalg.norm(looped(pull_of("expected noise", 2 + d), state, 5)[1])) for d in (-1e-5, 1e-5)]
    assert slope == pytest.approx((ends[1] - ends[0]) / 2e-5, rel=1e-6)


def test_only_dataclasses_of_numbers_are_registered():
    @dataclasses.dataclass(frozen=True)
    class Named:
        name: str = "x"

        def __call__(self, logits, targets):
            return -jnp.sum(targets * logits, axis=-1)

    @dataclasses.dataclass(frozen=True)
    class Rate:
        peak: float = 0.5

        def __call__(self, t):
            return self.peak / (1 + t)

    assert jax.tree_util.all_leaves([registered(Named())])
    assert as_loss(Named())(jnp.ones((2, C)), jnp.eye(C)[:2]).shape == (2,)
    assert jax.tree.leaves(uj.Flow(Rate(0.25)).schedule) == [0.25]
