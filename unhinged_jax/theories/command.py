"""`unhinged theories`: run them, print the table, draw the figures, write the page."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

from unhinged_jax._files import make_folder, refuse_there, whole
from unhinged_jax._terminal import ProgressBar
from unhinged_jax.plots import save, style
from unhinged_jax.theories import page
from unhinged_jax.theories.registry import THEORIES, chosen
from unhinged_jax.theories.theory import Check, Finding, Theory


def findings(
    theories: Sequence[Theory], advance: Callable[[Finding], None] = lambda finding: None, workers: int | None = None
) -> list[Finding]:
    """Run theories, one process per core, and return their findings in order.

    It uses processes, because most of the time goes into tracing, which threads cannot share.
    """
    workers = min(workers or len(os.sched_getaffinity(0)), len(theories))
    found: dict[str, Finding] = {}

    def keep(finding: Finding) -> None:
        found[finding.theory] = finding
        advance(finding)

    if workers <= 1:
        for theory in theories:
            keep(_attempt(theory))
    else:
        context = multiprocessing.get_context("spawn")  # a fork of JAX hangs
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for job in as_completed([pool.submit(_attempt_named, theory.name) for theory in theories]):
                keep(job.result())
    return [found[theory.name] for theory in theories]


def _attempt(theory: Theory) -> Finding:
    """Run a theory; an exception counts as a missed check, so that the findings of the others are not lost."""
    try:
        return theory.run()
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        return Finding(theory.name, (Check(f"could not be run: {text}", math.nan, 0.0),), {}, theory.references)


def _attempt_named(name: str) -> Finding:
    return _attempt(THEORIES[name])


def draw(theory: Theory, finding: Finding, folder: Path) -> None:
    """Write the figure of a theory, NAME.png and NAME.svg."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=theory.size, layout="constrained")
        theory.draw(finding.curves, figure)
        save(figure, folder, theory.name)


def main(names: Sequence[str] = (), out: Path = Path("theories.md"), force: bool = False) -> int:
    """Run theories and write the comparison page with its figures; 1 if any check fails.

    Args:
        names: Names of theories; all of them by default.
        out: The page to write. Figures, `checks.json` and the curves of the figures, `curves.npz`, go into the folder
            of the same name without its suffix.
        force: Replace an existing page and its figures.
    """
    from rich.console import Console

    began, out = time.monotonic(), Path(out)
    if out.suffix != ".md":
        raise ValueError(f"the page must be a Markdown file, such as theories.md, but is {out}.")
    theories = chosen(names)
    folder = out.with_suffix("")
    if not force:
        drawn = [folder / f"{theory.name}.{kind}" for theory in theories for kind in ("png", "svg")]
        refuse_there([out, folder / "checks.json", folder / "curves.npz", *drawn])
    make_folder(folder)
    with ProgressBar(len(theories), "running", unit="theories") as bar:
        found = findings(theories, lambda finding: bar.update(advance=1, description=finding.theory))
    for theory, finding in zip(theories, found, strict=True):
        if finding.curves:
            draw(theory, finding, folder)
    page.write(out, theories, found)
    _record(folder / "checks.json", found)
    _keep(folder / "curves.npz", found)
    Console(width=160).print(_table(theories, found))
    passed = sum(finding.passed for finding in found)
    print(f"{passed} of {len(found)} theories passed in {time.monotonic() - began:.0f} s; {out}")
    return int(passed < len(found))


def _record(path: Path, found: Sequence[Finding]) -> None:
    rows = [
        {
            "theory": finding.theory,
            "passed": finding.passed,
            "seconds": round(finding.seconds, 1) if math.isfinite(finding.seconds) else None,
            "checks": [
                {
                    "what": c.what,
                    "value": c.value if math.isfinite(c.value) else None,
                    "bound": c.bound,
                    "at_least": c.at_least,
                }
                for c in finding.checks
            ],
        }
        for finding in found
    ]
    with whole(path) as part:
        part.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _keep(path: Path, found: Sequence[Finding]) -> None:
    """Write the curves of the figures, THEORY/NAME -> array, so that they can be drawn again."""
    arrays: dict[str, Any] = {}
    for finding in found:
        for name, values in finding.curves.items():
            small = values.astype(np.float32) if values.dtype.kind == "f" else values
            arrays[f"{finding.theory}/{name}"] = small
    with whole(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def kept(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """The curves in a `curves.npz`, by theory and name."""
    found: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path) as file:
        for name, values in file.items():
            theory, _, curve = name.partition("/")
            found.setdefault(theory, {})[curve] = values
    return found


def _table(theories: Sequence[Theory], found: Sequence[Finding]) -> Any:
    from rich.table import Table

    table = Table("theory", "loss", "case", "check", "measured", "s", "", title="Theories, run and checked")
    for theory, finding in zip(theories, found, strict=True):
        for number, check in enumerate(finding.checks):
            head = (theory.name, theory.loss, theory.case) if number == 0 else ("", "", "")
            seconds = f"{finding.seconds:.0f}" if number == 0 else ""
            mark = "[green]kept[/]" if check.passed else "[red]missed[/]"
            last = number == len(finding.checks) - 1
            table.add_row(*head, check.what, check.measured, seconds, mark, end_section=last)
    return table
