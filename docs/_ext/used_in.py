"""Which pages and notebooks use a public name, for the list at the end of its page of the reference."""

import functools
import re
from pathlib import Path

DOCS = Path(__file__).parents[1]
MOST = 10
_FENCE = re.compile(r"^```(?:python|\{code-cell\}).*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_IMPORT = re.compile(r"^\s*from unhinged_jax([\w.]*) import \(?([\w, \n]+)", re.MULTILINE)


@functools.cache
def _code() -> dict[str, str]:
    """Document -> its code, in the order in which documents are listed."""
    notebooks = sorted(
        (DOCS.parent / "notebooks").glob("*.py"), key=lambda path: (path.stem[:7] != "theorem", path.stem)
    )
    found = {f"notebooks/{path.stem}": path.read_text(encoding="utf-8") for path in notebooks if path.stem != "execute"}
    tutorials = sorted((DOCS / "tutorials").glob("*.md"))
    for path in [DOCS / "quickstart.md", *tutorials, *sorted(DOCS.glob("*.md"))]:
        document = path.relative_to(DOCS).with_suffix("").as_posix()
        found.setdefault(document, "\n".join(_FENCE.findall(path.read_text(encoding="utf-8"))))
    return found


@functools.cache
def _names(document: str) -> set[str]:
    """Public names in the code of a document, without the name of the package."""
    code = _code()[document]
    found = set(re.findall(r"\buj\.([\w.]+)", code))
    for module, names in _IMPORT.findall(code):
        for name in re.findall(r"\w+", names):
            full = f"{module}.{name}".strip(".")
            found |= {full, *(f"{full}.{inner}" for inner in re.findall(rf"\b{name}\.(\w+)", code))}
    return found


def used_in(name: str) -> list[str]:
    """Documents whose code uses a public name such as "unhinged_jax.losses.Hinge": theorems first, then tutorials."""
    short = name.removeprefix("unhinged_jax.")
    use = re.compile(rf"{re.escape(short)}(\.|$)")
    return [document for document in _code() if any(use.match(found) for found in _names(document))][:MOST]
