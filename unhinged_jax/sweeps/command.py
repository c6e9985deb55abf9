"""`unhinged sweep` and `unhinged plot`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from unhinged_jax import _interrupt
from unhinged_jax._files import placed
from unhinged_jax.sweeps.engine import StoreFull

if TYPE_CHECKING:
    from unhinged_jax.sweeps.store import Store

INCOMPLETE, BAD_INPUT = 3, 1


def sweep(
    plan: str | None,
    store: Path,
    *,
    status: bool,
    retry_failed: bool,
    export: Path | None,
    workers: int | None,
    scheduler: str | None,
    part: str,
    lanes: int | None,
    force: bool = False,
    extend: bool = False,
) -> int:
    """Run, resume, describe or export a sweep; see `unhinged sweep --help`."""
    from unhinged_jax.sweeps import prepare, run
    from unhinged_jax.sweeps.plan import SweepPlan
    from unhinged_jax.sweeps.status import describe, status_of
    from unhinged_jax.sweeps.store import Store

    if status or export is not None:
        opened = Store(store)
        if plan is not None:
            prepare.refuse_other(opened, SweepPlan.read(plan), change=False)
        if export is not None:
            _export(opened, export, force)
        if status:
            print(describe(opened, status_of(opened, verify=True)))
        return 0
    if plan is None:
        raise ValueError("give a plan: a TOML file, or one of phase, noise, imbalance, schedules.")
    read = SweepPlan.read(plan)
    with placed(store):
        opened = prepare.open_store(read, store, lanes=lanes, extend=extend)
    for name in opened.mended:
        print(f"unhinged: note: {opened.path / name} was missing or altered; it was written again.", file=sys.stderr)
    for change in prepare.changed_versions(opened):
        print(f"unhinged: note: {change} since this store was made; last digits may differ.", file=sys.stderr)

    def kept() -> str:
        there = status_of(opened)
        return f"{there.done:,} of {there.points:,} points are kept in {store}"

    try:
        with _interrupt.left(lambda: f"{kept()}; the same command continues."):
            found = run.run_store(
                opened, workers=workers, scheduler=scheduler, part=_part(part), retry_failed=retry_failed
            )
    except StoreFull as error:
        print(
            f"unhinged: error: {error.strerror}: {kept()}; free some space and run the same command again.",
            file=sys.stderr,
        )
        return BAD_INPUT
    except run.SweepIncomplete as error:
        print(f"unhinged: {error}", file=sys.stderr)
        return INCOMPLETE
    print(describe(opened, found))
    if found.failed:
        print("unhinged: some points failed; see `result` in the store, or --retry-failed.", file=sys.stderr)
    return INCOMPLETE if found.failed else 0


def _export(opened: Store, file: Path, force: bool) -> None:
    from unhinged_jax.sweeps.export import export
    from unhinged_jax.sweeps.status import status_of

    export(opened.path, file, force=force)
    there = status_of(opened)
    share = "" if there.done == there.points else f" ({there.done:,} of {there.points:,} points are done)"
    print(f"wrote {file}{share}")


def plot(
    store: Path,
    *,
    out: Path | None,
    observe: tuple[str, ...],
    x: str | None,
    y: str | None,
    time: float | None,
    force: bool = False,
) -> int:
    """Draw a sweep; see `unhinged plot --help`."""
    from unhinged_jax.sweeps.pictures import draw

    named = Path(os.path.normpath(store.absolute())) if store.name in ("", "..") else store  # "." has no name
    out = out or named.with_name(f"{named.stem}-pictures")
    for path in draw(store, out, observe=observe, x=x, y=y, time=time, force=force):
        print(path)
    return 0


def _part(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit()):
        raise ValueError(f"--part must be I/N, such as 0/8, but is {text!r}.")
    return int(index), int(count)
