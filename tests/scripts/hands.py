"""A tab with a keyboard and a mouse, and a search for faults of accessibility."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # for the helpers of the tests

import chromium

KEYS = {
    "Enter": 13, "Tab": 9, "Backspace": 8, " ": 32, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36,
    "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
}  # fmt: skip


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


class Tab(chromium.Page):
    """A tab that is used with keyboard and mouse."""

    def until(self, code: str, seconds: float = 10) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(code):
            if time.monotonic() > end:
                raise TimeoutError(f"not true after {seconds} s: {code}")
            time.sleep(0.03)

    def press(self, *keys: str) -> None:
        """Press keys one after another: names such as "ArrowUp", or letters."""
        for key in keys:
            given = {"key": key, "windowsVirtualKeyCode": KEYS.get(key) or ord(key.upper())}
            text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
            self.call("Input.dispatchKeyEvent", type="keyDown", **given, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", **given)

    def write(self, text: str) -> None:
        """Write a text where the focus is."""
        self.call("Input.insertText", text=text)

    def middle(self, selector: str) -> tuple[float, float]:
        """The middle of an element, scrolled into view."""
        x, y = self.run(f"""(() => {{ const node = document.querySelector({json.dumps(selector)});
            node.scrollIntoView({{block: "center"}}); const box = node.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2]; }})()""")
        return x, y

    def mouse(self, kind: str, x: float, y: float, *, down: bool = False) -> None:
        """Move, press or release the mouse: kind "Moved", "Pressed" or "Released"."""
        button = {"button": "left", "clickCount": 1} if kind != "Moved" or down else {}
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, buttons=int(down), **button)

    def click(self, selector: str) -> None:
        """Click in the middle of an element."""
        self.drag(self.middle(selector), self.middle(selector))

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse at one place, move it to another, and release it."""
        self.mouse("Moved", *start)
        self.mouse("Pressed", *start, down=True)
        if end != start:
            self.mouse("Moved", *end, down=True)
        self.mouse("Released", *end)

    def downloads(self, folder: Path) -> None:
        """Put what is downloaded into a folder."""
        self._call("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})

    def picture(self, file: Path) -> None:
        """Write the whole page as a PNG."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def faults(self) -> list[str]:
        """Errors of the page's scripts since it was opened, and addresses elsewhere that it asked for."""
        found = []
        for event in self.events:
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(event["params"])[:600])
            if event["method"] == "Network.requestWillBeSent":
                address = event["params"]["request"]["url"]
                found += [] if address.startswith(("file:", "blob:", "data:", "about:")) else [address]
        return found
