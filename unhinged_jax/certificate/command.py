"""`unhinged verify`: every case of the certificate, in parallel, as a table and a file."""

from __future__ import annotations

import dataclasses
import json as _json
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from unhinged_jax._files import refuse_there, whole
from unhinged_jax._terminal import ProgressBar
from unhinged_jax.certificate.cases import UPDATES, Row, cases, problems, run_case


def certificate(advance: Callable[[Row], None] = lambda row: None, workers: int | None = None) -> list[Row]:
    """Run all cases in parallel, one process per core; rows are returned in the order of the problems.

    It uses processes, because most of the time goes into tracing, which threads cannot share.
    """
    found = []
    context = multiprocessing.get_context("spawn")  # a fork of JAX hangs
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=context) as pool:
        for job in as_completed([pool.submit(_run_numbered, number) for number in range(len(cases()))]):
            found.append(job.result())
            advance(found[-1])
    names = list(problems())
    return sorted(found, key=lambda row: (names.index(row.name), row.precision != "float64", row.dynamics))


def _run_numbered(number: int) -> Row:
    return run_case(cases()[number])


def main(json: Path | None = None, force: bool = False) -> int:
    """Print the certificate, and write it to a JSON file if requested; 1 if any bound is missed."""
    from rich.console import Console

    began = time.monotonic()
    if json is not None and not force:
        refuse_there([json])
    with ProgressBar(len(cases()), "compiling", unit="cases") as bar:
        rows = certificate(lambda row: bar.update(advance=1, description=f"{row.name}, {row.dynamics}"))
    seconds = time.monotonic() - began
    Console(width=150).print(_table(rows))
    failed = [row for row in rows if not row.passed]
    print(f"{len(rows) - len(failed)} of {len(rows)} passed in {seconds:.0f} s")
    if json is not None:
        record = {
            "passed": not failed,
            "seconds": round(seconds, 1),
            "updates": UPDATES,
            "rows": [{**dataclasses.asdict(row), "passed": row.passed} for row in rows],
        }
        text = _json.dumps(_plain(record), indent=1)
        with whole(json, force=force) as part:
            part.write_text(text + "\n", encoding="utf-8")
    return 1 if failed else 0


def _plain(value: object) -> Any:
    """Without NaN and infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(rows: Sequence[Row]) -> Any:
    from rich.table import Table

    table = Table(
        "case", "dynamics", "precision", "error H", "error W", "error b", "dense", "bound", "rate, fitted", "predicted",
        "order in η", "deviation", "", title=f"Simulated against exact, {UPDATES:,} updates",
    )  # fmt: skip
    for row in rows:
        known, drawn = not math.isnan(row.predicted), not math.isnan(row.deviation_bound)
        errors = (row.error_H, row.error_W, row.error_b)
        table.add_row(
            row.name, row.dynamics, row.precision, *(["–"] * 3 if drawn else [f"{error:.1e}" for error in errors]),
            f"{row.error_dense:.1e}" if row.precision == "float64" and not drawn else "–",
            "–" if drawn else f"{row.bound:.0e}",
            f"{row.rate:.6f}" if known else "–", f"{row.predicted:.6f}" if known else "–",
            "–" if math.isnan(row.order) else f"{row.order:.3f}",
            f"{row.deviation:.1f}, bound {row.deviation_bound:.1f}" if drawn else "–",
            "[green]pass" if row.passed else "[red]FAIL",
        )  # fmt: skip
    return table
