"""One look for every picture: how wide it is, how panels fill it, what stands above them, where legends go.

A page shows a picture about 700 pixels wide. A figure is at most `WIDTH` inches wide, so that its smallest text, of
`SMALL` points, is 8 pixels high there.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.0
"""Inches; the widest that a figure may be."""

SMALL = 7.5
"""Points; the smallest text of a figure of that width."""

GREY = "#595959"
"""The colour of names in code and of remarks; its contrast with white is 7."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe & Ito's colours, which are distinct with any common colour vision, without yellow, which has little
contrast."""

_NEAR = 0.006  # of an axis: curves that are nowhere further apart are drawn on top of one another
_BY_RATIO = ((1e-9, 6), (0.2, 1), (0.8, 2), (1.2, 4), (1.65, 5), (2.3, 3), (math.inf, 0))


def gamma_colours(gammas: Sequence[float], classes: int) -> list[str]:
    """Colours of trade-offs: the same trade-off, in units of 1/(C-1), has the same colour in every picture.

    0 is black, and 1/(C-1) is orange. Where two of the given ones would look alike, colours go by their place instead.

    Example:
        >>> gamma_colours([0.0, 1 / 9], classes=10) == [PALETTE[6], PALETTE[4]]
        True
        >>> gamma_colours([5.0, 6.0, 7.0], classes=10) == list(PALETTE[:3])
        True
    """
    ratios = [gamma * (classes - 1) for gamma in gammas]
    places = [next(place for limit, place in _BY_RATIO if ratio < limit) for ratio in ratios]
    if len({*places}) < len(places):
        places = [number % len(PALETTE) for number in range(len(ratios))]
    return [PALETTE[place] for place in places]


def filled(figure: Figure, count: int, most: int = 3) -> list[Axes]:
    """So many panels in rows of at most `most`; the panels of a short row are wider, so that no cell is empty.

    Example:
        >>> from matplotlib.figure import Figure
        >>> [axes.get_subplotspec().colspan.stop for axes in filled(Figure(), 5)]
        [2, 4, 6, 3, 6]
    """
    rows = rows_of(count, most)
    shares = [count // rows + (row < count % rows) for row in range(rows)]
    columns = math.lcm(*shares)
    grid = figure.add_gridspec(rows, columns)
    return [
        figure.add_subplot(grid[row, place * (columns // share) : (place + 1) * (columns // share)])
        for row, share in enumerate(shares)
        for place in range(share)
    ]


def rows_of(count: int, most: int = 3) -> int:
    """Rows of that many panels.

    Example:
        >>> rows_of(3), rows_of(5)
        (1, 2)
    """
    return math.ceil(count / most)


def is_lowest(axes: Axes) -> bool:
    """Whether a panel is in the last row of its grid.

    Example:
        >>> from matplotlib.figure import Figure
        >>> [is_lowest(axes) for axes in filled(Figure(), 4)]
        [False, False, True, True]
    """
    spec = axes.get_subplotspec()
    return spec is None or bool(spec.is_last_row())


def head(axes: Axes, meaning: str, *remarks: str, beside: float = 0.0) -> None:
    """What a panel shows as its title, and below that, small and grey, its name in code and other remarks.

    Texts are broken to the width of the panel, so give the panel its place before. `beside` is what a colour bar or
    long labels take of it, in inches.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = Figure(figsize=(4, 3)).subplots()
        >>> head(axes, "norm of the state", "log_norm", "", "both coincide")
        >>> axes.get_title(loc="left"), axes.texts[0].get_text()
        ('Norm of the state', 'log_norm; both coincide')
    """
    inches = max(1.2, _inches(axes) - beside)
    remarks = tuple(remark for remark in remarks if remark and remark != meaning)
    if " " in meaning and meaning[:2].islower():  # words, and no name or formula
        meaning = meaning[0].upper() + meaning[1:]
    grey = textwrap.wrap("; ".join(remarks), int(inches * 72 / (0.54 * 8)), break_long_words=False) if remarks else []
    size = 9.5
    title = textwrap.wrap(meaning, int(inches * 72 / (0.56 * size)), break_long_words=False)
    if grey:
        axes.annotate(
            "\n".join(grey), (0, 1), xytext=(0, 4), xycoords="axes fraction", textcoords="offset points", fontsize=8,
            color=GREY, va="bottom", annotation_clip=False,
        )  # fmt: skip
    axes.set_title("\n".join(title), loc="left", fontsize=size, pad=5 + 10.5 * len(grey))


def _inches(axes: Axes) -> float:
    """The width of a panel, about, from its share of the figure."""
    spec = axes.get_subplotspec()
    figure = axes.get_figure()
    assert figure is not None
    whole = figure.get_figwidth()  # type: ignore[union-attr]
    share = 1.0 if spec is None else len(spec.colspan) / spec.get_gridspec().ncols
    return max(1.2, share * whole - 0.65)


def is_wide(values: np.ndarray) -> bool:
    """Whether all of some finite values are positive and span more than two decades, so that a logarithmic axis shows
    more of them.

    Example:
        >>> is_wide(np.array([1.0, 101.0])), is_wide(np.array([0.0, 101.0]))
        (True, False)
    """
    return bool(values.size and values.min() > 0 and values.max() / 100 > values.min())


class Along(NamedTuple):
    """The horizontal axis of some panels.

    Attributes:
        shown: Which points are on it, (points,).
        log: Whether it is logarithmic.
        label: What stands below it, with a remark on points that are not on it.
    """

    shown: np.ndarray
    log: bool
    label: str

    def settle(self, axes: Axes) -> None:
        """Give a panel that is drawn its scale, and its label if it is one of the lowest."""
        if self.log:
            axes.set_xscale("log")
        if is_lowest(axes):
            axes.set_xlabel("\n".join(textwrap.wrap(self.label, int(_inches(axes) * 72 / (0.56 * 9)))))


def along(x: np.ndarray, label: str, there: np.ndarray | bool = True) -> Along:
    """The axis for points at x, (points,), of which some are `there`: logarithmic if they cover decades and are denser
    towards 0, so that a linear axis would hide most of them. A start at 0 is not on it then, and its label says so.

    Example:
        >>> axis = along(np.array([0.0, 10.0, 100.0, 2000.0]), "time")
        >>> axis.shown.tolist(), axis.label
        ([False, True, True, True], 'time (0 is not on this axis)')
    """
    shown = np.full(len(x), True) & there
    if x.dtype.kind not in "fiu" or np.any(x[shown] < 0):
        return Along(shown, False, label)
    positive = x[shown & (x > 0)]
    if positive.size < 3 or not is_wide(positive) or np.median(positive) >= positive.max() / 5:
        return Along(shown, False, label)
    return Along(shown & (x > 0), True, f"{label} (0 is not on this axis)" if np.any(x[shown] == 0) else label)


def coincide(axes: Axes, lines: Mapping[str, Any]) -> str:
    """Which of some curves lie on top of one another in a panel with its final scales, in words; "" if none do.

    Args:
        axes: The panel.
        lines: The curves by name, as matplotlib's lines.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = Figure().subplots()
        >>> lines = {name: axes.plot([0, 1], [0, slope])[0] for name, slope in {"a": 1, "b": 1, "c": 2}.items()}
        >>> coincide(axes, lines)
        'a and b coincide'
    """
    groups: list[list[str]] = []
    axes.get_xlim(), axes.get_ylim()  # matplotlib finds its limits only when it is asked
    shapes = {name: _shape(axes, line) for name, line in lines.items()}
    for name, shape in shapes.items():
        home = next((group for group in groups if all(_same(shapes[other], shape) for other in group)), None)
        if home is None:
            groups.append([name])
        else:
            home.append(name)
    several = [group for group in groups if len(group) > 1]
    if len(several) == 1 and len(several[0]) == len(lines) > 2:
        return f"all {len(lines)} coincide"
    return "; ".join(f"{', '.join(group[:-1])} and {group[-1]} coincide" for group in several)


def _shape(axes: Axes, line: Any) -> np.ndarray:
    """Points of a line as shares of the panel, (points, 2), NaN where it is not drawn."""
    points = np.column_stack([np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)])
    with np.errstate(all="ignore"):
        points = np.asarray((axes.transScale + axes.transLimits).transform(points), float)
    inside = np.isfinite(points) & (points > -0.02) & (points < 1.02)
    return np.where(inside, points, np.nan)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    if one.shape == other.shape and np.allclose(one[:, 0], other[:, 0], rtol=0, atol=1e-9, equal_nan=True):
        there = np.isfinite(one[:, 1]), np.isfinite(other[:, 1])
        both = there[0] & there[1]
        alike = np.mean(there[0] == there[1]) > 0.9
        return bool(both.sum() > 1 and alike and np.max(np.abs(one[both, 1] - other[both, 1])) < _NEAR)
    return False


def key(figure: Figure, handles: Sequence[Any], labels: Sequence[str], title: str | None = None) -> None:
    """A legend below all panels, in as many columns as fit into the picture, so that it covers no data."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer, room = FigureCanvasAgg(figure).get_renderer(), figure.bbox.width - 0.2 * figure.dpi
    for rows in range(1, len(labels) + 1):
        columns = math.ceil(len(labels) / rows)
        if math.ceil(len(labels) / columns) < rows:
            continue  # as many columns as with a row less
        legend = figure.legend(handles, labels, title=title, loc="outside lower center", ncols=columns)
        if columns == 1 or legend.get_window_extent(renderer).width <= room:
            return
        legend.remove()


def key_of(figure: Figure, title: str | None = None) -> None:
    """`key` of every name in the panels, each once."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        key(figure, list(found.values()), list(found), title)


def key_under(axes: Axes, columns: int = 1, title: str | None = None) -> None:
    """A legend under the label of a panel's horizontal axis, for panels whose curves differ."""
    from matplotlib.transforms import ScaledTranslation

    figure = axes.get_figure()
    assert figure is not None
    below = ScaledTranslation(0, -0.46, figure.dpi_scale_trans)  # type: ignore[union-attr]
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=axes.transAxes + below, borderaxespad=0.0,
        ncols=columns, title=title,
    )  # fmt: skip


def over_decades(axis: Any, most: int = 5) -> None:
    """Labels of a logarithmic axis at powers of ten, about so many; where it has fewer than three, plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    low, high = sorted(axis.get_view_interval())
    if low <= 0 or high <= low:
        return
    if math.floor(math.log10(high)) - math.ceil(math.log10(low)) > 1:
        axis.set_major_locator(LogLocator(10, numticks=most))
        axis.set_minor_formatter(NullFormatter())
        return
    steps = (1.0,) if high / low > 100 else (1.0, 2.0, 5.0) if high / low > 3 else (1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0)
    axis.set_major_locator(LogLocator(10, subs=steps, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
