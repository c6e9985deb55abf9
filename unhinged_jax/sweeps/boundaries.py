"""Where theory says that a phase ends, as lines in the plane of two axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from unhinged_jax.config import Config, build_stateless
from unhinged_jax.sweeps.plan import SweepPlan

GROWTH = "λ₁λ₂ = max σ²"
CONTRASTS = "exponent ½: equal contrasts"
TRADE_OFF = "γ = 2/(C−2)"
MEAN = "σ of contrasts = σ of mean"
NOISE = "ρ = (C−1)/C · (1 − |1+γ−γC|/(1+γ))"

_DASHES: dict[str, tuple[float, ...]] = {
    GROWTH: (), CONTRASTS: (5, 2), TRADE_OFF: (1.2, 1.8), MEAN: (6, 2, 1.2, 2), NOISE: (6, 2, 1.2, 2, 1.2, 2)
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Boundary:
    """A line: its meaning, and its points in the plane (x, y), within or beyond the axes."""

    meaning: str
    x: np.ndarray
    y: np.ndarray

    @property
    def dashes(self) -> tuple[float, ...]:
        """Lengths drawn and left out, in line widths; () for a solid line. Each meaning has one, in every picture."""
        return _DASHES[self.meaning]


def contrast_share(rate: float | np.ndarray, classes: int) -> Any:
    """1 - rho C/(C-1), the share of the class contrasts that symmetric noise of rate rho leaves.

    Source: beyond the paper.

    Example:
        >>> round(contrast_share(0.45, classes=10), 3)
        0.5
    """
    return 1 - rate * classes / (classes - 1)


def critical_noise(gamma: float | np.ndarray, classes: int) -> Any:
    """Symmetric label noise beyond which the common mean wins: ((C-1)/C) (1 - |1+gamma-gamma C|/(1+gamma)).

    This holds for rates up to (C-1)/C, where the class contrasts vanish. Beyond it they grow again with the opposite
    sign, and from ((C-1)/C) (1 + |1+gamma-gamma C|/(1+gamma)) on, if that is at most 1, they win again.

    Source: beyond the paper.

    Example:
        >>> round(float(critical_noise(1 / 9, classes=10)), 3)
        0.9
    """
    return (classes - 1) / classes * (1 - np.abs(1 + gamma - gamma * classes) / (1 + gamma))


def critical_gammas(rate: float, classes: int) -> tuple[float, float]:
    """The trade-offs between which class contrasts win over the common mean; 0 and 2/(C-2) without noise.

    They solve |1+gamma-gamma C| = |1 - rho C/(C-1)| (1+gamma).

    Returns:
        (lower, upper), ascending; the upper one may be infinite.

    Source: Zhou et al. 2023, Corollary 3, for the upper one without noise; beyond the paper with noise.

    Example:
        >>> critical_gammas(0.0, classes=10)
        (0.0, 0.25)
    """
    share = abs(contrast_share(rate, classes))
    upper = (1 + share) / (classes - 1 - share) if classes - 1 > share else np.inf
    return (1 - share) / (classes - 1 + share), upper


def top_singular_value(config: Config) -> float:
    """The largest singular value of the signal matrix, for any labels and weights.

    Source: Zhou et al. 2023, Lemma 9, for balanced classes, max(1+gamma, |1+gamma-gamma C|)/(C sqrt N).
    """
    gram = np.asarray(build_stateless(config).model.signal().gram("float32"), float)
    return float(np.sqrt(np.linalg.eigvalsh(gram)[-1]))


def boundaries(plan: SweepPlan, x: str, y: str, places: dict[str, int]) -> list[Boundary]:
    """Every boundary that theory draws in the plane of dimensions x and y, the others held at `places`.

    Args:
        plan: The sweep.
        x, y: Names of two dimensions with one number per point.
        places: Index along the other dimensions.
    """
    model = build_stateless(plan.config_at(places)).model
    if not (model.linear and model.kernel is None and model.moves.coupled):
        return []
    axes = {dim.name: dim.axes for dim in plan.dims}
    found: list[Boundary] = []
    for swapped, (across, up) in enumerate(((x, y), (y, x))):
        for line in _lines(plan, across, up, places, {name: {a.key for a in axes[name]} for name in (across, up)}):
            found.append(dataclasses.replace(line, x=line.y, y=line.x) if swapped else line)
    return found


def _lines(plan: SweepPlan, across: str, up: str, places: dict[str, int], keys: dict[str, set[str]]) -> list[Boundary]:
    """Boundaries that are functions of `across`."""
    values = {dim.name: np.asarray(dim.axes[0].values, float) for dim in plan.dims if dim.name in (across, up)}
    here = [plan.config_at({**places, across: i}) for i in range(len(values[across]))]
    lines = []
    decay = _decay_for(plan, up, here[0])
    if decay is not None and not keys[across] & {"model.decay", "model.decay.0", "model.decay.1"}:
        height = np.asarray([decay(top_singular_value(config), config) for config in here])
        lines.append(Boundary(GROWTH, values[across], height))
    if not all(_balanced(config) for config in here):
        if keys[up] == {"labels.weight_exponent"}:
            half = np.full(len(here), 0.5)
            lines.append(Boundary(CONTRASTS, values[across], half))
        return lines
    noise, classes = [_noise(config) for config in here], [config.labels.classes or 2 for config in here]
    if keys[up] == {"model.gamma"} and "labels.noise.rate" not in keys[across]:
        heights = np.asarray([critical_gammas(rate, count) for rate, count in zip(noise, classes, strict=True)]).T
        meaning = MEAN if any(noise) else TRADE_OFF
        one = np.array_equal(*heights)  # the contrasts vanish
        lines += [Boundary(meaning, values[across], height) for height in heights[: 1 if one else 2] if np.any(height)]
    if keys[up] == {"labels.noise.rate"} and _symmetric(here[0]):
        gammas = values[across] if keys[across] == {"model.gamma"} else np.asarray([_gamma(c) for c in here])
        order = np.argsort(values[across])
        ends = values[across][order]
        fine = np.linspace(ends[0], ends[-1], 400)
        gammas, counts = (np.interp(fine, ends, np.asarray(v, float)[order]) for v in (gammas, classes))
        lines.append(Boundary(NOISE, fine, np.asarray(critical_noise(gammas, counts))))
    return lines


def _decay_for(plan: SweepPlan, up: str, config: Config) -> Callable[[float, Config], float] | None:
    """Height of the growth boundary on an axis of decays, from the top singular value."""
    axes = next(dim for dim in plan.dims if dim.name == up).axes
    keys = {axis.key for axis in axes}
    if keys == {"model.decay"}:
        return lambda sigma, config: sigma
    if keys == {"model.decay.0", "model.decay.1"}:
        return lambda sigma, config: _where_product_is(sigma**2, *(np.asarray(axis.values, float) for axis in axes))
    for place in (0, 1):
        if keys == {f"model.decay.{place}"} and isinstance(config.model.decay, list):
            return lambda sigma, config: sigma**2 / config.model.decay[1 - place]  # type: ignore[index]
    return None


def _where_product_is(square: float, first: np.ndarray, second: np.ndarray) -> float:
    """The first of two decays that vary together where their product is `square`, between neighbours by powers.

    NaN if the product takes this value nowhere or more than once.
    """
    order = np.argsort(first)
    first, product = first[order], (first * second)[order]
    known = product > 0
    logs, heights = np.log(first[known]), np.log(product[known] / square)
    gap = heights[:-1] * heights[1:]
    crossed = np.flatnonzero((gap < 0) | (heights[:-1] == 0))
    ends = int(heights.size and heights[-1] == 0)
    if crossed.size + ends != 1:
        return float("nan")
    if ends:
        return float(np.exp(logs[-1]))
    i = crossed[0]
    share = heights[i] / (heights[i] - heights[i + 1])
    return float(np.exp(logs[i] + share * (logs[i + 1] - logs[i])))


def _gamma(config: Config) -> float:
    return 1 / ((config.labels.classes or 2) - 1) if config.model.gamma is None else config.model.gamma


def _noise(config: Config) -> float:
    return 0.0 if config.labels.noise is None else config.labels.noise.rate or 0.0


def _symmetric(config: Config) -> bool:
    noise = config.labels.noise
    return noise is not None and noise.kind == "symmetric" and bool(noise.expected)


def _balanced(config: Config) -> bool:
    """Equal classes of equal weight, without noise or with expected symmetric noise."""
    labels = config.labels
    plain = (labels.smoothing, labels.class_weights, labels.sample_weights, labels.weight_exponent)
    noisy = labels.noise is not None and not _symmetric(config)
    return labels.layout == "balanced" and all(option is None for option in plain) and not noisy
