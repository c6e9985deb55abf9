"""Reports of sweeps in a real browser, with keyboard and mouse, light and dark, wide and narrow.

    python -m pytest -n 0 -p no:cacheprovider tests/scripts/report_in_browser.py

Chromium is looked for on the path, or named by CHROMIUM; axe-core comes from npm, or is the file that AXE names.
What is not there is skipped. With PICTURES=FOLDER the pictures of all states are kept, to be looked at.
"""

import json
import os
import re
import sys
import time
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import quote

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest

import unhinged_jax as uj
from unhinged_jax.config import read_config
from unhinged_jax.sweeps.pictures import draw

sys.path.append(str(Path(__file__).parent))

import chromium
import hands

BASE = {
    "model": {"case": "regularized", "dim": 6, "decay": 0.1},
    "labels": {
        "layout": "balanced", "classes": 10, "per_class": 2,
        "noise": {"kind": "symmetric", "rate": 0.0, "expected": True},
    },
    "dynamics": {"kind": "flow"},
    "run": {"times": [0, 1, 3, 10, 30, 100, 300], "observe": ["log_norm", "accuracy", "accuracy_margin"]},
}  # fmt: skip
GAMMA = {"from": 0.0, "to": 0.5, "label": "trade-off γ"}
DECAY = {"from": 5e-3, "to": 0.3, "spacing": "log", "label": "weight decay λ"}
NOISE = {"name": "noise", "label": "noise rate ρ"}
GRID = {
    "title": "Ends </script> & <b>starts", "method": "exact", "seeds": 3,
    "grid": {
        "model.gamma": {**GAMMA, "count": 8}, "model.decay": {**DECAY, "count": 6},
        "labels.noise.rate": {**NOISE, "values": [0.0, 0.3, 0.6]},
    },
}  # fmt: skip
RANDOM = {
    "method": "exact", "seeds": 2,
    "random": {
        "count": 32, "model.gamma": GAMMA, "model.decay": DECAY, "labels.noise.rate": {**NOISE, "from": 0.0, "to": 0.6},
    },
    "grid": {"labels.order": {"values": ["blocks", "cyclic"], "label": "order of samples"}},
}  # fmt: skip


NAMES = ("grid", "random", "function", "texts", "seeds", "zip", "begun")


def fails(rate, decay, dim, key):
    """A function of which some points have no value."""
    value = jnp.where(rate * decay > 0.2, jnp.nan, rate - 0.3 + 0.01 * jax.random.normal(key))
    return {"value": value, "size": 1.0 * dim * rate}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Stores and their reports."""
    folder = tmp_path_factory.mktemp("made")
    for name, sweep in (("grid", GRID), ("random", RANDOM)):
        uj.sweep(uj.SweepPlan.of({**BASE, "sweep": sweep}), folder / f"{name}.zarr", workers=0, progress=False)
    axes = {"rate": np.linspace(0.1, 1.0, 4), "decay": np.geomspace(5e-3, 0.3, 5)}
    static = {"dim": {"small": 3, "large": 6}}
    uj.sweep(fails, axes, folder / "function.zarr", seeds=3, static=static, workers=0, progress=False)
    quick = {"vmap": False, "workers": 0, "progress": False}
    kinds = {"a": 1.0, "b": -2.0}
    uj.sweep(lambda kind: {"y": kinds[kind]}, {}, folder / "texts.zarr", static={"kind": [*kinds]}, **quick)
    uj.sweep(lambda seed: {"y": 1.0 + seed}, {}, folder / "seeds.zarr", seeds=3, **quick)
    pairs = {("p", "q"): [[1.0, 5.0], [2.0, 3.0], [4.0, 1.0]]}
    uj.sweep(lambda p, q: {"y": p * q}, pairs, folder / "zip.zarr", **quick)
    begun = {"x": [1.0, 2.0, 3.0, 4.0], "z": [1.0, 2.0]}
    uj.sweep(lambda x, z: {"y": x + z, "same": 3.0}, begun, folder / "begun.zarr", part=(0, 2), lanes=1, **quick)
    for name in NAMES:
        draw(folder / f"{name}.zarr", folder / name)
    return folder


@pytest.fixture(scope="module")
def tabs(tmp_path_factory):
    """Two tabs, so that one report can be compared with another."""
    program = chromium.found()
    if program is None:
        pytest.skip("no Chromium here; name one by CHROMIUM")
    made = [hands.Tab(program, str(tmp_path_factory.mktemp("profile"))) for _ in range(2)]
    yield made
    for tab in made:
        tab.close()


@pytest.fixture
def opened(tabs, made):
    """Opens a report: name, address, width, dark -> tab. No script may fail, and nothing may be asked of a network."""
    used = []

    def open_(name, address="", width=1280, dark=False):
        tab = next(tab for tab in tabs if tab not in used)
        used.append(tab)
        tab.size(width, 900)
        tab.theme("dark" if dark else "light")
        tab.go("about:blank")
        tab.go(f"{(made / name / 'report.html').as_uri()}#{quote(address, safe='=&-.>%+')}")
        tab.until("document.body.dataset.ready === 'yes'")
        return tab

    def close(tab):
        assert tab.faults() == []
        used.remove(tab)

    open_.close = close
    yield open_
    for tab in [*used]:
        close(tab)


def text(page, selector):
    return page.run(f"document.querySelector({json.dumps(selector)}).textContent")


def count(page, selector):
    return page.run(f"document.querySelectorAll({json.dumps(selector)}).length")


def choose(page, name, value):
    """Choose an option with the keyboard, which draws the page, controls and all, with every step."""
    steps = page.run(f"""(() => {{ const node = document.getElementById({json.dumps(name)}); node.focus();
        return [...node.options].findIndex(o => o.value === {json.dumps(str(value))}) - node.selectedIndex; }})()""")
    page.press(*["ArrowDown" if steps > 0 else "ArrowUp"] * abs(steps))
    assert page.run(f"document.getElementById({json.dumps(name)}).value") == str(value)
    assert page.run("document.activeElement.id") == name


def search(page, words):
    page.run("(() => { const s = document.getElementById('search'); s.focus(); s.select(); })()")
    page.press("Backspace")
    page.write(words)
    return text(page, "#count"), text(page, "#said")


def opened_store(made, name):
    return uj.open_sweep(made / f"{name}.zarr").load()


# --- the map --------------------------------------------------------------------------------------------------------


def test_the_map_shows_cells_boundaries_and_ticks(opened):
    page = opened("grid", "panels=noise")
    assert count(page, "#left [role=gridcell]") == 8 * 6 * 3
    named = page.run("[...document.querySelectorAll('#left .meaning')].map(node => node.textContent)")
    assert named == ["λ₁λ₂ = max σ²", "γ = 2/(C−2)", "σ of contrasts = σ of mean"]
    looks = page.run("""[...document.querySelectorAll('#left .sample')]
        .map(node => ['stroke', 'stroke-dasharray'].map(key => node.getAttribute(key)))""")
    assert len({colour for colour, _ in looks}) == len({dashes for _, dashes in looks}) == 3
    assert count(page, "#left .boundary") == 1 + 1 + 3 + 3  # of panels: growth and the trade-off, then two of noise
    assert count(page, "#left .colour-bar .tick") >= 4
    inside = page.run("""[...document.querySelectorAll('#left text, #right text')].every(node => {
        const own = node.getBoundingClientRect(), all = node.ownerSVGElement.getBoundingClientRect();
        return own.left >= all.left - 1 && own.right <= all.right + 1
            && own.top >= all.top - 1 && own.bottom <= all.bottom + 1; })""")
    assert inside


def test_what_has_a_centre_diverges_from_it(opened):
    page = opened("grid", "observable=log_norm")
    stops = page.run("S.values + '|' + (shading(0, [0, D.observed[0].centre, 60]).stops === DIVERGING)")
    assert stops == "automatic|true" and count(page, "#left .colour-bar .tick") >= 3
    choose(page, "values", "linear")
    assert page.run("shading(0, [-1, 60]).stops === CIVIDIS")


def test_a_start_at_zero_is_not_on_a_logarithmic_axis(opened):
    for scale in ("free", "fixed"):
        page = opened("grid", f"observable=log_norm&scale={scale}")
        said, first, log = page.run("""(() => {
            const axis = curveAxis(-1);
            return [axis.label, stepsOf(here(), -1, axis)[0].x, axis.log];
        })()""")
        assert log and first == 1 and said == "time (0 is not on this axis)"
        assert said in page.run("document.body.textContent")


def test_a_fixed_scale_stays_when_time_moves(opened):
    page = opened("grid", "observable=accuracy_margin&scale=fixed")
    ticks = "[...document.querySelectorAll('#left .tick')].map(node => node.textContent).join()"
    fixed = [page.run(f"(S.time = {time}, draw(), {ticks})") for time in (1, 5)]
    choose(page, "scale", "free")
    free = [page.run(f"(S.time = {time}, draw(), {ticks})") for time in (1, 5)]
    assert fixed[0] == fixed[1] and free[0] != free[1]


def test_keys_move_the_point_and_the_focus_stays(opened, made):
    page = opened("grid", "panels=noise&at=0.0.0")
    page.run("document.querySelector('#left [tabindex]').focus()")
    page.press("ArrowRight", "ArrowRight", "ArrowUp", "PageDown", "End", "ArrowLeft", "p")
    assert page.run("S.at.join()") == "6,1,1" and page.run("S.pins.length") == 1
    assert page.run("document.activeElement.getAttribute('role')") == "grid"
    active = page.run("""document.getElementById(document.activeElement.getAttribute('aria-activedescendant'))
        .getAttribute('aria-label')""")
    data = opened_store(made, "grid").isel(gamma=6, decay=1, noise=1, time=-1)["log_norm"].median("seed").item()
    assert f"log_norm {data:.4g}" in active and "noise rate ρ 0.3" in active and text(page, "#point").startswith(active)
    page.press("ArrowRight", "p")
    assert page.run("S.pins.length") == 2 and count(page, "#pins li") == 2
    page.run("document.getElementById('pin').focus()")
    page.press(" ")
    assert page.run("S.pins.length") == 1 and page.run("document.activeElement.id") == "pin"


def test_a_slider_keeps_the_focus_and_tab_leads_everywhere(opened):
    page = opened("grid")
    page.run("document.getElementById('time').focus()")
    page.press("ArrowLeft", "ArrowLeft")
    assert page.run("S.time") == 4 and page.run("document.activeElement.id") == "time"
    choose(page, "observable", 1)
    assert page.run("document.activeElement.id") == "observable"
    page.run("document.activeElement.blur()")
    seen = set()
    for _ in range(60):
        page.press("Tab")
        seen.add(page.run("document.activeElement.id || document.activeElement.getAttribute('role')"))
    row = page.run("document.querySelector('tbody [tabindex=\"0\"]').id")
    assert {"view", "observable", "time", "grid", "pin", "as-toml", "as-python", "search", row} <= seen
    assert {"save-table", "left-save", "right-save"} <= seen


def test_the_mouse_chooses_a_cell_a_row_and_a_time(opened):
    page = opened("grid")
    page.click('#left [data-point="31"]')
    assert page.run("here()") == 31
    page.mouse("Moved", *page.middle('#left [data-point="40"]'))
    assert page.run("getComputedStyle(document.getElementById('tip')).display") == "block"
    assert "log_norm" in text(page, "#tip")
    page.click("#row-7")
    assert page.run("here()") == 7
    page.press("ArrowDown", "ArrowDown")
    assert page.run("here()") == 9 and page.run("document.activeElement.id") == "row-9"
    x, y = page.middle("#right")
    page.mouse("Pressed", x, y, down=True)
    page.mouse("Released", x, y)
    assert 0 < page.run("S.time") < 6


# --- the other pictures ---------------------------------------------------------------------------------------------


def test_seeds_are_single_lines_and_pinned_points_have_curves(opened, made):
    page = opened("grid", "seeds=yes&pins=1.1.1-2.2.2&at=3.3.0&observable=accuracy_margin")
    assert count(page, "#right .seed") == 3 * 3 and count(page, "#right .middle") == 3
    held = page.run("[0, 1, 2].map(s => seedsAt(D.observed[2], {point: number([1, 4, 2]), place: 5}, -1, s))")
    data = opened_store(made, "grid")["accuracy_margin"].isel(gamma=1, decay=4, noise=2, time=5)
    np.testing.assert_allclose(held, data.values, rtol=1e-6)
    choose(page, "over", 0)
    assert page.run("S.over") == 0 and "trade-off γ" in text(page, "#right-title")


@pytest.mark.parametrize(("name", "points"), [("grid", 144), ("random", 64)])
def test_any_column_stands_against_any_other(opened, made, name, points):
    page = opened(name, "view=scatter&across=log_norm&up=accuracy&shade=decay")
    assert count(page, "#left [role=option]") == points
    data = opened_store(made, name).isel(time=-1).median("seed")
    order = page.run("document.querySelector('#left').order")
    place = [float(v) for v in data["log_norm"].values.ravel()[order]]
    assert len(order) == points and place == sorted(place)
    page.run("document.querySelector('#left [tabindex]').focus()")
    page.press("Home", "ArrowRight", "ArrowRight")
    assert page.run("here()") == order[2] and page.run("document.activeElement.getAttribute('role')") == "listbox"
    search(page, "accuracy >= 0.5")
    pale = page.run("""[...document.querySelectorAll('#left [role=option]')]
        .filter(node => Number(node.getAttribute('opacity')) < .2).length""")
    assert pale == int((data["accuracy"] < 0.5).sum()) > 0


def test_parallel_coordinates_are_read_and_brushed(opened, made):
    page = opened("random")
    assert page.run("S.view") == "parallel" and count(page, "#left [role=option]") == 64
    part = page.run("""(() => { const part = left.axes[1], box = left.getBoundingClientRect();
        return {x: box.x + part.x, top: box.y + part.top, bottom: box.y + part.bottom, name: part.col.name}; })()""")
    middle = (part["top"] + part["bottom"]) / 2
    page.drag((part["x"], part["top"]), (part["x"], middle))
    words = page.run("S.search")
    assert part["name"] == "gamma" and re.fullmatch(r"gamma>=[\d.]+ gamma<=[\d.]+", words)
    low, high = (float(number) for number in re.findall(r"=([\d.]+)", words))
    gamma = opened_store(made, "random")["gamma"].values
    assert page.run("search().found.length") == 2 * int(((gamma >= low) & (gamma <= high)).sum()) > 0
    page.drag((part["x"], middle), (part["x"], middle))  # a click on the axis ends it
    assert page.run("S.search") == ""
    page.run("document.querySelector('#left [tabindex]').focus()")
    page.press("Home")
    top = opened_store(made, "random").isel(time=-1)["log_norm"].median("seed")
    assert page.run("value(0, here())") == pytest.approx(float(top.max()), rel=1e-6)


def test_shares_of_the_variance_are_those_of_the_numbers(opened, made):
    page = opened("grid", "observable=accuracy")
    rows = page.run("""[...document.querySelectorAll('#shares tbody tr')]
        .map(row => [row.cells[0].textContent, parseFloat(row.cells[1].textContent)])""")
    data = opened_store(made, "grid")["accuracy"].isel(time=-1)
    axes = ("gamma", "decay", "noise")
    want = [float(data.mean([dim for dim in data.dims if dim != axis]).var() / data.var()) for axis in axes]
    assert [name for name, _ in rows][2:] == ["noise rate ρ", "seeds", "combinations of them"]
    np.testing.assert_allclose([share / 100 for _, share in rows[:3]], want, atol=0.0051)
    assert sum(share for _, share in rows) == pytest.approx(100, abs=2)


# --- the search and the table ---------------------------------------------------------------------------------------


def test_the_search_counts_what_the_store_holds_and_says_what_is_wrong(opened, made):
    page = opened("grid")
    data = opened_store(made, "grid").isel(time=-1).median("seed")
    there = int(((data["gamma"] > 0.2) & (data["accuracy"] < 0.5)).sum())
    for words in ("gamma>0.2 accuracy<0.5", "gamma > 0.2  accuracy <0.5", ' "gamma" > .2 "accuracy"< 0.5'):
        shown, said = search(page, words)
        assert shown.startswith(f"{there} of 144 points") and said == "", words
    columns = "gamma, decay, noise, log_norm, accuracy, accuracy_margin, failed"
    for words, want in {
        "gama > 1": f"There is no column gama; columns are {columns}.",
        "gamma >": "Write a value after gamma >.",
        "> 2": f"Write a column before “>”; columns are {columns}.",
        "gamma > much": "gamma is compared with a number, not with “much”.",
        "gamma > 3": "No point has gamma > 3; it goes from 0 to 0.5.",
        "gamma < 0.1 gamma > 0.4": "No point meets all of these conditions; each of them alone is met by some.",
        "nothing": "No value of an axis and no reason holds “nothing”.",
    }.items():
        assert search(page, words)[1] == want
    opened.close(page)
    page = opened("random")
    assert search(page, "order = cyclic")[0].startswith("32 of 64")
    assert search(page, "order > cyclic")[1].endswith("use = or !=.")
    assert search(page, 'order="no such"')[1] == "No point has order = no such; it is blocks, cyclic."


def test_points_that_failed_are_grey_and_found(opened, made):
    page = opened("function", "observable=value")
    bad = int(opened_store(made, "function")["value"].isnull().all("seed").sum())
    shown, said = search(page, "failed")
    assert shown.startswith(f"{bad} of 40") and said == "" and bad > 0
    grey = page.run("""[...document.querySelectorAll('#left [role=gridcell]')]
        .filter(node => node.getAttribute('style').includes('--missing')).length""")
    assert grey == bad // 2 and "not_a_number" in text(page, "#table tbody")


def test_the_table_is_sorted_and_saved(opened, made, tmp_path):
    page = opened("grid", "panels=noise")
    search(page, "gamma > 0.2")
    page.click("#sort-accuracy")
    page.click("#sort-accuracy")
    assert page.run("document.querySelector('[aria-sort=descending] button').id") == "sort-accuracy"
    page.downloads(tmp_path)
    for button in ("#save-table", "#left-save", "#right-save"):
        page.click(button)
    name = "ends-script-b-starts"
    for _ in range(200):
        if len([*tmp_path.glob("*.svg"), *tmp_path.glob("*.csv")]) == 3:
            break
        time.sleep(0.05)
    table = pandas.read_csv(tmp_path / f"{name}.csv")
    data = opened_store(made, "grid").isel(time=-1)
    assert len(table) == int((data["gamma"] > 0.2).sum()) * 18 and table["accuracy"].is_monotonic_decreasing
    row = table.iloc[0]
    one = data.sel(gamma=row["gamma"], decay=row["decay"], noise=row["noise"])
    for name_, value in (("log_norm", one["log_norm"].median()), ("log_norm_q90", one["log_norm"].quantile(0.9))):
        assert row[name_] == pytest.approx(float(value), rel=1e-6)
    for kind in ("map", "curve"):
        root = ET.parse(tmp_path / f"{name}-{kind}.svg").getroot()
        colours = {node.get(key) for node in root.iter() for key in ("fill", "stroke")}
        assert len(colours) > 5 and not [colour for colour in colours if colour and "var" in colour]
        assert "log_norm" in "".join(root.itertext())


# --- the point as code, and the address ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "at"), [("grid", {"gamma": 5, "decay": 2, "noise": 1}), ("random", {"order": 1, "point": 9})]
)
def test_a_point_as_toml_and_as_python_is_its_run(opened, made, tmp_path, monkeypatch, name, at):
    page = opened(name, f"at={'.'.join(map(str, at.values()))}")
    page.click("#as-toml")
    written = text(page, "#code")
    (tmp_path / "point.toml").write_text(written, encoding="utf-8")
    data = opened_store(made, name)
    plan = uj.SweepPlan.of({**BASE, "sweep": GRID if name == "grid" else RANDOM})
    want = plan.config_at(at).as_dict()
    assert read_config(tmp_path / "point.toml").as_dict() == want
    assert tomllib.loads(written)["model"]["gamma"] == want["model"]["gamma"]
    page.click("#as-python")
    page.until("document.getElementById('copied').textContent.includes('Python')")  # copied, or selected for it
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(text(page, "#code").replace("workers=0", "workers=0, progress=False"), found)
    for observed in ("log_norm", "accuracy_margin"):  # accuracy jumps where a sample lies on a border up to rounding
        got, want = found["data"][observed].values, data[observed].isel(at).values
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_a_point_of_a_function_is_its_call(opened):
    page = opened("function", "at=2.3.1")
    page.click("#as-python")
    code = text(page, "#code")
    assert "import jax\n" in code and 'dim="large", key=jax.random.key(0))' in code and "run = fails(rate=0.7" in code
    page.click("#as-toml")
    assert tomllib.loads(text(page, "#code")) == {"rate": 0.7, "decay": np.geomspace(5e-3, 0.3, 5)[3], "dim": "large"}


def test_a_function_that_draws_nothing_is_called_without_a_key(opened):
    page = opened("zip", "at=1")
    page.click("#as-python")
    assert text(page, "#code") == "run = function(p=2, q=3)\n"


def test_the_address_brings_everything_back(opened):
    page = opened("grid")
    page.run("document.querySelector('#left [tabindex]').focus()")
    page.press("ArrowRight", "p", "ArrowUp")
    choose(page, "panels", 2)
    choose(page, "observable", 1)
    choose(page, "theme", "dark")
    search(page, "gamma < 0.3")
    page.click("#sort-decay")
    page.until("location.hash.includes('sort=decay')")
    kept = "JSON.stringify([S.at, S.pins, S.panels, S.observable, S.theme, S.search, S.sort, $('count').textContent])"
    again = opened("grid", page.run("location.hash.slice(1)"))
    assert again.run(kept) == page.run(kept) and "dark" in again.run("document.documentElement.className")
    # What is not known is passed over.
    again.run("location.hash = '#observable=accuracy&at=0.0.0&x=nothing&time=99&pins=9.9.9'")
    again.until("S.at.join() === '0,0,0'")
    assert again.run("JSON.stringify([S.observable, S.x, S.time, S.pins])") == "[1,0,6,[]]"


@pytest.mark.parametrize("name", NAMES)
def test_every_picture_of_every_kind_of_sweep_is_drawn(opened, name):
    """The fixture looks for errors of the script in the end."""
    page = opened(name)
    views = page.run("VIEWS.filter(([, , offered]) => offered()).map(([name]) => name)")
    assert {"along"} <= {*views} and page.run("document.querySelectorAll('#table tbody tr').length > 0")
    for view in views:
        choose(page, "view", view)
        page.run("document.querySelector('#left [tabindex]').focus()")
        page.press("ArrowRight", "ArrowUp", "Home", "End", "PageDown", "p", "p")
        selected = count(page, "#left [aria-selected=true]")
        assert selected == 1 or "no value here" in text(page, "#left"), view
        page.click("#as-toml")
        page.click("#as-python")


def test_what_is_missing_of_a_sweep_is_said(opened, made):
    page = opened("begun")
    pending = int((opened_store(made, "begun")["result"] == -1).sum())
    assert 0 < pending < 8 and search(page, "pending")[0].startswith(f"{pending} of 8")
    page.run("document.querySelector('#table tbody tr').click()")
    assert text(page, "#point").endswith("has no value; pending")


def test_a_map_of_one_value_says_it_instead_of_a_bar(opened):
    page = opened("begun", "observable=same")
    assert text(page, "#left .alike") == "all 3" and count(page, "#left .colour-bar") == 0
    assert count(opened("begun", "observable=y"), "#left .colour-bar") == 1


# --- looks ----------------------------------------------------------------------------------------------------------

STATES = {
    "map": ("grid", ""),
    "panels": ("grid", "panels=noise&pins=1.1.0-6.4.1&seeds=yes&observable=accuracy_margin&search=gamma>0.1"),
    "along": ("grid", "view=along&pins=3.1.0"),
    "scatter": ("grid", "view=scatter&across=log_norm&up=accuracy_margin&shade=gamma&pins=1.1.0-6.4.1"),
    "parallel-many": ("grid", "view=parallel&observable=accuracy_margin"),
    "parallel": ("random", "pins=0.1-1.3&search=gamma>0.1"),
    "scatter-random": ("random", "view=scatter&up=accuracy&shade=log_norm"),
    "message": ("random", "search=gama > 3"),
    "function": ("function", "observable=value&panels=dim"),
    "texts": ("function", "view=along&x=dim&over=decay"),
}


@pytest.fixture(scope="module")
def axe():
    return hands.axe()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_state_fits_its_width_and_has_no_serious_fault(opened, axe, width, dark):
    for state, (name, address) in STATES.items():
        page = opened(name, address, width, dark)
        page.run("document.querySelector('#left [tabindex]')?.focus()")
        assert page.run("document.documentElement.scrollWidth <= innerWidth"), state
        cut = page.run("""[...document.querySelectorAll('svg text')].filter(node => {
            const own = node.getBoundingClientRect(), all = node.ownerSVGElement.getBoundingClientRect();
            return own.left < all.left - 1 || own.right > all.right + 1; }).map(node => node.textContent)""")
        assert cut == [], state
        met = page.run("""(() => {
            const boxes = [...document.querySelectorAll('svg .name')].map(node => node.getBoundingClientRect());
            return boxes.some((a, i) => boxes.some((b, k) => k > i && a.right > b.left && b.right > a.left
                && a.bottom - 3 > b.top && b.bottom - 3 > a.top)); })()""")
        assert not met, state
        if os.environ.get("PICTURES"):
            page.picture(Path(os.environ["PICTURES"]) / f"{state}-{width}-{'dark' if dark else 'light'}.png")
        if axe is not None:
            page.run(f"(() => {{ {axe} }})()")
            found = page.run("""axe.run().then(told => told.violations
                .filter(one => ['serious', 'critical'].includes(one.impact)).map(one => one.id + one.nodes[0].html))""")
            assert found == [], state
        opened.close(page)
    if axe is None:
        pytest.skip("everything fits; faults of accessibility are not looked for without npm or AXE=axe.min.js")
