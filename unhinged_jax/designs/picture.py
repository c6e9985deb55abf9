"""The path of an outer optimisation, drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unhinged_jax.designs.optimise import WITHIN, DesignOutcome
from unhinged_jax.plots import PALETTE, save, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST = 7  # curves per panel, as many as there are colours


def picture(outcome: DesignOutcome, title: str = "") -> Figure:
    """Objective and free parameters over the outer steps, with the reference; write the figure with `save`."""
    from matplotlib.figure import Figure

    panels = 1 + len(outcome.path)
    with style():
        figure = Figure(figsize=(1 + 3.9 * panels, 3.3))
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        _objective(figure.add_subplot(1, panels, 1), outcome)
        for place, key in enumerate(outcome.path, start=2):
            _values(figure.add_subplot(1, panels, place), outcome, key)
    return figure


def _objective(axes: Axes, outcome: DesignOutcome) -> None:
    axes.set(title="objective", xlabel="outer step")
    reference = outcome.reference
    if reference is None:
        axes.plot(outcome.objectives)
        return
    way = outcome.objectives[0] - reference.objective
    short = (outcome.objectives - reference.objective) / (way if way > 0 else 1.0)
    # Steps at or beyond the reference have no logarithm; they are left out of the curve, and the report says so.
    axes.plot(np.where(short > 0, short, np.nan))
    axes.set_yscale("log")
    axes.axhline(WITHIN, color=PALETTE[-1], linestyle=":", linewidth=1.2)
    axes.annotate("2 %", (1, WITHIN), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    axes.set_ylabel("excess over the reference\n(start: 1)")


def _values(axes: Axes, outcome: DesignOutcome, key: str) -> None:
    path = outcome.path[key]
    axes.set(title=key.rpartition(".")[2].replace("_", " "), xlabel="outer step")
    axes.set_ylabel(key, fontsize=8)
    flat = path.reshape(len(path), -1)
    target: Any = None
    if outcome.reference is not None and outcome.reference.values is not None:
        target = np.asarray(outcome.reference.values[key]).reshape(-1)
    if flat.shape[1] > _MOST:
        axes.plot(np.linalg.norm(flat - flat[-1], axis=1) / np.linalg.norm(flat[-1]))
        axes.set_ylabel("relative distance from the end", fontsize=8)
        return
    for i in range(flat.shape[1]):
        label = f"{i + 1}" if flat.shape[1] > 1 else "designed"
        axes.plot(flat[:, i], color=PALETTE[i], label=label)
        if target is not None:
            axes.axhline(target[i], color=PALETTE[i], linestyle="--", linewidth=1)
    if target is not None:
        axes.plot([], [], color="#666666", linestyle="--", linewidth=1, label="reference")
    axes.legend(ncols=2, fontsize=8)


def draw(outcome: DesignOutcome, folder: Path, title: str) -> list[Path]:
    """Write path.png and path.svg."""
    with style():
        return save(picture(outcome, title), folder, "path")
