"""Phrases that this project does not use, and what it writes instead; CONTRIBUTING.md says how we write."""

import re

import english
import pytest
from checkout import ROOT

_UNIT = (
    "sample|seed|step|class|epoch|core|process|run|update|lane|time|point|unit|parameter|machine|member|piece|block|job"
    "|number|value|second|coordinate|line|row|column"
)
_COUNTED = (
    "values?|samples?|numbers?|columns?|rows?|steps?|points?|rates?|factor|times|bytes|process|threads?|checkpoint"
    "|lines?|one|once|twice|updates?|entry|entries|sweep|devices?|blocks?"
)

PHRASES = {
    r"\bh(?:old|olds|eld|olding) (?:\S+ ){0,3}?(?:against|beside)\b": "compares with",
    r"\b(?:derivatives?|differentiated|differentiable|slopes?) in (?!the|this|forward|reverse|which|single)\S": (
        "with respect to"
    ),
    r"\b(?:one|an?) (?:column|row|line|value|number|time|step|axis|pass|point) more\b": "an extra column",
    r"\b(?:that|which) cannot be(?=\s*(?:[.;,:)]|$))": "that is not allowed",
    rf"\b(?:{_COUNTED}) an? (?:{_UNIT})\b(?! of)": "per",
    r"\b(?:its|their|and|whose) kin\b": "and similar",
    r"\bstands? (?:rates|noise|how|\d)": "tolerates",
    r"\b(?:that|which) (?:is|are) none\b": "is not one",
    r"\b(?:go|goes|went|gone|going) on from\b": "continue",
    r"\banew\b": "again",
    r"\bbelongs? into\b": "belongs in",
    r"\bright numbers\b": "correct numbers",
    r"\bfor ever\b": "forever",
    r"\bwhere you are\b": "on your machine",
}
"""Regular expression -> what to write instead."""


def found(text: str) -> list[str]:
    """What to write instead of the phrases of a text."""
    return [better for phrase, better in PHRASES.items() if re.search(phrase, text)]


def style_examples() -> list[tuple[str, str]]:
    """(instead of, write) pairs of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("| instead of | write |\n|---|---|\n")[2].partition("\n\n")[0]
    return [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in table.splitlines()]


def test_the_style_guide_shows_pairs_and_keeps_its_own_rules():
    pairs = style_examples()
    assert 8 <= len(pairs) <= 12
    assert not [after for _, after in pairs if found(after)]
    assert sum(bool(found(before)) for before, _ in pairs) >= 5


@pytest.mark.parametrize(
    ("wrong", "right", "better"),
    [
        ("The run is held against the closed form.", "The run is compared with the closed form.", "compares with"),
        ("derivatives in the decay", "derivatives with respect to the decay", None),
        ("the derivative in γ", "the derivative with respect to γ", "with respect to"),
        ("an array with one column more", "an array with an extra column", "an extra column"),
        ("a setting that cannot be", "a setting that cannot be changed", "that is not allowed"),
        ("one value a sample", "one value per sample", "per"),
        ("at one step a time of day", "one step at a time", None),
        ("Adam and its kin", "Adam and similar optimisers", "and similar"),
        ("a trade-off stands noise", "a trade-off tolerates noise", "tolerates"),
        ("an event that is none", "an event that is not one", "is not one"),
        ("a run goes on from a state", "a run continues from a state", "continue"),
    ],
)
def test_phrases_are_found(wrong, right, better):
    assert found(right) == []
    if better is not None:
        assert found(wrong) == [better]


def test_code_is_no_prose(tmp_path, monkeypatch):
    monkeypatch.setattr(english, "ROOT", tmp_path)
    page, module = tmp_path / "page.md", tmp_path / "module.py"
    page.write_text(
        "Text.\n\n```python\n# one value a sample\n```\n\nSee `one value a sample`: $a$.\n\nOne value a sample.\n"
    )
    module.write_text(
        'def f():\n    """Sum.\n\n    >>> "one value a sample"\n    """\n    raise ValueError(f"{f} cannot be. x")\n'
    )
    (text,) = english.in_page(page)
    assert [text.place(hit.start()) for hit in re.finditer("value a sample", text.text.lower())] == ["page.md:9"]
    pieces = [text.text for text in english.in_module(module)]
    assert not [piece for piece in pieces if "a sample" in piece]
    assert "‘’ cannot be. x" in pieces


@pytest.mark.parametrize("files", ["pages", "modules"])
def test_nothing_says_what_is_better_said(files):
    read = {"pages": english.in_page, "modules": english.in_module}[files]
    said = {
        f"{text.place(hit.start())}: {hit[0]!r}; write: {better}"
        for path in getattr(english, files)()
        for text in read(path)
        for phrase, better in PHRASES.items()
        for hit in re.finditer(phrase, text.text)
    }
    assert not said, "\n".join(sorted(said))
