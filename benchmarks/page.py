"""The page "How fast, on what, against what", written from a record."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from benchmarks import figures, report, words
from benchmarks.acceptance import Verdict, verdicts, worse_than_peers
from benchmarks.record import Cell, Report, read

_LATENCY = """\
Each first call was made in a process of its own, at $C = 10$, $N = 20$, $p = 64$, with 75 times, in float32,
with the default observables; plain diffrax saves four. Imports are not counted, except for the
README's example, where everything is. With a warm cache, compiled programs are found on disk."""

_HOW = """\
## How it was measured

- All contenders in a table did the same work from the same start, in one process and in alternating
  rounds. The clock stops only when results have arrived (`block_until_ready`). A sample lasts at least
  a tenth of a second. Rounds are repeated until the quartiles of all contenders lie within 5 % of the
  median, or until time is up. Times are medians; the quartiles beside them show the noise, and ratios
  are ratios of medians.
- Load by other processes, and time stolen by a hypervisor, are recorded. Rounds with more than 0.15
  busy foreign cores are dropped. If too few quiet rounds remain, the table says *noisy*.
- *timed*: slow peers are timed on a share of the work, with equally frequent logging, and their time
  is scaled up. Their errors are those on that share, and ours are compared with them on the same
  share.
- *compile*: the time of the first call minus that of a later one; a dash where noise is larger.
  *memory*: the most that a separate process held, including imports (at the paper's size only).
- *bandwidth* and *GEMM*: the bytes and operations that a method cannot avoid, by an explicit model, as
  shares of the peaks above. More than 100 % of the bandwidth of memory means that a cache was used.
- *largest error*: differences from closed forms in extended precision that were written independently
  of the library, over all logged points. They are relative for norm, distance and cross-entropy, and
  absolute for the accuracy. The unhinged loss passes through zero, so its error is relative to the
  largest value it could have at that norm, to which it tends. Cross-entropy has no closed form: its
  descent is compared with NumPy in float64, its flow with a solve at a tolerance of $10^{-10}$.
- Each peer is written as an experienced user of the tool would write it. The PyTorch loop is autograd
  and `torch.optim.SGD`; naive JAX is `jax.grad` of the dense loss in a `lax.scan`; plain diffrax is
  Tsit5 with a PID controller that saves observables; NumPy and C use class sums, and C works in place
  with one pass over each part per step.
- Gradient descent at the paper's size is its Figure 1: rate 0.1, $\\gamma = 1/(C-1)$, standard normal start.
  Other sizes use the rate at which the norm grows by the same factor. Flows have $\\lambda = 0.003$ at the
  paper's size. Float32 solvers have a tolerance of $10^{-5}$, which is what float32 resolves.
"""

_WHY_WORSE = """\
Solvers that are given the same tolerance make different errors; the bounds at equal error, above,
compare them at the same error. In float32, a growth by $e^{16}$ has a rounded exponent, which alone gives
$10^{-6}$. NumPy and C by hand compute their few scalars in float64 on the host, which is not possible in a
program that is traced, mapped over and differentiated with respect to them.
"""


def main(record: Path, out: Path) -> int:
    """Write the page and its figures, and print the bounds.

    Raises:
        ValueError: if the file is no record.
    """
    read_report = read(record)
    folder = out.with_suffix("")
    names = {
        "work": figures.work_precision(read_report, folder / "work-precision.svg"),
        "roofline": figures.roofline(read_report, folder / "roofline.svg"),
        "scaling": figures.scaling(read_report.scaling, folder / "scaling.svg"),
    }
    links = {name: f"{folder.name}/{path.name}" for name, path in names.items() if path is not None}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text(read_report, links), encoding="utf-8")
    console = Console()
    for verdict in verdicts(read_report):
        word = {True: "[green]met    [/]", False: "[red]not met[/]", None: "[dim]–      [/]"}[verdict.met]
        console.print(f"{word} {verdict.what}: {verdict.measured} ({verdict.bound})", highlight=False, soft_wrap=True)
    return 0


def text(record: Report, links: dict[str, str]) -> str:
    """The page: in short, the bounds, and then how it was measured and every table."""
    judged = verdicts(record)
    parts = [
        f"# How fast, on what, against what: {_device(record)}",
        "`python -m benchmarks page` wrote this page from a record of `python -m benchmarks`. "
        "Every number is measured.",
    ]
    short = report.summary_table(record)
    if short:
        parts += ["## In short", short, f"{_kept(judged)} [Which](#the-bounds-that-the-library-sets-itself)."]
    if "work" in links:
        parts += [
            "## Time against error", _picture("Seconds against largest error, by workload", links["work"]),
            "Lower is faster, and further left is more accurate. A line joins the points of one solver over its "
            "tolerances. Variants of a tool, such as `torch.compile` or `vmap`, have its mark; the tables below tell "
            "them apart. Errors of exactly 0 are drawn at $10^{-17}$.",
        ]  # fmt: skip
    parts += ["## The bounds that the library sets itself", report.verdict_table(judged)]
    worse = worse_than_peers(record)
    if worse:
        parts += ["These errors are larger than a peer's:", report.worse_table(worse), _WHY_WORSE]
    parts += [
        "## The machine", report.machine_table(record),
        "These peaks of the machine were measured together with the times:", report.peaks_table(record), _HOW,
    ]  # fmt: skip
    if record.cells:
        parts.append("## All times and errors")
    for cell in _ordered(record):
        parts += [f"### {words.heading(cell)}", cell.title + ".", report.cell_heading(cell) + "."]
        parts += [report.cell_table(cell), report.error_table(cell)]
        if cell.other_tolerances:
            parts.append(report.tolerance_table(cell))
    if record.scaling:
        parts += [
            "## Scaling", _picture("Cost against batch, n, C, p and devices", links["scaling"]),
            "Dotted lines are fitted powers. Where no power describes the costs within a quarter, none is drawn and "
            "no slope is given.", report.scaling_table(record),
        ]  # fmt: skip
    if "roofline" in links:
        parts += [
            "## Roofline",
            _picture("Operations per second against operations per byte", links["roofline"]),
            "Operations and bytes are those of the model. A point above the roof did less work than the model counts. "
            "Either XLA moved a product that does not change out of the loop, as with fixed prototypes on the sphere, "
            "or the products used fewer bits, as in plain JAX on GPUs. XLA's own count of the JAX programs counts each "
            "loop body once:",
            report.xla_table(record, "paper" if any(cell.size == "paper" for cell in record.cells) else "small"),
        ]  # fmt: skip
    if record.startup:
        parts += ["## Start-up", report.startup_table(record)]
    if record.latency:
        parts += ["## First calls", _LATENCY, report.latency_table(record)]
    parts += ["## Left out, and why", report.skipped_list(record)]
    return "\n\n".join(parts) + "\n"


def _picture(words: str, path: str) -> str:
    """A picture that opens at full size."""
    return f"[![{words}]({path})]({path})"


def _kept(judged: list[Verdict]) -> str:
    """How many bounds are met, in words."""
    told = [verdict for verdict in judged if verdict.met is not None]
    met = sum(bool(verdict.met) for verdict in told)
    return f"{met} of the {len(told)} bounds that the library sets itself and this record tells of are met."


def first_calls(record: Report) -> str:
    """The page of a record of first calls alone."""
    judged = [verdict for verdict in verdicts(record) if verdict.met is not None]
    parts = [
        f"# How long the first call takes: {_device(record)}",
        "`python -m benchmarks latency` wrote this page. Every number is measured.",
        "## In short", _LATENCY, report.latency_table(record), _kept(judged),
        "## The bounds that the library sets itself", report.verdict_table(judged),
        "## The machine", report.machine_table(record),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _device(record: Report) -> str:
    """The accelerator, or how many cores of what."""
    machine = record.machine
    if machine.get("backend") == "cpu":
        return f"{machine.get('cores')} cores ({machine.get('cpu')})"
    count = machine.get("devices", 1)
    return f"{machine.get('device')}" + (f", {count}" if count > 1 else "")


def _ordered(record: Report) -> list[Cell]:
    """The paper's size first."""
    return sorted(record.cells, key=lambda cell: cell.size != "paper")
