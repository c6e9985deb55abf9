"""The CSV file of `unhinged sensitivity` holds every derivative, those in arrays and second ones, too."""

import numpy as np
import pytest

from unhinged_jax.derivatives.command import _write, rows

xarray = pytest.importorskip("xarray", reason="tables need xarray")
pandas = pytest.importorskip("pandas", reason="tables need pandas")

BASE = ("source", "observable", "time")
COORDS = {"source": ["simulated", "exact"], "observable": ["norm", "loss"], "time": [1.0, 3.0]}
SHAPE = (2, 2, 2)


def test_every_derivative_is_a_row(tmp_path):
    draw = np.random.default_rng(0)
    both = {"parameter": ["gamma", "decay"], "parameter_2": ["gamma", "decay"]}
    table = xarray.Dataset(
        {
            "value": (BASE, draw.normal(size=SHAPE)),
            "first": ((*BASE, "parameter"), draw.normal(size=(*SHAPE, 2))),
            "first_b": ((*BASE, "b_0"), draw.normal(size=(*SHAPE, 3))),
            "first_W": ((*BASE, "W_0", "W_1"), draw.normal(size=(*SHAPE, 2, 2))),
            "second": ((*BASE, "parameter", "parameter_2"), draw.normal(size=(*SHAPE, 2, 2))),
        },
        {**COORDS, **both},
    )
    _write(table, tmp_path / "table.csv")
    read = pandas.read_csv(tmp_path / "table.csv", index_col=["observable", "time", "parameter"])
    wanted = {("gamma", "first", (0,)), ("decay", "first", (1,))}
    wanted |= {(f"b[{i}]", "first_b", (i,)) for i in range(3)}
    wanted |= {(f"W[{i},{j}]", "first_W", (i, j)) for i in range(2) for j in range(2)}
    names = both["parameter"]
    wanted |= {(f"{names[i]}, {names[j]}", "second", (i, j)) for i in range(2) for j in range(2)}
    assert set(read.columns) == set(COORDS["source"]) and len(read) == 4 * len(wanted)
    for label, name, place in wanted:
        for s, source in enumerate(COORDS["source"]):
            for o, observable in enumerate(COORDS["observable"]):
                for t, time in enumerate(COORDS["time"]):
                    right = table[name].values[(s, o, t, *place)]
                    assert read.loc[(observable, time, label), source] == pytest.approx(right, rel=1e-12)


def test_a_derivative_that_was_not_reached_keeps_its_row():
    values = np.ones((*SHAPE, 1))
    values[:, 1, 1] = np.nan
    table = xarray.Dataset({"first": ((*BASE, "parameter"), values)}, {**COORDS, "parameter": ["gamma"]})
    assert len(rows(table)) == 4
