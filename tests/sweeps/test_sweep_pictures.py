"""Pictures and the report of a sweep; what the report does in a browser is in `tests/scripts/report_in_browser.py`."""

import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

import unhinged_jax as uj
from unhinged_jax.cli import main
from unhinged_jax.plots import save
from unhinged_jax.sweeps.bands import band_figure
from unhinged_jax.sweeps.maps import edges, is_geometric
from unhinged_jax.sweeps.pictures import draw, in_order
from unhinged_jax.sweeps.report import _content
from unhinged_jax.sweeps.store import Store
from unhinged_jax.sweeps.work import plan_of

TABLES = {
    "model": {"case": "regularized", "dim": 4, "decay": 0.1},
    "labels": {"layout": "balanced", "classes": 4, "per_class": 2},
    "dynamics": {"kind": "flow"},
    "run": {"times": [0, 3, 10, 100], "observe": ["log_norm", "accuracy"]},
    "sweep": {
        "title": "Ends </script> & <b>starts",
        "method": "exact",
        "seeds": 3,
        "grid": {
            "model.gamma": {"from": 0.0, "to": 2.0, "count": 6, "label": "trade-off"},
            "model.decay": {"from": 0.02, "to": 2.0, "count": 5, "spacing": "log"},
        },
    },
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    uj.sweep(uj.SweepPlan.of(TABLES), folder / "s.zarr", workers=0)
    return folder, draw(folder / "s.zarr", folder / "pictures")


def test_every_picture_is_there_and_says_what_it_shows(drawn):
    folder, written = drawn
    names = ["curves.png", "curves.svg", "map.png", "map.svg", "report.html"]
    assert sorted(path.name for path in written) == names
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == names
    for path in written[:-1]:
        assert path.stat().st_size > 10_000
    svg = (folder / "pictures" / "map.svg").read_text()
    assert "γ = 2/(C−2)" in svg and "λ₁λ₂ = max σ²" in svg and "trade-off" in svg


def content(folder):
    """The data inside the report."""
    text = (folder / "pictures" / "report.html").read_text()
    return text, json.loads(re.search(r"^const D = (.*);$", text, re.M).group(1))


def test_the_report_is_one_file_that_needs_no_network(drawn):
    text, held = content(drawn[0])
    assert not re.search(r"(src|href)\s*=|@import|url\((?!#)|fetch\(|XMLHttp|https?://(?!www\.w3\.org)", text)
    assert text.count("</script>") == 1 and "&lt;b&gt;starts" in text
    assert held["facts"]["points"] == 90 and held["facts"]["failed"] == 0
    assert {line["meaning"] for line in held["boundaries"]} == {"λ₁λ₂ = max σ²", "γ = 2/(C−2)"}


def test_numbers_in_the_report_are_those_of_the_store(drawn):
    import base64

    _, held = content(drawn[0])
    data = uj.open_sweep(drawn[0] / "s.zarr").load()
    for entry in held["observed"]:
        ranked = np.sort(data[entry["name"]].transpose(..., "seed", "time").values, axis=-2)
        for part, share in (("middle", 0.5), ("low", 0.1), ("high", 0.9)):
            got = np.frombuffer(base64.b64decode(entry[part]), "<f4").reshape(6, 5, 4)
            lower = int(share * 2)  # of three seeds, the one below that share
            want = ranked[..., lower, :] + (2 * share - lower) * np.diff(ranked, axis=-2)[..., min(lower, 1), :]
            np.testing.assert_allclose(got, want, rtol=1e-6)
        got = np.frombuffer(base64.b64decode(entry["seeds"]), "<f4").reshape(6, 5, 3, 4)
        np.testing.assert_array_equal(got, data[entry["name"]].values)
    starts = data["log_norm"].isel(time=0).values
    centres = {entry["name"]: entry["centre"] for entry in held["observed"]}
    assert centres == {"log_norm": pytest.approx(float(np.median(starts)), rel=1e-6), "accuracy": None}


def test_both_pictures_of_a_sweep_draw_the_same_band(drawn):
    point = uj.open_sweep(drawn[0] / "s.zarr").load().isel(gamma=[2], decay=[2])
    mine = uj.plot(point, "log_norm").axes[0]
    theirs = band_figure(plan_of(Store(drawn[0] / "s.zarr")), point[["log_norm", "result"]], ()).axes[0]
    for axes in (mine, theirs):
        (line,), (band,) = axes.lines, axes.collections
        seeds = np.sort(point["log_norm"].values.squeeze(), axis=0)  # three, so that 10 % is a fifth of the way
        np.testing.assert_allclose(line.get_ydata(), seeds[1], rtol=1e-6)
        low, high = 0.8 * seeds[0] + 0.2 * seeds[1], 0.8 * seeds[2] + 0.2 * seeds[1]
        np.testing.assert_allclose(np.unique(band.get_paths()[0].vertices[:, 1]), np.unique([low, high]), rtol=1e-6)
    assert mine.figure.get_suptitle().split(", gamma")[0] in theirs.figure.get_suptitle()


def test_single_seeds_and_then_times_are_left_out_of_a_report_that_would_be_too_large(drawn, tmp_path, monkeypatch):
    values = 6 * 5 * 4 * 2 * (3 + 3)  # points, times, observables; the band and the seeds
    for most, kept in ((values, (True, 4)), (values - 1, (False, 4)), (values // 4, (False, 2))):
        monkeypatch.setattr("unhinged_jax.sweeps.report._NUMBERS", most)
        plan, data = in_order(plan_of(Store(drawn[0] / "s.zarr")), uj.open_sweep(drawn[0] / "s.zarr").load())
        held = _content(plan, data.drop_vars(["elapsed", "steps"]), ("gamma", "decay"))
        assert all("seeds" in entry for entry in held["observed"]) == kept[0] and len(held["times"]) == kept[1]


def test_one_axis_texts_and_random_points_are_drawn_too(tmp_path):
    tables = {**TABLES, "run": {"times": [0, 1], "observe": ["log_norm"]}}
    spans = {"model.gamma": {"from": 0.0, "to": 1.0}, "model.decay": {"from": 0.1, "to": 0.2}}
    tables["sweep"] = {
        "method": "exact", "random": {"count": 8, **spans},
        "grid": {"labels.order": ["blocks", "cyclic"]},
    }  # fmt: skip
    uj.sweep(uj.SweepPlan.of(tables), tmp_path / "s.zarr", workers=0)
    assert main(["plot", str(tmp_path / "s.zarr"), "--observe", "log_norm", "--time", "0.9"]) == 0
    assert (tmp_path / "s-pictures" / "report.html").exists()
    assert main(["plot", str(tmp_path / "s.zarr"), "--observe", "loss"]) == 1
    assert main(["plot", str(tmp_path / "s.zarr"), "--x", "nothing"]) == 1


def test_cells_meet_half_way():
    np.testing.assert_allclose(edges(np.array([0.0, 1.0, 2.0])), [-0.5, 0.5, 1.5, 2.5])
    np.testing.assert_allclose(edges(np.array([1.0, 10.0, 100.0])), 10.0 ** np.array([-0.5, 0.5, 1.5, 2.5]))
    assert is_geometric(np.array([1.0, 10.0, 100.0])) and not is_geometric(np.array([1.0, 2.0, 3.0]))


def test_a_text_that_is_not_tex_is_shown_as_it_is(tmp_path):
    """In whatever picture: that of a store that was made before, or with a title from the name of a file."""
    figure = Figure(figsize=(3, 3))
    axes = figure.add_subplot(title="$\\alpha$", xlabel="$\\nope$")
    axes.plot([0, 1], label="$\\frac{$")
    figure.legend(title="$x$ $$")
    for path in save(figure, tmp_path, "picture"):
        assert path.stat().st_size > 1000
    assert [text.get_parse_math() for text in (axes.title, axes.xaxis.label)] == [True, False]
