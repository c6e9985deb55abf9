"""Small parts shared by the figures of the theories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unhinged_jax.plots.looks import GREY, over_decades

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

THRESHOLD: dict[str, Any] = {"color": GREY, "lw": 1.0, "ls": (0, (1, 1.5))}
"""Thresholds that theory predicts are dotted."""


def pair(figure: Figure) -> tuple[Any, Any]:
    """Two panels side by side."""
    left, right = figure.subplots(1, 2)
    return left, right


def logarithmic(axes: Axes, x: str, y: str, both: bool = False) -> None:
    """A logarithmic horizontal axis, and a vertical one if `both`, with their labels; draw the curves before."""
    axes.set_xscale("log")
    over_decades(axes.xaxis, 6)
    if both:
        axes.set_yscale("log")
        over_decades(axes.yaxis, 7)
    axes.set(xlabel=x, ylabel=y)
