"""Signs of life on the terminal. Imports nothing slow before it is needed.

While JAX traces and compiles, which takes seconds, every display says so. JAX reports when it begins and ends to trace,
lower and compile. A program that is compiled already reports nothing and costs nothing here.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Any, Self

_STAGES = "/jax/core/compile/"  # the names of its reports begin with this
_PATIENCE = 0.7  # seconds without a word
QUIET = "UNHINGED_QUIET"
SAID_EVERY = 30.0  # seconds between two lines where no line can be rewritten


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
    """A spinner with the elapsed time on a terminal; elsewhere a line every half minute."""
    if not sys.stderr.isatty():
        begin = time.monotonic()
        with _said(lambda: f"{what}: {_clock(time.monotonic() - begin)}"):
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
    """How much is done, how fast, and how long the rest takes, on standard error.

    A terminal and a notebook show one line, which is rewritten; elsewhere there is a line every half minute, or none
    if `UNHINGED_QUIET` is set.

    Args:
        total: How much there is to do.
        description: What is being done, at first.
        unit: What is counted, in the plural.
        notes: Names of texts that are shown behind the count; `update` sets them.
        transient: Whether the line of a terminal disappears in the end.
        wanted: False shows nothing.
    """

    def __init__(
        self,
        total: int,
        description: str = "",
        *,
        unit: str,
        notes: tuple[str, ...] = (),
        transient: bool = False,
        wanted: bool = True,
    ) -> None:
        self._total, self._unit, self._description = total, unit, description
        self._done, self._notes = 0.0, dict.fromkeys(notes, "")
        self._first: tuple[float, float] | None = None
        self._latest = (0.0, 0.0)
        self._wanted = wanted
        self._display: Any = self._rich(description, transient) if wanted and sys.stderr.isatty() else None
        self._shown: Any = self._display or (_said(self.line) if wanted else nullcontext())

    def _rich(self, description: str, transient: bool) -> Any:
        from rich import progress
        from rich.console import Console
        from rich.text import Text

        bar = self

        class Counted(progress.ProgressColumn):
            def render(self, task: progress.Task) -> Text:
                return Text(bar.counted())

        columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), Counted())
        display = progress.Progress(*columns, console=Console(stderr=True), transient=transient)
        self._task = display.add_task(description, total=self._total)
        return display

    def __enter__(self) -> Self:
        _compiler.displays += self._wanted
        self._shown.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _compiler.displays -= self._wanted
        self._shown.__exit__(kind, error, trace)

    def update(
        self, completed: float | None = None, *, advance: float = 0, description: str | None = None, **notes: str
    ) -> None:
        """Set what is completed, or `advance` it by a number; set the description or a note."""
        self._notes.update(notes)
        self._description = self._description if description is None else description
        if completed is not None or advance:
            self._done = self._done + advance if completed is None else completed
            self._latest = time.monotonic(), self._done
            self._first = self._first or self._latest
        if self._display is not None:
            self._display.update(self._task, completed=self._done, description=self._description)

    def begin_at(self, done: int, description: str) -> None:
        """Begin with what an earlier run has done, which says nothing about the speed."""
        self._first = None
        self.update(done, description=description)
        self._first = None

    def rate(self) -> float:
        """What is done per second since the first was; 0 in the second after it, because many come in bunches."""
        begun, before = self._first or self._latest
        now, done = self._latest
        return (done - before) / (now - begun) if now - begun >= 1 else 0.0

    def counted(self) -> str:
        """The share that is done, the count, the speed, the time left, and the notes."""
        words = [f"{self._done / max(self._total, 1):.0%}", f"{int(self._done):,} of {self._total:,} {self._unit}"]
        if rate := self.rate():
            since = time.monotonic() - self._latest[0]
            left = max(0.0, (self._total - self._done) / rate - since)
            speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
            words += [f"{speed} {self._unit}/s", f"{_clock(left)} left"]
        return ", ".join([*words, *filter(None, self._notes.values())])

    def line(self) -> str:
        """All of it in a line."""
        return ": ".join(filter(None, [self._description, self.counted()]))


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


@contextmanager
def _said(line: Callable[[], str]) -> Iterator[None]:
    """Inside, a line is said on standard error: every second again in a notebook, elsewhere one every half minute."""
    if sys.stderr is None or os.environ.get(QUIET):
        yield
        return
    notebook, over = "ipykernel" in sys.modules, threading.Event()

    def speak() -> None:
        before = ""
        with contextlib.suppress(OSError, ValueError):  # nobody listens any more
            while not over.wait(1.0 if notebook else SAID_EVERY):
                text = line()
                shown, end = (f"\r{text.ljust(len(before))}", "") if notebook else (f"unhinged: {text}", "\n")
                print(shown, end=end, file=sys.stderr, flush=True)
                before = text
            if before and notebook:
                print("\r" + " " * len(before), end="\r", file=sys.stderr, flush=True)

    voice = threading.Thread(target=speak, daemon=True)
    voice.start()
    try:
        yield
    finally:
        over.set()
        voice.join()
