"""`plot` of a dataset: which curves it draws, beside the numbers themselves."""

from pathlib import Path

import figure_rules
import jax
import numpy as np
import pytest
import xarray
from matplotlib.figure import Figure

import unhinged_jax as uj

RNG = np.random.default_rng(0)
TIMES = np.array([0.0, 1.0, 2.0, 4.0])


def swept(**sizes):
    """A dataset like that of a sweep: norm and a matrix of every point, and how each ended."""
    shape = (*sizes.values(), len(TIMES))
    coords = {name: np.arange(size) if name == "seed" else np.linspace(0.1, 0.9, size) for name, size in sizes.items()}
    return xarray.Dataset(
        {
            "norm": ((*sizes, "time"), RNG.uniform(1, 2, shape), {"long_name": "norm of the state"}),
            "gram": ((*sizes, "time", "gram_1"), np.ones((*shape, 2))),
            "result": (tuple(sizes), np.zeros(shape[:-1], int)),
        },
        coords | {"time": TIMES},
    )


def quantiles(values):
    """Median and quantiles over the first axis, by sorting."""
    ranked = np.sort(values, axis=0)
    places = np.arange(len(values))
    return [
        np.array([np.interp(q * (len(values) - 1), places, column) for column in ranked.T]) for q in (0.1, 0.5, 0.9)
    ]


def drawn(axes):
    return [(line.get_label(), line.get_xdata(), line.get_ydata()) for line in axes.get_lines()]


def test_seeds_are_bands_and_an_axis_is_lines_of_its_own():
    data = swept(gamma=7, decay=3, seed=6)
    figure = uj.plot(data)
    (axes,) = figure.axes
    assert isinstance(figure, Figure) and axes.get_title(loc="left") == "Norm of the state"
    assert [text.get_text() for text in axes.texts] == ["norm"]
    assert figure.legends[0].get_title().get_text() == "decay"
    assert figure.get_suptitle() == "median of 6 seeds, and their 10 % to 90 % quantiles, gamma 0.5"
    lines = drawn(axes)
    assert [label for label, *_ in lines] == ["0.1", "0.5", "0.9"]
    for place, (_, x, y) in enumerate(lines):
        low, middle, high = quantiles(data["norm"].values[3, place])
        np.testing.assert_array_equal(x, TIMES)
        np.testing.assert_allclose(y, middle)
        corners = axes.collections[place].get_paths()[0].vertices
        for time, *ends in zip(TIMES, low, high, strict=True):
            there = corners[corners[:, 0] == time, 1]
            np.testing.assert_allclose([there.min(), there.max()], ends)


def test_other_axes_can_be_asked_for():
    data = swept(gamma=7, decay=3, seed=6).transpose("time", "seed", "decay", "gamma", "gram_1")
    (axes,) = uj.plot(data, "norm", x="gamma", lines="time").axes
    lines = drawn(axes)
    assert [label for label, *_ in lines] == ["0", "1", "2", "4"] and axes.get_xlabel() == "gamma"
    for place, (_, x, y) in enumerate(lines):
        np.testing.assert_array_equal(x, data["gamma"])
        by_hand = data["norm"].transpose("decay", "seed", "gamma", "time").values[1, :, :, place]
        np.testing.assert_allclose(y, quantiles(by_hand)[1])


def test_without_times_the_longest_axis_is_drawn_along():
    data = xarray.Dataset(
        {"rate": (("loss", "gamma", "seed"), RNG.uniform(size=(2, 5, 1)))},
        {"loss": ["mse", "unhinged"], "gamma": np.linspace(0, 1, 5), "seed": [3]},
    )
    (axes,) = uj.plot(data).axes
    assert axes.get_xlabel() == "gamma" and not axes.collections
    for (label, _, y), name in zip(drawn(axes), data["loss"].values, strict=True):
        assert label == name
        np.testing.assert_array_equal(y, data["rate"].sel(loss=name, seed=3))


def test_what_no_point_reached_is_left_out():
    data = swept(decay=2, seed=3)
    data["norm"][0, :, 2:] = np.nan
    data["norm"][1, 0, 3] = np.inf
    first, second = drawn(uj.plot(data).axes[0])
    assert first[1].tolist() == [0.0, 1.0] and second[1].tolist() == TIMES.tolist()
    np.testing.assert_allclose(second[2][3], np.median(data["norm"].values[1, 1:, 3]))


@pytest.mark.long_for("(1,)", "(3,)")
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)], ids=str)
def test_the_dataset_of_a_run_is_drawn_as_the_run(shape):
    model = uj.regularized(uj.from_counts([2, 3, 1]), dim=2, decay=0.01)

    def run(key):
        return uj.exact(model, uj.Flow(0.5), model.init(key), [0.0, 2.0, 3.0], ["loss", "norm"])

    for _ in shape:
        run = jax.vmap(run)
    found = run(jax.random.split(jax.random.key(0), shape) if shape else jax.random.key(0))
    wanted = found.plot().axes
    for data in (found, found.to_xarray()):
        axes = uj.plot(data).axes
        assert [one.get_title(loc="left") for one in axes] == ["Data term of the loss", "Norm of (H, W)"]
        for one, other in zip(axes, wanted, strict=True):
            np.testing.assert_array_equal(one.get_lines()[0].get_xydata(), other.get_lines()[0].get_xydata())
            assert len(one.collections) == len(other.collections) == (np.prod(shape) > 1)


def test_a_store_is_drawn(tmp_path):
    tables = {
        "model": {"case": "unconstrained", "dim": 2},
        "labels": {"layout": "balanced", "classes": 2, "per_class": 1},
        "dynamics": {"kind": "flow"},
        "run": {"times": [0, 1, 2], "observe": ["norm", "loss"]},
        "sweep": {"method": "exact", "seeds": 3, "grid": {"model.gamma": [0.1, 0.5]}},
    }
    data = uj.sweep(uj.SweepPlan.of(tables), tmp_path / "s.zarr", workers=0, progress=False)
    figure = uj.plot(data)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Norm of (H, W)", "Data term of the loss"]
    assert len(figure.axes[0].get_lines()) == 2 and "median of 3 seeds" in figure.get_suptitle()


def test_a_start_at_zero_is_not_on_a_logarithmic_axis():
    times = np.array([0.0, 10.0, 100.0, 2000.0])
    data = swept(decay=2, seed=3).assign_coords(time=times)
    data["norm"][:, :, 0] = 50.0
    plain, cut = data.isel(time=[1, 2, 3]), data.where(data.time != 2000.0)
    for drawn_from in (data, uj.ensemble(data, "norm")):
        (axes,) = uj.plot(drawn_from, "norm").axes
        assert axes.get_xscale() == "log" and axes.get_xlabel() == "time (0 is not on this axis)"
        assert [x.tolist() for _, x, _ in drawn(axes)] == 2 * [[10.0, 100.0, 2000.0]]
        assert axes.get_ylim()[1] < 10  # no room for what is not there
        corners = np.concatenate([band.get_paths()[0].vertices[:, 0] for band in axes.collections])
        assert corners.min() == 10.0
    (axes,) = uj.plot(plain, "norm").axes
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "time"
    (axes,) = uj.plot(cut, "norm").axes  # what is left lies on a linear axis, with its start
    assert axes.get_xscale() == "linear" and drawn(axes)[0][1].tolist() == [0.0, 10.0, 100.0]
    (axes,) = uj.plot(data.assign_coords(time=times - 10), "norm").axes
    assert axes.get_xscale() == "linear"


def test_a_panel_that_has_a_value_at_the_start_only_says_so():
    data = swept(decay=2, seed=3).assign_coords(time=[0.0, 10.0, 100.0, 2000.0])
    data["once"] = data["norm"].where(data.time == 0)
    assert [axes.texts[-1].get_text() for axes in uj.plot(data).axes] == ["norm", "no finite values after 0"]


@pytest.mark.parametrize("width", [1, 3])
def test_a_legend_fits_into_the_picture(width):
    """Also with the widest letters."""
    words = [12 * "W", 12 * "M", 11 * "W", 11 * "M", 10 * "W"][: 2 + width]
    data = xarray.Dataset({"a": (("kind", "time"), RNG.uniform(size=(len(words), 4)))}, {"kind": words, "time": TIMES})
    figure = uj.plot(data.assign({str(number): data["a"] for number in range(width - 1)}), lines="kind")
    assert figure_rules.faults(figure) == []
    assert figure.legends[0]._ncols > 1


def test_what_cannot_be_drawn_is_said():
    data = swept(decay=2, seed=3)
    for call, why in (
        (lambda: uj.plot("focal.zarr"), r"the path 'focal.zarr'; open a store with `unhinged_jax.open_sweep\(path\)`"),
        (lambda: uj.ensemble(Path("focal.zarr")), r"the path 'focal.zarr'; open a store with `unhinged_jax.open_sweep"),
        (lambda: uj.plot(data["norm"]), r"the name after it: \(data, 'norm'\)"),
        (lambda: uj.plot(3), "must be an xarray.Dataset or a Trajectory, but got 3"),
        (
            lambda: uj.plot(data, "gram"),
            "'gram' is no variable with one number for each point along time; the",
        ),
        (
            lambda: uj.plot(data, x="gamma"),
            "x must be a dimension of the dataset, decay, seed, time, gram_1, but got 'gamma'",
        ),
        (lambda: uj.plot(data, lines="time"), "lines must be one of the dimensions decay, but is"),
        (lambda: uj.plot(data[["gram"]]), "no variable with one number for each point along time; observe one"),
        (lambda: uj.plot(xarray.Dataset({"a": ("word", [1.0])}, {"word": ["b"]})), "no dimension of numbers"),
    ):
        with pytest.raises(ValueError, match=why):
            call()
