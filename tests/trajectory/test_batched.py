"""Everything that looks at a run or keeps it, for batches of every shape, beside their members run one by one."""

import dataclasses
import functools
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas
import pytest
import xarray
from matplotlib.figure import Figure

import unhinged_jax as uj

MODEL = uj.regularized(uj.from_counts([2, 3, 1]), dim=2, decay=0.01)
FLOW = uj.Flow(0.5)
SEEN = {
    "loss": None,
    "gram": lambda model, state: state.W @ state.W.T,
    "parts": lambda model, state: {"H0": state.H[0]},
}
FIRST, SECOND = [0.0, 2.0], [3.0, 5.0]
SHAPES = [(), (1,), (3,), (2, 3)]
MEMBERS = math.prod(SHAPES[-1])
CLOSE = {"rtol": 2e-5, "atol": 1e-5}


def starts():
    return jax.random.split(jax.random.key(0), MEMBERS)


def run(key):
    """Two runs, the second of which continues the first."""
    first = uj.exact(MODEL, FLOW, MODEL.init(key), FIRST, SEEN, states=True)
    return first, uj.exact(MODEL, FLOW, first, SECOND, SEEN, states=True)


@functools.cache
def alone(number):
    """Member `number` by itself, as NumPy arrays."""
    return jax.tree.map(np.asarray, run(starts()[number]))


@functools.cache
def batch(shape):
    mapped = run
    for _ in shape:
        mapped = jax.vmap(mapped)
    return mapped(starts()[: math.prod(shape)].reshape(shape))


def places(shape):
    """Place of a member and its number, by counting."""
    return [(place, number) for number, place in enumerate(np.ndindex(shape))]


def table_by_hand(members):
    """Rows of the members' numbers, from the arrays of each."""
    index, rows = [], []
    for place, number in members:
        one = alone(number)[0]
        for k, time in enumerate(FIRST):
            index.append((*place, time) if place else time)
            rows.append(
                {"loss": one["loss"][k]}
                | {f"gram[{i},{j}]": one["gram"][k, i, j] for i in range(3) for j in range(3)}
                | {f"parts.H0[{i}]": one["parts"]["H0"][k, i] for i in range(2)}
            )
    return pandas.DataFrame(rows, index=index)


def has(what, shape, tmp_path):
    """Check one operation on a batch of a shape."""
    first, second = batch(shape)
    lead = tuple(f"batch_{axis + 1}" for axis in range(len(shape)))
    members = places(shape)
    assert first.batch == shape
    if what == "last":
        for name in ("loss", "gram"):
            assert first.last(name).shape == (*shape, *np.shape(alone(0)[0][name])[1:])
            for place, number in members:
                np.testing.assert_allclose(first.last(name)[place], alone(number)[0][name][-1], **CLOSE)
    elif what == "to_xarray":
        found = first.to_xarray()
        assert found["loss"].dims == (*lead, "time") and found["gram"].dims == (*lead, "time", "gram_1", "gram_2")
        assert found["parts.H0"].dims == (*lead, "time", "parts.H0_1")
        np.testing.assert_array_equal(found["time"], FIRST)
        for place, number in members:
            one, at = alone(number)[0], dict(zip(lead, place, strict=True))
            extra = [*set(found.coords) - {"time"}]
            by_hand = xarray.Dataset(
                {
                    "loss": ("time", one["loss"]),
                    "gram": (("time", "gram_1", "gram_2"), one["gram"]),
                    "parts.H0": (("time", "parts.H0_1"), one["parts"]["H0"]),
                },
                {"time": FIRST},
            )
            member = found.isel(at).drop_vars(extra)
            xarray.testing.assert_allclose(member, by_hand, **CLOSE)
            result = found["result"].isel(at).item() if shape else found.attrs["result"]
            assert result == "completed" and bool(found["reached"].isel(at).all())
        found.to_netcdf(tmp_path / "run.nc", engine="scipy")
    elif what in ("to_dataframe", "to_csv"):
        found = first.to_dataframe()
        if what == "to_csv":
            first.to_csv(tmp_path / "run.csv")
            found = pandas.read_csv(tmp_path / "run.csv", index_col=[*lead, "time"])
        wanted = table_by_hand(members)
        assert list(found.index.names) == [*lead, "time"] and list(found.index) == list(wanted.index)
        assert {*found.columns} == {*wanted.columns}
        np.testing.assert_allclose(found[wanted.columns], wanted, **CLOSE)
        if shape:  # a member is found by its place
            place, number = members[-1]
            np.testing.assert_allclose(found.loc[(*place, 2.0), "loss"], alone(number)[0]["loss"][1], **CLOSE)
    elif what == "save":
        first.save(tmp_path / "run.npz")
        found = uj.load(tmp_path / "run.npz")
        assert found == first and found.batch == shape
        same = jax.tree.map(lambda a, b: np.asarray(a).dtype == b.dtype and np.array_equal(a, b), first, found)
        assert all(jax.tree.leaves(same))
        going = functools.reduce(
            lambda go, _: jax.vmap(go), shape, lambda before: uj.exact(MODEL, FLOW, before, SECOND, "loss")["loss"]
        )
        np.testing.assert_array_equal(going(found), going(first))
    elif what == "concat":
        found = uj.concat([first, second])
        assert found.batch == shape and np.all(found.began == 0) and np.all(found.elapsed == SECOND[-1])
        for place, number in members:
            one = jax.tree.map(lambda leaf, place=place: np.asarray(leaf)[place], found)
            np.testing.assert_array_equal(one.times, FIRST + SECOND)
            for get in (
                lambda run: run["gram"], lambda run: run["parts"]["H0"], lambda run: run.states.H,
                lambda run: run.reached,
            ):  # fmt: skip
                np.testing.assert_allclose(get(one), np.concatenate([*map(get, alone(number))]), **CLOSE)
            np.testing.assert_allclose(one.final.H, alone(number)[1].final.H, **CLOSE)
    elif what == "print":
        text, page = str(first), first._repr_html_()
        values = [float(alone(number)[0]["loss"][-1]) for _, number in members]
        assert (f"a batch of shape {shape}, 2 times each" in text) == bool(shape)
        wanted = [min(values), np.median(values), max(values)] if shape else values
        row = page.partition("<td>loss</td>")[2].partition("</tr>")[0]
        shown = [float(cell.partition("</td>")[0]) for cell in row.split("<td>")[1:]]
        np.testing.assert_allclose(shown, wanted, rtol=1e-4)
        assert "array of shape (3, 3)" in page and "ompleted" in page
    else:
        axes = {each.texts[0].get_text(): each for each in first.plot().axes}
        assert [*axes] == ["loss"] and axes["loss"].get_title(loc="left") == "Data term of the loss"
        values = np.array([alone(number)[0]["loss"] for _, number in members])
        (line,) = axes["loss"].get_lines()
        np.testing.assert_array_equal(line.get_xdata(), FIRST)
        np.testing.assert_allclose(line.get_ydata(), [np.median(column) for column in values.T], **CLOSE)
        if len(members) > 1:
            (band,) = axes["loss"].collections
            corners = band.get_paths()[0].vertices
            for time, column in zip(FIRST, values.T, strict=True):
                low, high = (np.sort(column)[0] + part for part in spread(column))
                there = corners[corners[:, 0] == time, 1]
                np.testing.assert_allclose([there.min(), there.max()], [low, high], **CLOSE)


def spread(column):
    """The 10 % and 90 % quantiles over the lowest value, by interpolation between ranks."""
    ranked = np.sort(column)
    return [np.interp(q * (len(column) - 1), np.arange(len(column)), ranked) - ranked[0] for q in (0.1, 0.9)]


@pytest.mark.long_for("last-(3,)", "last-(1,)", "last-()", "save-(1,)", "save-(3,)", "save-()")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("what", ["last", "to_xarray", "to_dataframe", "to_csv", "save", "concat", "print", "plot"])
def test_a_batch_is_its_members(what, shape, tmp_path):
    has(what, shape, tmp_path)


def test_members_with_times_of_their_own(tmp_path):
    ends = jnp.array([1.0, 2.0, 4.0])
    key = starts()[0]
    runs = jax.vmap(lambda end: uj.exact(MODEL, FLOW, MODEL.init(key), end * jnp.array([0.5, 1.0]), "loss"))(ends)
    found = runs.to_xarray()
    assert found["loss"].dims == ("batch_1", "row") and found["time"].dims == ("batch_1", "row")
    np.testing.assert_array_equal(found["time"], [[0.5, 1.0], [1.0, 2.0], [2.0, 4.0]])
    table = runs.to_dataframe()
    assert list(table.index) == [(0, 0.5), (0, 1.0), (1, 1.0), (1, 2.0), (2, 2.0), (2, 4.0)]
    np.testing.assert_array_equal(table["loss"], np.ravel(runs["loss"]))
    with pytest.raises(ValueError, match="a picture of a batch needs times that its members share"):
        runs.plot()


def test_members_that_stopped_early_are_left_out_of_the_picture_where_they_did():
    run = jax.tree.map(np.array, batch((3,))[0])
    run.reached[0, 1], run["loss"][0, 1] = False, np.nan
    run["loss"][1, 1] = np.inf
    (axes,) = run.plot().axes
    (line,) = axes.get_lines()
    assert line.get_ydata()[1] == run["loss"][2, 1]
    run.reached[:, 1] = False
    (axes,) = run.plot("loss").axes
    assert len(axes.get_lines()[0].get_xdata()) == 1


def test_what_a_picture_can_be_asked_for():
    run = batch(())[0]
    figure = run.plot(["loss"])
    assert isinstance(figure, Figure) and len(figure.axes) == 1
    assert figure._repr_png_().startswith(b"\x89PNG")  # so that a notebook shows it before pyplot is imported
    assert pickle.loads(pickle.dumps(figure)).axes
    with pytest.raises(ValueError, match="'gram' is an array at each time"):
        run.plot("gram")
    with pytest.raises(KeyError, match="'lost' was not observed"):
        run.plot("lost")


def test_names_of_observables_that_a_batch_uses_itself():
    seen = {name: lambda model, state: state.W[0, 0] for name in ("batch_1", "result", "row", "gram_1", "steps")}
    seen["gram"] = SEEN["gram"]
    run = jax.vmap(lambda key: uj.exact(MODEL, FLOW, MODEL.init(key), FIRST, seen))(starts()[:2])
    found = run.to_xarray()
    for name in seen:
        np.testing.assert_array_equal(found[name], run[name])
    assert found["gram"].dims == ("batch_1_", "time", "gram__1", "gram__2")
    assert list(run.to_dataframe().index.names) == ["batch_1_", "time"]


def test_a_trajectory_of_tuples_is_printed():
    seen = {"both": lambda model, state: (state.H, state.W), "loss": None}
    run = uj.exact(MODEL, FLOW, MODEL.init(starts()[0]), FIRST, seen)
    assert "loss" in str(run) and "both.0" in run._repr_html_() and len(run.plot().axes) == 1


def test_the_page_of_a_run_loads_nothing_and_quotes_what_it_shows():
    run = uj.exact(MODEL, FLOW, MODEL.init(starts()[0]), FIRST, {"<b>&": lambda model, state: state.b[0]})
    page = run._repr_html_()
    assert "&lt;b&gt;&amp;" in page and "completed: every requested time was reached." in page
    assert not any(word in page for word in ("<script", "http", "src=", "<link"))
    assert jax.jit(lambda run: run.last("<b>&") if run._repr_html_() is None else 0)(run).shape == ()


def test_the_memory_of_a_batch_of_optimizers_is_kept(tmp_path):
    noisy = optax.chain(optax.noisy_sgd(0.1, key=jax.random.key(1)), optax.scale_by_adam())
    descent = uj.Descent(optimizer=noisy)
    run = jax.vmap(lambda key: uj.simulate(MODEL, descent, MODEL.init(key), FIRST, "loss"))(starts()[:2])
    run.save(tmp_path / "run.npz")
    found = uj.load(tmp_path / "run.npz", descent)
    assert found == run and jax.tree.structure(found.memory) == jax.tree.structure(run.memory)
    going = [
        uj.simulate(MODEL, descent, jax.tree.map(lambda leaf: leaf[1], batch), [4], "loss") for batch in (found, run)
    ]
    assert going[0] == going[1]


def test_members_that_stopped_at_different_times_are_joined():
    first = jax.tree.map(np.array, batch((3,))[0])
    first.reached[0, 1], first.elapsed[0] = False, 0.5
    second = jax.vmap(lambda run: uj.exact(MODEL, FLOW, run, SECOND, SEEN, states=True))(first)
    np.testing.assert_array_equal(second.began, [0.5, 2.0, 2.0])
    found = uj.concat([first, second])
    assert found.reached.tolist() == [[True, False, True, True], *[[True] * 4] * 2]
    first.reached[:, 1] = False
    found = uj.concat([first, second])
    np.testing.assert_array_equal(found.times, [[0.0, *SECOND]] * 3)
    other = dataclasses.replace(first, elapsed=np.array([0.7, 2.0, 2.0]))
    with pytest.raises(ValueError, match=r"runs\[1\] does not continue runs\[0\], which ended at entries from 0.7 to"):
        uj.concat([other, second])


GOING_ON = {
    "exact flow": (uj.exact, FLOW, "float32"),
    "exact momentum": (uj.exact, uj.Descent(uj.cosine(0.5, 9), momentum=0.9), "float64"),
    "flow": (uj.simulate, FLOW, "float32"),
    "adam": (uj.simulate, uj.Descent(uj.cosine(0.5, 9), optimizer=optax.adam(0.05)), "float64"),
}


@pytest.mark.long_for("exact flow")
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.long] * (kind == "exact momentum")) for kind in GOING_ON]
)
def test_a_batch_goes_on_as_its_members(kind):
    solve, dynamics, precision = GOING_ON[kind]
    settings = {"observe": ["loss", "norm" if kind == "adam" else "gap_W"], "precision": precision, "states": True}
    keys = starts()[:2]
    before = [solve(MODEL, dynamics, MODEL.init(key), [0, 3], **settings) for key in keys]
    shape = (1, 2)
    stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves])[None], *before)
    after = solve(MODEL, dynamics, stacked, [5, 8], **settings)
    assert after.batch == shape and np.all(after.began == 3) and np.asarray(after.final.W).dtype == precision
    close = CLOSE if precision == "float32" else {"rtol": 1e-11, "atol": 1e-12}
    for number, run in enumerate(before):
        want = solve(MODEL, dynamics, run, [5, 8], **settings)
        got = jax.tree.map(lambda leaf, number=number: np.asarray(leaf)[0, number], after)
        for part in (
            lambda run: run.observables,
            lambda run: run.states,
            lambda run: run.final,
            lambda run: run.memory,
        ):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), part(got), part(want))
        assert got.result is want.result and float(got.elapsed) == 8
        assert "flow" in kind or int(got.steps) == int(want.steps)  # the steps of a solver depend on rounding
    joined = uj.concat([stacked, after])
    assert joined["loss"].shape == (*shape, 4)


VARIED = {
    "exact flow": (uj.exact, lambda rate: uj.Flow(rate)),
    "momentum": (uj.simulate, lambda rate: uj.Descent(uj.cosine(rate, 20.0), momentum=rate)),
    "adam": (uj.simulate, lambda rate: uj.Descent(optimizer=uj.Optimizer(optax.adam, learning_rate=rate))),
}
CASES = [("exact flow", (1,)), ("momentum", (2, 3)), ("adam", (3,))]


@pytest.mark.long_for("momentum-(2, 3)")
@pytest.mark.parametrize(("kind", "shape"), CASES, ids=str)
def test_members_go_on_with_numbers_of_their_own(kind, shape):
    """A batch that `jax.vmap` maps over together with rates and decays, beside a loop over its members."""
    solve, dynamics = VARIED[kind]
    numbers = np.linspace(0.1, 0.6, math.prod(shape)).reshape(shape)

    def start(key, number):
        return solve(MODEL.replace(decay=number / 10), dynamics(number), MODEL.init(key), [2, 5], "loss")

    def go_on(run, number):
        return solve(MODEL.replace(decay=number / 10), dynamics(number), run, [8, 11], "loss")

    begin, rest = start, go_on
    for _ in shape:
        begin, rest = jax.vmap(begin), jax.vmap(rest)
    runs = begin(starts()[: math.prod(shape)].reshape(shape), numbers)
    after = rest(runs, numbers)
    assert after.batch == shape and np.all(after.elapsed == 11) and np.all(after.began == 5)
    for place in np.ndindex(shape):
        one, got = (jax.tree.map(lambda leaf, place=place: leaf[place], batch) for batch in (runs, after))
        want = go_on(one, numbers[place])
        assert got.result is want.result
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), got, want)


def test_a_flow_goes_on_from_members_that_ended_apart():
    keys, ends = starts()[:2], [1.0, 2.0]
    before = [uj.exact(MODEL, FLOW, MODEL.init(key), [end], "loss") for key, end in zip(keys, ends, strict=True)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *before)
    after = uj.exact(MODEL, FLOW, stacked, [3.0], "loss")
    for number, run in enumerate(before):
        np.testing.assert_allclose(after["loss"][number], uj.exact(MODEL, FLOW, run, [3.0], "loss")["loss"], **CLOSE)
    with pytest.raises(ValueError, match=r"must not lie before the end of any member, but `elapsed` has .* 1 to 2"):
        uj.exact(MODEL, FLOW, stacked, [1.5, 3.0], "loss")
    for solve in (uj.exact, uj.simulate):
        with pytest.raises(ValueError, match=r"must not lie before the end of any member"):
            jax.vmap(lambda run, solve=solve: solve(MODEL, FLOW, run, [1.5, 3.0], "loss"))(stacked)
    with pytest.raises(ValueError, match="times must not lie before the start, 3"):
        uj.exact(MODEL, FLOW, after, [2.0], "loss")
    with pytest.raises(ValueError, match=r"this needs one trajectory, but this is a batch .*\(2,\)"):
        uj.limit(MODEL, FLOW, after)
