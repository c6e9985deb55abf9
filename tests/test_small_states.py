"""Observables of states far below the floating-point range, which only their logarithm of scale tells apart."""

import jax
import numpy as np
import pytest

import unhinged_jax as uj

LABELS = uj.from_counts([2, 3, 1])
FREE = ["accuracy", "accuracy_margin", "nc4"]


@pytest.mark.parametrize("bias", [None, [0.3, -0.2, 0.1]])
def test_what_does_not_depend_on_scale_survives_underflow(bias):
    """Scaling (H, W) by s and b by s^2 scales every logit by s^2: accuracy and margins in units of norms stay."""
    model = uj.unconstrained(LABELS, 4, bias=bias is not None)
    state = model.init(jax.random.key(0), bias=bias)
    want = uj.observe_state(model, state, FREE)
    shrink = -30.0 if bias is not None else -200.0  # e^-60 is a float32, e^-400 is none
    small = state.replace(b=np.asarray(state.b) * np.float32(np.exp(2 * shrink)), log_scale=np.float32(shrink))
    got = uj.observe_state(model, small, FREE)
    for name in FREE:
        assert float(got[name]) == pytest.approx(float(want[name]), rel=1e-5), name


def test_the_logarithm_of_the_loss_survives_underflow():
    model = uj.unconstrained(LABELS, 4)
    state = model.init(jax.random.key(0))
    want = uj.observe_state(model, state, "log_abs_loss")["log_abs_loss"]
    got = uj.observe_state(model, state.replace(log_scale=np.float32(-200.0)), "log_abs_loss")["log_abs_loss"]
    assert float(got) == pytest.approx(float(want) - 400, rel=1e-6)
