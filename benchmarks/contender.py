"""Who takes part in a workload, and what a workload is."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.case import Case
from benchmarks.costs import Cost

Run = Callable[[], Mapping[str, Any]]
"""One timed call. Returns curves by name, and "evaluations" of the vector field where a solver counts them."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to do a workload.

    Attributes:
        name: As it appears in every table.
        build: Case -> `Run`; what is done here is set-up and not timed.
        cost: (case, evaluations) -> flops and bytes that this way of computing cannot avoid.
        ours: Whether it is this library.
        share: Share of the work that is timed, by size; the time is scaled up, and the record says so.
        fewer_runs: The share is one of runs of a sweep, not of updates.
        needs: Packages it needs beyond those of the library.
        lowered: Case -> a lowered JAX program, for XLA's own cost analysis.
        patient: Whether it compiles for long, and is left out of a quick run.
        refuses: Case -> why this contender cannot take part in it, or None.
    """

    name: str
    build: Callable[[Case], Run]
    cost: Callable[[Case, int], Cost]
    ours: bool = False
    share: Mapping[str, float] = dataclasses.field(default_factory=dict)
    fewer_runs: bool = False
    needs: tuple[str, ...] = ()
    lowered: Callable[[Case], Any] | None = None
    patient: bool = False
    refuses: Callable[[Case], str | None] = lambda case: None

    def absent(self) -> str | None:
        """What is missing here, or None."""
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"{' and '.join(missing)} not installed" if missing else None

    def part(self, case: Case) -> tuple[Case, float]:
        """The case that is timed, and the factor from its time to that of the whole."""
        share = self.share.get(case.size, 1.0)
        if share >= 1:
            return case, 1.0
        if self.fewer_runs:
            seeds = max(1, round(case.seeds * share))
            return case.replace(seeds=seeds), case.seeds / seeds
        part = case.share(share)
        return part, case.steps / part.steps


@dataclasses.dataclass(frozen=True)
class Workload:
    """A piece of work that several contenders do.

    Attributes:
        name: On the command line.
        title: One line on what is computed.
        unit: What is counted a second: "steps", "runs" or "solutions".
        case: (size, precision) -> `Case`.
        sizes: Names of its sizes, from small to large.
        reference: Case -> curves to measure errors against, in float64 or better.
        contenders: In the order of the tables.
        precisions: Precisions in which it has a meaning; the large size is measured in the last one only.
        tolerances: rtol by precision at which solvers are timed once more, for the work-precision diagram.
        skips: Reasons for what is left out, by what is left out.
    """

    name: str
    title: str
    unit: str
    case: Callable[[str, str], Case]
    sizes: tuple[str, ...]
    reference: Callable[[Case], Mapping[str, Any]]
    contenders: tuple[Contender, ...]
    precisions: tuple[str, ...] = ("float64", "float32")
    tolerances: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    skips: Mapping[str, str] = dataclasses.field(default_factory=dict)
