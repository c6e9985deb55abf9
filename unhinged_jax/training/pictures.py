"""The curves of one training run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from unhinged_jax import plots
from unhinged_jax.plots.looks import WIDTH, filled, head, is_lowest, key_of, over_decades, rows_of
from unhinged_jax.training.loop import Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MEANINGS = {
    "test_accuracy": "test accuracy", "feature_norm": "mean feature norm", "norm_W": "norm of the prototypes",
    "prototype_ratio": "longest over shortest prototype",
}  # fmt: skip
_LOGARITHMIC = 30  # a positive curve that spans more than this factor


def meaning_of(name: str) -> str:
    """What a quantity of the history is, in words.

    Example:
        >>> meaning_of("feature_norm"), meaning_of("nc1")
        ('mean feature norm', 'within-class variability')
    """
    from unhinged_jax.observables import OBSERVABLES

    known = OBSERVABLES[name].meaning if name in OBSERVABLES else name.replace("_", " ")
    return _MEANINGS.get(name, known)


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
    epochs = np.arange(1, run.epochs + 1)
    with plots.style():
        figure = Figure(figsize=(WIDTH, 0.8 + 2.1 * rows_of(len(shown))))
        for axes, (name, values) in zip(filled(figure, len(shown)), shown.items(), strict=True):
            for seed, line in enumerate(values.T):
                kept = np.isfinite(line)
                axes.plot(
                    epochs[kept], line[kept], lw=1.2, color=plots.PALETTE[seed % len(plots.PALETTE)],
                    marker="o" if kept.sum() == 1 else "", label=f"seed {run.settings.seeds[seed]}",
                )  # fmt: skip
            finite = values[np.isfinite(values)]
            if np.all(finite > 0) and finite.max() > _LOGARITHMIC * finite.min():
                axes.set_yscale("log")
                over_decades(axes.yaxis)
            head(axes, meaning_of(name), name)
            if is_lowest(axes):
                axes.set_xlabel("epoch")
        if 1 < run.stopped.size <= len(plots.PALETTE):
            key_of(figure)
    return figure
