"""How busy other processes keep the machine."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable

from benchmarks.timing import Meter


class SystemMeter:
    """Processor time of the whole system, less that of this process. Time stolen by a hypervisor counts as foreign."""

    def __init__(self) -> None:
        self._known = importlib.util.find_spec("psutil") is not None
        self._start = (0.0, 0.0, 0.0)

    def _now(self) -> tuple[float, float, float]:
        import psutil

        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        # guest time is part of user time already
        guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        return sum(times) - idle - guest, time.process_time(), time.perf_counter()

    def begin(self) -> None:
        """Start to count."""
        if self._known:
            self._start = self._now()

    def foreign(self) -> float | None:
        """Cores kept busy by others since `begin`; None without psutil."""
        if not self._known:
            return None
        busy, own, wall = (now - then for now, then in zip(self._now(), self._start, strict=True))
        return max(0.0, (busy - own) / wall) if wall > 0 else 0.0


def wait_for_quiet(
    meter: Meter, limit: float, seconds: float, sleep: Callable[[float], None] = time.sleep
) -> tuple[float, float | None]:
    """Wait until others keep less than `limit` cores busy for a second, at most `seconds`.

    Returns:
        Seconds waited, and the last load seen (None if it cannot be known).
    """
    waited = 0.0
    while True:
        meter.begin()
        sleep(1.0)
        load = meter.foreign()
        if load is None or load <= limit or waited >= seconds:
            return waited, load
        waited += 1.0
