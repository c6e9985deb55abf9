"""What every picture keeps to: read off a drawn figure, so that it holds for pictures of any kind."""

import itertools

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from unhinged_jax import plots
from unhinged_jax.plots.looks import WIDTH

SHOWN, LEAST = 700, 8.0  # pixels: the width of a picture on a page, and the height of its smallest text there


def faults(figure):
    """Everything that is wrong with a figure, in words."""
    with plots.style():
        FigureCanvasAgg(figure).draw()
        rules = (_sizes, _cells, _bars, _cut, _covered, _overlapping, _off_the_axis)
        return [fault for rule in rules for fault in rule(figure)]


def _texts(artist):
    return [t for t in artist.findobj(Text) if t.get_visible() and t.get_text().strip()]


def _box(figure, artist):
    return artist.get_window_extent(figure.canvas.get_renderer())


def _shown_ticks(axis):
    """Labels of ticks inside the limits, which are those that are drawn."""
    low, high = sorted(axis.get_view_interval())
    inside = [tick.label1 for tick, at in zip(axis.get_major_ticks(), axis.get_majorticklocs(), strict=False)
              if low <= at <= high]  # fmt: skip
    return [label for label in inside if label.get_visible() and label.get_text().strip()]


def _sizes(figure):
    width = figure.get_figwidth()
    if width > WIDTH + 1e-9:
        yield f"it is {width:.1f} inches wide"
    for text in _texts(figure):
        shown = text.get_fontsize() / 72 * SHOWN / max(width, SHOWN / 100)
        if shown < LEAST:
            yield f"{text.get_text()!r} is {shown:.1f} pixels high"


def _cells(figure):
    """Cells of a grid without a panel, and panels that show nothing."""
    taken = {}
    for axes in figure.axes:
        spec = axes.get_subplotspec()
        if spec is not None and not hasattr(axes, "_colorbar"):
            grid = spec.get_topmost_subplotspec().get_gridspec()
            cells = taken.setdefault(grid, np.zeros(grid.get_geometry(), bool))
            if axes.get_visible() and axes.axison:
                cells[spec.rowspan.start : spec.rowspan.stop, spec.colspan.start : spec.colspan.stop] = True
    for cells in taken.values():
        if not cells.all():
            yield f"{np.sum(~cells)} cells are empty"
    for axes in figure.axes:
        told = any("finite" in text.get_text() for text in axes.texts)
        if axes.get_visible() and not (told or axes.lines or axes.collections or axes.patches or axes.images):
            yield f"a panel shows nothing: {axes.get_title(loc='left')!r}"


def _bars(figure):
    for axes in figure.axes:
        if hasattr(axes, "_colorbar") and not (axes.get_ylabel() or axes.get_xlabel()).strip():
            yield "a colour bar has no label"


def _cut(figure):
    """Texts that stick out of the picture."""
    whole = figure.bbox
    for axes in figure.axes:
        ticks = _shown_ticks(axes.xaxis) + _shown_ticks(axes.yaxis)
        others = [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for text in [*ticks, *(t for t in others if t.get_text().strip())]:
            box = _box(figure, text)
            if box.x0 < whole.x0 - 2 or box.x1 > whole.x1 + 2 or box.y0 < whole.y0 - 2 or box.y1 > whole.y1 + 2:
                yield f"{text.get_text()!r} sticks out of the picture"
    for legend in figure.legends:
        box = _box(figure, legend)
        if box.x0 < -2 or box.x1 > whole.x1 + 2:
            yield "the legend sticks out of the picture"


def _covered(figure):
    """Legends over data."""
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    for legend, axes in itertools.product(legends, figure.axes):
        box = Bbox.intersection(_box(figure, legend), axes.bbox)
        if box is None or box.width < 1 or box.height < 1:
            continue
        for line in axes.lines:
            points = line.get_transform().transform(np.column_stack(line.get_data()).astype(float))
            points = points[np.isfinite(points).all(axis=1)]
            fine = _between(points)
            if np.all((fine > (box.x0, box.y0)) & (fine < (box.x1, box.y1)), axis=1).any():
                yield f"a legend covers {line.get_label()!r} in {axes.get_title(loc='left')!r}"


def _between(points):
    """Points of a line and between them."""
    if len(points) < 2:
        return points
    at = np.linspace(0, len(points) - 1, min(20 * len(points), 4000))
    return np.column_stack([np.interp(at, np.arange(len(points)), points[:, k]) for k in (0, 1)])


def _overlapping(figure):
    """Labels of neighbouring ticks, and titles, that run into one another."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            boxes = [(label.get_text(), _box(figure, label)) for label in _shown_ticks(axis)]
            for (one, a), (other, b) in itertools.pairwise(boxes):
                if a.overlaps(b) and axis.get_tick_params().get("labelrotation", 0) == 0 and a != b:
                    yield f"ticks {one!r} and {other!r} of {axes.get_title(loc='left')!r} run into one another"
    heads = [text for axes in figure.axes for text in (axes._left_title, *axes.texts) if text.get_text().strip()]
    heads += [axes.xaxis.label for axes in figure.axes if axes.get_xlabel()]
    boxes = [(text.get_text(), _box(figure, text)) for text in heads]
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        inner = Bbox.intersection(a, b)
        if inner is not None and inner.width > 2 and inner.height > 2:
            yield f"{one!r} and {other!r} run into one another"


def _off_the_axis(figure):
    """Values at 0 or below on a logarithmic horizontal axis, which matplotlib draws as flat lines to its left end."""
    for axes in figure.axes:
        for line in axes.lines if axes.get_xscale() == "log" else ():
            x = np.asarray(line.get_xdata(), float)
            if line.get_transform().contains_branch(axes.transData) and np.any(x <= 0):
                yield f"{line.get_label()!r} of {axes.get_title(loc='left')!r} has points left of its axis"
