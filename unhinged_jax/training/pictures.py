"""The curves of one training run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from unhinged_jax import plots
from unhinged_jax.training.loop import Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOGARITHMIC = 30  # a positive curve that spans more than this factor


def history(run: Trained) -> Figure:
    """One panel per observed quantity, with one line per seed.

    Args:
        run: From `train`.

    Returns:
        A `matplotlib.figure.Figure`; write it with `plots.save`.

    Source: beyond the paper.
    """
    from matplotlib.figure import Figure

    shown = {name: values for name, values in run.history.items() if np.any(np.isfinite(values))}
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    epochs = np.arange(1, run.epochs + 1)
    with plots.style():
        figure = Figure(figsize=(3.1 * columns, 0.4 + 2.1 * rows))
        for place, (name, values) in enumerate(shown.items(), start=1):
            axes = figure.add_subplot(rows, columns, place)
            for seed, line in enumerate(values.T):
                kept = np.isfinite(line)
                axes.plot(
                    epochs[kept], line[kept], lw=1.2, color=plots.PALETTE[seed % len(plots.PALETTE)],
                    marker="o" if kept.sum() == 1 else "", label=f"seed {run.settings.seeds[seed]}",
                )  # fmt: skip
            finite = values[np.isfinite(values)]
            if np.all(finite > 0) and finite.max() > _LOGARITHMIC * finite.min():
                axes.set_yscale("log")
            axes.set_title(name, fontsize=9.5)
            if place > len(shown) - columns:
                axes.set_xlabel("epoch")
        if 1 < run.stopped.size <= len(plots.PALETTE):
            figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper")
    return figure
