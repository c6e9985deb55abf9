"""The paper's figures as pictures: exact curves as lines, simulated ones as dashes, published vertices as dots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unhinged_jax.paper import published
from unhinged_jax.paper.figures import Panel, Reproduction
from unhinged_jax.plots import EXACT, PALETTE, SIMULATED, save, style

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
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = outcome.figure
    count = len(figure.panels)
    columns = 2 if count == 4 else 3
    rows = -(-count // columns)
    picture = Figure(figsize=(4.3 * columns, 3.3 * rows + 0.7), layout="constrained")
    axes = picture.subplots(rows, columns, squeeze=False).ravel()
    labels = list(dict.fromkeys(curve.label for _, curve in figure.runs()))
    colours = dict(zip(labels, PALETTE, strict=False))
    for panel, ax in zip(figure.panels, axes, strict=False):
        _panel(ax, outcome, panel, colours, with_published)
    for ax in axes[count:]:
        ax.set_axis_off()
    handles = [Line2D([], [], color=colours[label], lw=2.5) for label in labels]
    names = [pretty(label) for label in labels]
    handles += [Line2D([], [], color="0.35", **EXACT), Line2D([], [], color="0.1", **SIMULATED)]
    names += ["exact", "simulated"]
    if with_published and published.vertices(figure.number + figure.panels[0].letter):
        handles.append(Line2D([], [], color="0.2", marker="o", ms=3.5, mfc="white", lw=0))
        names.append("published")
    picture.suptitle(f"Figure {figure.number}: {figure.title}", fontsize=12)
    picture.legend(handles, names, loc="outside lower center", ncols=min(len(names), 4 if columns == 2 else 5))
    return picture


def _panel(ax: Axes, outcome: Reproduction, panel: Panel, colours: dict[str, str], with_published: bool) -> None:
    smallest, largest = np.inf, 0.0
    name = outcome.figure.number + panel.letter
    for label, (t, values) in outcome.exact[panel.letter].items():
        colour = colours[label]
        ax.plot(t, values, color=colour, **EXACT)
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
    ax.set_title(f"({panel.letter}) {panel.title}")
    ax.set_xlabel("update")
    ax.margins(x=0.02)


def pretty(label: str) -> str:
    """A curve label with Greek letters and readable fractions."""
    replacements = {"gamma": "γ", "lambda": "λ", "eta": "η", "*sqrt(N)": "√N", "-": "−", "=": " = "}
    for plain, nice in replacements.items():
        label = label.replace(plain, nice)
    return label
