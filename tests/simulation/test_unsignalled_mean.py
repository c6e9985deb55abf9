"""A mean of the features that the signal maps to 0, and that the prototypes lack, decays and is not dropped."""

import jax
import numpy as np
import pytest

import unhinged_jax as uj

DECAY = 0.1


@pytest.mark.long_for("flow")
@pytest.mark.parametrize("move", ["flow", "descent", "momentum"])
def test_features_before_an_etf_go_where_a_numpy_loop_goes(move):
    model = uj.anchored(uj.balanced(6, 8), dim=10, decay=DECAY)  # a simplex ETF, and gamma = 1/(C-1)
    with jax.enable_x64(True):
        state = model.init(jax.random.key(6))
        pull = np.asarray(model.signal().times(state.W))
    H, velocity, rate, wanted = np.asarray(state.H), 0.0, 0.3, []
    times = [0, 1, 5, 40]
    for k in range(times[-1] + 1):
        if k in times:
            exact = np.exp(-DECAY * k) * np.asarray(state.H) - np.expm1(-DECAY * k) / DECAY * pull
            wanted.append(exact if move == "flow" else H)
        velocity = (0.5 if move == "momentum" else 0.0) * velocity + pull - DECAY * H
        H = H + rate * velocity
    flow = uj.Flow(rtol=1e-11, atol=1e-13)
    dynamics = {"flow": flow, "descent": uj.Descent(rate), "momentum": uj.Descent(rate, momentum=0.5)}[move]
    run = uj.simulate(model, dynamics, state, times, ["norm_H"], states=True)
    got = np.exp(np.asarray(run.states.log_scale))[:, None, None] * np.asarray(run.states.H)
    np.testing.assert_allclose(got, np.stack(wanted), atol=1e-9)
    np.testing.assert_allclose(run["norm_H"], [np.linalg.norm(part) for part in wanted], rtol=1e-9)
