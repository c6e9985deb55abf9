"""Ensembles: summaries against NumPy and SciPy, and means that are compared with expectations."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy import stats

import unhinged_jax as uj
from unhinged_jax import ensembles
from unhinged_jax.ensembles import Agreement, agreement, statistics

xarray = pytest.importorskip("xarray")

MODEL = uj.regularized(uj.balanced(classes=3, per_class=2), dim=3, decay=0.1)
STATE, DESCENT, TIMES = MODEL.init(jax.random.key(0)), uj.Descent(0.3, batch=2), [0, 4, 9]
OBSERVED = ["square_norm", "log_square_norm", "loss"]


@pytest.fixture(scope="module")
def runs():
    keys = jax.random.split(jax.random.key(1), 1000)
    return jax.vmap(lambda key: uj.simulate(MODEL, DESCENT, STATE, TIMES, OBSERVED, key=key))(keys)


def test_statistics_are_those_of_numpy_and_scipy():
    values = np.random.default_rng(0).lognormal(size=(50, 4, 3))
    mean, error, low, middle, members, effective = statistics(values, [0.1, 0.5])
    np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(error, stats.sem(values, axis=0), rtol=1e-12)
    np.testing.assert_allclose([low, middle], np.quantile(values, [0.1, 0.5], axis=0), rtol=1e-12)
    np.testing.assert_allclose(effective, 50 / stats.kurtosis(values, axis=0, fisher=False), rtol=1e-10)
    assert np.all(members == 50)
    huge = statistics(values * 1e300)
    np.testing.assert_allclose(huge[:2] / 1e300, [mean, error], rtol=1e-12)


def test_a_member_that_ended_early_is_left_out_from_then_on():
    values = np.array([[1.0, 2.0], [3.0, np.nan], [5.0, np.nan]])
    np.testing.assert_allclose(statistics(values, [1.0]), [[3, 2], [2 / 3**0.5, np.nan], [5, 2], [3, 1], [2, 1]])
    with np.errstate(all="raise"):
        assert np.isnan(statistics(np.full((3, 1), np.nan), [0.5])[:3]).all()


def test_a_batch_is_summarised_whatever_its_axes(runs):
    summary = uj.ensemble(runs, quantiles=(0.25,))
    assert dict(summary.sizes) == {"statistic": 5, "time": 3}
    assert summary.statistic.values.tolist() == ["mean", "error", "0.25", "members", "effective"]
    for name in OBSERVED:
        np.testing.assert_allclose(summary[name].sel(statistic="mean"), np.mean(runs[name], axis=0), rtol=1e-5)
    square = jax.tree.map(lambda leaf: np.reshape(leaf, (25, 40, *leaf.shape[1:])), runs)
    np.testing.assert_allclose(uj.ensemble(square, quantiles=(0.25,)).to_array(), summary.to_array(), rtol=1e-6)
    assert set(uj.ensemble(runs, "loss").data_vars) == {"loss"}


def test_a_dataset_of_a_sweep_keeps_what_is_no_member():
    values = np.random.default_rng(0).normal(size=(2, 5, 4))
    data = xarray.Dataset(
        {"norm": (("decay", "seed", "time"), values)}
        | {name: (("decay", "seed"), np.ones((2, 5))) for name in ("result", "elapsed", "steps", "reached")},
        {"decay": [0.1, 0.2], "seed": range(5), "time": range(4)},
    )
    summary = uj.ensemble(data)
    assert set(summary.data_vars) == {"norm"} and summary["norm"].dims == ("statistic", "decay", "time")
    np.testing.assert_allclose(summary["norm"].sel(statistic="mean"), values.mean(axis=1))
    assert set(uj.ensemble(data, "steps").data_vars) == {"steps"}
    assert summary.decay.values.tolist() == [0.1, 0.2] and "seed" not in summary.coords
    figure = uj.plot(summary)
    assert [line.get_label() for line in figure.axes[0].lines] == ["0.1", "0.2"]
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), values[1].mean(axis=0))
    band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    both = values[0].mean(axis=0) + 2 * np.array([[-1], [1]]) * stats.sem(values[0], axis=0)
    assert (band.min(), band.max()) == pytest.approx((both.min(), both.max()))
    assert "standard errors" in figure._suptitle.get_text()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda runs: uj.ensemble(jax.tree.map(lambda leaf: leaf[0], runs)), "needs members"),
        (lambda runs: uj.ensemble(runs, "norm"), "'norm' is no observable of the members"),
        (lambda runs: uj.ensemble(runs, quantiles=(1.5,)), "between 0 and 1"),
        (lambda runs: uj.ensemble(3), "data must be"),
    ],
)
def test_what_is_no_ensemble_is_refused(runs, make, message):
    with pytest.raises(ValueError, match=message):
        make(runs)


def test_the_mean_agrees_with_the_right_expectation_only(runs):
    expected = uj.exact(MODEL, DESCENT, STATE, TIMES, OBSERVED)
    found = uj.verify(runs, expected)
    assert found.passed and 0 < found.worst < found.bound and not any(found.doubtful.values())
    assert found.members == 1000 and found.judged == 6  # nothing to judge at the start
    assert found.bound == pytest.approx(stats.t.ppf(1 - 0.01 / 2 / 6, 999))
    values = np.asarray(runs["loss"], float)[:, 1:]
    t = (values.mean(0) - np.asarray(expected["loss"])[1:]) / stats.sem(values, axis=0)
    a = stats.skew(values, axis=0) / 1000**0.5
    np.testing.assert_allclose(found.deviations["loss"][1:], ((1 + a * t / 3) ** 3 - 1) / a + a / 6, atol=0.01)
    assert "agrees with the expectation" in repr(found) and "agrees" in found._repr_html_()
    assert "steps: 9" in repr(jax.tree.map(lambda leaf: leaf[0], runs)) and "steps" not in repr(expected)
    wrong = uj.exact(MODEL, uj.Descent(0.3, batch=1), STATE, TIMES, OBSERVED)
    assert not uj.verify(runs, wrong).passed
    assert "differs from the expectation" in repr(uj.verify(runs, wrong))
    with pytest.raises(ValueError, match="same times"):
        uj.verify(runs, uj.exact(MODEL, DESCENT, STATE, [0, 4, 8], OBSERVED))
    with pytest.raises(ValueError, match="none of the expected observables"):
        uj.verify(runs, uj.exact(MODEL, DESCENT, STATE, TIMES, ["within_scatter"]))
    with pytest.raises(ValueError, match="compared with simulated runs"):
        uj.verify(dataclasses.replace(runs, kind="expected"), expected)


def test_means_that_few_members_carry_are_not_judged():
    rng = np.random.default_rng(0)
    heavy, calm = rng.lognormal(0, 5, size=(200, 1)), rng.normal(1, 0.1, size=(200, 1))
    truth = {"heavy": np.exp([12.5]), "calm": np.ones(1)}
    found = agreement({"heavy": heavy, "calm": calm}, truth, 1e-16)
    assert found.doubtful == {"heavy": 1, "calm": 0} and found.judged == 1 and found.passed
    assert "not judged" in repr(found) and "too heavy-tailed to tell" in repr(found)
    alone = agreement({"heavy": heavy}, truth, 1e-16)
    assert not alone.passed and alone.judged == 0 and "cannot tell" in repr(alone)
    assert "too heavy-tailed to tell" in repr(alone) and "too heavy-tailed" in alone._repr_html_()
    few = agreement({"calm": calm[:40]}, truth, 1e-16)
    assert few.judged == 0 and "40 runs are few" in repr(few) and "heavy" not in repr(few)
    early = agreement({"calm": np.where(np.arange(200)[:, None] < 3, np.nan, calm)}, truth, 1e-16)
    assert early.doubtful == {"calm": 1} and early.unreached == 1 and not early.passed
    assert "ended before" in repr(early) and "heavy" not in repr(early)


def test_a_logarithm_is_that_of_the_mean_beyond_the_range_of_numbers():
    draws = np.random.default_rng(0).normal(0, 0.3, size=(500, 1))
    found = agreement({"log_square_norm": 2000 + draws}, {"log_square_norm": np.array([2000 + 0.3**2 / 2])}, 1e-16)
    assert found.passed and 0 < found.worst < 3
    off = agreement({"log_square_norm": 2000 + draws}, {"log_square_norm": np.array([2000.0])}, 1e-16)
    assert off.worst > 2.5


def test_equal_members_are_right_or_wrong_by_rounding():
    same = {"norm": np.ones((50, 2))}
    right = agreement(same, {"norm": np.array([1.0, 1.0])}, 1e-16)
    assert right.judged == 0 and right.worst == 0 and "equal and right" in repr(right)
    wrong = agreement(same, {"norm": np.array([1.0, 1.1])}, 1e-16)
    assert wrong.worst == np.inf and not wrong.passed


def test_an_agreement_says_how_far_it_reached():
    assert np.isnan(Agreement({}, 3.0, 10, 0, {}).worst)


def _normal(rng):
    return rng.normal(size=(200, 20)), np.zeros(20)


def _gamma(rng):
    return rng.gamma(0.25, size=(1000, 10)), np.full(10, 0.25)


def _lognormal(rng, sigma=0.4):
    """The mean stays 1, and is soon carried by members that no ensemble has."""
    log = np.cumsum(rng.normal(scale=sigma, size=(1000, 40)) - sigma**2 / 2, axis=1)
    return np.exp(log), np.ones(40)


def _rare_factors(rng):
    """Rarely a factor of 2.5, else 0.8, as of the one sample that an update draws; the mean grows by 0.97."""
    factors = np.where(rng.random((1000, 40)) < 0.1, 2.5, 0.8)
    return np.cumprod(factors, axis=1), 0.97 ** np.arange(1, 41)


@pytest.mark.parametrize("drawn", [_normal, _gamma, _lognormal, _rare_factors])
def test_an_ensemble_of_right_runs_rarely_differs(drawn):
    """At most 2 % of ensembles, however skewed."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        members, truth = drawn(rng)
        found.append(agreement({"x": members}, {"x": truth}, 1e-16))
    said = [one.worst > one.bound for one in found]
    assert sum(said) <= stats.binom.isf(0.005, 400, 0.02)
    assert np.mean([one.judged for one in found]) > {_normal: 19, _gamma: 3, _lognormal: 3, _rare_factors: 1}[drawn]
    assert drawn is not _normal or sum(said) > 0  # the bound is sharp for independent times


@pytest.mark.parametrize(("drawn", "off"), [(_normal, 0.4), (_gamma, 0.1), (_lognormal, 0.2), (_rare_factors, 0.3)])
def test_a_wrong_expectation_is_noticed(drawn, off):
    rng = np.random.default_rng(1)
    noticed = 0
    for _ in range(100):
        members, truth = drawn(rng)
        found = agreement({"x": members}, {"x": truth + off}, 1e-16)
        noticed += found.worst > found.bound
    assert noticed >= 90


@pytest.mark.parametrize("a", [-0.4, 0.01, 0.7])
def test_the_correction_for_skewness_is_a_cube_of_a_line(a):
    """Hall's transformation, written as the cube that makes it monotone."""
    t = np.linspace(-6, 6, 25)
    np.testing.assert_allclose(ensembles._unskewed(t, a), ((1 + a * t / 3) ** 3 - 1) / a + a / 6, rtol=1e-10)
