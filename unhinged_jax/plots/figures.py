"""The style of every figure, how figures are written, and the curves of one run."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unhinged_jax._files import whole
from unhinged_jax.plots.looks import (
    GREY,
    PALETTE,
    WIDTH,
    Along,
    along,
    coincide,
    filled,
    head,
    is_lowest,
    is_wide,
    key,
    rows_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["EXACT", "SIMULATED", "curves", "save", "style"]

EXACT: dict[str, Any] = {"lw": 3.5, "alpha": 0.45, "solid_capstyle": "butt"}
"""Closed forms are pale bands ..."""

SIMULATED: dict[str, Any] = {"lw": 1.0, "ls": (0, (4, 3))}
"""... and simulated curves are thin dashes on them, so that both are visible where they agree."""

_METADATA: dict[str, dict[str, None]] = {"png": {"Software": None}, "svg": {"Date": None}}


@contextmanager
def style() -> Iterator[None]:
    """House style of all figures: legible type, a colour-blind-safe palette, a thin grid.

    Example:
        >>> with style():
        ...     import matplotlib
        ...     matplotlib.rcParams["axes.grid"]
        True
    """
    import matplotlib
    from cycler import cycler

    settings: Any = {
        "figure.dpi": 100,
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.w_pad": 0.1,
        "savefig.dpi": 160,
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8.5,
        "legend.frameon": False,
        "axes.prop_cycle": cycler(color=PALETTE),
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#d9d9d9",
        "grid.linewidth": 0.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.8,
        "lines.linewidth": 1.6,
        "svg.hashsalt": "unhinged",  # so that the same figure gives the same file
    }
    with matplotlib.rc_context(settings):
        yield


def save(figure: Figure, folder: Path, name: str, kinds: tuple[str, ...] = ("png", "svg")) -> list[Path]:
    """Write NAME.png and NAME.svg in the house style, each whole or not at all; equal figures give equal files.

    Args:
        figure: A `matplotlib.figure.Figure`.
        folder: An existing folder for the files.
        name: File name without an ending.
        kinds: Endings; "png" and "svg" (default) contain neither date nor program.

    Returns:
        The paths, one for each kind.

    Source: beyond the paper.

    Example:
        >>> import tempfile
        >>> from matplotlib.figure import Figure
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in save(Figure(figsize=(1, 1)), Path(folder), "picture")]
        ['picture.png', 'picture.svg']
    """
    paths = [folder / f"{name}.{kind}" for kind in kinds]
    texts: Any = figure.findobj(lambda artist: hasattr(artist, "set_parse_math"))
    for text in texts:
        text.set_parse_math(not tex_error(text.get_text()))
    with style(), _laid_out(figure):
        for path, kind in zip(paths, kinds, strict=True):
            with whole(path) as part:
                figure.savefig(part, format=kind, metadata=_METADATA.get(kind))
    return paths


@contextmanager
def _laid_out(figure: Figure) -> Iterator[None]:
    """Inside, every part of the figure has its place, so that a file takes one drawing.

    With a layout engine, matplotlib draws a figure twice for each file, the first time for the layout alone.
    """
    import matplotlib

    engine, dpi = figure.get_layout_engine(), figure.dpi
    with matplotlib.rc_context({"figure.constrained_layout.use": False}):  # else no engine would mean this one
        try:
            if engine is not None and figure.axes:
                figure.dpi = matplotlib.rcParams["savefig.dpi"]
                engine.execute(figure)
            figure.set(dpi=dpi, layout_engine=None)
            yield
        finally:
            figure.set(dpi=dpi, layout_engine=engine)


def tex_error(text: str) -> str:
    r"""Why matplotlib cannot read the formula in a text, so that `save` shows it verbatim; empty if it can.

    Example:
        >>> tex_error("rate $r_1$, 5 $"), tex_error("plain")
        ('', '')
        >>> "Unknown symbol" in tex_error("$\\nope$")
        True
    """
    if "$" not in text:
        return ""
    from matplotlib import cbook, mathtext

    try:
        if cbook.is_math_text(text):
            mathtext.MathTextParser("path").parse(text)
    except ValueError as error:
        return str(error).strip().splitlines()[-1].partition(": ")[2]
    return ""


def curves(times: np.ndarray, scalars: dict[str, np.ndarray], reached: np.ndarray) -> Figure:
    """One panel for each scalar observable over the times that were reached: a line, or for a batch of runs the median
    with a band from the 10 % to the 90 % quantile.

    Args:
        times: (T,), or (members, T) for a batch, whose members must share them.
        scalars: Observables by name, of the same shape.
        reached: Which times were reached, of the same shape.

    Returns:
        A `matplotlib.figure.Figure`, independent of pyplot; write it with `save`. Positive values that span more than
        two decades, and times spaced geometrically, are drawn on logarithmic axes.

    Raises:
        ValueError: if there is nothing to draw, or the members of a batch have times of their own.

    Source: beyond the paper.

    Example:
        >>> times = np.array([0.0, 1.0])
        >>> len(curves(times, {"norm": np.array([2.0, 1.0])}, np.array([True, True])).axes)
        1
    """
    from unhinged_jax.observables import OBSERVABLES

    if not scalars:
        raise ValueError("there is no scalar observable to draw; observe one, such as 'loss'.")
    members = len(times) if times.ndim > 1 else 0
    lines = np.atleast_2d(times)
    if np.any(lines != lines[0]):
        raise ValueError("a picture of a batch needs times that its members share; draw the members one by one.")
    shown = np.any(np.atleast_2d(reached), axis=0)
    content = {}
    for name, values in scalars.items():
        values = np.where(reached, np.asarray(values, float), np.nan)
        content[name] = [Line.of(np.atleast_2d(values)[:, shown], "")]
    meanings = {name: OBSERVABLES[name].meaning for name in scalars if name in OBSERVABLES}
    label = "number of updates" if np.issubdtype(times.dtype, np.integer) else "time"
    title = about_members(members, "runs") if members else ""
    return panels(lines[0][shown], content, meanings, label=label, title=title)


def band(values: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of members along an axis: the median, and the 10 % and 90 % quantiles, without those that hold NaN.

    Infinite values count for the median alone, because nothing lies between them and a number.

    Example:
        >>> [float(part[0]) for part in band(np.arange(11.0)[:, None])]
        [5.0, 1.0, 9.0]
    """
    finite = np.where(np.isfinite(values), values, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where all hold NaN
        low, high = np.nanquantile(finite, (0.1, 0.9), axis=axis)
        return np.nanmedian(values, axis=axis), low, high


def about_members(count: int, what: str) -> str:
    """What `band` draws of some members, in words for a title."""
    return f"median of {count} {what}, and their 10 % to 90 % quantiles" if count > 1 else f"1 {what.rstrip('s')}"


class Line(NamedTuple):
    """A line of a panel, (points,), its band, and its label."""

    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    label: str

    @classmethod
    def of(cls, members: np.ndarray, label: str) -> Line:
        """The `band` of members, (members, points), where any is finite."""
        return cls(*band(np.where(np.isfinite(members), members, np.nan)), label)


def panels(
    x: np.ndarray,
    content: dict[str, list[Line]],
    meanings: dict[str, str],
    *,
    label: str,
    title: str = "",
    legend: str | None = None,
) -> Figure:
    """A figure with one panel for each name, over the same x, whose values may be texts."""
    from matplotlib.figure import Figure

    lined = [line.middle for lines in content.values() for line in lines]
    axis = along(x, label, np.any(np.isfinite(lined), axis=0))
    with style():
        width = (5.2, 7.2, WIDTH)[min(3, len(content)) - 1]
        figure = Figure(figsize=(width, 0.7 + 2.4 * rows_of(len(content)) + 0.4 * (legend is not None)))
        for axes, (name, lines) in zip(filled(figure, len(content)), content.items(), strict=True):
            _panel(axes, x, axis, lines, name, meanings.get(name, ""))
            if not is_lowest(axes):  # matplotlib searches for the place of an empty label, too
                axes.xaxis.set_label_coords(0.5, 0.0)
        if title:
            figure.suptitle(title, fontsize=9, x=0.01, ha="left", color=GREY)
        if legend is not None:
            key(figure, *figure.axes[0].get_legend_handles_labels(), title=legend)
    # A notebook knows how to show figures only once pyplot is imported, which this package does not do.
    figure._repr_png_ = functools.partial(_png, figure)  # type: ignore[attr-defined]
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=figure.dpi)
    return buffer.getvalue()


def _panel(axes: Axes, x: np.ndarray, axis: Along, lines: list[Line], name: str, meaning: str) -> None:
    """Each line with its band, where it has one, at the points that are on the horizontal axis."""
    axis.settle(axes)
    drawn = [np.zeros(0)]
    for number, line in enumerate(lines):
        shown = np.isfinite(line.middle) & axis.shown
        there, middle, low, high = x[shown], line.middle[shown], line.low[shown], line.high[shown]
        if not there.size:
            continue
        colour = PALETTE[number % len(PALETTE)]
        marker = "o" if len(there) == 1 else ""
        axes.plot(there, middle, marker=marker, color=colour, label=line.label or None)
        if np.any(low < high):
            axes.fill_between(there, low, high, color=colour, alpha=0.25, lw=0)
        drawn += [middle, low, high]
    if len(drawn) == 1:
        head(axes, meaning or name, name)
        where = " after 0" if any(np.any(np.isfinite(line.middle)) for line in lines) else ""
        axes.text(0.5, 0.5, f"no finite values{where}", ha="center", va="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    values = np.concatenate(drawn)
    if is_wide(values[np.isfinite(values)]):
        axes.set_yscale("log")
    axes.minorticks_off()  # a logarithmic axis has dozens of them: more than half the time that a picture takes
    named = {str(line.get_label()): line for line in axes.get_lines()}
    head(axes, meaning or name, name, coincide(axes, named) if len(named) > 1 else "")
