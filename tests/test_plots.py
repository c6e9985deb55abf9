"""Pictures are drawn once for each file, and are to the last byte what matplotlib makes of them by itself."""

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from unhinged_jax import plots


def maps(layout):
    figure = Figure(figsize=(5, 4), layout=layout)
    panels = figure.subplots(1, 2)
    drawn = panels[0].pcolormesh(np.arange(4), np.arange(3), np.arange(6.0).reshape(2, 3))
    panels[0].set_aspect("equal")
    figure.colorbar(drawn, ax=panels[0], pad=0.02, extend="both")
    (line,) = panels[1].semilogy([1, 2], [1e-3, 1e6])
    panels[1].set(ylabel="$x^2$", title="far")
    if layout == "constrained":
        figure.legend([line], ["a line"], loc="outside lower center")
    return figure


@pytest.mark.parametrize("layout", ["constrained", "tight", "none"])
def test_files_are_those_of_matplotlib_with_one_drawing_each(tmp_path, monkeypatch, layout):
    with plots.style():
        theirs, ours = maps(layout), maps(layout)
        theirs.savefig(tmp_path / "wanted.png", metadata={"Software": None})
        if layout != "none":
            theirs.set_layout_engine("none")  # both files have the layout of the first
            theirs.savefig(tmp_path / "wanted.svg", metadata={"Date": None})
    drawn, draw = [], Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda *args: (drawn.append(args), draw(*args)))
    engine, dpi = ours.get_layout_engine(), ours.dpi
    plots.save(ours, tmp_path, "picture")
    assert len(drawn) == 2
    assert ours.get_layout_engine() is engine and ours.dpi == dpi
    for wanted in tmp_path.glob("wanted.*"):
        assert wanted.with_stem("picture").read_bytes() == wanted.read_bytes()


def test_a_figure_is_left_as_it_was_when_it_cannot_be_written(tmp_path):
    with plots.style():
        figure = Figure()
    engine, dpi = figure.get_layout_engine(), figure.dpi
    assert engine is not None and dpi != matplotlib.rcParams["savefig.dpi"]
    with pytest.raises(FileNotFoundError):
        plots.save(figure, tmp_path / "missing", "picture")
    assert figure.get_layout_engine() is engine and figure.dpi == dpi


def test_curves_over_decades_lose_no_label(tmp_path):
    times = np.geomspace(0.1, 1e3, 20)
    scalars = {f"p{power}": times**power for power in (-2.0, 0.1, 1.0, 3.0)}
    ours, theirs = (plots.curves(times, scalars, np.isfinite(times)) for _ in range(2))
    for axes in theirs.axes:
        axes.tick_params(which="minor", labelbottom=True, labelleft=True)
    plots.save(ours, tmp_path, "ours")
    plots.save(theirs, tmp_path, "theirs")
    for kind in ("png", "svg"):
        assert (tmp_path / f"ours.{kind}").read_bytes() == (tmp_path / f"theirs.{kind}").read_bytes()
