"""The feature-norm rescaling as an optax transformation."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import unhinged_jax as uj


@pytest.mark.parametrize("exponent", [1, 2])
def test_chained_with_sgd_it_is_the_models_own_rescaling(exponent: int) -> None:
    labels = uj.from_counts([3, 2, 2])
    plain = uj.spherical(labels, dim=5, gamma=0.2)
    built_in = uj.spherical(labels, dim=5, gamma=0.2, rescale=exponent)
    state = built_in.init(jax.random.key(0), scale=2.0, precision="float64")
    optimizer = optax.chain(uj.rescale_by_feature_norm(exponent), optax.sgd(0.3))
    chained = uj.simulate(plain, uj.Descent(optimizer=optimizer), state, [7], "norm_H")
    own = uj.simulate(built_in, uj.Descent(0.3), state, [7], "norm_H")
    np.testing.assert_allclose(chained.final.H, own.final.H, rtol=1e-13)
    assert np.max(np.abs(own.final.H - state.H)) > 0.05


def test_bad_exponent_and_missing_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="exponent must be one of 0, 1, 2"):
        uj.rescale_by_feature_norm(3)
    rescale = uj.rescale_by_feature_norm(1)
    with pytest.raises(ValueError, match="needs the parameters"):
        rescale.update({"H": np.ones((1, 2))}, rescale.init({}))
