"""Progress of a sweep on a terminal: points done, rate, time left, failures."""

from __future__ import annotations

import datetime
import sys
import time
from types import TracebackType
from typing import Any

from unhinged_jax.sweeps.status import Status
from unhinged_jax.sweeps.work import BlockOutcome


class Progress:
    """A line on standard error; nothing where that is no terminal."""

    def __init__(self, points: int, wanted: bool = True) -> None:
        self._points, self._failed, self._bar = points, 0, None
        self._done, self._first = 0, (0.0, 0)
        self._display: Any = None
        if wanted and sys.stderr.isatty():
            self._display = _display()

    def __enter__(self) -> Progress:
        if self._display is not None:
            self._display.__enter__()
            self._bar = self._display.add_task("Checking", total=self._points, rate="", failed="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.__exit__(kind, error, trace)

    def start(self, status: Status) -> None:
        """Begin with what is done already."""
        self._failed, self._done = sum(status.failed.values()), status.done
        if self._display is not None:
            self._display.reset(self._bar, completed=status.done, description="Compiling")
            self._show()

    def told(self, outcome: BlockOutcome) -> None:
        """Count a block."""
        self._failed += sum(outcome.failed.values())
        self._done += outcome.points
        if not self._first[0]:
            self._first = time.monotonic(), self._done
        if self._display is not None:
            self._display.update(self._bar, advance=outcome.points, description="Sweeping")
            self._show()

    def refresh(self) -> None:
        """Keep the clock going."""
        if self._display is not None:
            self._display.refresh()

    def rate(self) -> float:
        """Points a second since the first block was there; 0 in the second after it, for blocks come in bunches."""
        begun, before = self._first
        seconds = time.monotonic() - begun
        return (self._done - before) / seconds if begun and seconds >= 1 else 0.0

    def _show(self) -> None:
        rate = self.rate()
        speed = f"{rate:,.0f} points/s, {_clock((self._points - self._done) / rate)} left" if rate else ""
        failed = f"[red]{self._failed:,} failed" if self._failed else ""
        self._display.update(self._bar, rate=speed, failed=failed)


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def _display() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Rich

    return Rich(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[failed]}"),
        console=Console(stderr=True),
    )
