"""Names and titles in a Markdown page as plain text, because many viewers run the HTML in a page."""

from __future__ import annotations

import html
import re


def as_text(text: str) -> str:
    """A text that is shown verbatim: without HTML, links, pictures, lines or columns.

    Example:
        >>> as_text("<b> [x](y)") == "&lt;b&gt; " + chr(92) + "[x" + chr(92) + "](y)"
        True
    """
    return re.sub(r"([\\`\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def as_code(text: str) -> str:
    """A text as code, whatever backquotes it contains."""
    text = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"
