"""Losses of logits as functions of (logits, targets), one value per sample, in optax's signature."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from unhinged_jax import _check, _numbers
from unhinged_jax.precision import follows_arrays
from unhinged_jax.special import greatest


def distributions(logits: jax.Array, targets: ArrayLike) -> jax.Array:
    """Targets as distributions over classes, from distributions or from labels; raises ValueError on another shape."""
    targets = targets if isinstance(targets, jax.Array) else _check.real("targets", targets, array=True)
    if jnp.issubdtype(targets.dtype, jnp.integer):
        targets = _numbers.whole("targets", targets)
    targets = jnp.asarray(targets)
    if targets.shape == logits.shape and jnp.issubdtype(targets.dtype, jnp.floating):
        return targets.astype(logits.dtype)
    if targets.shape == logits.shape[:-1] and jnp.issubdtype(targets.dtype, jnp.integer):
        classes = logits.shape[-1]
        _check.labels("targets", targets, classes)
        known = (targets >= 0) & (targets < classes)  # traced labels cannot be refused; their loss is NaN
        return jnp.where(known[..., None], jax.nn.one_hot(targets, classes, dtype=logits.dtype), jnp.nan)
    raise ValueError(
        f"targets must be distributions of shape {logits.shape} or integer labels of shape {logits.shape[:-1]}, "
        f"but got {targets.dtype} of shape {targets.shape}."
    )


def _factor(name: str, value: ArrayLike, allowed: tuple[tuple[int, ...], ...]) -> None:
    """Raise for numbers that are not real, and for an array that would broadcast along an axis other than the
    samples'."""
    _check.finite(name, value, array=True)
    if np.shape(value) not in allowed:
        shapes = " or ".join(str(shape) for shape in dict.fromkeys(allowed))
        raise ValueError(f"{name} must have shape {shapes}, but got {np.shape(value)}; map over others with jax.vmap.")


def _of_logits(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The function, with logits as a floating-point array, which is float64 if any array passed is."""

    @follows_arrays
    @functools.wraps(function)
    def wrapped(logits: ArrayLike, *args: Any, **kwargs: Any) -> jax.Array:
        if not isinstance(logits, jax.Array) or not jnp.issubdtype(logits.dtype, jnp.floating):
            logits = _numbers.floats(_numbers.array("logits", logits), "logits")
        return function(logits, *args, **kwargs)

    return wrapped


@_of_logits
def unhinged(
    logits: jax.Array, targets: ArrayLike, gamma: ArrayLike | None = None, weights: ArrayLike = 1.0
) -> jax.Array:
    """Unhinged loss -s_y + gamma sum_{j != y} s_j; for soft targets its expectation.

    Args:
        logits: Shape (..., C).
        targets: Distributions (..., C) or integer labels (...).
        gamma: Trade-off, at least 0; default 1/(C-1), which makes it minus the mean one-vs-other margin.
        weights: Factor on each sample's loss, shape (...) or a scalar.

    Returns:
        Loss of each sample, shape (...).

    Raises:
        ValueError: for gamma < 0 or targets of a wrong shape.

    Source: Zhou et al. 2023, Eq. 1; for two classes van Rooyen et al. 2015. Soft and weighted: beyond the paper.

    Example:
        >>> unhinged(jnp.array([2.0, 1.0, 0.0]), jnp.array(0), gamma=0.5)
        Array(-1.5, dtype=float32)
    """
    gamma = 1 / (logits.shape[-1] - 1) if gamma is None else gamma
    _check.non_negative("gamma", gamma)
    _factor("gamma", gamma, ((),))
    _factor("weights", weights, ((), logits.shape[:-1]))
    gamma = _numbers.like(gamma, logits.dtype)  # before 1 + gamma, which would be rounded to a narrower type
    targets = distributions(logits, targets)
    return -jnp.asarray(weights) * jnp.sum(((1 + gamma) * targets - gamma) * logits, axis=-1)


@_of_logits
def cross_entropy(logits: jax.Array, targets: ArrayLike, temperature: ArrayLike | None = None) -> jax.Array:
    """Softmax cross-entropy of logits over a temperature, shape (...).

    Args:
        logits: Shape (..., C).
        targets: Distributions (..., C) or integer labels (...).
        temperature: Above 0; default 1.

    Returns:
        Loss of each sample, shape (...).

    Raises:
        ValueError: for a temperature that is not above 0, or targets of a wrong shape.

    Source: Jiang et al. 2024 for the temperature.

    Example:
        >>> cross_entropy(jnp.zeros(2), jnp.array(0)).round(4)
        Array(0.6931, dtype=float32)
    """
    return optax.losses.softmax_cross_entropy(cooled(logits, temperature), distributions(logits, targets))


def cooled(logits: jax.Array, temperature: ArrayLike | None) -> jax.Array:
    """The logits over a temperature; None for 1."""
    if temperature is None:
        return logits
    _check.positive("temperature", temperature)
    _factor("temperature", temperature, ((),))
    return logits / _numbers.like(temperature, logits.dtype)


@_of_logits
def mse(logits: jax.Array, targets: ArrayLike) -> jax.Array:
    """Squared error 1/2 ||s - y||^2 against the target distribution, shape (...).

    Source: Han, Papyan & Donoho 2022.

    Example:
        >>> mse(jnp.array([1.0, 1.0]), jnp.array(0))
        Array(0.5, dtype=float32)
    """
    return jnp.sum(optax.losses.l2_loss(logits, distributions(logits, targets)), axis=-1)


@_of_logits
def hinge(logits: jax.Array, targets: ArrayLike, margin: ArrayLike = 1.0) -> jax.Array:
    """Multi-class hinge loss max(0, margin + max_{j != y} s_j - s_y); for soft targets its mean.

    Source: Crammer & Singer 2001.

    Example:
        >>> hinge(jnp.array([2.0, 1.5]), jnp.array(0))
        Array(0.5, dtype=float32)
    """
    targets = distributions(logits, targets)
    _factor("margin", margin, ((),))
    return jnp.sum(targets * jnp.maximum(0, margin - runner_up_margins(logits)), axis=-1)


@_of_logits
def focal(logits: jax.Array, targets: ArrayLike, focusing: ArrayLike = 2.0) -> jax.Array:
    """Focal loss -(1 - p_y)^focusing log p_y with p = softmax(s); for soft targets its mean.

    Source: Lin et al. 2017.

    Example:
        >>> focal(jnp.zeros(2), jnp.array(0), focusing=0.0).round(4)
        Array(0.6931, dtype=float32)
    """
    targets = distributions(logits, targets)
    _factor("focusing", focusing, ((),))
    log_p = jax.nn.log_softmax(logits)
    # Floored, because the gradient of 0 ** focusing is not finite for focusing < 1.
    miss = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(logits.dtype).tiny)
    return -jnp.sum(targets * miss**focusing * log_p, axis=-1)


def runner_up_margins(logits: jax.Array) -> jax.Array:
    """s_c - max_{j != c} s_j for every class c, shape (..., C); without sorting, which is slow on CPUs."""
    logits = _numbers.floats(logits, "logits")
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits must have shape (..., C), but got {logits.shape}; give one logit per class.")
    first = jnp.arange(logits.shape[-1]) == jnp.argmax(logits, axis=-1, keepdims=True)
    top = greatest(logits, -1)[..., None]
    second = greatest(jnp.where(first, -jnp.inf, logits), -1)[..., None]
    rival = jnp.where(first, second, top)
    return logits - rival
