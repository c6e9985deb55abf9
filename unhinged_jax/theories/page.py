"""The comparison page: one table, then a figure and a paragraph for each theory, and the references."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from unhinged_jax._files import whole
from unhinged_jax.references import fields, in_words
from unhinged_jax.theories.theory import Finding, Theory

_INTRODUCTION = """\
# Other theories beside this one

The paper's Table 1 compares what is known about last-layer features and prototypes. This page runs
the comparison. Every row names a problem, the prediction of theory and its assumptions, and every
prediction was checked against a simulation. `unhinged theories --page docs/theories.md --force`
runs all rows and writes this page, and `unhinged theories NAME` runs one row. Each check has a
bound that the code states, and the command ends with status 1 if a bound is missed. Unless said
otherwise, rates are 1 and the risk is a mean over samples. There are C classes of N samples, n
samples in all, p dimensions, and decays λ₁ on features and λ₂ on prototypes. Each row names its
sources; the docstrings say what the papers do not contain.
"""


def write(path: Path, theories: Sequence[Theory], found: Sequence[Finding]) -> None:
    """Write the page, with figures in a folder of its name."""
    folder = path.with_suffix("").name
    parts = [_INTRODUCTION, _table(theories, found)]
    parts += [_section(theory, finding, folder) for theory, finding in zip(theories, found, strict=True)]
    parts.append(_references(theories))
    with whole(path) as part:
        part.write_text("\n".join(parts), encoding="utf-8")


def _table(theories: Sequence[Theory], found: Sequence[Finding]) -> str:
    lines = [
        "| loss | case | what is predicted | extra assumptions | measured agreement | command |",
        "|---|---|---|---|---|---|",
    ]
    for theory, finding in zip(theories, found, strict=True):
        first = finding.checks[0]
        kept = sum(check.passed for check in finding.checks)
        agreement = f"{first.what}: {first.measured}; {kept} of {len(finding.checks)} checks kept"
        sources = ", ".join(_short(key) for key in theory.references)
        cells = (
            theory.loss, theory.case, f"[{theory.predicted}](#{_anchor(theory)}) ({sources})",
            theory.assumptions, agreement, f"`unhinged theories {theory.name}`",
        )  # fmt: skip
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _section(theory: Theory, finding: Finding, folder: str) -> str:
    sources = "; ".join(_short(key) for key in theory.references)
    rows = [
        f"| {_cell(check.what)} | {check.measured} | {'kept' if check.passed else '**missed**'} |"
        for check in finding.checks
    ]
    return "\n".join(
        [
            f"## {theory.title}",
            "",
            _wrapped(f"{theory.account} ({sources})"),
            "",
            f"![{theory.title}]({folder}/{theory.name}.svg)",
            "",
            _wrapped(f"*{theory.caption}*"),
            "",
            "| check | measured and bound | |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _references(theories: Sequence[Theory]) -> str:
    keys = dict.fromkeys(key for theory in theories for key in (*theory.references, *theory.libraries))
    return "\n".join(["## References", "", *sorted(f"- {in_words(key)}" for key in keys), ""])


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def _short(key: str) -> str:
    """Surname of the first author and year."""
    parts = fields(key)
    names = parts["author"].split(" and ")
    surnames = [name.split(", ")[0] for name in names]
    who = surnames[0] if len(names) == 1 else " & ".join(surnames) if len(names) == 2 else f"{surnames[0]} et al."
    return f"{who} {parts['year']}"


def _anchor(theory: Theory) -> str:
    """The anchor that Markdown viewers make of the heading."""
    kept = "".join(letter for letter in theory.title.lower() if letter.isalnum() or letter in " -")
    return kept.replace(" ", "-")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
