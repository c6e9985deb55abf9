"""Pages in a Chromium without a window, driven over its DevTools protocol by a pipe. It needs nothing but Chromium."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless_shell")
KEYS = {
    "Enter": 13, "Tab": 9, "Escape": 27, "Backspace": 8, " ": 32, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36,
    "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
}  # fmt: skip


def find() -> str | None:
    """The program: the one that CHROMIUM names, one on the path, or one that puppeteer or playwright downloaded."""
    if named := os.environ.get("CHROMIUM"):
        return named
    cache = Path.home() / ".cache"
    found = [*cache.glob("puppeteer/chrome*/*/*/chrome*"), *cache.glob("ms-playwright/chromium*/*/*")]
    kept = [str(path) for path in found if path.is_file() and path.name in (*NAMES, "chrome-headless-shell")]
    return next(filter(None, map(shutil.which, NAMES)), None) or next(iter(sorted(kept)), None)


def axe() -> str | None:
    """The script of axe-core, which finds faults of accessibility: the file that AXE names, or npm's; None without."""
    if named := os.environ.get("AXE"):
        return Path(named).read_text(encoding="utf-8")
    if shutil.which("npm") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["npm", "pack", "--silent", "axe-core@4"], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            return None
        with tarfile.open(Path(folder) / done.stdout.split()[-1]) as packed:
            member = packed.extractfile("package/axe.min.js")
            return None if member is None else member.read().decode()


@contextlib.contextmanager
def started(program: str) -> Iterator[Browser]:
    """A browser that reaches no network, ended when the block is left."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Browser(program, folder)
        try:
            yield browser
        finally:
            browser.close()


class Browser:
    """A running Chromium."""

    def __init__(self, program: str, folder: str) -> None:
        ours, theirs = [], []
        for place in (0, 1):  # what we write, what it writes
            ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in os.pipe()]
            ours.append(ends[1 - place])
            theirs.append(ends[place])
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-zygote", "--disable-dev-shm-usage",
                   "--hide-scrollbars", "--remote-debugging-pipe", "--host-resolver-rules=MAP * ~NOTFOUND",
                   f"--user-data-dir={folder}"]  # fmt: skip
        # Chromium reads from 3 and writes to 4; bash puts the pipes there, because a fork of a process with threads,
        # such as those of JAX, could hang.
        placed = f'exec "$@" 3<&{theirs[0]} 4>&{theirs[1]} {theirs[0]}<&- {theirs[1]}>&-'
        self.process = subprocess.Popen(
            ["bash", "-c", placed, "bash", program, *options], pass_fds=theirs,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in theirs:
            os.close(end)
        self._in, self._out = os.fdopen(ours[0], "wb", buffering=0), os.fdopen(ours[1], "rb", buffering=0)
        self._rest, self._count = b"", 0
        self.events: list[dict[str, Any]] = []

    def send(self, method: str, session: str | None = None, **given: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": given}
        self._in.write(json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = self._out.read(1 << 16)
            if not more:
                raise RuntimeError("Chromium ended")
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        return json.loads(text)

    def page(self, width: int = 1280, height: int = 900, *, dark: bool = False) -> Page:
        """An empty page of that size."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime"):
            page.send(f"{domain}.enable")
        page.look(width, height, dark=dark)
        return page

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(RuntimeError, OSError):
            self.send("Browser.close")
        for file in (self._in, self._out):
            file.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Page:
    """One page."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self.browser, self.session, self.target = browser, session, target

    def send(self, method: str, **given: Any) -> dict[str, Any]:
        """Call a method of the protocol for this page."""
        return self.browser.send(method, self.session, **given)

    def look(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Set the size of the window, and whether the system prefers dark colours."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def go(self, address: str) -> None:
        """Open an address and wait until it is loaded."""
        self.send("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def run(self, code: str) -> Any:
        """The value of an expression of JavaScript, awaited if it is a promise."""
        found = self.send("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"].get("exception", {}).get("description", str(found)))
        return found["result"].get("value")

    def until(self, code: str, seconds: float = 10) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(code):
            if time.monotonic() > end:
                raise TimeoutError(f"not true after {seconds} s: {code}")
            time.sleep(0.03)

    def press(self, *keys: str, shift: bool = False) -> None:
        """Press keys one after another: names such as "ArrowUp", or letters."""
        for key in keys:
            code = KEYS.get(key) or ord(key.upper())
            given = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
            text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
            self.send("Input.dispatchKeyEvent", type="keyDown", **given, **text)
            self.send("Input.dispatchKeyEvent", type="keyUp", **given)

    def write(self, text: str) -> None:
        """Write a text where the focus is."""
        self.send("Input.insertText", text=text)

    def middle(self, selector: str) -> tuple[float, float]:
        """The middle of an element, scrolled into view."""
        x, y = self.run(f"""(() => {{ const node = document.querySelector({json.dumps(selector)});
            node.scrollIntoView({{block: "center"}}); const box = node.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2]; }})()""")
        return x, y

    def mouse(self, kind: str, x: float, y: float, *, down: bool = False) -> None:
        """Move, press or release the mouse: kind "Moved", "Pressed" or "Released"."""
        button = {"button": "left", "clickCount": 1} if kind != "Moved" or down else {}
        self.send("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, buttons=int(down), **button)

    def click(self, selector: str) -> None:
        """Click in the middle of an element."""
        place = self.middle(selector)
        self.mouse("Moved", *place)
        self.mouse("Pressed", *place, down=True)
        self.mouse("Released", *place)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse at one place, move it to another, and release it."""
        self.mouse("Moved", *start)
        self.mouse("Pressed", *start, down=True)
        self.mouse("Moved", *end, down=True)
        self.mouse("Released", *end)

    def picture(self, file: Path) -> None:
        """Write the whole page as a PNG."""
        found = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))

    def faults(self) -> list[str]:
        """Errors of the page's scripts so far."""
        told = [event for event in self.browser.events if event.get("sessionId") == self.session]
        return [json.dumps(event["params"])[:600] for event in told if event["method"] == "Runtime.exceptionThrown"]

    def close(self) -> None:
        """Close it; a second time does nothing."""
        if self.target:
            self.browser.send("Target.closeTarget", targetId=self.target)
        self.target = ""
