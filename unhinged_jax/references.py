"""The BibTeX file of the package, entry by entry."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from importlib import resources


@functools.cache
def entries() -> dict[str, str]:
    """Key -> BibTeX entry, as it stands in `references.bib`.

    Example:
        >>> "zhou2023unhinged" in entries()
        True
    """
    text = resources.files("unhinged_jax").joinpath("references.bib").read_text(encoding="utf-8")
    found = re.findall(r"^@\w+\{(\S+),\n.*?^\}\n", text, flags=re.MULTILINE | re.DOTALL)
    bodies = re.findall(r"^@\w+\{\S+,\n.*?^\}\n", text, flags=re.MULTILINE | re.DOTALL)
    return dict(zip(found, bodies, strict=True))


def bibtex(keys: Iterable[str]) -> str:
    """The entries of the given keys, each once, separated by blank lines.

    Raises:
        ValueError: for a key that is not in the file.

    Example:
        >>> bibtex(["kidger2021on"]).splitlines()[0]
        '@phdthesis{kidger2021on,'
    """
    known = entries()
    wanted = list(dict.fromkeys(keys))
    missing = [key for key in wanted if key not in known]
    if missing:
        raise ValueError(f"there is no reference {missing[0]!r}; known are {', '.join(known)}.")
    return "\n".join(known[key] for key in wanted)


def fields(key: str) -> dict[str, str]:
    """Fields of one entry without braces, `type` included.

    Example:
        >>> fields("zhou2023unhinged")["year"]
        '2023'
    """
    entry = bibtex([key])
    pairs = re.findall(r"^  (\w+) = \{(.*)\},$", entry, flags=re.MULTILINE)
    kind = re.match(r"@(\w+)", entry)
    assert kind is not None
    return {"type": kind[1], **{name: value.replace("{", "").replace("}", "") for name, value in pairs}}


def in_words(key: str) -> str:
    """One entry as a line of text: authors, title, venue, year.

    Example:
        >>> in_words("kidger2021on")
        'Patrick Kidger. On Neural Differential Equations. University of Oxford, 2021.'
    """
    parts = fields(key)
    names = [" ".join(reversed(name.split(", "))) for name in parts["author"].split(" and ")]
    names = ["et al." if name == "others" else name for name in names]
    venue = next(parts[name] for name in ("journal", "booktitle", "school", "url") if name in parts)
    issue = parts.get("volume", "") + (f"({parts['number']})" if "number" in parts else "")
    place = ":".join(part.replace("--", "–") for part in (issue, parts.get("pages", "")) if part)
    where = f"{venue} {place}" if place else venue
    return f"{', '.join(names)}. {parts['title']}. {where}, {parts['year']}."
