"""Two records side by side: ratios of medians, with the noise of both."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.record import Cell, Report, Result, read
from benchmarks.timing import Quartiles, Ratio, ratio

SAME, SLOWER = 0, 1


@dataclasses.dataclass(frozen=True)
class Change:
    """One contender in one cell, after over before; above 1 is slower."""

    cell: str
    contender: str
    ours: bool
    ratio: Ratio

    def slower(self, threshold: float) -> bool:
        """Whether it is slower than allowed, and by more than the noise of both records."""
        return self.ratio.value > threshold and self.ratio.lower > 1


def time_of(result: Result) -> Quartiles:
    """A result's median and quartiles."""
    return Quartiles(result.seconds, result.lower, result.upper)


def changes(before: Report, after: Report, against: str | None = None) -> list[Change]:
    """Everything that both records hold.

    Args:
        before, after: Records.
        against: A contender whose time in the same cell every time is divided by.
    """
    found = []
    for cell in after.cells:
        old = before.find(cell.workload, cell.size, cell.precision)
        if old is None or old.shape != cell.shape:
            continue
        for result in cell.results:
            earlier = old.find(result.contender)
            times = None if earlier is None else (_relative(cell, result, against), _relative(old, earlier, against))
            if times is None or None in times or result.contender == against:
                continue
            label = f"{cell.workload}, {cell.size}, {cell.precision}"
            found.append(Change(label, result.contender, result.ours, ratio(*times)))  # type: ignore[arg-type]
    return found


def _relative(cell: Cell, result: Result, against: str | None) -> Quartiles | None:
    if against is None:
        return time_of(result)
    other = cell.find(against)
    if other is None:
        return None
    relative = ratio(time_of(result), time_of(other))
    return Quartiles(relative.value, relative.lower, relative.upper)


def differences(before: Report, after: Report) -> list[str]:
    """What makes two records hard to compare."""
    found = []
    for name in ("device", "cpu", "cores", "backend"):
        old, new = before.machine.get(name), after.machine.get(name)
        if old != new:
            found.append(f"{name}: {old} before, {new} after")
    old, new = before.machine.get("versions", {}), after.machine.get("versions", {})
    found += [
        f"{name}: {old.get(name)} before, {new.get(name)} after"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name) and name != "unhinged-jax"
    ]
    noisy = sum(cell.quiet is False for report in (before, after) for cell in report.cells)
    if noisy:
        found.append(f"{noisy} cells were measured while other processes were busy")
    return found


def main(before: Path, after: Path, threshold: float, against: str | None) -> int:
    """Print the comparison; 1 if anything of ours is slower than the threshold.

    Raises:
        ValueError: for files that are no records, that share nothing, or a threshold below 1.
    """
    if not threshold >= 1:
        raise ValueError(f"the threshold is a ratio of times, at least 1, but is {threshold}.")
    reports = read(before), read(after)
    found = changes(*reports, against)
    if not found:
        raise ValueError("the two records have nothing in common to compare.")
    table = Table("cell", "contender", "after / before", "noise", "", title="Times", title_justify="left")
    for change in found:
        band = f"{change.ratio.lower:.2f} to {change.ratio.upper:.2f}"
        verdict = ""
        if change.slower(threshold):
            verdict = "[red]slower[/]" if change.ours else "slower"
        elif change.ratio.value < 1 / threshold and change.ratio.upper < 1:
            verdict = "[green]faster[/]" if change.ours else "faster"
        table.add_row(change.cell, change.contender, f"{change.ratio.value:.3f}", band, verdict)
    console = Console()
    console.print(table)
    for difference in differences(*reports):
        console.print(f"[yellow]not alike[/] {difference}", highlight=False)
    worse = [change for change in found if change.ours and change.slower(threshold)]
    console.print(f"{len(worse)} of {sum(change.ours for change in found)} times of ours are beyond {threshold:g}.")
    return SLOWER if worse else SAME
