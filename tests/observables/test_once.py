"""What observables share is computed once, and is not remembered from inside a branch or a loop, where it has no value
outside."""

import jax
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax.observables import features

LABELS = uj.balanced(classes=3, per_class=4)
MODELS = {
    "linear": uj.regularized(LABELS, 4, decay=0.1),
    "deep": uj.unconstrained(LABELS, 4, depth=3),
    "spherical": uj.spherical(LABELS, 4),
    "unit prototypes": uj.spherical(LABELS, 4, free_prototypes=True, unit_prototypes=True),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("block", [None, 15], ids=["at once", "in blocks"])
def test_margins_leave_nothing_behind(monkeypatch, kind, block):
    """First a margin, then every other observable: the same as alone."""
    if block is not None:
        monkeypatch.setattr(features, "_BLOCK", block)
    model = MODELS[kind]
    state = model.init(jax.random.key(0))
    names = ["accuracy", "accuracy_margin", "norm_W", "norm", "loss", "nc2_equinorm_prototypes", "nc4"]
    after = uj.observe_state(model, state, ["margin_min", *names])
    before = uj.observe_state(model, state, [*names, "margin_min"])
    for name in names:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-6, err_msg=name)
