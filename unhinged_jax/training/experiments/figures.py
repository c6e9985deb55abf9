"""Figures of experiments, in the house style."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unhinged_jax import plots
from unhinged_jax.plots.looks import GREY, WIDTH, coincide, head, key_of, over_decades
from unhinged_jax.training.experiments.outcome import ExperimentOutcome
from unhinged_jax.training.experiments.tables import mean_of
from unhinged_jax.training.metrics import probabilities_of, reliability, scores
from unhinged_jax.training.pictures import meaning_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D")
_COLOURS = (*plots.PALETTE, "#999999")  # one experiment compares eight variants


def save(figure: Figure, out: Path, name: str) -> list[Path]:
    """Write NAME.png and NAME.svg."""
    with plots.style():
        return plots.save(figure, out, name)


def _figure(columns: int, rows: int = 1, height: float = 3.4) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height * rows + 0.6))
    return figure, figure.subplots(rows, columns, squeeze=False)


def _look(place: int) -> tuple[str, str, str]:
    """Colour, line and marker of a variant: once the colours are used up, both others change, since a point may stand
    alone."""
    turn, at = divmod(place, len(_COLOURS))
    return _COLOURS[at], _LINES[turn % len(_LINES)], _MARKERS[turn % len(_MARKERS)]


def _band(axes: Axes, x: np.ndarray, values: np.ndarray, place: int, label: str) -> Any:
    """The mean over seeds and a band of one standard error; `values` is (x, seeds). Returns the line."""
    color, style, _ = _look(place)
    means = [mean_of(row) for row in values]
    middle = np.array([mean.value for mean in means])
    error = np.nan_to_num(np.array([mean.error for mean in means]))
    (line,) = axes.plot(x, middle, color=color, ls=style, label=label)
    axes.fill_between(x, middle - error, middle + error, color=color, alpha=0.2, lw=0)
    return line


_ERRORS = "mean of the seeds; bands: one standard error"


def accuracy_curves(outcomes: Sequence[ExperimentOutcome]) -> Figure:
    """Test accuracy against the epoch, whole and near its end."""
    with plots.style():
        figure, axes = _figure(2)
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
        left.set(xlabel="epoch", ylabel="test accuracy (%)")
        right.set(xlabel="epoch", ylim=(min(lowest) - 0.4, max(highest) + 0.4))
        head(left, "Test accuracy, all epochs", _ERRORS if len(outcomes) > 1 else "")
        head(right, "The last epochs", "another scale")
        key_of(figure)
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
        figure, axes = _figure(1)
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
        head(axes[0, 0], label[:1].upper() + label[1:], "mean of the seeds and one standard error")
        axes[0, 0].set_ylabel("%" if label.endswith("(%)") else label)
        key_of(figure)
    return figure


def reliability_diagrams(outcomes: Sequence[ExperimentOutcome]) -> Figure:
    """Accuracy against confidence: a row for each point, a column for each variant.

    Bars hold the samples of all seeds that ended well; the numbers are means over these seeds, as in the tables.
    """
    variants = list(dict.fromkeys(outcome.variant for outcome in outcomes))
    points = list(dict.fromkeys(outcome.point for outcome in outcomes))
    with plots.style():
        figure, axes = _figure(len(variants), len(points), height=2.3)
        for outcome in outcomes:
            cell = axes[points.index(outcome.point), variants.index(outcome.variant)]
            _reliability(cell, outcome)
            if outcome.point == points[0]:
                cell.set_title(outcome.variant)
            if outcome.variant == variants[0]:
                cell.set_ylabel(f"{outcome.point}\naccuracy")
            if outcome.point == points[-1]:
                cell.set_xlabel("confidence")
        key_of(figure)
    return figure


def _reliability(axes: Axes, outcome: ExperimentOutcome) -> None:
    ended = outcome.logits[outcome.stopped < 0]
    accuracy, error = mean_of(outcome.accuracy), mean_of(outcome.calibration_error)
    text = f"accuracy {100 * accuracy.value:.1f} %\nECE {100 * error.value:.1f} %" if len(ended) else "stopped"
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
    axes.text(0.04, 0.96, text, va="top", fontsize=8, transform=axes.transAxes, bbox=box, zorder=4)
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


_SCORES = {"softmax": "Log odds of the softmax", "energy": "Energy score", "feature_norm": "Feature norm"}


def score_histograms(outcomes: Sequence[ExperimentOutcome]) -> Figure:
    """How far images from outside lie below test images in each score, all seeds together.

    A panel for each score, a row for each variant. The scores of a variant are counted in units of the median and the
    spread of its test images, so that variants whose scores differ by orders of magnitude share an axis.
    """
    with plots.style():
        figure, axes = _figure(len(_SCORES), height=0.9 + 0.52 * len(outcomes))
        sources = ["test images", *dict.fromkeys(name for outcome in outcomes for name in outcome.outside)]
        colours = dict(zip(sources, itertools.cycle(plots.PALETTE), strict=False))
        for cell, (score, title) in zip(axes[0], _SCORES.items(), strict=True):
            for row, outcome in enumerate(outcomes):
                parts = {"test images": scores(outcome.logits, outcome.norms)[score]}
                parts |= {name: scores(*pair)[score] for name, pair in outcome.outside.items()}
                _ridge(cell, _in_units(parts), row, colours)
            cell.set(ylim=(len(outcomes) - 0.5, -1), xlim=(-_FAR, 4), xlabel="spreads above the test median")
            cell.set_yticks(range(len(outcomes)), [outcome.variant for outcome in outcomes])
            cell.tick_params(axis="y", length=0, labelleft=cell is axes[0, 0])
            head(cell, title, "further left is told apart" if cell is axes[0, 0] else "")
        key_of(figure)
    return figure


_FAR = 9.0  # spreads below the median; what lies beyond is counted at the end


def _in_units(parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores less the median of the test images, over their spread: half of the range from 16 % to 84 %."""
    low, middle, high = np.quantile(parts["test images"], [0.16, 0.5, 0.84])
    spread = max((high - low) / 2, 1e-12)
    return {name: np.clip((values.ravel() - middle) / spread, -_FAR, 4) for name, values in parts.items()}


def _ridge(axes: Axes, parts: dict[str, np.ndarray], row: int, colours: dict[str, str]) -> None:
    """Histograms of one variant on the line at `row`, all of one height."""
    edges = np.linspace(-_FAR, 4, 66)
    for name, values in parts.items():
        counts = np.histogram(values, edges)[0]
        height = 0.85 * counts / max(counts.max(), 1)
        axes.stairs(row - height, edges, baseline=row, fill=True, alpha=0.5, color=colours[name],
                    label=name if row == 0 else None)  # fmt: skip
    axes.axhline(row, color="0.6", lw=0.6)


def growth(outcomes: Sequence[ExperimentOutcome]) -> Figure:
    """Norms of features and prototypes, imbalance between prototypes and accuracy against the epoch."""
    with plots.style():
        figure, axes = _figure(2, 2, height=2.7)
        ended = [int(epoch) + 1 for outcome in outcomes for epoch in outcome.stopped if epoch >= 0]
        for cell, name in zip(
            axes.ravel(), ("feature_norm", "norm_W", "prototype_ratio", "test_accuracy"), strict=True
        ):
            lines = {}
            for place, outcome in enumerate(outcomes):
                values = outcome.history[name]
                lines[outcome.variant] = _band(cell, np.arange(1, values.shape[0] + 1), values, place, outcome.variant)
            if name == "test_accuracy":
                cell.set_ylim(0, 1.03)
            else:
                cell.set_yscale("log")
                over_decades(cell.yaxis)
            if ended:
                cell.axvline(min(ended), color=GREY, lw=1, ls=(0, (1, 1.5)), label="first seed stopped before overflow")
            head(cell, meaning_of(name).capitalize(), _ERRORS if cell is axes[0, 0] else "", coincide(cell, lines))
            cell.locator_params(axis="x", integer=True)
        for cell in axes[-1]:
            cell.set_xlabel("epoch")
        key_of(figure)
    return figure
