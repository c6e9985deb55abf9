"""Penalties that are added to a loss, and factors on the gradient of the features."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from unhinged_jax import _check, _numbers
from unhinged_jax.training.heads import feature_norms

EXPONENTS = (0, 1, 2)


def feature_penalty(features: jax.Array, strength: ArrayLike) -> jax.Array:
    """Explicit feature regularisation strength * sum_i ||h_i||^2 over the batch; its gradient is 2 strength h_i.

    It is a sum over the batch, as in the paper, and not a mean. A penalty that must stay the same when the batch size
    changes must be divided by the batch size.

    Args:
        features: H, shape (n, p).
        strength: lambda, at least 0.

    Returns:
        A scalar.

    Raises:
        ValueError: for a negative strength.

    Source: Zhou et al. 2023, Section 4.2.

    Example:
        >>> feature_penalty(jnp.array([[3.0, 4.0]]), 0.1).round(3)
        Array(2.5, dtype=float32)
    """
    _check.non_negative("strength of the feature penalty", strength)
    features = _numbers.floats(features, "features")
    return jnp.asarray(strength) * jnp.sum(features * features)


def rescaled_loss(losses: jax.Array, features: jax.Array, exponent: int = 1) -> jax.Array:
    """Rescaled learning rate: losses whose gradients are multiplied by ||h_i||^exponent and whose values are not.

    l <- sg(rho^q) l + sg((1 - rho^q) l) with rho = ||h|| and sg the stop of gradients.

    Args:
        losses: One loss per sample, shape (n,).
        features: H, shape (n, p), before any normalisation.
        exponent: q in {0, 1, 2}; 1 (default) is the rule that the paper describes and uses, 2 the one for which its
            stated step condition is exact.

    Returns:
        Shape (n,), equal to `losses` up to rounding.

    Raises:
        ValueError: for another exponent.

    Source: Zhou et al. 2023, Section 4.3 and footnote 15.

    Example:
        >>> loss = lambda h: rescaled_loss(h[:, 0], h, 1)[0]
        >>> jax.value_and_grad(loss)(jnp.array([[3.0, 4.0]]))[1].tolist()
        [[5.0, 0.0]]
    """
    _check.choice("exponent", exponent, EXPONENTS)
    if exponent == 0:
        return losses
    factor = jax.lax.stop_gradient(feature_norms(features) ** exponent).astype(losses.dtype)
    # Written so that the value is exact: the added term is zero, but its gradient is not.
    moving = factor * (losses - jax.lax.stop_gradient(losses))
    return jax.lax.stop_gradient(losses) + moving


def scale_feature_gradient(features: jax.Array, exponent: int = 1) -> jax.Array:
    """The unchanged features; gradients that pass back through them are multiplied by ||h_i||^exponent, row by row.

    This is the rescaled learning rate for loops that do not expose one loss per sample. The gradient of anchored
    prototypes is zero in any case; `rescaled_loss` rescales trained prototypes, and this function does not.

    Args:
        features: H, shape (n, p).
        exponent: q in {0, 1, 2}.

    Returns:
        H.

    Raises:
        ValueError: for another exponent.

    Source: Zhou et al. 2023, Section 4.3.

    Example:
        >>> jax.grad(lambda h: scale_feature_gradient(h)[0, 0])(jnp.array([[3.0, 4.0]])).tolist()
        [[5.0, 0.0]]
    """
    _check.choice("exponent", exponent, EXPONENTS)
    factor = jax.lax.stop_gradient(feature_norms(features)[..., None] ** exponent).astype(features.dtype)
    still = jax.lax.stop_gradient(features)
    return still + factor * (features - still)


def class_weights(counts: ArrayLike, exponent: float = 0.5) -> jax.Array:
    """Weights n_c^(-exponent), scaled so that their mean over the samples is 1.

    exponent 1/2 restores the (C-1)-fold top mode of the unhinged loss under imbalance; 0 is no weighting, 1 gives every
    class the same total weight.

    Args:
        counts: Samples of each class, n_c >= 1, shape (C,).
        exponent: A number.

    Returns:
        Shape (C,).

    Raises:
        ValueError: for a class without samples or an exponent that is not finite.

    Source: beyond the paper.

    Example:
        >>> [round(float(weight), 3) for weight in class_weights([1, 4], 0.5)]
        [1.667, 0.833]
    """
    _check.positive("counts", counts, "every class needs a sample", array=True)
    _check.finite("exponent", exponent)
    n = jnp.asarray(counts, jnp.result_type(float))
    largest = jnp.where(jnp.asarray(exponent) > 0, jnp.min(n), jnp.max(n))  # weight is set to 1: nothing overflows
    raw = (n / largest) ** (-exponent)
    return raw * jnp.sum(n) / jnp.sum(n * raw)


def effective_number_weights(counts: ArrayLike, beta: float = 0.999) -> jax.Array:
    """Weights (1 - beta)/(1 - beta^n_c), scaled so that their mean over the samples is 1.

    Args:
        counts: Samples of each class, n_c >= 1, shape (C,).
        beta: In [0, 1); 0 is no weighting, near 1 it becomes n_c^(-1).

    Returns:
        Shape (C,).

    Raises:
        ValueError: for a class without samples or beta outside [0, 1).

    Source: beyond the paper (Cui et al. 2019).

    Example:
        >>> effective_number_weights([1, 4], beta=0.0).tolist()
        [1.0, 1.0]
    """
    _check.positive("counts", counts, "every class needs a sample", array=True)
    if not 0 <= beta < 1:
        raise ValueError(f"beta must lie in [0, 1), but got {beta}.")
    n = jnp.asarray(counts, jnp.result_type(float))
    # 1 - beta^n = -expm1(n log beta), with the logarithm in float64: near 1 nothing cancels.
    log_beta = math.log(beta) if beta > 0 else -math.inf
    raw = jnp.expm1(log_beta) / jnp.expm1(n * log_beta)
    return raw * jnp.sum(n) / jnp.sum(n * raw)
