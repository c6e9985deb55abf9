"""Every metric with its paper and its ideal value, and all of them at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
from jax.typing import ArrayLike

from unhinged_jax.collapse.beyond import nc5, one_vs_rest_distance
from unhinged_jax.collapse.classifier import (
    accuracy,
    margin_mean,
    margin_min,
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
from unhinged_jax.collapse.frame import Prepared, checked_logits, prepare, prototype_frame
from unhinged_jax.collapse.imbalance import seli_distance_means, seli_distance_prototypes
from unhinged_jax.collapse.statistics import ClassStatistics
from unhinged_jax.collapse.variability import cdnv, nc1, nc1_trace_ratio
from unhinged_jax.precision import follows_arrays


@dataclasses.dataclass(frozen=True)
class MetricInfo:
    """One row of `METRICS` or `MEASURED`.

    Args:
        name: key in the table, and for `METRICS` in the result of `collapse_metrics`.
        function: the public function, called as `function(*takes)`.
        takes: its positional arguments, of "stats", "W", "logits" and "ood".
        reference: the paper that introduced it.
        key: that paper's entry in `references.bib`.
        ideal: value at exact collapse, as a function of the number of classes C and, if given, the dimension p. A
            simplex of more than p + 1 classes does not fit into p dimensions; then it is the best value that any
            arrangement has, or NaN where that is not known.
        meaning: in a few words, as on an axis.

    Source: beyond the paper.

    Example:
        >>> ideal = METRICS["etf_distance_means"].ideal
        >>> METRICS["nc4"].ideal(10), ideal(3, 2), ideal(9, 2)
        (1.0, 0.0, 1.0)
    """

    name: str
    function: Callable[..., jax.Array]
    takes: tuple[str, ...]
    reference: str
    key: str
    ideal: Callable[..., float]
    meaning: str

    def of(self, shared: dict[str, Any]) -> jax.Array:
        """The metric of what `shared_inputs` prepared."""
        return self.function(*(shared[argument] for argument in self.takes))


def _always(value: float) -> Callable[..., float]:
    return lambda classes, dim=None: value


def _simplex(value: Callable[[int], float], crowded: Callable[[int, int], float]) -> Callable[..., float]:
    """The value of a simplex if it fits into p dimensions, else what is known to be best."""
    return lambda classes, dim=None: value(classes) if dim is None or classes <= dim + 1 else crowded(classes, dim)


def _unknown(_classes: int, _dim: int) -> float:
    return math.nan


def _rank(classes: int, dim: int) -> float:
    """Of all Gram matrices of rank p, a projector inside that of the simplex is nearest to it."""
    return math.sqrt(2 - 2 * math.sqrt(dim / (classes - 1)))


def _angle(classes: int, dim: int) -> float:
    if dim <= 2:
        return 2 * math.pi / classes if dim == 2 else 0.0
    return math.pi / 2 if classes <= 2 * dim else math.acos(_SHARP.get((classes, dim), math.nan))


# Largest cosine of the best code of (C, p), where it is proven: 7 to 11 points in space, Schütte & van der Waerden 1951
# and Danzer 1986; the others by Levenshtein, as listed by Cohn & Kumar 2007.
_SHARP = {
    (7, 3): 1 / (math.tan(math.radians(40)) * math.tan(math.radians(80))),
    (8, 3): (8**0.5 - 1) / 7,
    (9, 3): 1 / 3,
    (10, 3): (4 + 4 / 3**0.5 * math.cos(math.atan(687**0.5 / 9) / 3)) ** -0.5,
    (11, 3): 5**-0.5,
    (12, 3): 5**-0.5,
    (120, 4): (1 + 5**0.5) / 4,
    (16, 5): 1 / 5,
    (27, 6): 1 / 4,
    (56, 7): 1 / 3,
    (240, 8): 1 / 2,
    (112, 21): 1 / 9,
    (162, 21): 1 / 7,
    (100, 22): 1 / 11,
    (275, 22): 1 / 6,
    (891, 22): 1 / 4,
    (552, 23): 1 / 5,
    (4600, 23): 1 / 3,
    (196560, 24): 1 / 2,
}


def _on_the_circle(kernel: Callable[[float], float]) -> Callable[[int, int], float]:
    """Mean of a kernel of the chord, in units of that of the simplex, over a regular polygon."""

    def value(classes: int, dim: int) -> float:
        if dim != 2:
            return math.inf if dim == 1 else math.nan
        unit = math.sqrt(2 * classes / (classes - 1))
        chords = (2 * math.sin(math.pi * k / classes) / unit for k in range(1, classes))
        return sum(map(kernel, chords)) / (classes - 1)

    return value


def _from_hull(classes: int, dim: int) -> float:
    if dim <= 2:
        return 1 - math.cos(2 * math.pi / classes) if dim == 2 else 0.0
    return 1.0 if classes <= 2 * dim else math.nan


_ZERO, _ONE, _UNBOUNDED = _always(0.0), _always(1.0), _always(math.inf)
_FLAT = _simplex(lambda classes: 0.0, _unknown)
_ETF = _simplex(lambda classes: 0.0, _rank)
_LOGARITHMIC = _simplex(lambda classes: 0.0, _on_the_circle(lambda chord: -math.log(chord)))
_RIESZ = _simplex(lambda classes: 1.0, _on_the_circle(lambda chord: 1 / chord))
_ANGLE = _simplex(lambda classes: math.acos(-1 / (classes - 1)), _angle)

_ONE_VS_REST = _simplex(lambda classes: classes / (classes - 1), _from_hull)

_PAPYAN = ("Papyan, Han & Donoho, PNAS 2020", "papyan2020prevalence")
_TIRER = ("Tirer et al., ICML 2023", "tirer2023perturbation")
_GALANTI = ("Galanti, György & Hutter, ICLR 2022", "galanti2022role")
_ZHU = ("Zhu et al., NeurIPS 2021", "zhu2021geometric")
_LIU = ("Liu et al., ICLR 2023", "liu2023generalizing")
_ENERGY = ("Liu et al., NeurIPS 2018", "liu2018learning")
_WU = ("Wu & Papyan, NeurIPS 2024", "wu2024linguistic")
_METTES = ("Mettes et al., NeurIPS 2019", "mettes2019hyperspherical")
_ZHOU = ("Zhou et al., JMLR 2023", "zhou2023unhinged")
_SELI = ("Thrampoulidis et al., NeurIPS 2022", "thrampoulidis2022imbalance")
_ZHAO = ("Zhao et al., ICLR 2026", "zhao2026optimizer")
_AMMAR = ("Ammar et al., ICLR 2024", "ammar2024neco")
_JIANG = ("Jiang et al., ICML 2024", "jiang2024generalized")
_STATS, _PROTOTYPES, _BOTH, _SAMPLES = ("stats",), ("W",), ("stats", "W"), ("stats", "logits")
_Row: TypeAlias = tuple[str, Callable[..., jax.Array], tuple[str, ...], tuple[str, str], Any, str]
_ROWS: tuple[_Row, ...] = (
    ("nc0", nc0, _PROTOTYPES, _ZHAO, _ZERO, "sum of prototypes, over the sum of their norms"),
    ("nc1", nc1, _STATS, _PAPYAN, _ZERO, "within-class variability"),
    ("nc1_trace_ratio", nc1_trace_ratio, _STATS, _TIRER, _ZERO, "within-class over between-class variance"),
    ("cdnv", cdnv, _STATS, _GALANTI, _ZERO, "class-distance normalised variance"),
    ("nc2_equinorm_means", nc2_equinorm, _STATS, _PAPYAN, _ZERO, "relative spread of norms of class means"),
    ("nc2_equinorm_prototypes", nc2_equinorm, _PROTOTYPES, _PAPYAN, _ZERO, "relative spread of norms of prototypes"),
    ("nc2_equiangularity_means", nc2_equiangularity, _STATS, _PAPYAN, _FLAT, "|cos + 1/(C−1)| of class means"),
    ("nc2_equiangularity_prototypes", nc2_equiangularity, _PROTOTYPES, _PAPYAN, _FLAT, "|cos + 1/(C−1)| of prototypes"),
    ("etf_distance_means", etf_distance, _STATS, _ZHU, _ETF, "distance of class means from a simplex ETF"),
    ("etf_distance_prototypes", etf_distance, _PROTOTYPES, _ZHU, _ETF, "distance of prototypes from a simplex ETF"),
    ("seli_distance_means", seli_distance_means, _STATS, _SELI, _FLAT, "distance of class means from SELI"),
    ("seli_distance_prototypes", seli_distance_prototypes, _BOTH, _SELI, _FLAT, "distance of prototypes from SELI"),
    ("gnc2", gnc2, _STATS, _LIU, _LOGARITHMIC, "logarithmic energy of class means above an ETF"),
    ("riesz_energy_means", riesz_energy, _STATS, _ENERGY, _RIESZ, "Riesz energy of class means over that of an ETF"),
    ("riesz_energy_prototypes", riesz_energy, _PROTOTYPES, _ENERGY, _RIESZ, "Riesz energy of prototypes over an ETF's"),
    ("nc3_self_duality", nc3_self_duality, _BOTH, _PAPYAN, _ZERO, "distance of prototypes from class means"),
    ("unc3", unc3, _BOTH, _WU, _ZERO, "variation of cos(prototype, class mean)"),
    ("nc4", nc4, _SAMPLES, _PAPYAN, _ONE, "agreement with the nearest class mean"),
    ("ncc_accuracy", ncc_accuracy, _STATS, _GALANTI, _ONE, "accuracy of the nearest class mean"),
    ("accuracy", accuracy, _SAMPLES, _PAPYAN, _ONE, "accuracy of the classifier"),
    ("minimal_angle_means", minimal_angle, _STATS, _METTES, _ANGLE, "least angle between class means"),
    ("minimal_angle_prototypes", minimal_angle, _PROTOTYPES, _METTES, _ANGLE, "least angle between prototypes"),
    ("margin_min", margin_min, _SAMPLES, _ZHOU, _UNBOUNDED, "smallest margin"),
    ("margin_mean", margin_mean, _SAMPLES, _ZHOU, _UNBOUNDED, "mean margin"),
)
_BEYOND: tuple[_Row, ...] = (
    ("one_vs_rest_means", one_vs_rest_distance, _STATS, _JIANG, _ONE_VS_REST, "least distance from other means' hull"),
    ("one_vs_rest_prototypes", one_vs_rest_distance, _PROTOTYPES, _JIANG, _ONE_VS_REST, "the same of prototypes"),
    ("nc5", nc5, ("stats", "ood"), _AMMAR, _ZERO, "|cos(class mean, mean from outside)|"),
)


def _table(rows: tuple[_Row, ...]) -> dict[str, MetricInfo]:
    return {
        name: MetricInfo(name, function, takes, *paper, ideal, meaning)
        for name, function, takes, paper, ideal, meaning in rows
    }


METRICS: dict[str, MetricInfo] = _table(_ROWS)
MEASURED: dict[str, MetricInfo] = METRICS | _table(_BEYOND)
"""What `unhinged_jax.measure` computes: `METRICS`, and those that need samples from outside the training distribution
or that no compiled program computes."""


@follows_arrays
def collapse_metrics(
    stats: ClassStatistics | Prepared, W: ArrayLike | None = None, logits: ArrayLike | None = None
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
        (20, 0.0)
    """
    shared = shared_inputs(stats, W, logits)
    return {name: info.of(shared) for name, info in METRICS.items() if set(info.takes) <= shared.keys()}


def shared_inputs(
    stats: ClassStatistics | Prepared, W: ArrayLike | None = None, logits: ArrayLike | None = None
) -> dict[str, Any]:
    """What `MetricInfo.of` evaluates metrics on, by the names in `takes`; arguments as in `collapse_metrics`."""
    prepared = prepare(stats)
    shared: dict[str, Any] = {"stats": prepared}
    if W is not None:
        shared["W"] = prototype_frame(prepared, W)
    if logits is not None:
        shared["logits"] = checked_logits(prepared.stats, logits)
    return shared
