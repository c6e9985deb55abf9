"""Optimisers that optax lacks or spells in pieces, as functions that return an optax optimiser.

Each is known to `exact` by its name, which a chain of several transformations is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import PyTree

from unhinged_jax import _check
from unhinged_jax.special import polar, safe_norm

Rate = ArrayLike | Callable[[jax.Array], ArrayLike]
"""A learning rate: a number, or a function of the number of updates made before."""


def spectral_descent(learning_rate: Rate, weight_decay: Rate = 0.0) -> optax.GradientTransformation:
    """Steepest descent in the spectral norm: every array moves by the polar factor of its gradient.

    With a gradient U diag(s) V^T, an update is -learning_rate (U V^T + weight_decay x): all singular directions move
    alike, however small the gradient is along them. Directions whose singular value is only rounding are left out. A
    vector moves by its gradient over the norm of the gradient.

    This is Muon without momentum, with the exact polar factor in place of the Newton-Schulz steps of
    `optax.contrib.muon`, which bring singular values near 1 only.

    Args:
        learning_rate: A number or a schedule; every singular value of the change of an array.
        weight_decay: The decoupled decay, a number or a schedule; default 0.

    Returns:
        An optax optimiser. As `Optimizer(spectral_descent, learning_rate=0.1)` its numbers are data.

    Source: Carlson et al. 2015, without their factor of the nuclear norm; Jordan et al. 2024 for the decay.

    Example:
        >>> descent = spectral_descent(0.5)
        >>> gradient = {"W": jnp.array([[3.0, 0.0], [0.0, -1e-3]])}
        >>> change, _ = descent.update(gradient, descent.init(gradient), gradient)
        >>> (change["W"] + 0.0).round(4).tolist()
        [[-0.5, 0.0], [0.0, 0.5]]
    """
    return optax.chain(
        optax.stateless(lambda updates, params: jax.tree.map(direction_of, updates)),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


def direction_of(gradient: jax.Array) -> jax.Array:
    """The polar factor of a matrix, and a vector over its norm; 0 for zeros."""
    return polar(gradient) if gradient.ndim == 2 else normalized(gradient)


def normalized(parts: PyTree) -> Any:
    """Arrays divided by the norm of all of them together; zeros stay."""
    norm = safe_norm(*jax.tree.leaves(parts))
    return jax.tree.map(lambda part: part / jnp.where(norm > 0, norm, 1.0), parts)


def clipped(parts: PyTree, max_norm: ArrayLike) -> Any:
    """Arrays whose norm all together is at most `max_norm`."""
    norm = safe_norm(*jax.tree.leaves(parts))
    above = norm > jnp.asarray(max_norm, norm.dtype)
    share = jnp.where(above, max_norm / jnp.where(above, norm, 1.0), 1.0)
    return jax.tree.map(lambda part: share * part, parts)


def normalized_descent(learning_rate: Rate) -> optax.GradientTransformation:
    """Gradient descent with steps of one length: the gradient of all arrays together is divided by its norm.

    Unlike `optax.normalize_by_update_norm` it adds no epsilon to the norm, so that it does not depend on the scale of
    the gradient. Arrays that stay do not count.

    Args:
        learning_rate: A number or a schedule; the length of a step.

    Returns:
        An optax optimiser.

    Source: Cortes 2006.

    Example:
        >>> descent = normalized_descent(0.5)
        >>> gradient = {"H": jnp.array(3e-9), "W": jnp.array(4e-9)}
        >>> round(float(descent.update(gradient, descent.init(gradient))[0]["H"]), 4)
        -0.3
    """
    whole = optax.stateless(lambda updates, params: normalized(updates))
    return optax.chain(whole, optax.scale_by_learning_rate(learning_rate))


def clipped_descent(learning_rate: Rate, max_norm: ArrayLike) -> optax.GradientTransformation:
    """Gradient descent with the gradient of all arrays together cut to a norm of at most `max_norm`.

    This is `optax.chain(optax.clip_by_global_norm(max_norm), optax.sgd(learning_rate))` at any scale of the gradient.

    Args:
        learning_rate: A number or a schedule.
        max_norm: The largest norm of a gradient, above 0.

    Returns:
        An optax optimiser.

    Raises:
        ValueError: for a `max_norm` that is not above 0.

    Source: Pascanu et al. 2013.

    Example:
        >>> descent = clipped_descent(0.5, max_norm=1.0)
        >>> gradient = {"H": jnp.array(3.0), "W": jnp.array(4.0)}
        >>> round(float(descent.update(gradient, descent.init(gradient))[0]["H"]), 4)
        -0.3
    """
    if _check.concrete(max_norm):
        _check.positive("max_norm", max_norm)
    cut = optax.stateless(lambda updates, params: clipped(updates, max_norm))
    return optax.chain(cut, optax.scale_by_learning_rate(learning_rate))


def rescale_by_feature_norm(exponent: int = 1, features: str = "H") -> optax.GradientTransformation:
    """Multiply the gradient of every sample's features by ||h_i||^exponent, so that large features do not learn slowly.

    Put it first in an `optax.chain`, so that it receives gradients; weight decay that must not be rescaled comes after
    it (`optax.add_decayed_weights`). A spherical model with `rescale=q` does the same to its loss gradient.

    Args:
        exponent: q in {0, 1, 2}; 1 (default) is the rule that the paper describes and uses.
        features: Key of the features, one row per sample, in the dictionary of parameters.

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

    def update(
        updates: dict[str, jax.Array], state: optax.OptState, params: dict[str, jax.Array] | None = None
    ) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("rescale_by_feature_norm needs the parameters; call update(updates, state, params).")
        lengths = jnp.linalg.norm(params[features], axis=1, keepdims=True)
        scaled: jax.Array = updates[features] * lengths**exponent
        return {**updates, features: scaled}, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
