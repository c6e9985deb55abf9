"""Optimisers: optax's own with numbers that are data, and some that optax lacks."""

from unhinged_jax.optimizers.constructors import (
    clipped_descent,
    normalized_descent,
    rescale_by_feature_norm,
    spectral_descent,
)
from unhinged_jax.optimizers.optimizer import Optimizer, Settings

__all__ = [
    "Optimizer",
    "Settings",
    "clipped_descent",
    "normalized_descent",
    "rescale_by_feature_norm",
    "spectral_descent",
]
