"""Progress of training on a terminal: epochs done, time left, accuracy."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

import numpy as np


class Progress:
    """A line on standard error; nothing where that is no terminal."""

    def __init__(self, epochs: int) -> None:
        self._epochs, self._done, self._within = epochs, 0, 0
        self._display: Any = _display() if sys.stderr.isatty() else None
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self._display is not None:
            self._display.__enter__()
            self._bar = self._display.add_task("", total=self._epochs, accuracy="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.__exit__(kind, error, trace)

    def start(self, label: str, epochs: int, done: int = 0) -> None:
        """Begin a case of so many epochs."""
        self._done += self._within
        self._within = epochs
        if self._display is not None:
            self._display.update(self._bar, description=label, completed=self._done + done)

    def told(self, epoch: int, facts: dict[str, np.ndarray]) -> None:
        """Count an epoch."""
        if self._display is not None:
            seen = facts.get("test_accuracy")
            text = "" if seen is None else f"accuracy {np.mean(seen):.3f}"
            self._display.update(self._bar, completed=self._done + min(epoch + 1, self._within), accuracy=text)


def _display() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Rich

    return Rich(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"),
        TextColumn("{task.fields[accuracy]}"), TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True),
    )  # fmt: skip
