"""Neural collapse of a network that was trained elsewhere: from its features, labels and prototypes."""

from unhinged_jax.measurement.measurement import Measurement
from unhinged_jax.measurement.run import measure
from unhinged_jax.measurement.streaming import Collapse

__all__ = ["Collapse", "Measurement", "measure"]
