"""The rescaled learning rate as an optax transformation, for use with any optimiser."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from unhinged_jax import _check


def rescale_by_feature_norm(exponent: int = 1, features: str = "H") -> optax.GradientTransformation:
    """Multiply the gradient of every sample's features by ||h_i||^exponent, so that large features do not learn slowly.

    Put it first in an `optax.chain`, so that it sees gradients; weight decay that is not to be rescaled comes after it
    (`optax.add_decayed_weights`). A spherical model with `rescale=q` does the same to its loss gradient by itself.

    Args:
        exponent: q in {0, 1, 2}; 1 (default) is the rule as described and run in the paper.
        features: Key of the features, one row a sample, in the dictionary of parameters.

    Returns:
        An optax transformation without state; its update needs the parameters.

    Raises:
        ValueError: for another exponent, or if optax passes no parameters.

    Source: Zhou et al. 2023, Section 4.3.

    Example:
        >>> rescale = rescale_by_feature_norm(1)
        >>> params = {"H": jnp.array([[3.0, 4.0]])}
        >>> rescale.update({"H": jnp.array([[1.0, 0.0]])}, rescale.init(params), params)[0]
        {'H': Array([[5., 0.]], dtype=float32)}
    """
    _check.choice("exponent", exponent, (0, 1, 2))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("rescale_by_feature_norm needs the parameters; call update(updates, state, params).")
        lengths = jnp.linalg.norm(params[features], axis=1, keepdims=True)
        scaled: jax.Array = updates[features] * lengths**exponent
        return {**updates, features: scaled}, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
