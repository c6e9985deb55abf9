"""Two ways that must agree: every public operation that returns numbers, under every change that must leave them."""

from fnmatch import fnmatch

import pytest
from invariants.changes import CHANGES
from invariants.table import ROWS, differences, hole, printed

# Problem by problem: a simulated line compares with the closed form that the next one compiles, too.
CELLS = [
    (*row, change) for row in sorted(ROWS, key=lambda row: row[1]) for change in CHANGES if hole(*row, change) is None
]

THIN = {"simulate, flow": "cross-entropy, flow", "simulate, descent": "noisy, descent", "exact, flow": "bias, flow"}
"""Lines that stand for the table where there is no time for all of it: the changes that compile nothing."""
_COMPILE = ("optax.sgd", "dense", "closed form", "loss × c", "labels: s*(0)", "schedule: cosine as a function",
            "cut, simulated and gone on", "cut, exact and gone on", "LayerPeeled itself")  # fmt: skip


def _few(operation, problem, change):
    compiles = CHANGES[change].costs or any(fnmatch(change, one) for one in _COMPILE)
    return THIN.get(operation) == problem and not compiles


@pytest.mark.parametrize("cell", [cell for cell in CELLS if _few(*cell)], ids=" / ".join)
def test_cell_of_a_few_lines(cell):
    assert not differences(*cell)


@pytest.mark.long
@pytest.mark.parametrize("cell", CELLS, ids=" / ".join)
def test_cell(cell):
    assert not differences(*cell)


def test_every_hole_has_a_reason_and_every_line_is_checked():
    for row in ROWS:
        assert sum(cell[:2] == row for cell in CELLS) >= 4, row
    assert {cell[2] for cell in CELLS} == {*CHANGES}
    assert "compiles a program more" in printed()
