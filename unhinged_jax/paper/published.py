"""Vertices of the published curves, and the distance of a reproduction from them."""

from __future__ import annotations

import csv
import functools
from importlib import resources

import numpy as np

FLOOR = 2e-11  # published distances below this are rounding errors of the original runs
DISTANCES = {"1c", "5b", "5c", "6b", "6c", "7b", "7c", "8b", "8c", "9b", "9e", "15c"}
_RESOLUTION = {"1a": 2e46, "15a": 2e-5, "15d": 2e-5}  # what the plot resolves
_NOISE = {("1b", "gamma=0.05"): 34_300, ("5a", "gamma=0.1"): 12_800}  # all logits equal beyond: accuracy is rounding

Vertices = dict[str, tuple[np.ndarray, np.ndarray]]


@functools.cache
def vertices(panel: str) -> Vertices:
    """Curve -> (indices, values) of a published panel such as "5b"; empty if none was read off."""
    source = resources.files("unhinged_jax.paper") / "published" / f"fig{panel}.csv"
    if not source.is_file():
        return {}
    found: dict[str, list[tuple[int, float]]] = {}
    for row in csv.DictReader(source.read_text(encoding="utf-8").splitlines()):
        found.setdefault(row["curve"], []).append((int(row["t"]), float(row["value"])))
    return {
        curve: (np.array([t for t, _ in points]), np.array([value for _, value in points]))
        for curve, points in found.items()
    }


def resolution(panel: str) -> float:
    """The smallest difference that the published plot of a panel shows; 0 if it shows every digit that was read."""
    return _RESOLUTION.get(panel, 0.0)


def deviation(panel: str, curve: str, indices: np.ndarray, values: np.ndarray) -> dict[str, float] | None:
    """How far a curve is from its published vertices.

    Returns:
        None if nothing was published; else the number of `points` compared and `worst`, the largest |difference| over
        1e-6 |value| + r, where r is the resolution of the plot; at most 1 means agreement. Rounding errors are left
        out: distances below 2e-11 in the original, and accuracies of equal logits in either.

    Raises:
        ValueError: for a curve that the published panel does not have, rather than leaving it uncompared.
    """
    curves = vertices(panel)
    if not curves:
        return None
    if curve not in curves:
        raise ValueError(f"panel {panel} was published without a curve {curve!r}; it has {', '.join(curves)}.")
    t, value = curves[curve]
    keep = t < _NOISE.get((panel, curve), np.inf)
    if panel in DISTANCES:
        keep &= value >= FLOOR
    t, value = t[keep], value[keep]
    ours = values[np.searchsorted(indices, t)]
    allowed = 1e-6 * np.abs(value) + resolution(panel)
    difference = np.abs(ours - value)
    missed = np.where(difference > 0, np.inf, 0.0)
    worst = np.max(np.divide(difference, allowed, out=missed, where=allowed > 0), initial=0.0)
    return {"points": int(t.size), "worst": float(worst)}
