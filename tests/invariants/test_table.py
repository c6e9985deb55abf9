"""Two ways that must agree: every public operation that returns numbers, under every change that must leave them."""

import pytest
from invariants.changes import CHANGES
from invariants.table import ROWS, differences, hole, printed

CELLS = [(*row, change) for row in ROWS for change in CHANGES if hole(*row, change) is None]


@pytest.mark.long
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: " / ".join(cell))
def test_cell(cell):
    assert not differences(*cell)
