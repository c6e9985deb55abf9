"""Legends of sweep maps: every line is named by what it means, whatever stands before it or in another panel."""

import itertools
import json

import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax.sweeps.bands import band_figure
from unhinged_jax.sweeps.boundaries import boundaries
from unhinged_jax.sweeps.maps import colours_of, map_figure
from unhinged_jax.sweeps.pictures import in_order
from unhinged_jax.sweeps.report import _axis, _boundaries, centre_of

xarray = pytest.importorskip("xarray", reason="sweeps need xarray")

CLASSES = 10
PER_CLASS = 2
NOISE = [0.0, 0.3, 0.6]


def plan_of(grid, labels=None):
    tables = {
        "model": {"case": "regularized", "dim": 4, "decay": 0.1},
        "labels": {"layout": "balanced", "classes": CLASSES, "per_class": PER_CLASS, **(labels or {})},
        "dynamics": {"kind": "flow"},
        "run": {"times": [0, 1], "observe": ["log_norm"]},
        "sweep": {"method": "exact", "seeds": 1, "grid": grid},
    }
    return uj.SweepPlan.of(tables, check=False)


GAMMA = {"model.gamma": [0.0, 0.02, 0.1, 0.5, 1.0]}
DECAY = {"model.decay": [0.02, 0.2, 2.0]}
NOISY = {"noise": {"kind": "symmetric", "rate": 0.1, "expected": True}}


def signal(gamma, rate, classes=CLASSES):
    """The dense signal matrix, entry by entry: under expected noise every label is any other with rate/(C-1)."""
    samples = classes * PER_CLASS
    M = np.empty((samples, classes))
    for i in range(samples):
        for c in range(classes):
            target = 1 - rate if i % classes == c else rate / (classes - 1)
            M[i, c] = ((1 + gamma) * target - gamma) / samples
    return M


def crossings(rate):
    """Trade-offs between 0 and 1 where the largest singular value of the signal changes from the mean's to that of the
    contrasts or back, from singular value decompositions, by bisection."""

    def contrasts_win(gamma):
        top = np.linalg.svd(signal(gamma, rate))[2][0]
        return abs(top.sum()) < 0.5 * np.sqrt(CLASSES)

    found = []
    grid = np.linspace(1e-3, 1, 51)
    for low, high in itertools.pairwise(grid):
        before = contrasts_win(low)
        if before == contrasts_win(high):
            continue
        for _ in range(24):
            middle = (low + high) / 2
            low, high = (middle, high) if contrasts_win(middle) == before else (low, middle)
        found.append(middle)
    return found


@pytest.fixture(scope="module")
def drawn():
    plan = plan_of({**GAMMA, **DECAY, "labels.noise.rate": NOISE}, NOISY)
    names = {dim.axes[0].key: dim.name for dim in plan.dims}
    order = [names["model.gamma"], names["model.decay"], names["labels.noise.rate"], "seed"]
    shape = [plan.shape[name] for name in order]
    values = np.random.default_rng(0).normal(size=(*shape, 2))
    data = xarray.Dataset(
        {"log_norm": ((*order, "time"), values), "result": (order, np.zeros(shape, int))},
        coords={"time": [0.0, 1.0]},
    )
    return plan, order, map_figure(plan, data, (order[0], order[1]), 1)


def looks(line):
    """How a line is dashed."""
    return line.get_linestyle(), tuple(line._unscaled_dash_pattern[1] or ())


def test_lines_are_named_by_what_they_are(drawn):
    _, _, figure = drawn
    (legend,) = figure.legends
    named = {looks(line): text.get_text() for line, text in zip(legend.get_lines(), legend.get_texts(), strict=True)}
    assert len(named) == len(legend.get_texts())  # no two meanings look alike
    panels = [axes for axes in figure.axes if axes.get_xlabel()]
    assert len(panels) == len(NOISE)
    for axes, rate in zip(panels, NOISE, strict=True):
        seen = {}
        for line in axes.get_lines():
            if line.get_color() != "white" and np.ptp(line.get_xdata()) == 0:  # upright: a trade-off
                seen.setdefault(named[looks(line)], []).append(line.get_xdata()[0])
        name = "σ of contrasts = σ of mean" if rate else "γ = 2/(C−2)"
        assert list(seen) == [name], (rate, seen)
        np.testing.assert_allclose(sorted(seen[name]), crossings(rate), rtol=1e-6)


def test_the_boundary_of_growth_is_the_largest_singular_value_in_every_panel_also_between_grid_points(drawn):
    _, _, figure = drawn
    for axes, rate in zip([axes for axes in figure.axes if axes.get_xlabel()], NOISE, strict=True):
        curves = [line for line in axes.get_lines() if line.get_color() == "#D55E00" and looks(line) == ("-", ())]
        (x, y) = curves[0].get_data()
        assert len(curves) == 1 and len(x) > 100
        for gamma, height in list(zip(x, y, strict=True))[::8]:
            assert height == pytest.approx(np.linalg.norm(signal(gamma, rate), 2), rel=1e-5)


def test_both_rates_at_which_mean_and_contrasts_change_places_are_drawn():
    plan = plan_of({"model.gamma": [0.0, 0.2], "labels.noise.rate": [0.0, 1.0]}, NOISY)
    found = boundaries(plan, "gamma", "rate", {})
    assert len(found) == 2 and {line.meaning for line in found} == {"ρ = (C−1)/C · (1 ± |1+γ−γC|/(1+γ))"}
    for line in found:
        for gamma, rate in list(zip(line.x, line.y, strict=True))[20::60]:
            if 0 < rate < 1:
                values = np.linalg.svd(signal(gamma, rate), compute_uv=False)  # one of the mean, the others' equal
                assert values[0] == pytest.approx(values[-1], rel=1e-9)


@pytest.mark.parametrize(("noise", "ratio", "drawn_too"), [
    (None, [1.0, 5.0], True),
    ({"kind": "symmetric", "rate": 0.2, "expected": True}, [2.0, 5.0], True),
    ({"kind": "asymmetric", "rate": 0.2, "expected": True}, [2.0, 5.0], False),  # no exponent makes them equal
    (None, [1.0, 1.0 + 1e-9], False),  # equal classes: every exponent does
])  # fmt: skip
def test_equal_contrasts_are_drawn_only_where_the_exponent_makes_them_equal(noise, ratio, drawn_too):
    tables = plan_of({"labels.weight_exponent": [0.0, 0.25, 1.0], "labels.ratio": ratio}, NOISY).tables()
    tables["labels"] = {"layout": "long_tailed", "classes": 5, "largest": 12, "ratio": 2.0, "noise": noise}
    plan = uj.SweepPlan.of(tables, check=False)
    found = [line.meaning for line in boundaries(plan, "weight_exponent", "ratio", {})]
    assert found == (["exponent ½: equal contrasts"] if drawn_too else [])


def test_the_report_shows_a_line_only_where_it_belongs(drawn):
    plan, order, _ = drawn
    lines = json.loads(json.dumps(_boundaries(plan, order[:3])))
    for line in lines:
        if (line["x"], line["y"]) != (0, 1):
            continue
        (place,) = line["at"].values()
        x, y = np.array(line["points"]).T
        if line["meaning"] == "λ₁λ₂ = max σ²":
            want = [np.linalg.norm(signal(gamma, NOISE[place]), 2) for gamma in x[::20]]
            np.testing.assert_allclose(y[::20], want, rtol=1e-5)
        else:
            assert line["meaning"] == ("σ of contrasts = σ of mean" if NOISE[place] else "γ = 2/(C−2)")
            assert np.ptp(x) == 0 and np.isclose(x[0], crossings(NOISE[place]), rtol=1e-6).any()
    for look in ("dashes", "colour"):  # each meaning has its own
        assert len({line["meaning"] for line in lines}) == len({line[look] for line in lines}) > 3


def test_a_trade_off_moves_with_the_number_of_classes():
    counts = [4, 6, 11]
    plan = plan_of({**GAMMA, "labels.classes": counts})
    x, y = (next(dim.name for dim in plan.dims if dim.axes[0].key == key) for key in ("labels.classes", "model.gamma"))
    (line,) = [line for line in boundaries(plan, x, y, {}) if line.meaning == "γ = 2/(C−2)"]
    np.testing.assert_allclose(line.y, [2 / (count - 2) for count in counts], rtol=1e-12)


def test_decays_joined_with_different_values_have_their_line_where_the_product_is():
    tables = plan_of(GAMMA).tables()
    tables["model"]["decay"] = [0.1, 0.1]

    def line(other):
        zipped = {"name": "decays", "model.decay.0": [0.02, 0.2, 2.0], "model.decay.1": other}
        plan = uj.SweepPlan.of({**tables, "sweep": {**tables["sweep"], "zip": zipped}}, check=False)
        (found,) = (line for line in boundaries(plan, "gamma", "decays", {}) if line.meaning == "λ₁λ₂ = max σ²")
        return found.y

    sigma = line([0.02, 0.2, 2.0])
    np.testing.assert_allclose(line([0.08, 0.8, 8.0]), sigma / 2, rtol=1e-12)  # x (4 x) = sigma^2
    np.testing.assert_allclose(line([2.0, 2.0, 2.0]), np.where(sigma**2 / 2 < 0.02, np.nan, sigma**2 / 2), rtol=1e-12)


LISTED = {"gamma": [0.1, 0.4, 0.25], "decays": [0.9, 0.05, 0.3]}


@pytest.fixture(scope="module")
def unsorted():
    """Axes listed in no order, a zip of decays among them; the value of a point tells where it belongs."""
    tables = plan_of({"model.gamma": LISTED["gamma"]}).tables()
    tables["model"]["decay"] = [0.1, 0.1]
    second = [4 * value for value in LISTED["decays"]]
    tables["sweep"]["zip"] = {"name": "decays", "model.decay.0": LISTED["decays"], "model.decay.1": second}
    plan = uj.SweepPlan.of(tables, check=False)
    data = xarray.Dataset(
        {"log_norm": (("gamma", "decays", "seed", "time"), np.zeros((3, 3, 1, 2))),
         "result": (("gamma", "decays", "seed"), np.zeros((3, 3, 1), int))},
        coords={"time": [0.0, 1.0]},
    )  # fmt: skip
    values = 10 * np.asarray(LISTED["gamma"])[:, None] + np.asarray(LISTED["decays"])
    data["log_norm"][:, :, 0, 1] = values
    return plan, data


def test_cells_of_axes_listed_in_no_order_lie_at_their_values(unsorted):
    plan, data = in_order(*unsorted)
    for names in (("gamma", "decays"), ("decays", "gamma")):
        axes = map_figure(plan, data, names, 1).axes[0]
        (mesh,) = (found for found in axes.collections if hasattr(found, "get_coordinates"))
        corners, shades = mesh.get_coordinates(), np.asarray(mesh.get_array()).reshape(3, 3)
        assert np.all(np.diff(corners[0, :, 0]) > 0) and np.all(np.diff(corners[:, 0, 1]) > 0)
        for gamma in LISTED["gamma"]:
            for decay in LISTED["decays"]:
                x, y = (gamma, decay) if names[0] == "gamma" else (decay, gamma)
                column = np.searchsorted(corners[0, :, 0], x) - 1
                row = np.searchsorted(corners[:, 0, 1], y) - 1
                assert shades[row, column] == pytest.approx(10 * gamma + decay)
    assert _axis(plan, "gamma")["values"] == sorted(LISTED["gamma"])
    assert _axis(plan, "decays")["parts"][1]["shown"] == [4 * value for value in sorted(LISTED["decays"])]
    lines = band_figure(plan, data, ("gamma", "decays")).axes[0].get_lines()
    assert [float(line.get_label()) for line in lines] == sorted(float(line.get_label()) for line in lines)


def test_boundaries_of_axes_in_any_order_are_the_same(unsorted):
    plan, data = unsorted
    ascending, _ = in_order(plan, data)

    def found(plan):
        lines = boundaries(plan, "gamma", "decays", {})
        return {line.meaning: sorted(zip(line.x.tolist(), line.y.tolist(), strict=True)) for line in lines}

    one, other = found(plan), found(ascending)
    assert {*one} == {*other} and "λ₁λ₂ = max σ²" in one
    for meaning, points in one.items():
        np.testing.assert_allclose(points, other[meaning], rtol=1e-12)


def test_white_is_the_norm_at_the_first_time_where_all_points_share_it(unsorted):
    from matplotlib.colors import TwoSlopeNorm

    _, data = unsorted
    field = data["log_norm"].copy()
    field[..., 0] = 2.0
    assert isinstance(colours_of(field, 1)["norm"], TwoSlopeNorm) and colours_of(field, 1)["norm"].vcenter == 2.0
    assert colours_of(field, 1)["note"] == "white: as at the start"
    late = field.assign_coords(time=[1.0, 2.0])
    assert colours_of(late, 1)["norm"].vcenter == 2.0 and colours_of(late, 1)["note"] == "white: as at time 1"
    differing = field.copy()
    differing[0, :, :, 0] = 3.0
    assert not isinstance(colours_of(differing, 1)["norm"], TwoSlopeNorm)


def test_a_map_of_one_value_has_no_bar_and_says_the_value(unsorted):
    plan, data = unsorted
    data = data.copy(deep=True)
    data["log_norm"][...] = 3.0 * (1 + 1e-7 * np.random.default_rng(0).normal(size=data["log_norm"].shape))
    (panel,) = map_figure(plan, data, ("gamma", "decays"), 1).axes
    assert [text.get_text() for text in panel.texts] == ["log_norm = 3"]


@pytest.mark.parametrize(("name", "low", "high", "centre"), [
    ("accuracy_margin", -0.4, 0.9, 0.0),
    ("accuracy_margin", -1e-7, 0.9, None),  # below 0 by rounding only
    ("norm", 0.1, 2.0, None),
    ("log_distance", -3.0, 1.0, None),  # a distance of 1 means nothing
])  # fmt: skip
def test_quantities_that_take_both_signs_diverge_from_zero(name, low, high, centre):
    values = np.linspace(low, high, 12).reshape(3, 4, 1, 1)
    field = xarray.DataArray(values, dims=("a", "b", "seed", "time"), coords={"time": [1.0]}, name=name)
    assert centre_of(field) == centre
