"""The width sweep of the tangent-kernel prediction."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from scipy import stats

from unhinged_jax import _check, plots
from unhinged_jax import config as _config
from unhinged_jax.dynamics import Descent
from unhinged_jax.labels import Labels, from_labels
from unhinged_jax.output import versions
from unhinged_jax.training import ntk
from unhinged_jax.training.data import load
from unhinged_jax.training.experiments import figures
from unhinged_jax.training.experiments.plan import Experiment
from unhinged_jax.training.experiments.tables import mean_of
from unhinged_jax.training.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LENGTH = 8.0  # of every input, about that of a standard normal one of 64 entries
_LOOKS = 31
_FACTS = ("features", "class_kernel", "prototypes", "loss", "loss_predicted", "accuracy", "accuracy_predicted", "moved")


@dataclasses.dataclass(frozen=True)
class KernelSection:
    """[kernel]: the problem, the widths, and how long to train."""

    data: str = "digits"
    classes: int = 5
    per_class: int = 6
    features: int = 6
    widths: list = dataclasses.field(default_factory=lambda: [64, 128, 256])
    seeds: int = 5
    rate: float = 0.05
    updates: int = 150
    fixed: int = 50


def run_kernel(experiment: Experiment, out: Path, *, force: bool, command: str) -> list[Path]:
    """Train networks of every width and seed, predict each from its kernel, and write the comparison."""
    asked = _config.read_section(KernelSection, experiment.kernel or {}, f"{experiment.name}: [kernel]")
    _check_section(asked)
    begin, found = time.perf_counter(), {}
    inputs, labels = problem(asked)
    (out / "cases").mkdir(parents=True, exist_ok=True)
    with Progress(len(asked.widths) * asked.seeds) as progress:
        for width in asked.widths:
            for seed in range(asked.seeds):
                progress.start(f"width {width}, seed {seed}", 1)
                found[width, seed] = _case(asked, width, seed, inputs, labels, out / "cases", force)
                progress.told(0, {})
    exact_error = linear_error(asked, inputs, labels)
    facts = {"command": command, "seconds": round(time.perf_counter() - begin, 1), "versions": versions()}
    return _report(experiment, asked, found, exact_error, out, facts)


def _check_section(asked: KernelSection) -> None:
    if any(type(width) is not int or width < 1 for width in asked.widths) or len(asked.widths) < 2:
        raise ValueError(f"[kernel] widths must be two or more whole numbers, but is {asked.widths}.")
    for name in ("classes", "per_class", "features", "seeds", "updates", "fixed"):
        _check.whole(f"[kernel] {name}", getattr(asked, name), 1)
    if asked.fixed > asked.updates:
        raise ValueError(f"[kernel] fixed is {asked.fixed}, beyond the {asked.updates} updates; lower it.")


def problem(asked: KernelSection) -> tuple[np.ndarray, Labels]:
    """The first images of the first classes, centred, all of one length."""
    data = load(asked.data)
    rows = np.concatenate([np.flatnonzero(data.train_y == c)[: asked.per_class] for c in range(asked.classes)])
    x = data.train_x[rows].reshape(rows.size, -1) / 255.0
    x = x - x.mean(axis=0)
    x = x * (_LENGTH / np.linalg.norm(x, axis=1, keepdims=True))
    return x, from_labels(data.train_y[rows], asked.classes)


def _times(asked: KernelSection) -> np.ndarray:
    spread = np.round(np.linspace(0, asked.updates, _LOOKS)).astype(int)
    return np.unique(np.append(spread, asked.fixed))


def compared(
    network: Any, parameters: Any, W: Any, inputs: np.ndarray, labels: Labels, rate: float, times: np.ndarray
) -> dict[str, np.ndarray]:
    """A network's own training beside its prediction, at every time: relative errors, losses, accuracies.

    Errors are relative to how far the predicted features, or prototypes, have moved. NaN after the network's own
    training left the range of numbers.
    """
    dynamics = Descent(rate)
    whole = ntk.predict(network, parameters, W, inputs, labels, dynamics, times)
    means = ntk.predict(network, parameters, W, inputs, labels, dynamics, times, form="class_kernel", observe=())
    H, Wt, reached = ntk.descend(network, parameters, W, inputs, labels, rate, times)
    assert whole.states is not None and means.states is not None
    pooled = np.einsum("cn,tnp->tcp", ntk.class_averages(labels), H)
    logits = np.einsum("tnp,tcp->tnc", H, Wt)
    index, gamma = np.asarray(labels.index), 1 / (labels.classes - 1)
    own = np.take_along_axis(logits, index[None, :, None], axis=2)[..., 0]
    values = {
        "features": _relative(H, np.asarray(whole.states.H)),
        "class_kernel": _relative(pooled, np.asarray(means.states.H)),
        "prototypes": _relative(Wt, np.asarray(whole.states.W)),
        "loss": np.mean(gamma * logits.sum(axis=2) - (1 + gamma) * own, axis=1),
        "accuracy": np.mean(logits.argmax(axis=2) == index, axis=1),
        "moved": np.linalg.norm(H - H[0], axis=(1, 2)) / np.linalg.norm(H[0]),
    }
    values = {name: np.where(reached, value, np.nan) for name, value in values.items()}
    predicted = {f"{name}_predicted": np.asarray(whole[name], float) for name in ("loss", "accuracy")}
    return values | predicted


def _relative(seen: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    moved = np.linalg.norm(predicted - predicted[0], axis=(1, 2))
    return np.linalg.norm(seen - predicted, axis=(1, 2)) / np.where(moved > 0, moved, 1.0)


def _case(
    asked: KernelSection, width: int, seed: int, inputs: np.ndarray, labels: Labels, folder: Path, force: bool
) -> dict[str, np.ndarray]:
    path = folder / f"width{width}-seed{seed}.npz"
    settings = {k: v for k, v in dataclasses.asdict(asked).items() if k not in ("widths", "seeds")}
    identity = json.dumps(settings, sort_keys=True)
    if not force:
        try:
            with np.load(path, allow_pickle=False) as file:
                if str(file["identity"]) == identity:
                    return {name: file[name] for name in _FACTS}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            pass  # not there, or not whole: computed again
    with jax.enable_x64(True):
        key, other = jax.random.split(jax.random.key(seed))
        network, parameters = ntk.ntk_network(key, inputs.shape[1], width, asked.features)
        W = jax.random.normal(other, (asked.classes, asked.features))
        values = compared(network, parameters, W, inputs, labels, asked.rate, _times(asked))
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        np.savez(file, identity=identity, **values)  # type: ignore[arg-type]
    os.replace(unfinished, path)
    return values


def linear_error(asked: KernelSection, inputs: np.ndarray, labels: Labels) -> float:
    """Largest relative error of features and prototypes of a model that is linear in its parameters."""
    with jax.enable_x64(True):
        key, other = jax.random.split(jax.random.key(0))
        theta = jax.random.normal(key, (inputs.shape[1], asked.features)) / np.sqrt(inputs.shape[1])
        W = jax.random.normal(other, (asked.classes, asked.features))
        scale = np.sqrt(inputs.shape[1])
        times = np.array([0, asked.fixed])
        found = compared(_linear_model, theta, W, inputs / scale, labels, asked.rate, times)
    return float(max(found["features"][-1], found["prototypes"][-1]))


def _linear_model(theta: Any, inputs: jax.Array) -> jax.Array:
    return inputs @ theta


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


def _report(
    experiment: Experiment, asked: KernelSection, found: dict, linear: float, out: Path, facts: dict
) -> list[Path]:
    times = _times(asked)
    place = int(np.flatnonzero(times == asked.fixed)[0])
    at = {
        name: np.array([[found[w, s][name][place] for s in range(asked.seeds)] for w in asked.widths]) for name in _FACTS
    }
    slopes = {name: fitted_slope(asked.widths, at[name]) for name in ("features", "class_kernel", "prototypes")}
    zeta = asked.rate * asked.fixed
    head = (
        f"| width | features | class means, C x C kernel | prototypes | loss (network / predicted) | accuracy (network / "
        f"predicted) | moved |\n{'|---' * 7}|"
    )
    lines = [head]
    for row, width in enumerate(asked.widths):
        cells = [_scientific(at[name][row]) for name in ("features", "class_kernel", "prototypes")]
        means = {name: mean_of(at[name][row]).value for name in _FACTS}
        cells.append(f"{means['loss']:.3f} / {means['loss_predicted']:.3f}")
        cells.append(f"{100 * means['accuracy']:.1f} % / {100 * means['accuracy_predicted']:.1f} %")
        lines.append(f"| {width} | " + " | ".join([*cells, f"{means['moved']:.2f}"]) + " |")
    fits = "; ".join(
        f"{name.replace('_', ' ')} {s.value:.2f} ({s.low:.2f} to {s.high:.2f})" for name, s in slopes.items()
    )
    text = (
        "\n".join(lines) + f"\n\nRelative errors of the prediction at ζ = {zeta:g}, mean ± standard error over "
        f"{asked.seeds} seeds; `moved` is how far the network's features went, in units of where they started.\n\n"
        f"Slope of the logarithm of the error in the logarithm of the width (95 % interval): {fits}.\n\n"
        f"A model linear in its parameters is predicted to {linear:.1e}.\n\n{_breaks(asked, found, times)}"
    )
    with plots.style():
        figure = _figure(asked, found, times, at, slopes)
    paths = figures.save(figure, out, "kernel")
    _write_values(out / "values.csv", asked, found, times)
    foot = f"`{facts['command']}`: {asked.data}, {asked.classes} classes of {asked.per_class} images, one hidden layer."
    (out / "report.md").write_text(
        f"# {experiment.about.title}\n\n{text}\n\n![kernel](kernel.png)\n\n{foot} {facts['seconds']:.0f} s.\n",
        encoding="utf-8",
    )
    record = {"kernel": dataclasses.asdict(asked), "linear_error": linear, **facts}
    record["slopes"] = {name: dataclasses.asdict(slope) for name, slope in slopes.items()}
    (out / "report.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return [out / "report.md", *paths, out / "values.csv"]


def _scientific(values: np.ndarray) -> str:
    mean = mean_of(values)
    return f"{mean.value:.2e} ± {mean.error:.0e}" if mean.seeds else "overflow"


def _breaks(asked: KernelSection, found: dict, times: np.ndarray) -> str:
    """Where the prediction is off by a tenth, width by width."""
    told = []
    for width in (asked.widths[0], asked.widths[len(asked.widths) // 2], asked.widths[-1]):
        error = np.mean([found[width, s]["features"] for s in range(asked.seeds)], axis=0)
        wrong = np.flatnonzero(~(error < 0.1))
        when = f"ζ = {asked.rate * times[wrong[0]]:g}" if wrong.size else f"beyond ζ = {asked.rate * times[-1]:g}"
        told.append(f"width {width}: {when}")
    return (
        "Where it breaks: the mean error of the features passes 10 % at " + "; ".join(told) + ". The loss of a network "
        "with trained prototypes is not bounded below: its kernel grows with its weights, and a narrow network overflows "
        "in finite time while the prediction grows only exponentially."
    )


def _write_values(path: Path, asked: KernelSection, found: dict, times: np.ndarray) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["width", "seed", "zeta", *_FACTS])
        for (width, seed), values in found.items():
            for k, count in enumerate(times):
                writer.writerow([width, seed, asked.rate * count, *(f"{values[name][k]:.9g}" for name in _FACTS)])


def _figure(asked: KernelSection, found: dict, times: np.ndarray, at: dict, slopes: dict) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.6, 3.9))
    left, middle, right = figure.subplots(1, 3)
    widths = np.asarray(asked.widths, float)
    names = {"features": "features", "class_kernel": "class means, C × C kernel", "prototypes": "prototypes"}
    for place, (name, label) in enumerate(names.items()):
        color, logs = plots.PALETTE[place], np.nanmean(np.log(at[name]), axis=1)
        left.plot(np.repeat(widths, asked.seeds), at[name].ravel(), "o", color=color, ms=3, alpha=0.5)
        level = np.mean(logs - slopes[name].value * np.log(widths))
        left.plot(widths, np.exp(level) * widths ** slopes[name].value, color=color,
                  label=f"{label}: slope {slopes[name].value:.2f}")  # fmt: skip
    left.set(xscale="log", yscale="log", xlabel="hidden width", ylabel="relative error",
             title=f"error of the prediction at ζ = {asked.rate * asked.fixed:g}")  # fmt: skip
    left.set_xticks(widths, [f"{w:g}" for w in widths], minor=False)
    left.minorticks_off()
    left.legend(fontsize=8)
    _over_time(middle, right, asked, found, asked.rate * times)
    return figure


def _over_time(middle: Any, right: Any, asked: KernelSection, found: dict, zeta: np.ndarray) -> None:
    shown = [asked.widths[0], asked.widths[len(asked.widths) // 2], asked.widths[-1]]
    for place, width in enumerate(shown):
        color = plots.PALETTE[place]
        errors = np.array([found[width, s]["features"] for s in range(asked.seeds)])
        middle.plot(zeta[1:], np.mean(errors, axis=0)[1:], color=color, label=f"width {width}")
        first = found[width, 0]
        right.plot(zeta, -first["loss"], color=color, label=f"width {width}")
        right.plot(zeta, -first["loss_predicted"], color="black", ls=":", lw=1, label="predicted" if not place else None)
    middle.axhline(0.1, color="black", lw=0.8, ls=":")
    middle.set(yscale="log", xlabel="ζ", ylabel="relative error of the features", title="where it breaks (mean of seeds)")
    right.set(yscale="symlog", xlabel="ζ", ylabel="minus the loss", title="networks and predictions (seed 0)")
    right.set_yscale("symlog", linthresh=1.0)
    for axes in (middle, right):
        axes.legend(fontsize=8)
