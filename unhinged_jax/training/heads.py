"""Heads: how features become logits, and how the last layer's gradient reaches the network.

Plain functions of arrays, for any training loop in JAX; and `Head`, an equinox module made of them.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from unhinged_jax import _check, _numbers, initial
from unhinged_jax.losses import AdjustedMargin, Loss

KINDS = ("linear", "pal", "fnpal")
PROTOTYPES = ("etf", "kaiming", "normal")


def linear_logits(features: jax.Array, prototypes: jax.Array, bias: ArrayLike = 0.0) -> jax.Array:
    """Logits S = H W^T + b of an ordinary last layer.

    Args:
        features: H, shape (..., p).
        prototypes: W, shape (C, p).
        bias: b, shape (C,); default none.

    Returns:
        Shape (..., C).

    Source: Zhou et al. 2023, Section 2.

    Example:
        >>> linear_logits(jnp.array([1.0, 2.0]), jnp.eye(2)).tolist()
        [1.0, 2.0]
    """
    return features @ prototypes.T + bias


def pal_logits(features: jax.Array, prototypes: jax.Array) -> jax.Array:
    """Prototype-anchored logits H sg(W)^T: no gradient reaches the prototypes.

    Args:
        features: H, shape (..., p).
        prototypes: W, shape (C, p), usually a simplex ETF (`initial_prototypes`).

    Returns:
        Shape (..., C).

    Source: Zhou et al. 2023, Section 4.1 (PAL).

    Example:
        >>> jax.grad(lambda W: pal_logits(jnp.ones(2), W).sum())(jnp.eye(2)).tolist()
        [[0.0, 0.0], [0.0, 0.0]]
    """
    return features @ jax.lax.stop_gradient(prototypes).T


def fnpal_logits(features: jax.Array, prototypes: jax.Array) -> jax.Array:
    """Feature-normalised prototype-anchored logits (h/||h||) sg(W)^T; zero, with gradient zero, for h = 0.

    The gradient with respect to h is that of the logits of the unit feature, projected orthogonal to h and divided by
    ||h||.

    Args:
        features: H, shape (..., p).
        prototypes: W, shape (C, p).

    Returns:
        Shape (..., C).

    Source: Zhou et al. 2023, Section 4.1 (FNPAL), Eq. 18.

    Example:
        >>> fnpal_logits(jnp.array([0.0, 4.0]), jnp.eye(2))
        Array([0., 1.], dtype=float32)
    """
    return pal_logits(unit(features), prototypes)


def unit(features: jax.Array) -> jax.Array:
    """Rows divided by their norms; a row of zeros is unchanged, with gradient zero."""
    norms = feature_norms(features)[..., None]
    zero = norms == 0
    return jnp.where(zero, 0.0, features / jnp.where(zero, 1.0, norms)).astype(features.dtype)


def feature_norms(features: jax.Array) -> jax.Array:
    """||h|| of every row, shape (...), with gradient zero at h = 0.

    Example:
        >>> feature_norms(jnp.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [5.0, 0.0]
    """
    features = _numbers.floats(features, "features")  # squares of 16-bit numbers beyond 256 overflow
    squares = jnp.sum(features * features, axis=-1)
    zero = squares == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squares)))


def initial_prototypes(key: jax.Array, classes: int, dim: int, kind: str = "etf", scale: ArrayLike = 1.0) -> jax.Array:
    """Prototypes to start from or to anchor, with a given structure and scale.

    Args:
        key: JAX key, which rotates the ETF or draws the other kinds.
        classes, dim: C and p.
        kind: "etf" (default; rows of unit norm, cosines -1/(C-1)), "kaiming" or "normal".
        scale: Factor; larger prototypes have more weight relative to the features.

    Returns:
        W, shape (C, p).

    Raises:
        ValueError: for an unknown kind, or an ETF with p < C - 1.

    Source: Zhou et al. 2023, Appendix D.1 and footnote 14.

    Example:
        >>> W = initial_prototypes(jax.random.key(0), classes=3, dim=4, scale=2.0)
        >>> (W @ W.T).round(3)[0].tolist()
        [4.0, -2.0, -2.0]
    """
    _check.choice("kind of prototypes", kind, PROTOTYPES)
    _check.positive("scale of prototypes", scale)
    if kind == "etf":
        draw = initial.simplex_etf(classes, dim, key)
    else:
        draw = (initial.normal if kind == "normal" else initial.kaiming_uniform)(key, (classes, dim))
    return draw * jnp.asarray(scale, draw.dtype)


class Head(eqx.Module):
    """The last layer: prototypes, a bias or none, and the way in which they act on the features.

    Attributes:
        prototypes: W, shape (C, p).
        bias: b, shape (C,), or None.
        kind: "linear" (trained prototypes), "pal" (anchored) or "fnpal" (anchored, features normalised).

    Source: Zhou et al. 2023, Section 4.1.

    Example:
        >>> head = make_head(jax.random.key(0), "pal", classes=3, dim=4)
        >>> head(jnp.zeros((5, 4))).shape, head.anchored
        ((5, 3), True)
    """

    prototypes: jax.Array
    bias: jax.Array | None
    kind: str = eqx.field(static=True, default="linear")

    @property
    def anchored(self) -> bool:
        """Whether the prototypes do not move."""
        return self.kind != "linear"

    def __call__(self, features: jax.Array) -> jax.Array:
        """Logits, shape (..., C)."""
        if self.kind == "pal":
            return pal_logits(features, self.prototypes)
        if self.kind == "fnpal":
            return fnpal_logits(features, self.prototypes)
        return linear_logits(features, self.prototypes, 0.0 if self.bias is None else self.bias)

    def losses(self, loss: Loss, features: jax.Array, labels: jax.Array) -> jax.Array:
        """One loss per sample, shape (n,), from features (n, p) and integer labels (n,).

        Raises:
            ValueError: for the adjusted margin loss with a head that is not "fnpal".
        """
        if isinstance(loss, AdjustedMargin):
            if self.kind != "fnpal":
                raise ValueError(
                    f"the adjusted margin loss is defined on unit features and anchored prototypes, but the head is of "
                    f"kind {self.kind!r}; use 'fnpal'."
                )
            return loss.of_features(features, jax.lax.stop_gradient(self.prototypes), labels)
        return loss(self(features), labels)


def make_head(
    key: jax.Array,
    kind: str,
    classes: int,
    dim: int,
    prototypes: str | None = None,
    scale: ArrayLike = 1.0,
    bias: bool = True,
) -> Head:
    """A head ready to train.

    Args:
        key: JAX key.
        kind: "linear", "pal" or "fnpal".
        classes, dim: C and p.
        prototypes: "etf", "kaiming" or "normal"; default: "etf" if they are anchored, otherwise "kaiming".
        scale: Factor on the prototypes.
        bias: Whether a linear head trains a bias, from zero; anchored heads have none.

    Raises:
        ValueError: for an unknown kind, or an ETF with p < C - 1.

    Source: Zhou et al. 2023, Section 4.1 and Appendix D.1.

    Example:
        >>> make_head(jax.random.key(0), "linear", classes=3, dim=4).bias.tolist()
        [0.0, 0.0, 0.0]
    """
    _check.choice("kind of head", kind, KINDS)
    anchored = kind != "linear"
    W = initial_prototypes(key, classes, dim, prototypes or ("etf" if anchored else "kaiming"), scale)
    return Head(W, jnp.zeros(classes, W.dtype) if bias and not anchored else None, kind)
