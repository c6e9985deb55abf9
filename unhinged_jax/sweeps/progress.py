"""Progress of a sweep on a terminal: points done, rate, time left, failures."""

from __future__ import annotations

import datetime
import time

from unhinged_jax._terminal import ProgressBar
from unhinged_jax.sweeps.status import Status
from unhinged_jax.sweeps.work import BlockOutcome


class Progress(ProgressBar):
    """Points of a sweep, with their rate and how many failed."""

    def __init__(self, points: int, wanted: bool = True) -> None:
        super().__init__(points, "Checking", notes=("rate", "failed"), clock=False, wanted=wanted)
        self._points, self._failed, self._done = points, 0, 0
        self._first = (0.0, 0)

    def start(self, status: Status) -> None:
        """Begin with the points that are already done."""
        self._failed, self._done = sum(status.failed.values()), status.done
        self.reset(completed=status.done, description="Compiling")
        self._show()

    def told(self, outcome: BlockOutcome) -> None:
        """Count a block."""
        self._failed += sum(outcome.failed.values())
        self._done += outcome.points
        if not self._first[0]:
            self._first = time.monotonic(), self._done
        self.update(advance=outcome.points, description="Sweeping")
        self._show()

    def rate(self) -> float:
        """Points per second since the first block arrived; 0 in the second after it, because blocks come in bunches."""
        begun, before = self._first
        seconds = time.monotonic() - begun
        return (self._done - before) / seconds if begun and seconds >= 1 else 0.0

    def _show(self) -> None:
        rate = self.rate()
        speed = f"{rate:,.0f} points/s, {_clock((self._points - self._done) / rate)} left" if rate else ""
        failed = f"[red]{self._failed:,} failed" if self._failed else ""
        self.update(rate=speed, failed=failed)


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
