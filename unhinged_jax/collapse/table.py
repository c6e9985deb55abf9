"""Every metric with its paper and its ideal value, and all of them at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.typing import ArrayLike

from unhinged_jax.collapse.classifier import margin_mean, margin_min, nc3_self_duality, nc4, unc3
from unhinged_jax.collapse.directions import etf_distance, gnc2, minimal_angle, nc2_equiangularity, nc2_equinorm
from unhinged_jax.collapse.frame import checked_logits, prepare, prototype_frame
from unhinged_jax.collapse.statistics import ClassStatistics
from unhinged_jax.collapse.variability import cdnv, nc1, nc1_trace_ratio
from unhinged_jax.precision import follows_arrays


@dataclasses.dataclass(frozen=True)
class MetricInfo:
    """One row of `METRICS`.

    Args:
        name: key in `METRICS` and in the result of `collapse_metrics`.
        function: the public function, called as `function(*takes)`.
        takes: its positional arguments, of "stats", "W" and "logits".
        reference: the paper that introduced it.
        ideal: value at exact collapse, as a function of the number of classes C.
        meaning: in a few words, as on an axis.

    Source: beyond the paper.

    Example:
        >>> METRICS["nc4"].ideal(10)
        1.0
    """

    name: str
    function: Callable[..., jax.Array]
    takes: tuple[str, ...]
    reference: str
    ideal: Callable[[int], float]
    meaning: str


def _zero(_classes: int) -> float:
    return 0.0


def _one(_classes: int) -> float:
    return 1.0


def _unbounded(_classes: int) -> float:
    return math.inf


def _simplex_angle(classes: int) -> float:
    return math.acos(-1 / (classes - 1))


_PAPYAN = "Papyan, Han & Donoho, PNAS 2020"
_TIRER, _GALANTI = "Tirer et al., ICML 2023", "Galanti, György & Hutter, ICLR 2022"
_ZHU, _LIU, _WU = "Zhu et al., NeurIPS 2021", "Liu et al., ICLR 2023", "Wu & Papyan, NeurIPS 2024"
_METTES, _ZHOU = "Mettes et al., NeurIPS 2019", "Zhou et al., JMLR 2023"
_ROWS: tuple[tuple[str, Callable[..., jax.Array], tuple[str, ...], str, Any, str], ...] = (
    ("nc1", nc1, ("stats",), _PAPYAN, _zero, "within-class variability"),
    ("nc1_trace_ratio", nc1_trace_ratio, ("stats",), _TIRER, _zero, "within-class over between-class variance"),
    ("cdnv", cdnv, ("stats",), _GALANTI, _zero, "class-distance normalised variance"),
    ("nc2_equinorm_means", nc2_equinorm, ("stats",), _PAPYAN, _zero, "relative spread of norms of class means"),
    ("nc2_equinorm_prototypes", nc2_equinorm, ("W",), _PAPYAN, _zero, "relative spread of norms of prototypes"),
    ("nc2_equiangularity_means", nc2_equiangularity, ("stats",), _PAPYAN, _zero, "|cos + 1/(C−1)| of class means"),
    ("nc2_equiangularity_prototypes", nc2_equiangularity, ("W",), _PAPYAN, _zero, "|cos + 1/(C−1)| of prototypes"),
    ("etf_distance_means", etf_distance, ("stats",), _ZHU, _zero, "distance of class means from a simplex ETF"),
    ("etf_distance_prototypes", etf_distance, ("W",), _ZHU, _zero, "distance of prototypes from a simplex ETF"),
    ("gnc2", gnc2, ("stats",), _LIU, _zero, "logarithmic energy of class means above an ETF"),
    ("nc3_self_duality", nc3_self_duality, ("stats", "W"), _PAPYAN, _zero, "distance of prototypes from class means"),
    ("unc3", unc3, ("stats", "W"), _WU, _zero, "variation of cos(prototype, class mean)"),
    ("nc4", nc4, ("stats", "logits"), _PAPYAN, _one, "agreement with the nearest class mean"),
    ("minimal_angle_means", minimal_angle, ("stats",), _METTES, _simplex_angle, "least angle between class means"),
    ("minimal_angle_prototypes", minimal_angle, ("W",), _METTES, _simplex_angle, "least angle between prototypes"),
    ("margin_min", margin_min, ("stats", "logits"), _ZHOU, _unbounded, "smallest margin"),
    ("margin_mean", margin_mean, ("stats", "logits"), _ZHOU, _unbounded, "mean margin"),
)
METRICS: dict[str, MetricInfo] = {row[0]: MetricInfo(*row) for row in _ROWS}


@follows_arrays
def collapse_metrics(
    stats: ClassStatistics, W: ArrayLike | None = None, logits: ArrayLike | None = None
) -> dict[str, jax.Array]:
    """Every metric of `METRICS` at once, sharing Gram matrices and distances.

    Each entry equals the public function of the same name, called with its default options.

    Args:
        stats: class statistics.
        W: (C, p) prototypes; without them the metrics that need them are left out.
        logits: (n, C) logits; without them the metrics that need them are left out.

    Returns:
        Dictionary from metric name to scalar, in the order of `METRICS`.

    Raises:
        ValueError: W or logits whose shape does not match the statistics.

    Source: beyond the paper.

    Example:
        >>> import jax.numpy as jnp
        >>> from unhinged_jax.collapse import class_statistics
        >>> M = jnp.eye(3) - 1 / 3
        >>> stats = class_statistics(jnp.repeat(M, 2, 0), jnp.repeat(jnp.arange(3), 2), 3)
        >>> values = collapse_metrics(stats, W=M)
        >>> len(values), round(float(values["nc3_self_duality"]), 6)
        (14, 0.0)
    """
    prepared = prepare(stats)
    shared: dict[str, Any] = {"stats": prepared}
    if W is not None:
        shared["W"] = prototype_frame(prepared, W)
    if logits is not None:
        shared["logits"] = checked_logits(stats, logits)
    return {
        name: info.function(*(shared[argument] for argument in info.takes))
        for name, info in METRICS.items()
        if set(info.takes) <= shared.keys()
    }
