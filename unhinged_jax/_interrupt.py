"""The one place where a command is interrupted: by Ctrl-C (SIGINT), SIGTERM or SIGHUP.

The first signal is acknowledged at once and ends the command with `KeyboardInterrupt`, after everything `held` is
finished. A second signal ends the process immediately, and so does a timer if what is in hand is not finished within
`PATIENCE`, because XLA runs a program to its end before Python sees a signal. A thread watches for both.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

PATIENCE, NOTHING_IN_HAND = 10.0, 2.0
"""Seconds within which an interrupted command finishes what is in hand, with and without something `left`."""
_TWICE = 0.5  # seconds within which a second signal counts as the first one, forwarded by a parent program
_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
UNCHANGED = "earlier results are unchanged."
"""What is left of an interrupted command if nobody says otherwise."""


class Interrupted(KeyboardInterrupt):
    """A command was interrupted; the message says what is kept."""


class _Now:
    """How the process handles signals."""

    def __init__(self) -> None:
        self.number, self.held, self.raised, self.told, self.worker = 0, 0, False, False, False
        self.since = 0.0  # when the patience began
        self.tells: list[Callable[[], str]] = []

    def act(self) -> None:
        """Raise once, unless something is held; a worker simply ends."""
        if self.number and not self.held and not self.raised:
            self.raised = True
            if self.worker:
                os._exit(0)
            raise Interrupted


_now = _Now()


@contextmanager
def heeded() -> Iterator[None]:
    """Signals interrupt the code inside. A signal that the process was told to ignore (`nohup`) stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    begin, end = os.pipe()
    os.set_blocking(end, False)
    wakeup = signal.set_wakeup_fd(end, warn_on_full_buffer=False)
    before = {n: signal.signal(n, _heard) for n in _NAMES if signal.getsignal(n) is not signal.SIG_IGN}
    watcher = threading.Thread(target=_watch, args=(begin,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.write(end, b"\0")
        watcher.join()
        os.close(begin)
        os.close(end)
        _now.__init__()  # type: ignore[misc]


@contextmanager
def held() -> Iterator[None]:
    """The code inside is finished before an interruption is raised, in the thread that receives signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _now.held += 1
    try:
        yield
    finally:
        _now.held -= 1
    _now.act()


def check() -> None:
    """Raise Interrupted inside `held` if a signal has arrived."""
    if _now.number and threading.current_thread() is threading.main_thread():
        _now.raised = True
        raise Interrupted


@contextmanager
def noted() -> Iterator[Callable[[], bool]]:
    """A signal does not interrupt the code inside, which asks the function whether one has arrived.

    A command finishes what follows from it, which is `held`, and is interrupted then. In a program of somebody else,
    only Ctrl-C is noted, and only if it would raise KeyboardInterrupt; once more, it does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
    elif signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        arrived: list[int] = []

        def note(number: int, _frame: FrameType | None) -> None:
            if arrived:
                raise KeyboardInterrupt
            arrived.append(number)
            _say("Ctrl-C: ending after the piece in hand, with what was reached; once more ends at once.")

        signal.signal(signal.SIGINT, note)
        try:
            yield lambda: bool(arrived)
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    else:
        _now.held += 1
        try:
            yield struck
        finally:
            _now.held -= 1


def finished() -> None:
    """Say that what was in hand is finished; the next thing has as much time."""
    _now.since = time.monotonic()


@contextmanager
def left(tell: Callable[[], str]) -> Iterator[None]:
    """If the code inside is interrupted, `tell` says what is kept, in words that end a sentence."""
    _now.tells.append(tell)
    try:
        yield
    except Interrupted as error:
        error.args = error.args or (tell(),)
        raise
    finally:
        _now.tells.remove(tell)


def struck() -> bool:
    """Whether a signal has arrived; later errors, such as writing to a closed terminal, are consequences of it."""
    return bool(_now.number)


def told(error: BaseException) -> int:
    """Print how a command was interrupted, and return its exit status."""
    while error.__context__ is not None and not isinstance(error, Interrupted):
        error = error.__context__
    _now.told = True
    _say(f"interrupted: {error if isinstance(error, Interrupted) and error.args else UNCHANGED}")
    return 128 + (_now.number or signal.SIGINT)


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that start inside leave Ctrl-C and a closed terminal to this one, from the beginning."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def obey_parent() -> None:
    """Make this process a worker: SIGTERM ends it after everything held, and its parent handles every other signal."""
    _now.worker = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _heard)


def _heard(number: int, _frame: FrameType | None) -> None:
    _now.number = _now.number or number
    _now.act()


def _watch(fd: int) -> None:
    """Receive signals while the main thread is busy; byte 0 ends this thread."""
    first = 0.0
    while True:
        rest = max(0.0, max(first, _now.since) + _patience() - time.monotonic()) if first else None
        if not select.select([fd], [], [], rest)[0]:
            if time.monotonic() < _now.since + _patience():
                continue
            _say(f"interrupted: {_now.tells[-1]() if _now.tells else UNCHANGED}")
            _end()
        for number in os.read(fd, 64):
            if number == 0:
                return
            if number not in _NAMES:
                continue
            if not first:
                first, _now.number = time.monotonic(), number
                name = _NAMES[signal.Signals(number)]
                if not _now.told:  # there was nothing to wait for
                    wait = f"what is in hand is given up after {_patience():.0f} s"
                    _say(f"{name}: ending; {wait}, and once more ends at once.")
            elif time.monotonic() - first > _TWICE:
                _end()


def _patience() -> float:
    return PATIENCE if _now.tells or _now.held else NOTHING_IN_HAND


def _end() -> None:
    """End now, whatever other threads do; workers end as well."""
    with contextlib.suppress(OSError):
        if os.isatty(2):
            os.write(2, b"\n\x1b[?25h")  # a progress bar hides the cursor
    os._exit(128 + _now.number)


def _say(text: str) -> None:
    """Write a line to standard error, even while others write there or when the terminal is gone."""
    with contextlib.suppress(OSError):
        os.write(2, f"unhinged: {text}\n".encode())
