"""Small parts shared by the figures of the theories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def pair(figure: Figure) -> tuple[Any, Any]:
    """Two panels side by side."""
    left, right = figure.subplots(1, 2)
    return left, right


def logarithmic(axes: Axes, x: str, y: str, both: bool = False) -> None:
    """A logarithmic horizontal axis, and a vertical one if `both`, with their labels."""
    axes.set_xscale("log")
    if both:
        axes.set_yscale("log")
    axes.set(xlabel=x, ylabel=y)
