"""What is observed does not change what is observed beside it."""

import jax
import numpy as np
import pytest

import unhinged_jax as uj


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


RNG = np.random.default_rng(0)
H, W, NOTHING = RNG.normal(size=(12, 8)), RNG.normal(size=(3, 8)), np.zeros(3)
ALIKE = np.repeat(H[:4, None], 3, axis=1).reshape(12, 8)  # sample i is of class i mod 3: equal class means
STARTS = {
    "prototypes of zeros": uj.State(H, 0 * W, NOTHING),
    "features of zeros": uj.State(0 * H, W, NOTHING),
    "equal class means": uj.State(ALIKE, 0 * W, NOTHING),
    "a tiny start": uj.State(1e-170 * H, 0 * W, NOTHING),
}
NAMES = ["accuracy", "margin_min", "norm_W", "norm_H", "loss"]


def ties_go_to_the_first(state, labels):
    scores = np.asarray(state.H) @ np.asarray(state.W).T + np.asarray(state.b)
    return np.mean(np.argmax(scores, axis=1) == np.asarray(labels.index))


@pytest.mark.long
def test_distance_observed_beside_changes_nothing():
    labels = uj.balanced(3, 4)
    model, steps = uj.unconstrained(labels, 8), uj.Descent(0.5)
    for name, state in STARTS.items():
        alone = uj.simulate(model, steps, state, [0, 3, 10], NAMES)
        beside = uj.simulate(model, steps, state, [0, 3, 10], [*NAMES, "distance"])
        assert float(beside["accuracy"][0]) == ties_go_to_the_first(state, labels), name
        for observable in NAMES:
            size = np.max(np.abs(alone[observable]))
            np.testing.assert_allclose(
                beside[observable], alone[observable], rtol=1e-12, atol=1e-14 * size, err_msg=f"{name}: {observable}"
            )


@pytest.mark.long
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("solve", [uj.simulate, uj.exact])
def test_every_observable_alone_equals_all_together(solve, start):
    model, steps, state = uj.unconstrained(uj.from_counts([3, 5, 4]), 8), uj.Descent(0.5), STARTS[start]
    together = solve(model, steps, state, [0, 3], uj.all_observables)
    for name, values in together.observables.items():
        alone = solve(model, steps, state, [0, 3], name)[name]
        if name == "log_norm_sum_W":  # the prototypes of these starts have a sum of 0, up to rounding of their norm
            least = together["log_norm_W"] + np.log(1e-14)
            alone, values = (np.maximum(log, least) for log in (alone, values))
        np.testing.assert_allclose(alone, values, rtol=1e-9, atol=1e-12, err_msg=name)
