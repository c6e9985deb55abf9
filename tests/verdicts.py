"""The table of docs/ledger.md, and the measure that each of its verdicts must pass.

Every row of the page names a statement of the paper, a verdict and a test. The test measures the error of the statement
as printed (and of the corrected one) and hands both to `holds`, `corrected` or `false_as_printed`, which also read the
verdict on the page: a verdict that is changed on the page, or a measurement that no longer supports it, fails the test.
"""

import dataclasses
import functools
import re

from checkout import ROOT

PAGE = ROOT / "docs" / "ledger.md"
HOLDS, CORRECTED, FALSE = "holds", "corrected", "false as printed"
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the overview: anchor of its section, what the verdict is, and where the evidence lies."""

    anchor: str
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
        found[anchor] = Row(anchor, cells[2].strip("*"), name, path)
    return found


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
