"""A headless Chromium driven through its debugging pipe: no package is needed, only the program."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome-headless-shell")
LONGEST = 60.0  # seconds for one answer


def found() -> str | None:
    """The path of a Chromium: `CHROMIUM` in the environment, one on the PATH, or that of Playwright."""
    if given := os.environ.get("CHROMIUM"):
        return given
    for name in NAMES:
        if path := shutil.which(name):
            return path
    if importlib.util.find_spec("playwright"):
        from playwright.sync_api import sync_playwright  # type: ignore[import-not-found]

        with sync_playwright() as playwright:
            path = playwright.chromium.executable_path
            return path if Path(path).exists() else None
    return None


class Page:
    """One tab."""

    def __init__(self, program: str, profile: str, width: int = 1280, height: int = 900) -> None:
        ours, theirs = os.pipe(), os.pipe()
        self._write, self._read = ours[1], theirs[0]
        self._ids, self._rest, self.events = itertools.count(1), b"", []  # type: ignore[var-annotated]
        # Chromium reads from descriptor 3 and writes to 4.
        begin = f'exec 3<&{ours[0]} 4>&{theirs[1]}; exec "$@"'
        options = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--no-first-run", "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            ["bash", "-c", begin, "bash", program, *options], pass_fds=(ours[0], theirs[1]), stderr=subprocess.DEVNULL
        )
        os.close(ours[0])
        os.close(theirs[1])
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")
        self.size(width, height)

    def call(self, method: str, **options: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol to the tab and return its result."""
        return self._call(method, options, self._session)

    def size(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def theme(self, name: str) -> None:
        """What `prefers-color-scheme` says: "light" or "dark"."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def go(self, address: str) -> float:
        """Open a page; the seconds until everything was loaded."""
        self.events.clear()
        begin = time.monotonic()
        self.call("Page.navigate", url=address)
        self.wait("Page.loadEventFired")
        return time.monotonic() - begin

    def wait(self, event: str, seconds: float = LONGEST) -> dict[str, Any] | None:
        """The next event of this name since `go`; None if none comes in time."""
        end = time.monotonic() + seconds
        while True:
            for one in self.events:
                if one["method"] == event:
                    self.events.remove(one)
                    return one["params"]
            if not self._receive(end):
                return None

    def run(self, code: str) -> Any:
        """The value of an expression of JavaScript; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description", str(answer)))
        return answer["result"].get("value")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._call("Browser.close", {})
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        os.close(self._write)
        os.close(self._read)

    def _call(self, method: str, options: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": options} | ({"sessionId": session} if session else {})
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + LONGEST
        while True:
            answer = self._receive(end)
            if not answer:
                raise TimeoutError(f"Chromium did not answer {method}")
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _receive(self, end: float) -> dict[str, Any] | None:
        """The next message; events are kept."""
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return None
            got = os.read(self._read, 1 << 16)
            if not got:
                raise OSError("Chromium ended")
            self._rest += got
        first, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(first)
        if "method" in message:
            self.events.append(message)
        return message


@contextlib.contextmanager
def opened(program: str, **options: Any) -> Iterator[Page]:
    """A tab of a browser of its own, closed at the end."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        page = Page(program, profile, **options)
        try:
            yield page
        finally:
            page.close()
