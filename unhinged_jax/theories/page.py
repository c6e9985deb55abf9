"""The comparison page: one short table, then prediction, figure, account and checks of each theory, references."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from unhinged_jax._files import whole
from unhinged_jax.references import fields, in_words
from unhinged_jax.theories.theory import Finding, Theory
from unhinged_jax.theories.typeset import number, typeset

_INTRODUCTION = """\
# Other theories beside this one

The paper's Table 1 compares what is known about last-layer features and prototypes. This page runs
the comparison: every prediction of theory was checked against a simulation. Each check has a bound
that the code states; `unhinged theories NAME` runs one row, NAME from the last
column, and ends with status 1 if a bound is missed.
"""
_SETTING = """\
`unhinged theories --page docs/theories.md --force` runs all rows and writes this page. Unless said
otherwise, rates are 1 and the risk is a mean over samples. There are $C$ classes of $N$ samples,
$n$ samples in all, $p$ dimensions, and decays $\\lambda_1$ on features and $\\lambda_2$ on
prototypes. Each section names its sources; the docstrings say what the papers do not contain.
"""


def write(path: Path, theories: Sequence[Theory], found: Sequence[Finding]) -> None:
    """Write the page, with figures in a folder of its name."""
    folder = path.with_suffix("").name
    parts = [_INTRODUCTION, _table(theories, found), _SETTING]
    parts += [_section(theory, finding, folder) for theory, finding in zip(theories, found, strict=True)]
    parts.append(_references(theories))
    with whole(path) as part:
        part.write_text("\n".join(parts), encoding="utf-8")


def _table(theories: Sequence[Theory], found: Sequence[Finding]) -> str:
    """One short row a theory; everything else is in its section."""
    lines = ["| theory | loss | case | checks kept | name |", "|---|---|---|---|---|"]
    for theory, finding in zip(theories, found, strict=True):
        kept = sum(check.passed for check in finding.checks)
        cells = (
            f"[{theory.title}](#{_anchor(theory)})", theory.loss, theory.case, f"{kept} of {len(finding.checks)}",
            f"`{theory.name}`",
        )  # fmt: skip
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _section(theory: Theory, finding: Finding, folder: str) -> str:
    sources = "; ".join(_short(key) for key in theory.references)
    rows = [
        f"| {_cell(typeset(check.what))} | {number(check.value)} | {'at least' if check.at_least else 'at most'} "
        f"{number(check.bound)} | {'kept' if check.passed else '**missed**'} |"
        for check in finding.checks
    ]
    picture = f"{folder}/{theory.name}.svg"
    return "\n".join(
        [
            f"## {theory.title}",
            "",
            _wrapped(f"**Predicted:** {_cell(typeset(theory.predicted))}."),
            "",
            _wrapped(f"**Assumed beyond the layer-peeled model:** {typeset(theory.assumptions)}."),
            "",
            f"[![{theory.title}]({picture})]({picture})",
            "",
            _wrapped(f"*{theory.caption}*"),
            "",
            _wrapped(typeset(f"{theory.account} ({sources})")),
            "",
            "| check | measured | bound | |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _references(theories: Sequence[Theory]) -> str:
    keys = dict.fromkeys(key for theory in theories for key in (*theory.references, *theory.libraries))
    return "\n".join(["## References", "", *sorted(f"- {in_words(key)}" for key in keys), ""])


def _wrapped(text: str) -> str:
    """A paragraph in lines; a formula or a piece of code is never broken."""
    glued = re.sub(r"[$`][^$`]+[$`]", lambda found: found[0].replace(" ", "\0"), text)
    return textwrap.fill(glued, 100, break_long_words=False, break_on_hyphens=False).replace("\0", " ")


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
