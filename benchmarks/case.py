"""One problem to be solved: a workload at a size and a precision, with the arrays that everybody starts from."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """What every contender of a cell is given.

    Attributes:
        workload, size, precision: Names of the cell.
        classes, per_class, dim: C, N (samples a class) and p.
        loss: "unhinged" or "cross_entropy".
        gamma: Trade-offs of the unhinged loss, one a run.
        rate: Learning rate (descent) or factor on time (flow).
        decay: lambda on features and prototypes.
        spherical: Unit features and a fixed simplex ETF as prototypes.
        steps, every: Updates, and how many lie between two logged points (descent).
        horizon, points, rtol: End, logged points and tolerance (flow).
        seeds: Starts of a sweep, or keys of an ensemble; its runs are seeds x gamma.
        batch: Samples of an update, drawn with replacement; 0 for all.
    """

    workload: str
    size: str
    precision: str
    classes: int
    per_class: int
    dim: int
    loss: str = "unhinged"
    gamma: tuple[float, ...] = ()
    rate: float = 0.1
    decay: float = 0.0
    spherical: bool = False
    steps: int = 0
    every: int = 1
    horizon: float = 0.0
    points: int = 0
    rtol: float = 0.0
    seeds: int = 1
    batch: int = 0

    @property
    def samples(self) -> int:
        """n = C N."""
        return self.classes * self.per_class

    @property
    def dtype(self) -> np.dtype:
        """Of every array."""
        return np.dtype(self.precision)

    @property
    def gammas(self) -> tuple[float, ...]:
        """Trade-offs, 1/(C-1) by default."""
        return self.gamma or (1 / (self.classes - 1),)

    @property
    def runs(self) -> int:
        """Runs of a sweep; 1 elsewhere."""
        return self.seeds * len(self.gammas)

    @property
    def times(self) -> np.ndarray:
        """Numbers of updates (descent) or times (flow) at which everybody logs; the start is one of them."""
        if self.horizon:
            return np.linspace(0.0, self.horizon, self.points)
        return np.arange(0, self.steps + 1, self.every)

    @property
    def index(self) -> np.ndarray:
        """Labels, class by class."""
        return np.repeat(np.arange(self.classes), self.per_class)

    @property
    def observed(self) -> tuple[str, ...]:
        """What everybody logs. No limit direction, so no distance, is known for cross-entropy."""
        names = ("loss", "accuracy", "norm")
        return names if self.loss == "cross_entropy" else (*names, "distance")

    def start(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Standard normal features (n, p), and prototypes (C, p): standard normal, or the ETF if spherical."""
        H, W = _draw(self.samples, self.classes, self.dim, self.spherical, seed)
        return H.astype(self.dtype), W.astype(self.dtype)

    def starts(self) -> tuple[np.ndarray, np.ndarray]:
        """Starts of every seed, (seeds, n, p) and (seeds, C, p)."""
        pairs = [self.start(seed) for seed in range(self.seeds)]
        return np.stack([H for H, _ in pairs]), np.stack([W for _, W in pairs])

    def share(self, share: float) -> Case:
        """The same problem over a share of its work: fewer updates, logged as often; or fewer seeds of a sweep."""
        if share >= 1:
            return self
        whole = max(1, round(self.steps * share / self.every)) * self.every
        return dataclasses.replace(self, steps=whole)

    def replace(self, **changes: object) -> Case:
        """A copy with fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


@functools.lru_cache(maxsize=2)  # large starts are large
def _draw(samples: int, classes: int, dim: int, spherical: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed)
    H, W = draws.standard_normal((samples, dim)), draws.standard_normal((classes, dim))
    if spherical:
        W = simplex_etf(classes, W)
    return H, W


def simplex_etf(classes: int, draw: np.ndarray) -> np.ndarray:
    """A simplex equiangular tight frame with unit rows, (C, p), in a random orientation taken from a draw (C, p)."""
    frame = np.linalg.qr(draw.T)[0]  # (p, C), orthonormal columns
    centred = np.eye(classes) - 1 / classes
    return np.sqrt(classes / (classes - 1)) * centred @ frame.T
