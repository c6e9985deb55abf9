"""The adjusted sample margin loss, -(1 + gamma) <w_y + delta, h> for features that point away from their prototype."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _check, _numbers
from unhinged_jax.losses.of_logits import distributions
from unhinged_jax.precision import follows_arrays


@follows_arrays
def adjusted_margin(
    features: jax.Array,
    prototypes: jax.Array,
    labels: jax.Array,
    gamma: ArrayLike,
    epsilon: ArrayLike = 0.1,
    bias: ArrayLike = 0.0,
) -> jax.Array:
    """Adjusted sample margin loss: the unhinged loss with a pull that does not vanish opposite to the prototype.

    If the cosine of h and w_y is at least -1 + epsilon, this is the unhinged loss of the unit feature. If it is
    smaller, the loss is -(1 + gamma) <w_y + delta, h>, with delta (no gradient) orthogonal to h and such that the
    cosine of w_y + delta and h is -1 + epsilon. For soft targets it is the mean over them.

    Args:
        features: Features h of any non-zero length, shape (n, p); they are normalised.
        prototypes: W, shape (C, p).
        labels: Integer labels, shape (n,), or distributions over the classes, shape (n, C).
        gamma: Trade-off, at least 0.
        epsilon: In (0, 1).
        bias: b, shape (C,), added to the logits; default none.

    Returns:
        Loss of each sample, shape (n,).

    Raises:
        ValueError: for epsilon outside (0, 1), gamma < 0, or labels out of range.

    Source: Zhou et al. 2023, Eq. 104, with delta = -(1 + beta sqrt(1-(1-eps)^2) / ((1-eps) sqrt(1-beta^2)))
    (w - h h^T w); the printed plus sign does not give the stated cosine. Soft targets and bias: beyond the paper.

    Example:
        >>> h, w = jnp.array([[-0.8, 0.6]]), jnp.array([[1.0, 0.0], [-1.0, 0.0]])
        >>> adjusted_margin(h, w, jnp.array([0]), gamma=0.0, epsilon=0.5).round(3)
        Array([0.8], dtype=float32)
    """
    _check.non_negative("gamma", gamma)
    _check.positive("epsilon", epsilon)
    if _check.concrete(epsilon) and not np.all((np.asarray(epsilon) > 0) & (np.asarray(epsilon) < 1)):
        raise ValueError(f"epsilon must lie strictly between 0 and 1, but got {epsilon}.")
    soft = np.ndim(labels) > 1
    features, prototypes = _numbers.floats(features, "features"), _numbers.floats(prototypes, "prototypes")
    bias = _numbers.floats(bias, "bias")
    if features.ndim != 2 or prototypes.ndim != 2 or features.shape[1] != prototypes.shape[1]:
        raise ValueError(
            f"features and prototypes must have shapes (n, p) and (C, p), but have {features.shape} and "
            f"{prototypes.shape}."
        )
    if bias.ndim:
        _check.shape("bias", bias, prototypes.shape[:1], "one per class")
    for name, value in {"gamma": gamma, "epsilon": epsilon}.items():
        _check.shape(name, value, (), "one number; map over others with jax.vmap")
    if not soft:
        _check.labels("labels", labels, prototypes.shape[0])
    labels = _numbers.floats(labels, "labels") if soft else jnp.asarray(_numbers.whole("labels", labels))
    gamma, epsilon = (_numbers.like(value, features.dtype) for value in (gamma, epsilon))
    unit = features / jnp.linalg.norm(features, axis=-1, keepdims=True)
    logits = unit @ prototypes.T + bias
    epsilon = jnp.asarray(epsilon, unit.dtype)
    targets = distributions(logits, labels)
    fixed = jax.lax.stop_gradient((unit, prototypes))
    if not soft:
        own = fixed[1][labels]
        below = _opposite(fixed[0], own, epsilon)
        shift, adjusted = _margin_shift(fixed[0], own, epsilon) * below[:, None], below * jnp.sum(targets, axis=-1)
    else:
        shift, adjusted = _mean_shift(*fixed, targets, epsilon)
    own = jnp.sum(targets * logits, axis=-1) + jnp.sum(shift * unit, axis=-1)
    gamma = jnp.asarray(gamma)
    return -(1 + gamma) * own + gamma * (jnp.sum(targets, axis=-1) - adjusted) * jnp.sum(logits, axis=-1)


def _mean_shift(
    unit: jax.Array, prototypes: jax.Array, targets: jax.Array, epsilon: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mean of delta over the targets, (n, p), and the share of them that is adjusted, (n,); one class after another."""

    def add(total: tuple, of_class: tuple) -> tuple[tuple, None]:
        own, share = of_class[0], of_class[1] * _opposite(unit, of_class[0][None], epsilon)
        return (total[0] + share[:, None] * _margin_shift(unit, own[None], epsilon), total[1] + share), None

    start = (jnp.zeros_like(unit), jnp.zeros_like(targets[:, 0]))
    return jax.lax.stop_gradient(jax.lax.scan(add, start, (prototypes, targets.T))[0])


def _opposite(unit: jax.Array, own: jax.Array, epsilon: jax.Array) -> jax.Array:
    """Whether the cosine between unit features and prototypes is below -1 + epsilon; 1 + cos without cancellation."""
    own = own / jnp.linalg.norm(own, axis=-1, keepdims=True)
    return jnp.sum((unit + own) ** 2, axis=-1) / 2 < epsilon


def _margin_shift(unit: jax.Array, own: jax.Array, epsilon: jax.Array) -> jax.Array:
    """delta of Eq. 104 (corrected). At exactly -1 the tangent direction is free: the axis least along h is taken."""
    along = jnp.sum(own * unit, axis=-1, keepdims=True)
    tangent = own - along * unit
    length = jnp.linalg.norm(tangent, axis=-1, keepdims=True)
    axis = jax.nn.one_hot(jnp.argmin(jnp.abs(unit), axis=-1), unit.shape[-1], dtype=unit.dtype)
    spare = axis - jnp.sum(axis * unit, axis=-1, keepdims=True) * unit
    spare = spare / jnp.linalg.norm(spare, axis=-1, keepdims=True)
    lost = length <= 4 * jnp.finfo(unit.dtype).eps * jnp.abs(along)
    direction = jnp.where(lost, spare, tangent / jnp.where(lost, 1.0, length))
    return jnp.abs(along) * jnp.sqrt(epsilon * (2 - epsilon)) / (1 - epsilon) * direction - tangent
