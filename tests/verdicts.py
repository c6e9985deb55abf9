"""The table of docs/ledger.md, and the measure that each of its verdicts must pass.

Every row of the page names a statement of the paper, a verdict and a test. The test measures the error of the statement
as printed (and of the corrected one) and hands both to `holds`, `corrected` or `false_as_printed`, which also read the
verdict on the page: a verdict that is changed on the page, or a measurement that no longer supports it, fails the test.

The list of what differs, at the top of the page, is made of its sections by `python tests/verdicts.py`.
"""

import dataclasses
import functools
import re

from checkout import ROOT

PAGE = ROOT / "docs" / "ledger.md"
HOLDS, CORRECTED, FALSE = "holds", "corrected", "false as printed"
BEGIN, END = "<!-- differing: begin -->\n", "\n<!-- differing: end -->"
_TELLING = 40  # characters; a shorter first sentence says too little by itself
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the overview: its section, what is printed, what the verdict is, and where the evidence lies."""

    anchor: str
    title: str
    printed: str
    verdict: str
    name: str
    path: str


@functools.cache
def rows() -> dict[str, Row]:
    """Anchor -> row of every overview table of the page."""
    found: dict[str, Row] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != 4 or not line.startswith("| ["):
            continue
        section, evidence = LINK.search(cells[0]), LINK.search(cells[3])
        assert section and evidence, f"a row without a link to its section or its test: {line}"
        anchor = section["target"].removeprefix("#")
        assert anchor not in found, f"two rows for #{anchor}"
        name, path = evidence["text"].strip("`"), evidence["target"].removeprefix("../")
        found[anchor] = Row(anchor, section["text"], cells[1], cells[2].strip("*"), name, path)
    return found


def slug(heading: str) -> str:
    """The anchor that GitHub and MyST make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def sections() -> dict[str, str]:
    """Anchor -> text of every section that a row leads to."""
    parts = re.split(r"^### (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {slug(name): body for name, body in zip(parts[::2], parts[1::2], strict=True)}


def differing() -> str:
    """What does not hold as printed, and what holds instead: the first sentence or two of each section, a line each."""
    lines = []
    for verdict in (FALSE, CORRECTED):
        for row in (row for row in rows().values() if row.verdict == verdict):
            held = sections()[row.anchor].partition("**What holds.**")[2].partition("**Measured")[0]
            flat = re.sub(r"\s+", " ", held.replace("$$", "$")).strip()
            first, *more = re.split(r"(?<=[.;]) (?=[A-Z$])", flat)
            while more and len(first) < _TELLING:
                first += " " + more.pop(0)
            lines.append(f"- [{row.title}](#{row.anchor}), {verdict}. *Printed:* {row.printed}. *Holds:* {first}")
    return "\n".join(re.sub(r";$", ".", line) for line in lines)


def _verdict(anchor: str) -> str:
    assert anchor in rows(), f"docs/ledger.md has no row #{anchor}"
    return rows()[anchor].verdict


def holds(anchor: str, error: float, within: float) -> None:
    """The printed statement, true to `within`."""
    assert _verdict(anchor) == HOLDS
    assert error <= within, (anchor, error)


def _replaced(anchor: str, printed: float, off: float, right: float, within: float) -> None:
    assert within < off / 100, "what is called right must be far nearer than what is called wrong"
    assert printed >= off, (anchor, "the printed statement is not that far off", printed)
    assert right <= within, (anchor, "the corrected statement is off", right)


def corrected(anchor: str, *, printed: float, off: float, right: float, within: float) -> None:
    """A misprint: as printed wrong by at least `off`, as corrected true to `within`."""
    assert _verdict(anchor) == CORRECTED
    _replaced(anchor, printed, off, right, within)


def false_as_printed(anchor: str, *, printed: float, off: float, right: float, within: float) -> None:
    """A claim with a counterexample, wrong by at least `off`; what holds instead is true to `within`."""
    assert _verdict(anchor) == FALSE
    _replaced(anchor, printed, off, right, within)


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + differing() + END + rest.partition(END)[2], encoding="utf-8")
