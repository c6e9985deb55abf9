"""Numbers and names as they stand in pages and pictures."""

from __future__ import annotations

import math

from benchmarks.record import Cell, Result, Series

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

WORKLOADS = {
    "descent": "Gradient descent",
    "spherical": "Spherical features",
    "ce": "Cross-entropy descent",
    "flow": "Gradient flow",
    "ce_flow": "Cross-entropy flow",
    "sweep": "A sweep",
    "exact": "Closed form",
    "gradient": "A derivative of a run",
    "training": "Training a network",
}
_SIZES = {"paper": "the paper's size", "small": "small", "large": "large"}


def workload(name: str) -> str:
    """A workload in words."""
    return WORKLOADS.get(name, name)


def heading(cell: Cell) -> str:
    """A cell in words, such as `Gradient descent, the paper's size, float64`."""
    return f"{workload(cell.workload)}, {_SIZES.get(cell.size, cell.size)}, {cell.precision}"


def seconds(value: float) -> str:
    """A time with three digits and a unit."""
    if value >= 100:
        return f"{value:,.0f} s"
    scale, unit = next(((s, u) for s, u in _UNITS if value >= s), _UNITS[-1])
    return f"{value / scale:.3g} {unit}"


def compiling(result: Result) -> str:
    """The time of compiling; a dash where it is not above the noise of the calls it is a difference of."""
    noise = max(1e-3, 2 * (result.upper - result.lower) * result.share)
    return seconds(result.compile) if result.compile > noise else "–"


def difference(value: float) -> str:
    """A difference of times in seconds, which noise can make negative."""
    return f"{value:.2f} s" if value >= 0.005 else "none beyond the noise"


def times(value: float) -> str:
    """A factor with three digits, such as `3,110×`.

    Example:
        >>> times(3107.2), times(0.98), times(301234.0)
        ('3,110×', '0.980×', '301,000×')
    """
    if not math.isfinite(value) or value <= 0:
        return "–"
    digits = max(0, 2 - math.floor(math.log10(value)))
    rounded = round(value, 2 - math.floor(math.log10(value)))
    return f"{rounded:,.{digits}f}×"


def error(value: float) -> str:
    """An error with two digits, such as `2.3 × 10⁻⁴`.

    Example:
        >>> error(2.3e-4), error(0.0), error(0.8)
        ('2.3 × 10⁻⁴', '0', '0.8')
    """
    if not math.isfinite(value):
        return "not finite"
    if value == 0 or 0.01 <= value < 100:
        return f"{value:.2g}"
    digits, power = f"{value:.1e}".split("e")
    return f"{digits} × 10{str(int(power)).translate(_RAISED)}"


def engineering(value: float, unit: str) -> str:
    """A quantity with three digits and a prefix."""
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}" if value >= 1e-3 else f"{error(value)} {unit}"


def share(value: float | None) -> str:
    """A share in percent."""
    if value is None:
        return ""
    return f"{value:.0%}" if value >= 0.01 else "<1%"


def slope(series: Series) -> str:
    """The log-log slope, where a power describes the costs: no cost is further from it than a quarter.

    Otherwise a slope would say what no part of the curve does, such as 0 for a curve that falls and rises again.
    """
    if series.slope is None or not is_power(series):
        return "no power"
    return f"{series.slope:.2f}".replace("-", "−")


def is_power(series: Series) -> bool:
    """Whether costs are a power of the values, within a quarter."""
    return series.slope is not None and len(series.values) > 2 and all(
        abs(math.log(cost / fitted)) < math.log(1.25) for cost, fitted in zip(series.costs, power(series), strict=True)
    )  # fmt: skip


def power(series: Series) -> list[float]:
    """The fitted power at the values of a series."""
    assert series.slope is not None
    logs = [math.log(cost) - series.slope * math.log(value)
            for cost, value in zip(series.costs, series.values, strict=True)]  # fmt: skip
    level = math.exp(sum(logs) / len(logs))
    return [level * value**series.slope for value in series.values]
