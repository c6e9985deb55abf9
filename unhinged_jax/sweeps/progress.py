"""Progress of a sweep: points done, speed, time left, failures."""

from __future__ import annotations

from unhinged_jax._terminal import ProgressBar
from unhinged_jax.sweeps.status import Status
from unhinged_jax.sweeps.work import BlockOutcome


class Progress(ProgressBar):
    """Points of a sweep, with their rate and how many failed."""

    def __init__(self, points: int, wanted: bool = True) -> None:
        super().__init__(points, "Checking", unit="points", notes=("failed",), wanted=wanted)
        self._failed = 0

    def start(self, status: Status) -> None:
        """Begin with the points that are already done."""
        self.begin_at(status.done, "Compiling")
        self._fail(sum(status.failed.values()))

    def told(self, outcome: BlockOutcome) -> None:
        """Count a block."""
        self.update(advance=outcome.points, description="Sweeping")
        self._fail(sum(outcome.failed.values()))

    def _fail(self, points: int) -> None:
        self._failed += points
        self.update(failed=f"{self._failed:,} failed" if self._failed else "")
