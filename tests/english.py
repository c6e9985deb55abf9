"""The prose of this project: pages, docstrings, comments and messages, without code."""

import ast
import dataclasses
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from checkout import ROOT

_BLOCKS = re.compile(r"^(---\n.*?^---$|\s*(`{3,}).*?^\s*\2\s*$|\s*<!--.*?-->|\$\$.*?\$\$)", flags=re.M | re.S)
_INLINE = re.compile(r"`[^`\n]*`|\$[^$\n]+\$|\]\([^)\s]*\)|<[^>\n]*>|https?://\S+")
_STYLE = re.compile(r"^\| instead of \| write \|$.*?(?=^$)", flags=re.M | re.S)
_DOCTEST = re.compile(r"^\s*>>> .*?(?=^\s*$|\Z)", flags=re.M | re.S)


@dataclasses.dataclass(frozen=True)
class Text:
    """A piece of prose: the file it is in, the line on which it begins, and itself."""

    path: Path
    line: int
    text: str

    def place(self, offset: int = 0) -> str:
        """Where a character of the text is."""
        return f"{self.path.relative_to(ROOT)}:{self.line + self.text[:offset].count(chr(10))}"


def _blank(found: re.Match[str]) -> str:
    """Nothing, over as many lines."""
    return "\n" * found[0].count("\n")


def without_code(text: str) -> str:
    """Prose of Markdown or of a docstring: blocks, formulas, links and names of code left out, lines kept."""
    return _INLINE.sub("‘’", _DOCTEST.sub(_blank, _BLOCKS.sub(_blank, text)))


def pages() -> list[Path]:
    """The Markdown files."""
    return [*sorted(ROOT.glob("*.md")), *sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)]


def modules() -> list[Path]:
    """The modules of the package."""
    return sorted((ROOT / "unhinged_jax").rglob("*.py"))


def in_page(path: Path) -> Iterator[Text]:
    """The prose of a page; the examples of bad style in CONTRIBUTING.md are left out."""
    yield Text(path, 1, without_code(_STYLE.sub(_blank, path.read_text(encoding="utf-8"))))


def in_module(path: Path) -> Iterator[Text]:
    """Docstrings, messages (strings with a blank) and comments of a module."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = (str(part.value) if isinstance(part, ast.Constant) else "‘’" for part in node.values)
            yield Text(path, node.lineno, without_code("".join(parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield Text(path, node.lineno, without_code(node.value))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text(path, token.start[0], without_code(token.string.lstrip("# ")))


def everything() -> Iterator[Text]:
    """All prose."""
    for page in pages():
        yield from in_page(page)
    for module in modules():
        yield from in_module(module)
