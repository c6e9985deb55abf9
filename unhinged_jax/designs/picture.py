"""The path of an outer optimisation, drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unhinged_jax.designs.optimise import WITHIN, DesignOutcome
from unhinged_jax.plots import PALETTE, save, style
from unhinged_jax.plots.looks import WIDTH, filled, head, key_of, over_decades, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MEANINGS = {"model.gamma": "Trade-off γ", "model.decay": "Weight decay λ", "dynamics.rate": "Learning rate η"}
_MOST = 7  # curves per panel, as many as there are colours


def picture(outcome: DesignOutcome, title: str = "") -> Figure:
    """Objective and free parameters over the outer steps, with the reference; write the figure with `save`."""
    from matplotlib.figure import Figure

    count = 1 + len(outcome.path)
    with style():
        figure = Figure(figsize=(WIDTH, 0.8 + 2.9 * rows_of(count)))
        panels = filled(figure, count)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        _objective(panels[0], outcome)
        for axes, key in zip(panels[1:], outcome.path, strict=True):
            _values(axes, outcome, key)
        for axes in panels:
            axes.set_xlabel("outer step")
            axes.locator_params(axis="x", nbins=4)
        key_of(figure)
    return figure


def _objective(axes: Axes, outcome: DesignOutcome) -> None:
    reference = outcome.reference
    if reference is None:
        axes.plot(outcome.objectives)
        head(axes, "Objective")
        return
    way = outcome.objectives[0] - reference.objective
    short = (outcome.objectives - reference.objective) / (way if way > 0 else 1.0)
    # Steps at or beyond the reference have no logarithm; they are left out of the curve, and the report says so.
    axes.plot(np.where(short > 0, short, np.nan))
    axes.set_yscale("log")
    over_decades(axes.yaxis)
    axes.axhline(WITHIN, color=PALETTE[-1], linestyle=":", linewidth=1.2, label="2 % of the start")
    head(axes, "Objective above that of the reference", "relative to the start")


def _values(axes: Axes, outcome: DesignOutcome, key: str) -> None:
    path = outcome.path[key]
    flat = path.reshape(len(path), -1)
    target: Any = None
    if outcome.reference is not None and outcome.reference.values is not None:
        target = np.asarray(outcome.reference.values[key]).reshape(-1)
    meaning = _MEANINGS.get(key, key.rpartition(".")[2].replace("_", " ").capitalize())
    if flat.shape[1] > _MOST:
        axes.plot(np.linalg.norm(flat - flat[-1], axis=1) / np.linalg.norm(flat[-1]))
        head(axes, f"{meaning}: relative distance from the end", key)
        return
    for i in range(flat.shape[1]):
        label = f"entry {i + 1}" if flat.shape[1] > 1 else "designed"
        axes.plot(flat[:, i], color=PALETTE[i], label=label)
        if target is not None:
            axes.axhline(target[i], color=PALETTE[i], linestyle="--", linewidth=1)
    if target is not None:
        axes.plot([], [], color="#666666", linestyle="--", linewidth=1, label="reference")
    head(axes, meaning, key)


def draw(outcome: DesignOutcome, folder: Path, title: str) -> list[Path]:
    """Write path.png and path.svg."""
    with style():
        return save(picture(outcome, title), folder, "path")
