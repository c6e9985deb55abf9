"""Losses on (logits, targets), one value per sample, in optax's signature.

`logits` has shape (..., C). `targets` are distributions of the same shape, or integer labels of shape (...). The
functions can be used alone. `Loss` objects carry their parameters as array leaves, so that a model can be mapped over
them and differentiated with respect to them. A loss that is linear in the logits also gives its signal matrix.
"""

from unhinged_jax.losses.margin import adjusted_margin
from unhinged_jax.losses.objects import (
    MSE,
    NAMED,
    AdjustedMargin,
    CrossEntropy,
    Custom,
    CustomTree,
    Focal,
    Hinge,
    Loss,
    LossLike,
    NotLinear,
    Unhinged,
    as_loss,
)
from unhinged_jax.losses.of_logits import cross_entropy, focal, hinge, mse, runner_up_margins, unhinged

__all__ = [
    "MSE",
    "NAMED",
    "AdjustedMargin",
    "CrossEntropy",
    "Custom",
    "CustomTree",
    "Focal",
    "Hinge",
    "Loss",
    "LossLike",
    "NotLinear",
    "Unhinged",
    "adjusted_margin",
    "as_loss",
    "cross_entropy",
    "focal",
    "hinge",
    "mse",
    "runner_up_margins",
    "unhinged",
]
