"""What a notebook shows: tables in HTML, which load nothing and run nothing."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

import numpy as np


def page(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[tuple[str, str]] = ()) -> str:
    """A table and notes below it in HTML."""

    def line(tag: str, cells: Iterable[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    body = "".join(line("td", row) for row in rows)
    below = "".join(f"<div><b>{html.escape(name)}:</b> {html.escape(text)}</div>" for name, text in notes if text)
    top = f"<thead>{line('th', head)}</thead>" if head else ""
    table = f"<table>{top}<tbody>{body}</tbody></table>" if body else ""
    return f"<div><div><b>{html.escape(title)}</b></div>{table}{below}</div>"


def ranges(values: Mapping[str, np.ndarray]) -> list[tuple[str, ...]]:
    """(name, lowest, median, highest) of each array, NaN left out, for the members of a batch."""
    rows: list[tuple[str, ...]] = []
    for name, array in values.items():
        known = array[~np.isnan(array)] if np.any(~np.isnan(array)) else array
        rows.append((name, *(f"{take(known):.6g}" for take in (np.min, np.median, np.max))))
    return rows
