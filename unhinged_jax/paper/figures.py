"""The paper's numerical experiments as data: what to run and what to draw, with the settings that were actually used.

The paper's captions and its runs disagree in places; `Figure.notes` says where. Norms and distances at index t of a
published curve belong to the state after t + 1 updates, loss and accuracy to the state before update t + 1.

Source: Zhou et al. 2023, Figures 1, 4-9, 15.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from unhinged_jax import initial
from unhinged_jax.dynamics import Descent
from unhinged_jax.labels import balanced
from unhinged_jax.model import LayerPeeled, State, anchored, regularized, spherical, unconstrained

CLASSES, PER_CLASS, DIM, UPDATES = 100, 10, 512, 50_000
NATURAL = 1 / (CLASSES - 1)


def critical_decay(gamma: float) -> float:
    """lambda* = (1 + gamma)/(C sqrt(N)), the decay at which norms neither grow nor shrink (Corollary 5)."""
    return (1 + gamma) / (CLASSES * PER_CLASS**0.5)


@dataclasses.dataclass(frozen=True)
class Curve:
    """One run: its label in the published legend, its problem and its descent."""

    label: str
    model: LayerPeeled
    descent: Descent


@dataclasses.dataclass(frozen=True)
class Panel:
    """One plot: the observables that it needs, how they give the published quantity, and how it is drawn.

    `after` is 1 for quantities taken after the update, 0 for those taken before it.
    """

    letter: str
    title: str
    needs: tuple[str, ...]
    after: int
    value: Callable[..., Any] = lambda x: x
    scale: str = "log"
    omit: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure: its runs, its panels, the prototypes from which it starts, and the errors of its caption."""

    number: str
    title: str
    curves: tuple[Curve, ...]
    panels: tuple[Panel, ...]
    prototypes: str = "kaiming"
    target: str = "contrast"
    notes: str = ""
    curves_of: dict[str, tuple[Curve, ...]] = dataclasses.field(default_factory=dict)

    def runs(self) -> list[tuple[tuple[Panel, ...], Curve]]:
        """Every run with the panels in which it appears."""
        jobs = []
        for group in {id(c): c for c in [self.curves, *self.curves_of.values()] if c}.values():
            panels = tuple(p for p in self.panels if self.curves_of.get(p.letter, self.curves) is group)
            jobs += [(panels, curve) for curve in group]
        return jobs


def _square(x: npt.ArrayLike) -> Any:
    return np.asarray(x) ** 2


def _log_ratio(log_H: npt.ArrayLike, log_W: npt.ArrayLike) -> Any:
    return np.asarray(log_H) - np.asarray(log_W)


def _labels() -> Any:
    return balanced(CLASSES, PER_CLASS, order="cyclic")


_ACCURACY = ("accuracy",)


Curves = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]  # panel letter -> curve -> (indices, values)


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """All curves of a figure, simulated and exact."""

    figure: Figure
    simulated: Curves
    exact: Curves


def _regularized_panels(squared: bool, omit: tuple[str, ...] = ()) -> tuple[Panel, ...]:
    power: dict[str, Any] = {"value": _square} if squared else {}
    sign = "²" if squared else ""
    return (
        Panel("a", "training accuracy", _ACCURACY, 0, scale="linear"),
        Panel("b", "distance of H from its limit direction", ("distance_H",), 1),
        Panel("c", "distance of W from its limit direction", ("distance_W",), 1),
        Panel("d", f"‖H‖{sign}", ("norm_H",), 1, omit=omit, **power),
        Panel("e", f"‖W‖{sign}", ("norm_W",), 1, omit=omit, **power),
    )


def _figure_1() -> Figure:
    names = {0.0: "gamma=0", 0.001: "gamma=0.001", 0.005: "gamma=0.005", 0.05: "gamma=0.05", NATURAL: "gamma=1/(C-1)"}
    curves = tuple(
        Curve(name, unconstrained(_labels(), DIM, gamma=gamma), Descent(0.1)) for gamma, name in names.items()
    )
    panels = (
        Panel("a", "loss", ("loss",), 0, scale="symlog"),
        Panel("b", "training accuracy", _ACCURACY, 0, scale="linear"),
        Panel("c", "distance of (H, W) from its limit direction", ("distance",), 1),
        Panel("d", "‖(H, W)‖", ("norm",), 1),
    )
    return Figure("1", "Unconstrained features and prototypes", curves, panels)


def _figure_4() -> Figure:
    decays = {"lambda*": critical_decay(NATURAL), "1e-3": 1e-3, "2e-3": 2e-3, "0": 0.0}
    curves = tuple(
        Curve(f"lambda={name}", regularized(_labels(), DIM, gamma=NATURAL, decay=decay), Descent(0.1))
        for name, decay in decays.items()
    )
    panels = (
        Panel("a", "‖W‖²", ("norm_W",), 1, _square),
        Panel("b", "‖W − W₁⁺‖²", ("gap_W",), 1, _square),
        Panel("c", "ln ‖H‖ − ln ‖W‖", ("log_norm_H", "log_norm_W"), 1, _log_ratio, "linear"),
    )
    notes = "Published from another, float32 draw that cannot be recovered: shapes and scale match, digits do not."
    return Figure("4", "Weight decay of different strength", curves, panels, notes=notes)


def _figure_5() -> Figure:
    names = {0.0: "gamma=0", 0.1: "gamma=0.1", 0.01: "gamma=0.01", 0.001: "gamma=0.001", NATURAL / 2: "gamma=1/(C-1)"}
    curves = tuple(
        Curve(name, regularized(_labels(), DIM, gamma=gamma, decay=critical_decay(gamma)), Descent(0.1))
        for gamma, name in names.items()
    )
    notes = "The curve labelled 1/(C-1) was run with 1/198, half of it."
    panels = _regularized_panels(True, ("gamma=0.1",))
    return Figure("5", "Critical decay, trade-off varied", curves, panels, notes=notes)


def _figure_6() -> Figure:
    gamma = NATURAL / 2
    model = regularized(_labels(), DIM, gamma=gamma, decay=critical_decay(gamma))
    curves = tuple(Curve(f"eta={eta}", model, Descent(eta)) for eta in (0.001, 0.01, 0.1, 0.2, 0.5))
    notes = "Run with gamma = 1/198, not the printed 1/(C-1)."
    return Figure("6", "Critical decay, learning rate varied", curves, _regularized_panels(False), notes=notes)


def _figure_7() -> Figure:
    gamma = NATURAL / 2
    decays = {"1e-5": 1e-5, "0.0001": 1e-4, "0.001": 1e-3, "0.005": 5e-3}
    decays["(1+gamma)/(C*sqrt(N))"] = critical_decay(gamma)
    curves = tuple(
        Curve(f"lambda={name}", regularized(_labels(), DIM, gamma=gamma, decay=decay), Descent(0.1))
        for name, decay in decays.items()
    )
    notes = "Run with gamma = 1/198. The caption is Figure 4's; (b) is the distance to H₁⁺ and (c) is not squared."
    return Figure("7", "Weight decay varied", curves, _regularized_panels(False), notes=notes)


def _figure_8() -> Figure:
    gamma = NATURAL / 2
    model = regularized(_labels(), DIM, gamma=gamma, decay=critical_decay(gamma))
    curves = tuple(Curve(f"s={s}", model, Descent(0.5, rate_H=s)) for s in (0.01, 0.05, 0.1, 0.5, 1.0))
    notes = "Run with gamma = 1/198, the critical decay (not stated), rate 0.5 for W and 0.5 s for H."
    return Figure("8", "Ratio of the learning rates varied", curves, _regularized_panels(False), notes=notes)


def _figure_9() -> Figure:
    rates = {"0.1": 0.1, "0.5": 0.5, "1.0": 1.0, "5.0": 5.0, "10": 10.0}

    def curves(rescale: int) -> tuple[Curve, ...]:
        model = spherical(_labels(), DIM, gamma=0.0, rescale=rescale)
        return tuple(Curve(f"eta={name}", model, Descent(eta)) for name, eta in rates.items())

    plain, rescaled = curves(0), curves(1)

    def panels(letters: str, how: str) -> tuple[Panel, ...]:
        return (
            Panel(letters[0], f"training accuracy, {how}", _ACCURACY, 0, scale="linear"),
            Panel(letters[1], f"error ‖Ĥ − target‖, {how}", ("distance_H",), 1),
            Panel(letters[2], f"‖H‖, {how}", ("norm_H",), 1, scale="linear"),
        )

    return Figure(
        "9",
        "Spherical features",
        plain,
        panels("abc", "plain rate") + panels("def", "rate × ‖h‖"),
        prototypes="centred",
        notes="Each prototype is centred over its coordinates, so the prototypes do not sum to zero.",
        curves_of={"d": rescaled, "e": rescaled, "f": rescaled},
    )


def _figure_15() -> Figure:
    curves = tuple(
        Curve(f"lambda={decay:g}", anchored(_labels(), DIM, gamma=0.0, decay=decay), Descent(0.1))
        for decay in (0.0, 0.001, 0.005, 0.01, 0.05, 0.1)
    )
    panels = (
        Panel("a", "loss", ("loss",), 0, scale="linear"),
        Panel("b", "training accuracy", _ACCURACY, 0, scale="linear"),
        Panel("c", "distance of H from its limit direction", ("distance_H",), 1),
        Panel("d", "‖H‖", ("norm_H",), 1),
    )
    notes = "Panel (d) is labelled as squared but is not."
    return Figure("15", "Anchored prototypes", curves, panels, prototypes="anchors", target="top", notes=notes)


FIGURES: dict[str, Callable[[], Figure]] = {
    "1": _figure_1,
    "4": _figure_4,
    "5": _figure_5,
    "6": _figure_6,
    "7": _figure_7,
    "8": _figure_8,
    "9": _figure_9,
    "15": _figure_15,
}


def start(figure: Figure, seed: int | None = None) -> State:
    """The initial state of a figure in float64: the paper's own, or standard normal features and the same kind of
    prototypes from a seed."""
    bias = np.zeros(CLASSES)
    if seed is None:
        made: dict[str, Callable[[], Any]] = {
            "kaiming": initial.paper_prototypes,
            "anchors": initial.paper_anchors,
            "centred": lambda: initial.paper_anchors(centred=True),
        }
        return State(initial.paper_features(), made[figure.prototypes](), bias)
    draws = np.random.default_rng(seed)
    features = draws.standard_normal((CLASSES * PER_CLASS, DIM))
    if figure.prototypes == "kaiming":
        bound = (6 / DIM) ** 0.5
        return State(features, draws.uniform(-bound, bound, (CLASSES, DIM)), bias)
    prototypes = draws.standard_normal((CLASSES, DIM))
    if figure.prototypes == "centred":
        prototypes = prototypes - prototypes.mean(axis=1, keepdims=True)
    return State(features, prototypes, bias)
