"""Neural-collapse metrics: NC0-NC5 and related ones, from class statistics alone.

Every metric takes `ClassStatistics` (with prototypes W or logits where it needs them) and never forms an n x n or p x p
array. `collapse_metrics` evaluates those of `METRICS` and shares work between them. `MEASURED` also lists NC5, which
needs features from outside the training distribution, and the one-vs-rest distances, which no compiled program
computes. Both tables hold the paper and the ideal value of each.

Conventions, common to all:

- Class means are centred by the global mean Σ_c (n_c/n) μ_c = mean of all features; with balanced
  classes this is Papyan's mean of class means. Σ_W and Σ_B weigh classes by n_c/n as well, so that
  Σ_W + Σ_B is the total covariance. Prototypes are not centred.
- Values do not depend on the scale of the features or of the prototypes (margins scale with the
  logits). Statistics hold squares, so features beyond about 1e±150 (1e±18 in float32) should be
  normalised before the statistics are taken.
- A vector of norm zero has cosine 0 with every other vector and cosine 1 with another zero vector.
- A ratio whose denominator vanishes is `inf`, 0/0 included: all features on one point, or all means
  equal, give NC1 = CDNV = inf, minimal angle 0 and duality √2, never NaN.
- Gradients are finite wherever the value is; where a metric has a kink at its ideal value, or has
  become infinite, the gradient is 0.
"""

from unhinged_jax.collapse.beyond import nc5, one_vs_rest_distance
from unhinged_jax.collapse.classifier import (
    accuracy,
    margin_mean,
    margin_min,
    margins,
    nc3_self_duality,
    nc4,
    ncc_accuracy,
    unc3,
)
from unhinged_jax.collapse.directions import (
    etf_distance,
    gnc2,
    minimal_angle,
    nc0,
    nc2_equiangularity,
    nc2_equinorm,
    riesz_energy,
)
from unhinged_jax.collapse.imbalance import seli_distance_means, seli_distance_prototypes
from unhinged_jax.collapse.statistics import ClassStatistics, class_statistics
from unhinged_jax.collapse.statistics import of_classes as of_classes
from unhinged_jax.collapse.table import MEASURED, METRICS, MetricInfo, collapse_metrics
from unhinged_jax.collapse.variability import cdnv, nc1, nc1_trace_ratio

__all__ = [
    "MEASURED",
    "METRICS",
    "ClassStatistics",
    "MetricInfo",
    "accuracy",
    "cdnv",
    "class_statistics",
    "collapse_metrics",
    "etf_distance",
    "gnc2",
    "margin_mean",
    "margin_min",
    "margins",
    "minimal_angle",
    "nc0",
    "nc1",
    "nc1_trace_ratio",
    "nc2_equiangularity",
    "nc2_equinorm",
    "nc3_self_duality",
    "nc4",
    "nc5",
    "ncc_accuracy",
    "one_vs_rest_distance",
    "riesz_energy",
    "seli_distance_means",
    "seli_distance_prototypes",
    "unc3",
]
