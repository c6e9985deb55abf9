"""Many runs of one problem that differ in their draws: mean and error, quantiles, and how many carry the mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from unhinged_jax import _check, _html
from unhinged_jax.plots import ABOUT, STATISTIC, dataset_of, listed, members_of

if TYPE_CHECKING:
    import xarray

ENOUGH = 50  # members; a standard error that rests on fewer is not trusted
CHANCE = 0.01  # that an ensemble of a right simulation is said to differ
_ROUNDING = 100  # units in the last place that a run may be off by rounding alone


def ensemble(data: Any, names: str | Sequence[str] | None = None, quantiles: Sequence[float] = (0.1, 0.5, 0.9)) -> Any:
    """Summarise the members of an ensemble: the seeds of a sweep, or what `jax.vmap` maps over.

    Args:
        data: A batch of trajectories, or the dataset of a sweep, as `open_sweep` and `sweep` return it. `seed`,
            `batch_1`, `batch_2`, ... are the dimensions of members; all other dimensions stay.
        names: Observables to summarise; by default all, without the `result`, `elapsed`, `steps` and `reached` of a
            sweep, which are summarised if they are named.
        quantiles: Between 0 and 1.

    Returns:
        An `xarray.Dataset`, which `plot` draws. In place of the dimensions of members it has `statistic`: "mean";
        "error", the standard error of the mean; each quantile by its number, such as "0.1"; "members", how many there
        are at a time, because a run that ended early is left out from then on; and "effective", (sum d^2)^2 / sum d^4
        for the deviations d from the mean: how many members the error rests on. It is a third of the members for normal
        ones, and about 1 if a single one carries the mean, which then says little.

    Raises:
        ValueError: if there are no members, a name is not known, a quantile lies outside 0 to 1, or the members have
            times of their own.

    Source: beyond the paper.

    Example:
        >>> import jax, unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(classes=3, per_class=4), dim=4)
        >>> state, descent = model.init(jax.random.key(0)), uj.Descent(0.1, batch=2)
        >>> keys = jax.random.split(jax.random.key(1), 50)
        >>> runs = jax.vmap(lambda key: uj.simulate(model, descent, state, [0, 9], ["norm"], key=key))(keys)
        >>> summary = uj.ensemble(runs)
        >>> summary.statistic.values.tolist()
        ['mean', 'error', '0.1', '0.5', '0.9', 'members', 'effective']
        >>> bool(summary["norm"].sel(statistic="error")[1] < 0.1)
        True
    """
    import xarray

    given = _check.real("quantiles", quantiles, array=True)
    if given.ndim != 1:
        raise ValueError(f"quantiles must be a list of numbers, but got {_check.given(quantiles)}.")
    levels = [float(level) for level in given]
    if not all(0 <= level <= 1 for level in levels):
        raise ValueError(f"quantiles must lie between 0 and 1, but are {levels}.")
    found: xarray.Dataset = dataset_of(data)
    members = members_of(found)
    if not members:
        raise ValueError("an ensemble needs members: a batch of runs, or a sweep with more than one seed.")
    known = [str(name) for name, array in found.data_vars.items()
             if array.dtype.kind in "fiub" and {*members} <= {*map(str, array.dims)}]  # fmt: skip
    observed = [name for name in known if name not in ABOUT]
    chosen = observed if names is None else listed(names)
    for name in chosen:
        if name not in known:
            raise ValueError(f"{name!r} is no observable of the members; there are {', '.join(known) or 'none'}.")
    summary, labels = {}, ["mean", "error", *(f"{level:g}" for level in levels), "members", "effective"]
    for name in chosen:
        array = found[name].transpose(*members, ...)
        values = np.asarray(array.values, float)
        table = statistics(values.reshape(-1, *values.shape[len(members) :]), levels)
        summary[name] = ((STATISTIC, *array.dims[len(members) :]), table, array.attrs)
    coords = {name: one for name, one in found.coords.items() if not {*members} & {*map(str, one.dims)}}
    return xarray.Dataset(summary, {**coords, STATISTIC: labels}, found.attrs)


def statistics(values: Float[np.ndarray, "M *rest"], levels: Sequence[float] = ()) -> Float[np.ndarray, "S *rest"]:
    """Mean, error, quantiles, members and effective members of each column; NaN is no member.

    Example:
        >>> statistics(np.array([1.0, 2.0, 3.0, np.nan]), [0.5]).round(3).tolist()
        [2.0, 0.577, 2.0, 3.0, 2.0]
    """
    there = np.isfinite(values)
    count = there.sum(axis=0)
    size = np.maximum(np.max(np.where(there, np.abs(values), 0.0), axis=0), np.finfo(float).tiny)
    scaled = np.where(there, values / size, 0.0)  # so that no square leaves the range of numbers
    some = np.maximum(count, 1)
    mean = scaled.sum(axis=0) / some
    squares = np.where(there, (scaled - mean) ** 2, 0.0)
    spread, fourth = squares.sum(axis=0), (squares**2).sum(axis=0)
    error = np.where(count > 1, np.sqrt(spread / some / np.maximum(count - 1, 1)), np.nan)
    # Members that are equal carry the mean evenly.
    effective = np.where(fourth > 0, spread**2 / np.where(fourth > 0, fourth, 1.0), count)
    masked = np.where(there, scaled, np.nan)
    ranks = [_quantile(masked, level, count) * size for level in levels]
    known = np.where(count > 0, mean, np.nan)
    return np.stack([known * size, error * size, *ranks, count.astype(float), effective])


def _quantile(values: np.ndarray, level: float, count: np.ndarray) -> np.ndarray:
    """The quantile of the members that there are; NaN if there are none."""
    return np.where(count > 0, np.nanquantile(np.where(count > 0, values, 0.0), level, axis=0), np.nan)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far the mean of an ensemble is from the expectation, in units of its standard error.

    The mean and the standard error of a skewed distribution are correlated, so Student's t is skewed, too. With g for
    the skewness of M members, d = t + a t^2 / 3 + a^2 t^3 / 27 + a / 6, a = g / sqrt(M), is not, to this order (Hall
    1992). No correction helps where the tail is so heavy that the members hardly show it. Such times are not judged.

    Attributes:
        deviations: Name -> deviation d at each time, (T,), in standard errors; NaN where it is not judged.
        bound: What no deviation exceeds in an ensemble of a right simulation, but with a chance of 1 % for all of them
            together: the quantile of Student's t, by Bonferroni's inequality. Measured for normal, gamma and lognormal
            members and for products of random factors, this chance is at most 2 %.
        members: How many runs there are. About 150 normal ones are needed to judge anything, and more of skewed ones.
        judged: How many deviations are judged. Where all members are equal and right, as at the start, none is.
        doubtful: Name -> the number of times that are not judged, because fewer than 50 members carry the standard
            error ("effective" in `ensemble`), or because some members did not reach them.
        unreached: How many of those, of all observables together, some members did not reach.

    Source: beyond the paper; the correction for skewness is that of Hall 1992, J. R. Stat. Soc. B 54, 221.

    Example:
        >>> found = Agreement({"norm": np.array([0.0, 1.2])}, 3.4, 200, 2, {"norm": 1})
        >>> found.passed, found.worst
        (True, 1.2)
    """

    deviations: dict[str, Float[np.ndarray, "T"]]
    bound: float
    members: int
    judged: int
    doubtful: dict[str, int]
    unreached: int = 0

    @property
    def worst(self) -> float:
        """The largest deviation that is judged, in standard errors; NaN if none is."""
        known = np.concatenate([np.zeros(0), *(one[~np.isnan(one)] for one in self.deviations.values())])
        return float(np.max(np.abs(known))) if known.size else float("nan")

    @property
    def passed(self) -> bool:
        """Whether anything is judged, and no deviation is above the bound."""
        return self.judged > 0 and self.worst <= self.bound

    def __repr__(self) -> str:
        title, notes = self._described()
        rows = [f"  {name:<20} {text}" for name, text in self._rows()]
        return "\n".join([title, *rows, *notes])

    def _repr_html_(self) -> str:
        """What a notebook shows: a row per observable."""
        title, notes = self._described()
        return _html.page(title, ("observable", "largest deviation"), self._rows(), [("note", note) for note in notes])

    def _described(self) -> tuple[str, list[str]]:
        reasons = self._reasons()
        if self.judged:
            said = "agrees with" if self.passed else "differs from"
            title = (
                f"Agreement: the mean of {self.members} runs {said} the expectation; largest deviation "
                f"{self.worst:.2f} standard errors, bound {self.bound:.2f} for {self.judged} of them"
            )
            return title, [f"some times are not judged, because {reason}" for reason in reasons]
        return f"Agreement: {self.members} runs cannot tell", reasons or ["all runs are equal and right"]

    def _reasons(self) -> list[str]:
        """Why some times are not judged."""
        reasons = ["some runs ended before they reached them"] if self.unreached else []
        if sum(self.doubtful.values()) > self.unreached:
            few = f"{self.members} runs are few; give some hundred"
            heavy = (
                f"the distribution is too heavy-tailed to tell from {self.members} runs: fewer than {ENOUGH} of them "
                "carry the mean; give more"
            )
            reasons.append(few if self.members < 3 * ENOUGH else heavy)
        return reasons

    def _rows(self) -> list[tuple[str, str]]:
        rows = []
        for name, values in self.deviations.items():
            known, doubt, text = values[~np.isnan(values)], self.doubtful[name], "not judged"
            if self.judged and known.size:
                rest = f", {doubt} of {len(values)} times not judged" if doubt else ""
                text = f"{np.max(np.abs(known)):.2f} standard errors{rest}"
            rows.append((name, text))
        return rows


def agreement(
    members: dict[str, Float[np.ndarray, "M T"]],
    expected: dict[str, Float[np.ndarray, "T"]],
    unit: float,
) -> Agreement:
    """The deviations of the mean of each observable from its expectation, judged together.

    The logarithm of an expectation is compared with the mean of the exponentials, because that of the logarithms is
    another number.

    Args:
        members, expected: Values by name; NaN for times that a member did not reach.
        unit: The relative rounding error of one operation.
    """
    from scipy import stats

    deviations, doubtful, judged, count, unreached = {}, {}, 0, 0, 0
    for name, values in members.items():
        truth, runs = np.asarray(expected[name], float), np.asarray(values, float)
        count = len(runs)
        off: Any = _ROUNDING * unit
        if name.startswith("log_"):
            known = np.where(np.isfinite(truth), truth, 0.0)
            off = off * np.maximum(1.0, np.abs(known))
            runs, truth = np.exp(np.minimum(runs - known, 700.0)), np.where(np.isfinite(truth), 1.0, 0.0)
        mean, error, there, effective = statistics(runs)
        gap = mean - truth
        size = np.maximum(np.abs(truth), np.nan_to_num(np.max(np.abs(runs), axis=0)))
        same = np.abs(gap) <= off * size
        settled = same & (error <= off * size)
        trusted = (there == count) & (settled | (effective >= ENOUGH) | (error == 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            in_errors = np.where(same, 0.0, np.sign(gap) * (np.abs(gap) - off * size) / error)
            skewness = np.mean(((runs - mean) / error) ** 3, axis=0) / max(count - 1, 1) ** 1.5
        in_errors = np.where(settled | (error == 0), in_errors, _unskewed(in_errors, skewness / max(count, 1) ** 0.5))
        deviations[name] = np.where(trusted, in_errors, np.nan)
        doubtful[name] = int(np.sum(~trusted))
        unreached += int(np.sum(there < count))
        judged += int(np.sum(trusted & ~settled))
    bound = float(stats.t.isf(CHANCE / 2 / max(judged, 1), max(count - 1, 1)))
    return Agreement(deviations, bound, count, judged, doubtful, unreached)


def _unskewed(t: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Hall's transformation of Student's t of members whose skewness over the root of their number is a."""
    return t + a * t**2 / 3 + a**2 * t**3 / 27 + a / 6
