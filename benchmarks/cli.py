"""The command line of the benchmarks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

SLOWER, BAD_INPUT = 1, 2

app = App(
    name="python -m benchmarks",
    help="How fast the library is, on what, against what.",
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
)


@app.default
def run(
    *,
    quick: bool = False,
    workload: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    size: Annotated[tuple[Literal["small", "paper", "large"], ...], Parameter(consume_multiple=True)] = (),
    precision: Annotated[tuple[Literal["float32", "float64"], ...], Parameter(consume_multiple=True)] = (),
    seconds: float | None = None,
    out: Path = Path("benchmarks/results"),
    trace: Path | None = None,
    full: bool = False,
    no_wait: bool = False,
    no_memory: bool = False,
    no_scaling: bool = False,
) -> int:
    """Measure, and write results.json, results.md and figures.

    Parameters
    ----------
    quick
        Every workload at its small size only, few rounds: under 90 seconds on two cores.
    workload
        Names of workloads; all of them if none is given.
    size
        Sizes; all that a workload has if none is given.
    precision
        Precisions; all that the device has if none is given.
    seconds
        Seconds after which a cell begins no new round, once three are kept; 8 for small problems and 25 for others.
    out
        Folder for the results.
    trace
        Folder for a profiler's trace of the first workload, instead of measuring.
    full
        Time the whole work of slow peers instead of a share of it.
    no_wait
        Do not wait for other processes to become quiet; noisy rounds are still dropped.
    no_memory
        Leave out peak memory, which takes a process for every contender.
    no_scaling
        Leave out scaling and start-up times.
    """
    from benchmarks import session

    if trace is not None:
        return session.trace(workload, trace, quick)
    return session.measure(
        session.Options(
            quick=quick, workloads=workload, sizes=size, precisions=precision, seconds=seconds, full=full,
            wait=not no_wait, memory=not (no_memory or quick), scaling=not no_scaling,
        ),
        out,
    )  # fmt: skip


@app.command
def compare(before: Path, after: Path, /, *, threshold: float = 1.1, against: str | None = None) -> int:
    """Compare two records. Exit status 1 if anything of ours became slower than the threshold, beyond its noise.

    Parameters
    ----------
    before, after
        Two results.json.
    threshold
        Largest ratio of times, after over before, that passes.
    against
        Name of a contender, such as PyTorch: compare times relative to its times, which takes out the machine.
    """
    from benchmarks import compare as module

    return module.main(before, after, threshold, against)


@app.command
def scaling(*, out: Path = Path("benchmarks/results"), quick: bool = False) -> int:
    """Cost against batch, n, C, p and devices; writes scaling.json and scaling.svg.

    Parameters
    ----------
    out
        Folder for the results.
    quick
        Two points an axis.
    """
    from benchmarks import session

    return session.scaling(out, quick)


@app.command
def latency(*, out: Path = Path("benchmarks/results"), rounds: int = 3, page: Path | None = None) -> int:
    """Processor time of first calls, with a cold and a warm cache, beside plain diffrax; writes latency.json.

    Parameters
    ----------
    out
        Folder for the results.
    rounds
        Processes for each first call; medians are shown.
    page
        A page to write as well, in Markdown.
    """
    from benchmarks import session

    return session.first_calls(out, rounds, page)


@app.command
def page(record: Path = Path("benchmarks/results/results.json"), /, *, out: Path = Path("docs/benchmarks.md")) -> int:
    """Write the page "How fast, on what, against what" from a record; prints which bounds are met.

    Parameters
    ----------
    record
        A results.json.
    out
        The page; its figures go into a folder of the same name beside it.
    """
    from benchmarks import page as module

    return module.main(record, out)


@app.command
def merge(*records: Path, out: Path) -> int:
    """Write several records of one machine, of different workloads, as one; for machines that are lent by the minute.

    Parameters
    ----------
    records
        Two results.json or more, of one commit.
    out
        The file to write.
    """
    from benchmarks import record

    if len(records) < 2:
        raise ValueError(f"merge needs two records or more, but got {len(records)}.")
    record.write(record.merged([record.read(path) for path in records]), out)
    return 0


@app.command(show=False)
def probe(workload: str, size: str, precision: str, contender: str) -> int:
    """Run one contender in this process and print its memory as JSON; used by the measurement of memory."""
    from benchmarks import memory

    return memory.probe(workload, size, precision, contender)


@app.command(show=False)
def first_call(name: str, /) -> int:
    """Make a first call in this process and print its times as JSON; used by the measurement of first calls."""
    from benchmarks import latency as module

    return module.probe(name)


@app.command(show=False)
def devices(count: int, /) -> int:
    """Run a batch over some devices and print its times as JSON; used by the measurement of scaling."""
    from benchmarks import scaling as module

    return module.devices_probe(count)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; bad input is one line on standard error and status 2."""
    try:
        status = app(
            None if argv is None else list(argv), exit_on_error=False, print_error=False, result_action="return_value"
        )
    except (CycloptsError, ValueError, OSError) as error:
        print("benchmarks: error:", " ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
        return BAD_INPUT
    return status if isinstance(status, int) else 0
