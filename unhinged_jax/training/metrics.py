"""Calibration and out-of-distribution detection, in NumPy and float64."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp, softmax

from unhinged_jax import _check, _memory, _numbers

SCORES = ("softmax", "energy", "feature_norm")


@dataclasses.dataclass(frozen=True)
class Reliability:
    """A reliability diagram: the samples in each bin of confidence.

    Attributes:
        edges: Bounds of the bins, shape (bins + 1,).
        counts: Samples in each bin, shape (bins,).
        confidence, accuracy: Means over the bin; NaN where it is empty, shape (bins,).
        ece: Expected calibration error, sum_b (n_b / n) |accuracy_b - confidence_b|.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float


def reliability(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> Reliability:
    """Accuracy against confidence in bins ((b-1)/bins, b/bins] of the largest probability.

    Args:
        probabilities: Rows that sum to 1, shape (n, C).
        labels: Integer labels, shape (n,).
        bins: Number of bins of equal width; 15 as in Guo et al.

    Returns:
        A `Reliability`.

    Raises:
        ValueError: for shapes that do not match, no samples, rows that are not distributions, or labels out of range.

    Source: Zhou et al. 2023, Figures 10-11 (Guo et al. 2017).

    Example:
        >>> reliability([[0.9, 0.1], [0.6, 0.4]], [0, 1], bins=2).ece
        0.25
    """
    p, y = np.asarray(_numbers.real("probabilities", probabilities), np.float64), _memory.read(labels)
    kind = getattr(probabilities, "dtype", np.dtype(np.float64))
    rounding = 4 * float(jnp.finfo(kind).eps) if jnp.issubdtype(kind, jnp.floating) else 0.0  # of 16 bits
    _check.whole("bins", bins, 1)
    if p.ndim != 2 or p.shape[0] == 0 or y.shape != p.shape[:1]:
        raise ValueError(f"probabilities must have shape (n, C) with n labels, but got {p.shape} and {y.shape}.")
    _check.labels("labels", y, p.shape[1])
    if np.any(p < 0) or not np.allclose(p.sum(axis=1), 1.0, atol=max(1e-5, rounding)):
        raise ValueError("every row of probabilities must be non-negative and sum to 1; apply a softmax to logits.")
    confidence = p.max(axis=1)
    right = (p.argmax(axis=1) == y).astype(np.float64)
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    held = np.where(counts > 0, counts, np.nan)
    means = [np.bincount(place, value, bins) / held for value in (confidence, right)]
    gaps = np.abs(np.bincount(place, right, bins) - np.bincount(place, confidence, bins))
    return Reliability(edges, counts, means[0], means[1], float(gaps.sum() / p.shape[0]))


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """ECE of `reliability`.

    Example:
        >>> expected_calibration_error([[1.0, 0.0], [1.0, 0.0]], [0, 1])
        0.5
    """
    return reliability(probabilities, labels, bins).ece


def probabilities_of(logits: ArrayLike) -> np.ndarray:
    """Softmax of logits (..., C) in float64.

    Example:
        >>> probabilities_of([[0.0, 0.0]]).tolist()
        [[0.5, 0.5]]
    """
    return softmax(np.asarray(_numbers.real("logits", logits), np.float64), axis=-1)


def scores(logits: ArrayLike, norms: ArrayLike) -> dict[str, np.ndarray]:
    """Scores that are large for images like those of the training set.

    softmax: the largest probability; energy: log sum_c e^{s_c}; feature_norm: ||h||.

    Args:
        logits: Shape (..., n, C).
        norms: Norms of the features, shape (..., n).

    Returns:
        Name -> scores (..., n). The softmax score is monotone in, and returned as, the logarithm of the probability's
        odds, log p - log(1 - p), which still distinguishes images for which p rounds to 1.

    Source: Zhou et al. 2023, Appendix C.4 (Hendrycks & Gimpel 2016; Liu et al. 2020).

    Example:
        >>> scores([[0.0, 0.0]], [2.0])["energy"].round(4).tolist()
        [0.6931]
    """
    s, lengths = (np.asarray(part, np.float64) for part in _numbers.reals(logits=logits, norms=norms))
    top = np.argmax(s, axis=-1)[..., None]
    others = np.where(np.arange(s.shape[-1]) == top, -np.inf, s)
    odds = np.take_along_axis(s, top, axis=-1)[..., 0] - logsumexp(others, axis=-1)
    return {"softmax": odds, "energy": logsumexp(s, axis=-1), "feature_norm": lengths}


def _ranked(inside: ArrayLike, outside: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives above each distinct threshold, from the highest down; ties share a threshold."""
    a, b = (np.asarray(part, np.float64) for part in _numbers.reals(inside=inside, outside=outside))
    for name, values in (("inside", a), ("outside", b)):
        if values.ndim != 1 or values.size == 0 or not np.all(np.isfinite(values)):
            raise ValueError(f"scores {name} must be one-dimensional, not empty and finite.")
    values = np.concatenate([a, b])
    order = np.argsort(-values, kind="stable")
    positive = np.concatenate([np.ones(a.size), np.zeros(b.size)])[order]
    last = np.append(np.diff(values[order]) != 0, True)
    true = np.cumsum(positive)[last]
    return true, np.flatnonzero(last) + 1 - true


def auroc(inside: ArrayLike, outside: ArrayLike) -> float:
    """Area under the ROC curve: probability that an inside score exceeds an outside one, with ties counted half.

    Args:
        inside, outside: Scores, which are larger inside, of shapes (n,) and (m,).

    Raises:
        ValueError: for empty or non-finite scores.

    Source: Zhou et al. 2023, Appendix C.4.

    Example:
        >>> auroc([2.0, 3.0], [1.0, 2.0])
        0.875
    """
    true, false = (np.concatenate([[0.0], part]) for part in _ranked(inside, outside))
    # Trapezia of whole numbers, divided once, so that nothing rounds before the end.
    area = np.sum(np.diff(false) * (true[1:] + true[:-1])) / 2
    return float(area / (true[-1] * false[-1]))


def aupr(inside: ArrayLike, outside: ArrayLike) -> float:
    """Average precision, inside positive: sum over thresholds of precision times the rise of recall.

    Args, Raises: as `auroc`.

    Source: Zhou et al. 2023, Appendix C.4.

    Example:
        >>> aupr([2.0, 3.0], [1.0])
        1.0
    """
    true, false = _ranked(inside, outside)
    rise = np.diff(true, prepend=0.0)
    return float(np.sum(rise * (true / (true + false))) / true[-1])


def fpr_at_tpr(inside: ArrayLike, outside: ArrayLike, tpr: float = 0.95) -> float:
    """Share of the outside accepted at the highest threshold that accepts at least `tpr` of the inside.

    Args:
        inside, outside: As `auroc`.
        tpr: In (0, 1]; 0.95 gives FPR95.

    Raises:
        ValueError: for empty or non-finite scores, or a tpr outside (0, 1].

    Source: Zhou et al. 2023, Appendix C.4.

    Example:
        >>> fpr_at_tpr([2.0, 3.0], [1.0, 2.5])
        0.5
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr must lie in (0, 1], but got {tpr}.")
    true, false = _ranked(inside, outside)
    # In whole numbers: 0.95 * 20 is above 19 in floating point.
    enough = np.ceil(np.round(tpr * true[-1], 9))
    return float(false[np.argmax(true >= enough)] / false[-1])


def detection(inside: ArrayLike, outside: ArrayLike) -> dict[str, float]:
    """FPR95, AUROC and AUPR of one score.

    Example:
        >>> detection([2.0, 3.0], [0.0, 1.0])
        {'fpr95': 0.0, 'auroc': 1.0, 'aupr': 1.0}
    """
    return {
        "fpr95": fpr_at_tpr(inside, outside), "auroc": auroc(inside, outside), "aupr": aupr(inside, outside)
    }  # fmt: skip
