"""Signs of life on the terminal. Imports nothing slow before it is needed.

While JAX traces and compiles, which takes seconds, every display says so. JAX reports when it begins and ends to trace,
lower and compile. A program that is compiled already reports nothing and costs nothing here.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

_STAGES = "/jax/core/compile/"  # the names of its reports begin with this
_PATIENCE = 0.7  # seconds without a word
QUIET = "UNHINGED_QUIET"


class _Compiler:
    """What JAX's compiler is doing, counted from its reports.

    Attributes:
        stages: Those that have begun and not ended.
        waiting: Calls inside `compiling_told`.
        displays: Spinners and progress bars that are shown.
    """

    def __init__(self) -> None:
        self.stages = self.waiting = self.displays = 0
        self._heard = False
        self._voice: threading.Thread | None = None
        self._over = threading.Event()

    def listen(self) -> None:
        """Begin to count, if JAX has been imported."""
        monitoring = getattr(sys.modules.get("jax"), "monitoring", None)
        if monitoring is not None and not self._heard:
            self._heard = True
            monitoring.register_scalar_listener(self._begun)
            monitoring.register_event_duration_secs_listener(self._ended)

    def hush(self) -> None:
        """Remove the line about compiling, if there is one."""
        if self._voice is not None:
            self._over.set()
            self._voice.join()
            self._voice = None

    def _begun(self, event: str, value: float, **said: str | int) -> None:
        if event.startswith(_STAGES):
            self.stages += 1
            if self.waiting and not self.displays and self._voice is None:
                self._over.clear()
                self._voice = threading.Thread(target=self._speak, daemon=True)
                self._voice.start()

    def _ended(self, event: str, seconds: float, **said: str | int) -> None:
        if event.startswith(_STAGES):
            self.stages = max(0, self.stages - 1)

    def _speak(self) -> None:
        begin, text = time.monotonic(), ""
        pause = _PATIENCE
        while not self._over.wait(pause):
            text = f"{'compiling' if self.stages else 'running'}: {time.monotonic() - begin:.0f} s "
            print(f"\r{text}", end="", file=sys.stderr, flush=True)
            pause = 0.5
        if text:
            print("\r" + " " * len(text), end="\r", file=sys.stderr, flush=True)


_compiler = _Compiler()


@contextmanager
def compiling_told() -> Iterator[None]:
    """Inside, compiling is said on standard error if that is a terminal or a cell of a notebook.

    A spinner or a progress bar that is shown already says it instead. `UNHINGED_QUIET=1` says nothing.
    """
    looked_at = sys.stderr is not None and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    if not looked_at or os.environ.get(QUIET) or threading.current_thread() is not threading.main_thread():
        yield
        return
    _compiler.listen()
    _compiler.waiting += 1
    try:
        yield
    finally:
        _compiler.waiting -= 1
        if not _compiler.waiting:
            _compiler.hush()


@contextmanager
def spinner(what: str) -> Iterator[None]:
    """A spinner with the elapsed time, on a terminal only."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TimeElapsedColumn
    from rich.text import Text

    class Doing(ProgressColumn):
        def render(self, task: Task) -> Text:
            _compiler.listen()
            return Text(f"{what}: compiling" if _compiler.stages else what)

    columns = (SpinnerColumn(), Doing(), TimeElapsedColumn())
    _compiler.displays += 1
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            progress.add_task(what, total=None)
            yield
    finally:
        _compiler.displays -= 1


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
            _compiler.displays += 1
            self._display.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            _compiler.displays -= 1
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
