"""A schedule, a loss and an observable with numbers as fields: another number gives another result."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax import losses

MODEL = uj.unconstrained(uj.balanced(3, 2), dim=4, loss="mse")
STATE = MODEL.init(jax.random.key(0), precision="float64")
UPDATES = 4


def with_number(call):
    """A class of one number that is called as `call(number, ...)`."""

    class Made:
        number: float

        def __call__(self, *given):
            return call(self.number, *given)

    Made.__annotations__ = {"number": float}
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(Made))


Rate = with_number(lambda a, k: a / (1.0 + k))
Quartic = with_number(lambda a, logits, targets: a * jnp.sum((logits - targets) ** 4, axis=-1))
Sum = with_number(lambda a, model, state: a * jnp.sum(state.W))


def by_hand(rate, scale, factor):
    """factor times the sum of W after plain updates, with the gradient written out."""
    H, W = np.array(STATE.H), np.array(STATE.W)
    Y = np.eye(3)[np.asarray(MODEL.labels.index)]
    for k in range(UPDATES):
        pull = -4 * scale * (H @ W.T - Y) ** 3 / len(H)
        H, W = H + rate / (1 + k) * pull @ W, W + rate / (1 + k) * pull.T @ H
    return factor * W.sum()


def run(rate, scale, factor):
    model = uj.unconstrained(MODEL.labels, dim=4, loss=Quartic(scale))
    seen = {"sum": Sum(factor)}
    return uj.simulate(model, uj.Descent(Rate(rate)), STATE, [UPDATES], seen, precision="float64")["sum"][0]


def test_changed_numbers_change_the_result():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    for numbers in ((0.01, 0.5, 1.0), (0.02, 0.5, 1.0), (0.02, 0.7, 1.0), (0.02, 0.7, 3.0)):
        np.testing.assert_allclose(run(*numbers), by_hand(*numbers), rtol=1e-12)
        if numbers[2] == 1.0 and numbers != (0.01, 0.5, 1.0):
            assert not compiled  # numbers of schedules and losses are data
        compiled.clear()


def test_numbers_of_a_loss_are_mapped_over():
    scales = jnp.array([0.5, 0.7])

    def last(scale):
        model = uj.unconstrained(MODEL.labels, dim=4, loss=Quartic(scale))
        seen = {"sum": Sum(1.0)}
        return uj.simulate(model, uj.Descent(0.01), STATE, [UPDATES], seen, precision="float32").last("sum")

    assert isinstance(losses.as_loss(Quartic(0.5)), losses.CustomTree)
    one, two = jax.vmap(last)(scales)
    assert abs(one - last(0.5)) < 1e-4 * abs(one) and abs(two - last(0.7)) < 1e-4 * abs(two) and one != two


def test_what_cannot_be_found_again_is_refused():
    @dataclasses.dataclass
    class Unhashable:
        number: float

        def __call__(self, model, state):
            return self.number * jnp.sum(state.W)

    with pytest.raises(ValueError, match=r"observable 'sum' is not hashable.*register Unhashable with"):
        uj.simulate(MODEL, uj.Descent(0.1), STATE, [1], {"sum": Unhashable(1.0)})
