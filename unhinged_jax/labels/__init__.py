"""Class layouts: which sample has which label, with what target and what weight."""

from unhinged_jax.labels.labels import Labels
from unhinged_jax.labels.layouts import (
    Order,
    balanced,
    from_counts,
    from_labels,
    long_tailed,
    soft,
    step_imbalanced,
    targets,
)

__all__ = [
    "Labels",
    "Order",
    "balanced",
    "from_counts",
    "from_labels",
    "long_tailed",
    "soft",
    "step_imbalanced",
    "targets",
]
