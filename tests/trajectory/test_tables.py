"""Files of a table, written without pandas and xarray: to the last byte, or identically, what these two make of it."""

import numpy as np
import pandas
import pytest
import xarray

from unhinged_jax.runs import netcdf
from unhinged_jax.trajectory import tables

MEMBERS = {"result": np.array("completed"), "steps": np.array(3)}
NUMBERS = [0.1, 1 / 3, 1e16, 123456789.0, 5e-324, -0.0, np.nan, np.inf, -np.inf, 1e-5, 1e22, 2.5]


def arrays(lead):
    """Observables of many types over twelve rows of a table."""
    columns = {
        "double": np.array(NUMBERS),
        "single": np.array(NUMBERS, np.float32),
        "whole": np.arange(12) - 5,
        "true": np.arange(12) % 3 == 0,
        'a, "b"\nγ': np.arange(48.0).reshape(12, 2, 2) / 7,
    }
    return {name: values.reshape(*lead, *values.shape[1:]) for name, values in columns.items()}


@pytest.mark.parametrize("lead", [(12,), (3, 4), (2, 3, 2)])
@pytest.mark.parametrize("cells", [7, 40, 100_000])
def test_a_csv_file_is_that_of_pandas(tmp_path, monkeypatch, lead, cells):
    monkeypatch.setattr(tables, "_CELLS", cells)
    for kind in (float, np.float32, int):
        times = np.broadcast_to(np.arange(lead[-1]) * kind(0.3 if kind is not int else 7), lead)
        tables.write_csv(tmp_path / "ours.csv", arrays(lead), times)
        tables.frame(arrays(lead), times).to_csv(tmp_path / "theirs.csv")
        assert (tmp_path / "ours.csv").read_bytes() == (tmp_path / "theirs.csv").read_bytes()


@pytest.mark.parametrize("times", [np.arange(12) / 3, np.arange(12)])
def test_a_netcdf_file_is_read_as_that_of_xarray(tmp_path, times):
    columns = {name: values for name, values in arrays((12,)).items() if "," not in name}
    columns |= {"loss": np.ones(12), "pair": np.arange(24.0).reshape(12, 2)}
    table = tables.labelled(columns, times, np.arange(12) < 9, MEMBERS)
    table = table._replace(attrs={**table.attrs, "identity": '{"γ": 1}', "digest": "0"})
    netcdf.write(tmp_path / "ours.nc", table)
    xarray.Dataset(*table).to_netcdf(tmp_path / "theirs.nc", engine="scipy")
    with xarray.open_dataset(tmp_path / "ours.nc") as ours, xarray.open_dataset(tmp_path / "theirs.nc") as theirs:
        xarray.testing.assert_identical(ours, theirs)
        assert [*ours.variables] == [*theirs.variables]
    for name in ("ours", "theirs"):  # earlier versions wrote theirs
        found, texts = netcdf.read(tmp_path / f"{name}.nc")
        assert texts["identity"] == '{"γ": 1}' and texts["digest"] == "0" and texts["result"] == "completed"
        assert {*found} == {*columns, "time", "reached"} and found["reached"].dtype == bool
        for key, values in {**columns, "time": times, "reached": np.arange(12) < 9}.items():
            np.testing.assert_array_equal(found[key], values)
            assert found[key].dtype.isnative and found[key].dtype.kind == values.dtype.kind


def test_numbers_that_the_format_lacks_are_kept_in_others(tmp_path):
    large = np.array([2**31, 2**40 + 1])
    table = tables.Labelled({"half": (("time",), np.float16([0.5, np.nan]), {})}, {"time": (("time",), large, {})}, {})
    netcdf.write(tmp_path / "run.nc", table._replace(attrs={"steps": 2**33}))
    with xarray.open_dataset(tmp_path / "run.nc") as data:
        np.testing.assert_array_equal(data["time"], large)
        np.testing.assert_array_equal(data["half"], [0.5, np.nan])
        assert data.attrs["steps"] == 2**33
    odd = {"z": (("time",), np.ones(2, complex), {})}
    with pytest.raises(ValueError, match="complex"):
        netcdf.write(tmp_path / "odd.nc", table._replace(data=odd))


def test_a_table_of_pandas_has_the_same_index():
    times = np.arange(4.0).reshape(2, 2)
    frame = tables.frame({"x": times + 1}, times)
    index = pandas.MultiIndex.from_tuples([(0, 0.0), (0, 1.0), (1, 2.0), (1, 3.0)], names=["batch_1", "time"])
    pandas.testing.assert_frame_equal(frame, pandas.DataFrame({"x": [1.0, 2.0, 3.0, 4.0]}, index=index))
