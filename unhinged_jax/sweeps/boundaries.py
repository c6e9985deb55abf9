"""Where theory says that a phase ends, as lines in the plane of two axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from unhinged_jax.config import Config, build_stateless
from unhinged_jax.sweeps.design import Dim, is_geometric
from unhinged_jax.sweeps.plan import SweepPlan

GROWTH = "λ₁λ₂ = max σ²"
CONTRASTS = "exponent ½: equal contrasts"
TRADE_OFF = "γ = 2/(C−2)"
MEAN = "σ of contrasts = σ of mean"
NOISE = "ρ = (C−1)/C · (1 ± |1+γ−γC|/(1+γ))"

_LOOKS: dict[str, tuple[str, tuple[float, ...]]] = {
    GROWTH: ("#D55E00", ()), CONTRASTS: ("#117733", (5, 2)), TRADE_OFF: ("#000000", (1.2, 1.8)),
    MEAN: ("#0072B2", (6, 2, 1.2, 2)), NOISE: ("#882255", (6, 2, 1.2, 2, 1.2, 2)),
}  # fmt: skip
"""Colour and dashes of each meaning; every colour has a contrast of 3 with white, which lies under the lines."""
_AFFINE = ("model.gamma", "labels.noise.rate", "labels.smoothing")
"""Settings that the signal matrix is an affine function of, as long as no labels are drawn."""
_FINE = 201  # points of a line that does not have to go through the grid


@dataclasses.dataclass(frozen=True)
class Boundary:
    """A line: its meaning, and its points in the plane (x, y), within or beyond the axes."""

    meaning: str
    x: np.ndarray
    y: np.ndarray

    @property
    def dashes(self) -> tuple[float, ...]:
        """Lengths drawn and left out, in line widths; () for a solid line. Each meaning has one, in every picture."""
        return _LOOKS[self.meaning][1]

    @property
    def colour(self) -> str:
        """Its colour; each meaning has one, in every picture."""
        return _LOOKS[self.meaning][0]


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


def top_singular_values(plan: SweepPlan, across: str, places: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """The largest singular value of the signal matrix along a dimension, for any labels and weights.

    Where the signal is affine in the setting, its Gram matrix is a polynomial of degree 2 that three points determine;
    then the line is fine. Elsewhere it goes through the points of the grid.

    Returns:
        Values along the dimension and singular values there.

    Source: Zhou et al. 2023, Lemma 9, for balanced classes, max(1+gamma, |1+gamma-gamma C|)/(C sqrt N).
    """
    axes = next(dim for dim in plan.dims if dim.name == across).axes
    values = np.asarray(axes[0].values, float)
    noise = plan.config_at(places).labels.noise
    drawn = noise is not None and not noise.expected
    if drawn or len(axes) > 1 or axes[0].key not in _AFFINE or np.ptp(values) == 0:
        grams = np.stack([_gram(plan.config_at({**places, across: place})) for place in range(len(values))])
        return values, np.sqrt(np.linalg.eigvalsh(grams)[:, -1])
    ends = low, _, high = values.min(), (values.min() + values.max()) / 2, values.max()
    at = (np.geomspace if is_geometric(np.sort(values)) else np.linspace)(low, high, _FINE)
    first, middle, last = (_gram(config) for config in _configs(plan, across, ends, places))
    share = ((at - low) / (high - low))[:, None, None]
    grams = (1 - share) * (1 - 2 * share) * first + 4 * share * (1 - share) * middle + share * (2 * share - 1) * last
    return at, np.sqrt(np.linalg.eigvalsh(grams)[:, -1])


def _configs(plan: SweepPlan, name: str, values: Sequence[Any], places: dict[str, int]) -> list[Config]:
    """Configurations with a dimension at values that need not be on its grid."""
    numbers = tuple(map(float, values))  # not those of NumPy, which a configuration refuses

    def moved(dim: Dim) -> Dim:
        return dataclasses.replace(dim, axes=tuple(dataclasses.replace(axis, values=numbers) for axis in dim.axes))

    finer = dataclasses.replace(plan, dims=tuple(moved(dim) if dim.name == name else dim for dim in plan.dims))
    return [finer.config_at({**places, name: place}) for place in range(len(values))]


def _gram(config: Config) -> np.ndarray:
    """M^T M of the signal matrix, (C, C)."""
    return np.asarray(build_stateless(config).model.signal().gram("float32"), float)


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
    values = np.asarray(next(dim for dim in plan.dims if dim.name == across).axes[0].values, float)
    here = [plan.config_at({**places, across: i}) for i in range(len(values))]
    lines = []
    decay = _decay_for(plan, up, here[0])
    if decay is not None and not keys[across] & {"model.decay", "model.decay.0", "model.decay.1"}:
        at, sigmas = top_singular_values(plan, across, places)
        lines.append(Boundary(GROWTH, at, np.asarray([decay(sigma) for sigma in sigmas])))
    if not all(_balanced(config) for config in here):
        if keys[up] == {"labels.weight_exponent"} and _equal_at_half(plan, across, up, places):
            lines.append(Boundary(CONTRASTS, values, np.full(len(here), 0.5)))
        return lines
    noise, classes = [_noise(config) for config in here], [config.labels.classes or 2 for config in here]
    if keys[up] == {"model.gamma"} and "labels.noise.rate" not in keys[across]:
        heights = np.asarray([critical_gammas(rate, count) for rate, count in zip(noise, classes, strict=True)]).T
        meaning = MEAN if any(noise) else TRADE_OFF
        one = np.array_equal(*heights)  # the contrasts vanish
        lines += [Boundary(meaning, values, height) for height in heights[: 1 if one else 2] if np.any(height)]
    if keys[up] == {"labels.noise.rate"} and _symmetric(here[0]):
        gammas = values if keys[across] == {"model.gamma"} else np.asarray([_gamma(c) for c in here])
        order = np.argsort(values)
        ends = values[order]
        fine = np.linspace(ends[0], ends[-1], 2 * _FINE)
        gammas, counts = (np.interp(fine, ends, np.asarray(v, float)[order]) for v in (gammas, classes))
        first = np.asarray(critical_noise(gammas, counts))
        lines += [Boundary(NOISE, fine, height) for height in (first, 2 * (counts - 1) / counts - first)]
    return lines


def _equal_at_half(plan: SweepPlan, across: str, up: str, places: dict[str, int]) -> bool:
    """Whether class weights of exponent 1/2, unlike those of 0, make the signal of all class contrasts equal."""
    dim = next(dim for dim in plan.dims if dim.name == across)
    equal = [
        [_equal_contrasts(config) for config in _configs(plan, up, (0.5, 0.0), {**places, across: place})]
        for place in range(dim.size)
    ]
    half, zero = zip(*equal, strict=True)
    return all(half) and not all(zero)


def _equal_contrasts(config: Config) -> bool:
    gram = _gram(config)
    classes = len(gram)
    contrasts = np.eye(classes) - 1 / classes
    inner = contrasts @ gram @ contrasts
    return np.allclose(inner, np.trace(inner) / (classes - 1) * contrasts, rtol=0, atol=1e-5 * np.abs(inner).max())


def _decay_for(plan: SweepPlan, up: str, config: Config) -> Callable[[float], float] | None:
    """Height of the growth boundary on an axis of decays, from the top singular value."""
    axes = next(dim for dim in plan.dims if dim.name == up).axes
    keys = {axis.key for axis in axes}
    if keys == {"model.decay"}:
        return lambda sigma: sigma
    if keys == {"model.decay.0", "model.decay.1"}:
        return lambda sigma: _where_product_is(sigma**2, *(np.asarray(axis.values, float) for axis in axes))
    for place in (0, 1):
        if keys == {f"model.decay.{place}"} and isinstance(config.model.decay, list):
            return lambda sigma: sigma**2 / config.model.decay[1 - place]  # type: ignore[index]
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
    plain = (
        labels.smoothing, labels.held_out, labels.held_out_per_class, labels.class_weights, labels.sample_weights,
        labels.weight_exponent,
    )  # fmt: skip
    noisy = labels.noise is not None and not _symmetric(config)
    return labels.layout == "balanced" and all(option is None for option in plain) and not noisy
