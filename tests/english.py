"""The prose of this project: pages, docstrings, comments and messages, without code; and proselint run over it.

    python -m tests.english

prints what proselint finds, as `file:line: what`, and exits with status 1 if it finds anything. The checks that it
makes are chosen in pyproject.toml, under `tool.proselint`. `test_english.py` looks for this project's own phrases.
"""

import ast
import dataclasses
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
_BLOCKS = re.compile(r"^(---\n.*?^---$|\s*(`{3,}).*?^\s*\2\s*$|\s*<!--.*?-->|\$\$.*?\$\$)", flags=re.M | re.S)
_INLINE = re.compile(r"`[^`\n]*`|\$[^$\n]+\$|\]\([^)\s]*\)|<[^>\n]*>|https?://\S+")
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
    """The prose of a page."""
    yield Text(path, 1, without_code(path.read_text(encoding="utf-8")))


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


def complaints() -> list[str]:
    """What proselint finds."""
    from proselint.checks import __register__
    from proselint.config import DEFAULT
    from proselint.registry import CheckRegistry
    from proselint.tools import LintFile

    CheckRegistry().register_many(__register__)
    chosen = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["proselint"]["checks"]
    config = {**DEFAULT, "checks": {**DEFAULT["checks"], **chosen}}
    found = set()
    for one in everything():
        for result in LintFile(one.path, content=one.text).lint(config):
            message = result.check_result
            found.add(f"{one.place(message.span[0])}: {message.check_path}: {message.message}")
    return sorted(found)


if __name__ == "__main__":
    said = complaints()
    print("\n".join(said))
    sys.exit(bool(said))
