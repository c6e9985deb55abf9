"""Fenced blocks of Markdown pages, and what a page says about running them.

An HTML comment before a block, which readers do not see, may say

    <!-- code: not run: REASON -->          the block is skipped
    <!-- code: run as: REASON               what follows is run instead, on the lines below
    ... -->
    <!-- code: before                       this is run first, in the language of the block
    ... -->
    <!-- code: file NAME -->                the block is written to this file instead of being run

Lines of a bash block that only install are left out; blocks of {code-cell} are run by the build of the documentation.
"""

import dataclasses
import re
from pathlib import Path

from checkout import ROOT

RUN = ("python", "bash", "toml")
SHOWN = ("text", "console", "bibtex", "")  # output and formulae
_FENCE = re.compile(r"^\s*(`{3,})\s*(\{?[\w-]*\}?)\s*(.*)$")
_INSTALLS = re.compile(r"^(python3? -m venv|(\S+ -m )?pip install|git clone)\b")
_KINDS = ("not run", "run as", "before", "file")


@dataclasses.dataclass(frozen=True)
class Block:
    """One fenced block: where it is, its language and text, and the comment before it."""

    page: Path
    line: int
    language: str
    text: str
    note: str = ""
    detail: str = ""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def skipped(self) -> str:
        """Why the block is not run, or ""."""
        if self.note == "not run":
            return self.detail
        if self.language == "bash" and self.note != "run as" and not self.code.strip():
            return "installs only"
        return ""

    @property
    def code(self) -> str:
        """What is run."""
        text = self.text
        if self.note == "run as":
            text = self.detail.partition("\n")[2]
        elif self.note == "before":
            text = f"{self.detail}\n{text}"
        if self.language != "bash":
            return text
        lines = [line for line in text.splitlines() if not _INSTALLS.match(line.strip())]
        return "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))


def pages() -> list[Path]:
    """README.md and every page of the documentation."""
    found = sorted((ROOT / "docs").rglob("*.md"))
    return [ROOT / "README.md", *(page for page in found if "_build" not in page.parts)]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found, note, place = [], ("", ""), 0
    while place < len(lines):
        line = lines[place]
        if line.startswith("<!-- code:"):
            end = next(k for k in range(place, len(lines)) if "-->" in lines[k])
            note = _read_note("\n".join(lines[place : end + 1]), f"{page.name}:{place + 1}")
            place = end + 1
            continue
        fence = _FENCE.match(line)
        if fence is None:
            if line.strip():
                note = ("", "")
            place += 1
            continue
        ticks, language = fence[1], fence[2]
        end = next(k for k in range(place + 1, len(lines)) if lines[k].strip() == ticks)
        text = "\n".join(lines[place + 1 : end])
        found.append(Block(page, place + 1, language, text, *note))
        note, place = ("", ""), end + 1
    return found


def texts(page: str, language: str) -> list[str]:
    """The text of every fenced block of a page in one language; `page` is a path within the checkout."""
    return [block.text for block in blocks(ROOT / page) if block.language == language]


def _read_note(comment: str, place: str) -> tuple[str, str]:
    text = comment.removeprefix("<!-- code:").strip().removesuffix("-->").strip()
    for kind in _KINDS:
        if text.startswith(kind):
            detail = text.removeprefix(kind).lstrip(": ").strip("\n")
            if not detail:
                raise ValueError(f"{place}: say why after {kind!r}.")
            return kind, detail
    raise ValueError(f"{place}: {text!r} begins with none of {', '.join(_KINDS)}.")


def links(page: Path) -> list[tuple[str, str]]:
    """(file, anchor) of every relative link and picture of a page, code left out."""
    text = re.sub(r"^\s*(`{3,}).*?^\s*\1\s*$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    text = re.sub(r"`[^`\n]*`", "", text)
    targets = re.findall(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", text)
    split = [target.partition("#") for target in targets if not re.match(r"[a-z]+:", target)]
    return [(file, anchor) for file, _, anchor in split]
