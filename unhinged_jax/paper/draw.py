"""The paper's figures as pictures: exact curves as lines, simulated ones as dashes, published vertices as dots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unhinged_jax.paper import published
from unhinged_jax.paper.figures import CLASSES, Figure, Panel, Reproduction
from unhinged_jax.plots import EXACT, PALETTE, SIMULATED, save, style
from unhinged_jax.plots.looks import WIDTH, coincide, filled, gamma_colours, head, is_lowest, key, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAST = 1e-18  # where a logarithmic axis of distances ends, far below what the original runs could resolve


def draw(outcome: Reproduction, out: Path, with_published: bool) -> None:
    """Write figN.png and figN.svg."""
    with style():
        picture = figure_of(outcome, with_published)
        save(picture, out, f"fig{outcome.figure.number}")


def figure_of(outcome: Reproduction, with_published: bool) -> Any:
    """The matplotlib figure of all panels."""
    from matplotlib.figure import Figure as Picture
    from matplotlib.lines import Line2D

    figure = outcome.figure
    count = len(figure.panels)
    most = 2 if count in (4, 5) else 3
    picture = Picture(figsize=(WIDTH, 2.75 * rows_of(count, most) + 0.8), layout="constrained")
    labels = list(dict.fromkeys(curve.label for _, curve in figure.runs()))
    colours = dict(zip(labels, colours_of(figure, labels), strict=True))
    for panel, ax in zip(figure.panels, filled(picture, count, most), strict=True):
        _panel(ax, outcome, panel, colours, with_published)
    handles = [Line2D([], [], color=colours[label], lw=2.5) for label in labels]
    names = [name_of(figure, label) for label in labels]
    handles += [Line2D([], [], color="0.35", **EXACT), Line2D([], [], color="0.1", **SIMULATED)]
    names += ["exact", "simulated"]
    if with_published and published.vertices(figure.number + figure.panels[0].letter):
        handles.append(Line2D([], [], color="0.2", marker="o", ms=3.5, mfc="white", lw=0))
        names.append("published")
    picture.suptitle(f"Figure {figure.number}: {figure.title}", fontsize=11)
    key(picture, handles, names)
    return picture


_MISPRINTED = {("5", "gamma=1/(C-1)"): "γ = 1/198, printed as 1/(C−1)"}  # labels of other settings than were run


def name_of(figure: Figure, label: str) -> str:
    """What a curve of a figure is: its published label, or what was run where that says something else."""
    return _MISPRINTED.get((figure.number, label), pretty(label))


def colours_of(figure: Figure, labels: list[str]) -> list[str]:
    """The same colour for a trade-off in every figure whose curves are trade-offs; others go by their place."""
    if not all(label.startswith("gamma=") for label in labels):
        return [PALETTE[place % len(PALETTE)] for place in range(len(labels))]
    gammas = {curve.label: float(getattr(curve.model.loss, "gamma", 0.0)) for _, curve in figure.runs()}
    return gamma_colours([gammas[label] for label in labels], CLASSES)


def _panel(ax: Axes, outcome: Reproduction, panel: Panel, colours: dict[str, str], with_published: bool) -> None:
    smallest, largest = np.inf, 0.0
    name = outcome.figure.number + panel.letter
    lines = {}
    for label, (t, values) in outcome.exact[panel.letter].items():
        colour = colours[label]
        (lines[name_of(outcome.figure, label)],) = ax.plot(t, values, color=colour, **EXACT)
        ax.plot(*outcome.simulated[panel.letter][label], color=colour, **SIMULATED)
        positive = values[values > 0]
        smallest, largest = min(smallest, positive.min(initial=np.inf)), max(largest, positive.max(initial=0.0))
        if with_published and label in published.vertices(name):
            x, y = published.vertices(name)[label]
            if panel.scale == "log":  # values that the original runs could not resolve are not data
                shown = y >= (published.FLOOR if name in published.DISTANCES else 0)
                x, y = x[shown], y[shown]
            elif panel.scale == "symlog":  # their axis was linear, so smaller values than it resolves read 0
                shown = np.abs(y) > published.resolution(name)
                x, y = x[shown], y[shown]
            thin = slice(None, None, max(1, x.size // 14))
            ax.plot(x[thin], y[thin], "o", ms=3.5, mfc="white", mec=colour, mew=0.9)
    if panel.scale == "symlog":
        ax.set_yscale("symlog", linthresh=1.0)
        ax.set_yticks([0.0, *(-(10.0**power) for power in range(12, 60, 12))])
    elif panel.scale == "log":
        ax.set_yscale("log")
        if smallest < _LEAST:
            ax.set_ylim(_LEAST, 5 * largest)
    ax.margins(x=0.02)
    head(ax, f"({panel.letter}) {panel.title}", coincide(ax, lines))
    ax.locator_params(axis="x", nbins=5)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if is_lowest(ax):
        ax.set_xlabel("update")


def pretty(label: str) -> str:
    """A curve label with Greek letters and readable fractions."""
    replacements = {"gamma": "γ", "lambda": "λ", "eta": "η", "*sqrt(N)": "√N", "-": "−", "=": " = "}
    for plain, nice in replacements.items():
        label = label.replace(plain, nice)
    return label
