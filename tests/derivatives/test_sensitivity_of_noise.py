"""Sensitivities of expectations and of single paths of stochastic descents, beside finite differences."""

import jax
import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax.cli import main
from unhinged_jax.config import build, read_config

NAMES = ["square_norm", "objective"]
AT = {"batch": 2.5, "eta": 0.3, "noise": 0.2, "decay": 0.1}
TIMES = [3, 20]


def problem(batch=2.5, eta=0.3, noise=0.2, decay=0.1, fresh=True):
    model = uj.regularized(uj.balanced(2, 2).symmetric_noise(noise), dim=3, decay=decay)
    return model, uj.Descent(eta, batch=batch, fresh_labels=fresh)


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def start():
    return problem()[0].init(jax.random.key(0))


def differences(values, at):
    """d value/d parameter by central differences, (names, times) for each parameter."""
    found = {}
    for name, x in at.items():
        ends = [values(**{**at, name: x + h}) for h in (1e-5 * x, -1e-5 * x)]
        found[name] = (ends[0] - ends[1]) / (2e-5 * x)
    return found


@pytest.mark.long
def test_expectations_have_derivatives_with_respect_to_the_size_of_the_batch_too():
    table = uj.sensitivity(*problem(), start(), TIMES, NAMES, list(AT))
    assert table["source"].values.tolist() == ["exact"]
    run = jax.jit(lambda settings: uj.exact(*problem(**settings), start(), TIMES, NAMES).observables)

    def values(**settings):
        found = run(settings)
        return np.array([found[name] for name in NAMES])

    for name, want in differences(values, AT).items():
        got = table["first"].sel(source="exact", parameter=name)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-9, err_msg=name)


def test_a_path_is_differentiated_with_its_draws():
    at, key = {"eta": 0.3, "noise": 0.2, "decay": 0.1}, jax.random.key(4)
    names = ["loss", "norm"]
    table = uj.sensitivity(*problem(2, fresh=False), start(), TIMES, names, list(at), key=key)
    assert table["source"].values.tolist() == ["simulated"]
    run = jax.jit(
        lambda moved: uj.simulate(*problem(2, fresh=False, **moved), start(), TIMES, names, key=key).observables
    )

    def values(**settings):
        found = run(settings)
        return np.array([found[name] for name in names])

    for name, want in differences(values, at).items():
        got = table["first"].sel(source="simulated", parameter=name)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-9, err_msg=name)
    other = uj.sensitivity(*problem(2, fresh=False), start(), TIMES, names, list(at), key=jax.random.key(5))
    assert not np.allclose(other["first"], table["first"])


@pytest.mark.long
def test_defaults_modes_and_both_sources():
    model, descent = problem(2)
    state, key = start(), jax.random.key(4)
    every = uj.sensitivity(model, descent, state, TIMES)
    assert set(every["observable"].values) == set(uj.moment_observables) and "batch" in every["parameter"]
    path = uj.sensitivity(model, descent, state, TIMES, NAMES, key=key)
    assert not {"batch", "noise"} & set(path["parameter"].values) and "gamma" in path["parameter"]
    reverse = uj.sensitivity(model, descent, state, TIMES, NAMES, ["eta", "H"], key=key, mode="checkpointed")
    np.testing.assert_allclose(
        reverse["first"].sel(parameter="eta"), path["first"].sel(parameter="eta"), rtol=1e-10
    )  # fmt: skip
    both = uj.sensitivity(model, descent, state, TIMES, NAMES, ["eta"], key=key, sources=("simulated", "exact"))
    np.testing.assert_allclose(both["first"].sel(source="exact"), every["first"].sel(source="exact", parameter=["eta"],
                               observable=NAMES), rtol=1e-10)  # fmt: skip
    second = uj.sensitivity(*problem(), state, [20], ["square_norm"], ["batch", "eta"], order=2)
    around = [
        uj.sensitivity(*problem(batch=m), state, [20], ["square_norm"], ["eta"])["first"].item()
        for m in (2.5001, 2.4999)
    ]
    got = second["second"].sel(parameter="batch", parameter_2="eta").item()
    np.testing.assert_allclose(got, (around[0] - around[1]) / 2e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parameters": ["batch"], "key": True}, "no derivative with respect to 'batch'"),
        ({"parameters": ["noise"], "key": True}, "no derivative with respect to 'noise'"),
        ({"parameters": ["eta"], "sources": "simulated"}, "give a key"),
        pytest.param(
            {"parameters": ["eta"], "observe": ["accuracy"]}, "'accuracy' is not known", marks=pytest.mark.long
        ),
    ],
)
def test_what_has_no_derivative(settings, message):
    if settings.get("key"):
        settings = settings | {"key": jax.random.key(0)}
    model, descent = problem(2)
    with pytest.raises(ValueError, match=message):
        uj.sensitivity(model, descent, start(), TIMES, **settings)


@pytest.mark.long
def test_the_command_takes_expectations_or_the_path_of_the_file(tmp_path, capsys):
    config = tmp_path / "c.toml"
    config.write_text("""
[model]
case = "regularized"
dim = 3
decay = 0.1
[labels]
layout = "balanced"
classes = 2
per_class = 2
[dynamics]
kind = "descent"
schedule = 0.3
batch = 2
seed = 5
[run]
times = [0, 5]
observe = ["square_norm"]
precision = "float64"
""")
    tables = {}
    for source in ((), ("--source", "simulated")):
        out = tmp_path / f"{len(source)}.csv"
        assert main(["sensitivity", str(config), "--parameter", "eta", "--out", str(out), *source]) == 0
        tables[source] = out.read_text()
    assert ",exact\n" in tables[()] and ",simulated\n" in next(value for key, value in tables.items() if key)
    path = uj.sensitivity(*_of_file(config), [0, 5], ["square_norm"], ["eta"], key=jax.random.key(5))
    want = path["first"].sel(time=5).item()
    assert float(tables[("--source", "simulated")].strip().splitlines()[-1].split(",")[-1]) == pytest.approx(
        want, rel=1e-12
    )


def _of_file(config):
    found = build(read_config(config))
    return found.model, found.dynamics, found.state
