"""Signs of life on the terminal. Imports nothing slow before it is needed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self


@contextmanager
def spinner(what: str) -> Iterator[None]:
    """A spinner with the elapsed time, on a terminal only."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn(what), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(what, total=None)
        yield


class ProgressBar:
    """A line on standard error that counts up to a total; nothing where that is no terminal.

    Args:
        total: How much there is to do.
        description: What is being done, at first.
        notes: Names of texts that are shown behind the count; `update` sets them.
        clock: Whether the elapsed time is shown.
        remaining: Whether the remaining time is estimated.
        transient: Whether the line disappears in the end.
        wanted: False shows nothing.
    """

    def __init__(
        self,
        total: int,
        description: str = "",
        *,
        notes: tuple[str, ...] = (),
        clock: bool = True,
        remaining: bool = False,
        transient: bool = False,
        wanted: bool = True,
    ) -> None:
        self._display: Any = None
        if not (wanted and sys.stderr.isatty()):
            return
        from rich import progress
        from rich.console import Console

        columns = [progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn()]
        columns += [progress.TextColumn(f"{{task.fields[{note}]}}") for note in notes]
        columns += [progress.TimeElapsedColumn()] * clock + [progress.TimeRemainingColumn()] * remaining
        self._display = progress.Progress(*columns, console=Console(stderr=True), transient=transient)
        self._task = self._display.add_task(description, total=total, **dict.fromkeys(notes, ""))

    def __enter__(self) -> Self:
        if self._display is not None:
            self._display.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.__exit__(kind, error, trace)

    def update(self, **changes: Any) -> None:
        """Set `completed`, `description` or a note, or `advance` by a number."""
        if self._display is not None:
            self._display.update(self._task, **changes)

    def reset(self, **changes: Any) -> None:
        """Start the clock again, and `update`."""
        if self._display is not None:
            self._display.reset(self._task, **changes)

    def refresh(self) -> None:
        """Update the clock."""
        if self._display is not None:
            self._display.refresh()
