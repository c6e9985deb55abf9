"""Figures of experiments, in the house style."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unhinged_jax import plots
from unhinged_jax.training.experiments.outcome import ExperimentOutcome
from unhinged_jax.training.experiments.tables import mean_of
from unhinged_jax.training.metrics import probabilities_of, reliability, scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D")


def save(figure: Figure, out: Path, name: str) -> list[Path]:
    """Write NAME.png and NAME.svg."""
    with plots.style():
        return plots.save(figure, out, name)


def _figure(columns: int, rows: int = 1, width: float = 4.6, height: float = 3.4) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows))
    return figure, figure.subplots(rows, columns, squeeze=False)


def _named(figure: Figure) -> tuple[list[Any], list[str]]:
    """The names in the panels, each once; a panel may lack a name that another has."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def _look(place: int) -> tuple[str, str, str]:
    """Colour, line and marker of a variant: once the colours are used up, both others change, since a point may stand
    alone."""
    turn, at = divmod(place, len(plots.PALETTE))
    return plots.PALETTE[at], _LINES[turn % len(_LINES)], _MARKERS[turn % len(_MARKERS)]


def _band(axes: Axes, x: np.ndarray, values: np.ndarray, place: int, label: str) -> None:
    """The mean over seeds and a band of one standard error; `values` is (x, seeds)."""
    color, style, _ = _look(place)
    means = [mean_of(row) for row in values]
    middle = np.array([mean.value for mean in means])
    error = np.nan_to_num(np.array([mean.error for mean in means]))
    axes.plot(x, middle, color=color, ls=style, label=label)
    axes.fill_between(x, middle - error, middle + error, color=color, alpha=0.2, lw=0)


def accuracy_curves(outcomes: Sequence[ExperimentOutcome]) -> Figure:
    """Test accuracy against the epoch, whole and near its end."""
    with plots.style():
        figure, axes = _figure(2, width=5.2, height=3.8)
        left, right = axes[0]
        lowest, highest = [], []
        for place, outcome in enumerate(outcomes):
            values = 100 * outcome.history["test_accuracy"]
            epochs = np.arange(1, values.shape[0] + 1)
            late = epochs > 0.6 * epochs[-1]
            _band(left, epochs, values, place, outcome.variant)
            _band(right, epochs[late], values[late], place, outcome.variant)
            lowest.append(values[late].mean(axis=1).min())
            highest.append(values[late].mean(axis=1).max())
        left.set(xlabel="epoch", ylabel="test accuracy (%)", title="all epochs")
        right.set(xlabel="epoch", title="the last epochs", ylim=(min(lowest) - 0.4, max(highest) + 0.4))
        figure.legend(*left.get_legend_handles_labels(), loc="outside right upper")
        if len(outcomes) > 1:
            figure.supxlabel("mean of the seeds; bands: one standard error", fontsize=9)
    return figure


def against_points(
    outcomes: Sequence[ExperimentOutcome],
    label: str,
    measure: Callable[[ExperimentOutcome], np.ndarray] | None = None,
    xlabel: str = "",
) -> Figure:
    """A measure of each variant at every point, with standard errors."""
    measure = measure or (lambda outcome: 100 * outcome.accuracy)
    points = list(dict.fromkeys(outcome.point for outcome in outcomes))
    variants = list(dict.fromkeys(outcome.variant for outcome in outcomes))
    # Points of different kinds, such as "long-tailed 10" and "step 10", are not joined by a line.
    kinds = ["" if point[:1].isdigit() else point.split(" ")[0] for point in points]
    with plots.style():
        figure, axes = _figure(1, width=11.0 if len(points) > 5 else 8.6, height=3.8)
        x = np.cumsum([1.0 if a == b else 1.5 for a, b in zip(kinds[:1] + kinds, kinds, strict=False)])
        for place, variant in enumerate(variants):
            color, line, marker = _look(place)
            for kind in dict.fromkeys(kinds):
                at = [i for i in range(len(points)) if kinds[i] == kind]
                chosen = {o.point: o for o in outcomes if o.variant == variant}
                means = [mean_of(measure(chosen[points[i]])) for i in at]
                axes[0, 0].errorbar(
                    x[at] + 0.06 * (place - (len(variants) - 1) / 2), [mean.value for mean in means],
                    [np.nan_to_num(mean.error) for mean in means], color=color, ls=line, marker=marker, ms=4, capsize=2,
                    label=variant if kind == kinds[0] else None,
                )  # fmt: skip
        axes[0, 0].set_xticks(x, [point.replace(" ", "\n") if len(points) > 5 else point for point in points])
        axes[0, 0].set(ylabel=label, xlabel=xlabel)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper")
    return figure


def reliability_diagrams(outcomes: Sequence[ExperimentOutcome]) -> Figure:
    """Accuracy against confidence: a row for each point, a column for each variant.

    Bars hold the samples of all seeds that ended well; the numbers are means over these seeds, as in the tables.
    """
    variants = list(dict.fromkeys(outcome.variant for outcome in outcomes))
    points = list(dict.fromkeys(outcome.point for outcome in outcomes))
    with plots.style():
        figure, axes = _figure(len(variants), len(points), width=2.2, height=2.2)
        for outcome in outcomes:
            cell = axes[points.index(outcome.point), variants.index(outcome.variant)]
            _reliability(cell, outcome)
            if outcome.point == points[0]:
                cell.set_title(outcome.variant, fontsize=9)
            if outcome.variant == variants[0]:
                cell.set_ylabel(f"{outcome.point}\naccuracy", fontsize=9)
            if outcome.point == points[-1]:
                cell.set_xlabel("confidence", fontsize=9)
        figure.legend(*_named(figure), loc="outside upper center", ncols=3)
    return figure


def _reliability(axes: Axes, outcome: ExperimentOutcome) -> None:
    ended = outcome.logits[outcome.stopped < 0]
    accuracy, error = mean_of(outcome.accuracy), mean_of(outcome.calibration_error)
    text = f"accuracy {100 * accuracy.value:.1f} %\nECE {100 * error.value:.1f} %" if len(ended) else "stopped"
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
    axes.text(0.04, 0.96, text, va="top", fontsize=8, transform=axes.transAxes, bbox=box)
    axes.plot([0, 1], [0, 1], color="black", lw=0.8, ls="--")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    if len(ended):
        _bars(axes, probabilities_of(ended.reshape(-1, ended.shape[-1])), np.tile(outcome.labels, len(ended)))


def _bars(axes: Axes, probabilities: np.ndarray, labels: np.ndarray) -> None:
    pooled = reliability(probabilities, labels)
    width = np.diff(pooled.edges)
    left, filled = pooled.edges[:-1], pooled.counts > 0
    accuracy, confidence = pooled.accuracy[filled], pooled.confidence[filled]
    lower = np.minimum(accuracy, confidence)
    stack = {"accuracy": (0 * lower, lower), "accuracy below confidence": (lower, confidence - lower),
             "accuracy above confidence": (lower, accuracy - lower)}  # fmt: skip
    for color, (label, (bottom, height)) in zip((0, 1, 5), stack.items(), strict=True):
        axes.bar(
            left[filled], height, width[filled], bottom=bottom, align="edge", color=plots.PALETTE[color], ec="white",
            lw=0.5, label=label,
        )  # fmt: skip


def score_histograms(outcomes: Sequence[ExperimentOutcome]) -> Figure:
    """Histograms of each score inside and outside, all seeds together: a row for each variant."""
    names = {"softmax": "log odds of the softmax", "energy": "energy score", "feature_norm": "feature norm"}
    with plots.style():
        figure, axes = _figure(3, len(outcomes), width=3.6, height=2.1)
        sources = ["test images", *dict.fromkeys(name for outcome in outcomes for name in outcome.outside)]
        colours = dict(zip(sources, itertools.cycle(plots.PALETTE), strict=False))
        for row, outcome in zip(axes, outcomes, strict=True):
            inside = scores(outcome.logits, outcome.norms)
            outside = {name: scores(*pair) for name, pair in outcome.outside.items()}
            for cell, (score, title) in zip(row, names.items(), strict=True):
                parts = {"test images": inside[score], **{name: values[score] for name, values in outside.items()}}
                _histogram(cell, parts, colours)
                cell.set_xlabel(title, fontsize=9)
            row[0].set_ylabel(f"{outcome.variant}\ndensity", fontsize=9)
        figure.legend(*_named(figure), loc="outside upper center", ncols=4)
    return figure


def _histogram(axes: Axes, parts: dict[str, np.ndarray], colours: dict[str, str]) -> None:
    pooled = np.concatenate([part.ravel() for part in parts.values()])
    low, high = np.quantile(pooled, [0.002, 0.998])
    bins = np.linspace(low, high if high > low else low + 1, 50).tolist()
    for name, values in parts.items():
        axes.hist(
            values.ravel(), bins, density=True, histtype="stepfilled", alpha=0.5, label=name, color=colours[name],
        )  # fmt: skip


def growth(outcomes: Sequence[ExperimentOutcome]) -> Figure:
    """Norms of features and prototypes, imbalance between prototypes and accuracy against the epoch."""
    panels = {
        "feature_norm": "mean feature norm", "norm_W": "norm of the prototypes",
        "prototype_ratio": "longest over shortest prototype", "test_accuracy": "test accuracy",
    }  # fmt: skip
    with plots.style():
        figure, axes = _figure(2, 2, width=4.6, height=2.9)
        for cell, (name, title) in zip(axes.ravel(), panels.items(), strict=True):
            for place, outcome in enumerate(outcomes):
                values = outcome.history[name]
                _band(cell, np.arange(1, values.shape[0] + 1), values, place, outcome.variant)
                stopped = outcome.stopped[outcome.stopped >= 0]
                if stopped.size:
                    cell.axvline(stopped.min() + 1, color=_look(place)[0], lw=0.9, ls=":")
            cell.set_title(title)
            if name != "test_accuracy":
                cell.set_yscale("log")
        for cell in axes[-1]:
            cell.set_xlabel("epoch (dotted: stopped before overflow)")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper")
    return figure
