"""The cases of the paper, by name."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy.typing as npt
from jax.typing import ArrayLike

from unhinged_jax import _check
from unhinged_jax.kernel import Kernel, as_kernel
from unhinged_jax.labels import Labels
from unhinged_jax.losses import AdjustedMargin, Loss, LossLike, Unhinged, as_loss
from unhinged_jax.model.checks import LARGEST_DIM
from unhinged_jax.model.layer_peeled import LayerPeeled, checked
from unhinged_jax.model.settings import Decay, decays, pair, split_rescale


def _build(
    labels: Labels,
    dim: int,
    gamma: ArrayLike | None,
    loss: LossLike | None,
    **settings: Any,
) -> LayerPeeled:
    _check.kind("labels", labels, Labels)
    _check.whole("dim", dim, 1, most=LARGEST_DIM)
    if loss is None:
        chosen: Loss = Unhinged(gamma)
    else:
        chosen = as_loss(loss)
        if gamma is not None:
            if not isinstance(chosen, (Unhinged, AdjustedMargin)):
                raise ValueError(f"{type(chosen).__name__} has no gamma; leave gamma out or use the unhinged loss.")
            chosen = dataclasses.replace(chosen, gamma=gamma)
    if settings.get("kernel") is not None:
        settings["kernel"] = as_kernel(settings["kernel"], labels.samples, dim)
    return checked(LayerPeeled(labels=labels, loss=chosen, dim=dim, **settings))


def unconstrained(
    labels: Labels,
    dim: int,
    *,
    gamma: ArrayLike | None = None,
    loss: LossLike | None = None,
    bias: bool = False,
    depth: int = 2,
    activation: str = "linear",
) -> LayerPeeled:
    """Free features and prototypes without decay.

    Args:
        labels: Class layout.
        dim: Feature dimension p.
        gamma: Trade-off of the unhinged loss, at least 0; default 1/(C-1).
        loss: Another loss: a name ("cross_entropy", "mse", "hinge", "focal"), a `Loss`, or a callable (logits, targets)
            -> one value per sample; see `losses.as_loss` if its numbers change.
        bias: Whether to train a bias.
        depth: L, the number of factors of the logits W_L ... W_2 H, at least 2 (default: H and W). The factors between
            H and W are square, (p, p).
        activation: What is applied between the factors W_2, ..., W_L: "linear" (default) or "relu".

    Returns:
        A `LayerPeeled`.

    Raises:
        ValueError: for a setting out of range, with what was expected.

    Source: Zhou et al. 2023, Section 3.1, Eq. 2-5; more than two factors as in Súkeník, Mondelli & Lampert 2023.

    Example:
        >>> from unhinged_jax.labels import balanced
        >>> unconstrained(balanced(classes=4, per_class=2), dim=8, gamma=0.1).loss
        Unhinged(gamma=0.1)
    """
    return _build(labels, dim, gamma, loss, bias=bias, depth=depth, activation=activation)


def regularized(
    labels: Labels,
    dim: int,
    *,
    decay: Decay,
    gamma: ArrayLike | None = None,
    loss: LossLike | None = None,
    bias: bool = False,
    decay_b: ArrayLike | None = None,
    depth: int = 2,
    activation: str = "linear",
) -> LayerPeeled:
    """Weight decay on features and prototypes.

    Args:
        decay: lambda, or the pair (lambda_1 for H, lambda_2 for all other factors and b), at least 0.
        labels, dim, gamma, loss, bias, depth, activation: as in `unconstrained`.
        decay_b: The decay of b, at least 0, if it is not that of W.

    Returns:
        A `LayerPeeled`.

    Raises:
        ValueError: as `unconstrained`, for decays that are negative or more than two, and for a decay_b without a bias.

    Source: Zhou et al. 2023, Section 3.2, Eq. 11-12.

    Example:
        >>> from unhinged_jax.labels import balanced
        >>> model = regularized(balanced(classes=4, per_class=2), dim=8, decay=(0.1, 0.2))
        >>> model.decay_H, model.decay_W
        (0.1, 0.2)
    """
    decay_H, decay_W = pair(decay)
    given: dict[str, Any] = {"bias": bias, "decay_b": decay_b, "depth": depth, "activation": activation}
    return _build(labels, dim, gamma, loss, decay_H=decay_H, decay_W=decay_W, **given)


def anchored(
    labels: Labels, dim: int, *, decay: ArrayLike = 0.0, gamma: ArrayLike | None = None, loss: LossLike | None = None
) -> LayerPeeled:
    """Features move; prototypes (and biases) stay where they start.

    Args:
        decay: lambda_1 on the features, at least 0.
        labels, dim, gamma, loss: as in `unconstrained`.

    Returns:
        A `LayerPeeled`.

    Raises:
        ValueError: as `unconstrained`.

    Source: Zhou et al. 2023, Section 3.3, Theorem 6.

    Example:
        >>> from unhinged_jax.labels import balanced
        >>> model = anchored(balanced(classes=4, per_class=2), dim=8, decay=0.1)
        >>> model.features_move, model.prototypes_move
        (True, False)
    """
    return _build(labels, dim, gamma, loss, decay_H=decay, prototypes_move=False)


def frozen(
    labels: Labels,
    dim: int,
    *,
    decay: ArrayLike = 0.0,
    gamma: ArrayLike | None = None,
    loss: LossLike | None = None,
    bias: bool = False,
    decay_b: ArrayLike | None = None,
) -> LayerPeeled:
    """Features stay where they start, which leaves a linear classifier.

    Args:
        decay: lambda_2 on its weights and bias, at least 0.
        labels, dim, gamma, loss, bias: as in `unconstrained`.
        decay_b: as in `regularized`.

    Returns:
        A `LayerPeeled`.

    Raises:
        ValueError: as `unconstrained`.

    Source: beyond the paper.

    Example:
        >>> from unhinged_jax.labels import balanced
        >>> model = frozen(balanced(classes=4, per_class=2), dim=8, loss="cross_entropy")
        >>> model.features_move, model.prototypes_move
        (False, True)
    """
    return _build(labels, dim, gamma, loss, decay_W=decay, features_move=False, bias=bias, decay_b=decay_b)


def spherical(
    labels: Labels,
    dim: int,
    *,
    decay: Decay = 0.0,
    rescale: float = 0,
    free_prototypes: bool = False,
    unit_prototypes: bool = False,
    gamma: ArrayLike | None = None,
    loss: LossLike | None = None,
) -> LayerPeeled:
    """Features are normalised before use; prototypes are anchored unless `free_prototypes`.

    Args:
        decay: lambda_1 on the features (and lambda_2, if a pair).
        rescale: q >= 0, which multiplies the loss gradient of sample i by ||h_i||^q; 1 is the rescaled learning rate of
            Section 4.3, as in Figure 9. A float, even 1.0, may be traced; the ints 0, 1, 2 are faster.
        free_prototypes: Let the prototypes move as well; there is then no closed form.
        unit_prototypes: Normalise free prototypes, too, before use, so that logits are cosines; default False. A
            temperature, as of `CrossEntropy(0.1)`, then says how sharp they are.
        labels, dim, gamma, loss: as in `unconstrained`.

    Returns:
        A `LayerPeeled`.

    Raises:
        ValueError: as `unconstrained`, and for a negative `rescale`.

    Source: Zhou et al. 2023, Section 3.4, Eq. 17-19, and Section 4.3; unit prototypes as in Jiang et al. 2024.

    Example:
        >>> from unhinged_jax.labels import balanced
        >>> model = spherical(balanced(classes=4, per_class=2), dim=8, rescale=1)
        >>> model.spherical, model.rescaling, model.prototypes_move
        (True, 1, False)
    """
    free_prototypes = _check.flag("free_prototypes", free_prototypes)
    decay_H, decay_W = decays(decay, features_move=True, prototypes_move=free_prototypes, spherical=True)
    return _build(
        labels,
        dim,
        gamma,
        loss,
        decay_H=decay_H,
        decay_W=decay_W,
        prototypes_move=free_prototypes,
        spherical=True,
        unit_prototypes=_check.flag("unit_prototypes", unit_prototypes),
        **dict(zip(("rescale", "exponent"), split_rescale(rescale), strict=True)),
    )


def ntk_invariant(
    labels: Labels,
    dim: int,
    kernel: Kernel | npt.ArrayLike,
    *,
    decay: Decay = 0.0,
    gamma: ArrayLike | None = None,
    loss: LossLike | None = None,
    bias: bool = False,
    decay_b: ArrayLike | None = None,
) -> LayerPeeled:
    """Features of a network whose tangent kernel is constant: H' = r1 eta Theta (M W).

    Args:
        kernel: Theta, (n, n); a factor J with Theta = J J^T, (n, m); or a kernel between feature coordinates,
            (n p, n p). See `Kernel`.
        labels, dim, decay, gamma, loss, bias, decay_b: as in `regularized`.

    Returns:
        A `LayerPeeled`.

    Raises:
        ValueError: as `regularized`, and for a kernel of another shape or one that is not positive semi-definite.

    Source: Zhou et al. 2023, Section 3.5, Theorem 8 (corrected).

    Example:
        >>> import numpy as np
        >>> from unhinged_jax.labels import balanced
        >>> model = ntk_invariant(balanced(classes=2, per_class=2), dim=3, kernel=np.eye(4))
        >>> model.kernel.kind
        'samples'
    """
    decay_H, decay_W = pair(decay)
    return _build(labels, dim, gamma, loss, bias=bias, kernel=kernel, decay_H=decay_H, decay_W=decay_W, decay_b=decay_b)
