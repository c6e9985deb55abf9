"""The report of the width sweep: the table, the fitted slopes, and where the prediction fails."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from unhinged_jax import plots
from unhinged_jax._files import whole
from unhinged_jax.plots.looks import GREY, WIDTH, head, key_under
from unhinged_jax.training.experiments import figures
from unhinged_jax.training.experiments.kernel_plan import FACTS, KernelSection, times_of
from unhinged_jax.training.experiments.markdown import as_code, as_text
from unhinged_jax.training.experiments.plan import Experiment
from unhinged_jax.training.experiments.tables import mean_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMES = {"features": "features", "class_kernel": "class means, C × C kernel", "prototypes": "prototypes"}


@dataclasses.dataclass(frozen=True)
class Slope:
    """Least-squares slope of log error against log width over all seeds, with its 95 % interval."""

    value: float
    low: float
    high: float


def fitted_slope(widths: list[int], errors: np.ndarray) -> Slope:
    """The slope of log error, (widths, seeds), against log width.

    Example:
        >>> round(fitted_slope([1, 4, 16], np.array([[1.0], [0.5], [0.25]])).value, 6)
        -0.5
    """
    x = np.repeat(np.log(widths), errors.shape[1])
    y = np.log(errors).ravel()
    kept = np.isfinite(y)
    fit = stats.linregress(x[kept], y[kept])
    half = stats.t.ppf(0.975, max(int(kept.sum()) - 2, 1)) * fit.stderr
    return Slope(float(fit.slope), float(fit.slope - half), float(fit.slope + half))


def write(
    experiment: Experiment, asked: KernelSection, found: dict, linear: float, out: Path, facts: dict
) -> list[Path]:
    """Write report.md, report.json, values.csv and the figure.

    Args:
        experiment, asked: The plan that was run.
        found: (width, seed) -> the result of `compared`.
        linear: Error of the model that is linear in its parameters.
        out: Folder.
        facts: Command, processor time, versions.
    """
    times = times_of(asked)
    place = int(np.flatnonzero(times == asked.fixed)[0])
    at = {
        name: np.array([[found[w, s][name][place] for s in range(asked.seeds)] for w in asked.widths]) for name in FACTS
    }
    slopes = {name: fitted_slope(asked.widths, at[name]) for name in _NAMES}
    fits = "; ".join(f"{_NAMES[name]} {s.value:.2f} ({s.low:.2f} to {s.high:.2f})" for name, s in slopes.items())
    parts = [
        _table(asked, at),
        f"The table shows relative errors of the prediction at ζ = {asked.rate * asked.fixed:g}, as mean ± standard "
        f"error over {asked.seeds} seeds; `moved` is the distance that the network's features moved, "
        "relative to their start.",
        f"The slopes of log error against log width (95 % interval) are: {fits}.",
        f"A model that is linear in its parameters is predicted to {linear:.1e}.",
        _breaks(asked, found, times),
    ]
    text = "\n\n".join(parts)
    with plots.style():
        figure = _figure(asked, found, times, at, slopes)
    paths = figures.save(figure, out, "kernel")
    _write_values(out / "values.csv", asked, found, times)
    foot = f"{as_code(facts['command'])}: {asked.data}, {asked.classes} classes of {asked.per_class} images, "
    foot += "one hidden layer."
    foot += f" {facts['processor_seconds']:.0f} s of processor time."
    page = f"# {as_text(experiment.about.title)}\n\n{text}\n\n![kernel](kernel.png)\n\n{foot}\n"
    with whole(out / "report.md") as part:
        part.write_text(page, encoding="utf-8")
    record = {"kernel": dataclasses.asdict(asked), "linear_error": linear, **facts}
    record["slopes"] = {name: dataclasses.asdict(slope) for name, slope in slopes.items()}
    with whole(out / "report.json") as part:
        part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return [out / "report.md", *paths, out / "values.csv"]


def _table(asked: KernelSection, at: dict[str, np.ndarray]) -> str:
    titles = ["width", *_NAMES.values(), "loss (network / predicted)", "accuracy (network / predicted)", "moved"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row, width in enumerate(asked.widths):
        means = {name: mean_of(at[name][row]).value for name in FACTS}
        cells = [str(width), *(_scientific(at[name][row]) for name in _NAMES)]
        cells.append(f"{means['loss']:.3f} / {means['loss_predicted']:.3f}")
        cells.append(f"{100 * means['accuracy']:.1f} % / {100 * means['accuracy_predicted']:.1f} %")
        lines.append("| " + " | ".join([*cells, f"{means['moved']:.2f}"]) + " |")
    return "\n".join(lines)


def _scientific(values: np.ndarray) -> str:
    mean = mean_of(values)
    return f"{mean.value:.2e} ± {mean.error:.0e}" if mean.seeds else "overflow"


def _breaks(asked: KernelSection, found: dict, times: np.ndarray) -> str:
    """Where the prediction is wrong by a tenth, width by width."""
    told = []
    for width in (asked.widths[0], asked.widths[len(asked.widths) // 2], asked.widths[-1]):
        error = np.mean([found[width, s]["features"] for s in range(asked.seeds)], axis=0)
        wrong = np.flatnonzero(~(error < 0.1))
        when = f"ζ = {asked.rate * times[wrong[0]]:g}" if wrong.size else f"beyond ζ = {asked.rate * times[-1]:g}"
        told.append(f"width {width}: {when}")
    return (
        "The mean error of the features exceeds 10 % from " + "; ".join(told) + ". The loss has no lower bound, so "
        "weights and kernel grow together, and a narrow network moves faster than its prediction, which only grows "
        "exponentially."
    )


def _write_values(path: Path, asked: KernelSection, found: dict, times: np.ndarray) -> None:
    with whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["width", "seed", "zeta", *FACTS])
        for (width, seed), values in found.items():
            for k, count in enumerate(times):
                writer.writerow([width, seed, asked.rate * count, *(f"{values[name][k]:.9g}" for name in FACTS)])


def _figure(asked: KernelSection, found: dict, times: np.ndarray, at: dict, slopes: dict) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 7.2))
    grid = figure.add_gridspec(2, 2)
    top = figure.add_subplot(grid[0, :])
    widths = np.asarray(asked.widths, float)
    for place, (name, label) in enumerate(_NAMES.items()):
        color, logs = plots.PALETTE[place], np.nanmean(np.log(at[name]), axis=1)
        top.plot(np.repeat(widths, asked.seeds), at[name].ravel(), "o", color=color, ms=3, alpha=0.5)
        level = np.mean(logs - slopes[name].value * np.log(widths))
        top.plot(widths, np.exp(level) * widths ** slopes[name].value, color=color,
                 label=f"{label}: slope {slopes[name].value:.2f}".replace("-", "−"))  # fmt: skip
    top.set(xscale="log", yscale="log", xlabel="hidden width", ylabel="relative error")
    top.set_xticks(widths, [f"{w:g}" for w in widths], minor=False)
    top.minorticks_off()
    head(top, f"Error of the prediction at ζ = {asked.rate * asked.fixed:g}", "dots: seeds; lines: fitted powers")
    key_under(top, columns=3)
    left, right = (figure.add_subplot(grid[1, place]) for place in (0, 1))
    _over_time(left, right, asked, found, asked.rate * times)
    return figure


def _over_time(left: Axes, right: Axes, asked: KernelSection, found: dict, zeta: np.ndarray) -> None:
    shown = [asked.widths[0], asked.widths[len(asked.widths) // 2], asked.widths[-1]]
    for place, width in enumerate(shown):
        color = plots.PALETTE[3 + place]  # not those of the quantities above
        errors = np.array([found[width, s]["features"] for s in range(asked.seeds)])
        left.plot(zeta[1:], np.mean(errors, axis=0)[1:], color=color, label=f"width {width}")
        first = found[width, 0]
        right.plot(zeta, -first["loss"], color=color)
        label = "predicted" if not place else None
        right.plot(zeta, -first["loss_predicted"], color="black", ls=":", lw=1, label=label)
    left.axhline(0.1, color=GREY, lw=1, ls="--", label="10 %")
    left.set(yscale="log", xlabel="ζ", ylabel="relative error of the features")
    head(left, "Where the prediction breaks", "mean of the seeds")
    right.set(xlabel="ζ", ylabel="minus the loss")
    right.set_yscale("symlog", linthresh=1.0)
    head(right, "Networks and their predictions", "seed 0; colours as on the left")
    key_under(left, columns=2)
    key_under(right)
