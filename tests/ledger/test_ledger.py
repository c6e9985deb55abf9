"""The ledger's page and its tests keep in step: every row has a section and a test of its own, and the examples run."""

import ast
import contextlib
import io
import re
from pathlib import Path

import pytest
from verdicts import BEGIN, CORRECTED, END, FALSE, HOLDS, LINK, PAGE, differing, rows, sections, slug

HERE = Path(__file__).parent
JUDGES = {"holds": HOLDS, "corrected": CORRECTED, "false_as_printed": FALSE}
TEXT = PAGE.read_text(encoding="utf-8")


def ledger_tests():
    """Name of a test -> its file and the judgements it makes: (name of the judge, anchor)."""
    found = {}
    for path in sorted(HERE.glob("test_ledger_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                calls = [c for c in ast.walk(node) if isinstance(c, ast.Call) and getattr(c.func, "id", "") in JUDGES]
                found[node.name] = path.name, [(c.func.id, c.args[0].value) for c in calls]
    return found


def test_every_row_has_a_section_and_every_section_a_row():
    assert list(rows()) == list(sections())
    assert len(rows()) >= 60


def test_the_list_of_what_differs_is_what_the_script_writes():
    listed = TEXT.partition(BEGIN)[2].partition(END)[0]
    assert listed == differing()
    assert sum(row.verdict != HOLDS for row in rows().values()) == listed.count("\n- [") + 1


def test_every_row_has_its_own_test_that_judges_it():
    tests = ledger_tests()
    for row in rows().values():
        assert row.name == "test_" + row.anchor.replace("-", "_"), row
        path, judgements = tests[row.name]
        assert row.path == f"tests/ledger/{path}", row
        assert [(JUDGES[judge], anchor) for judge, anchor in judgements] == [(row.verdict, row.anchor)], row
    assert {row.name for row in rows().values()} == set(tests)


@pytest.mark.parametrize("anchor", rows())
def test_every_section_says_what_a_reader_needs(anchor):
    body = sections()[anchor]
    for part in ("**Printed", "**What holds", "**Measured", "**See it"):
        assert part in body, part
    assert f"-k {rows()[anchor].name}`" in body


def test_links_lead_somewhere():
    for match in LINK.finditer(TEXT):
        target = match["target"]
        if target.startswith("#"):
            assert target[1:] in sections() or target[1:] in {slug(h) for h in re.findall(r"^##? (.+)$", TEXT, re.M)}
        elif not target.startswith("http"):
            assert (PAGE.parent / target).exists(), target


def test_a_reversed_verdict_is_noticed():
    import verdicts

    with pytest.raises(AssertionError):
        verdicts.holds("eq-69-b", 0.0, within=1)  # the page says corrected
    with pytest.raises(AssertionError):
        verdicts.corrected("eq-69-a", printed=1, off=1, right=0, within=0)  # the page says holds
    with pytest.raises(AssertionError):
        verdicts.corrected("eq-69-b", printed=0.01, off=0.1, right=0, within=0)  # not that wrong
    with pytest.raises(AssertionError):
        verdicts.corrected("eq-69-b", printed=1, off=0.1, right=1e-3, within=1e-4)  # the correction is wrong
    with pytest.raises(AssertionError):
        verdicts.holds("eq-69-a", float("nan"), within=1)


BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_examples_print_what_the_page_says(number):
    block = BLOCKS[number]
    # What is printed stands behind the call or, if that is long, below it.
    expected = re.findall(r"^print\([^#]*\)(?:  |\n)# (.+)$", block, flags=re.MULTILINE)
    assert expected
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(block, f"docs/ledger.md, example {number}", "exec"), {})
    assert said.getvalue().splitlines() == expected
