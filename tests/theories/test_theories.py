"""The table of theories: its command, its page, its references."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest

import unhinged_jax as uj
from unhinged_jax import references
from unhinged_jax.cli import main
from unhinged_jax.plots import tex_error
from unhinged_jax.theories import THEORIES, Check, Finding, Theory, command, registry
from unhinged_jax.theories.typeset import number, typeset


def toy(value, name="toy"):
    """A theory that costs nothing."""

    def draw(curves, figure):
        figure.add_subplot().plot(curves["x"])

    return Theory(
        name=name, title="A toy, of course", loss="none", case="toy", predicted="a | b", assumptions="none",
        references=("long2022perils",), account="Nothing.", caption="A line.", libraries=("kidger2021on",),
        compute=lambda: ((Check("the value", value, 1.0), Check("another", 2.0, 1.0, at_least=True)), {"x": [0, 1]}),
        draw=draw,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "bound", "at_least", "kept"),
    [(1.0, 1.0, False, True), (1.1, 1.0, False, False), (1.0, 1.0, True, True), (0.9, 1.0, True, False),
     (math.nan, 1.0, False, False), (math.nan, 1.0, True, False), (math.inf, 1.0, False, False)],
)  # fmt: skip
def test_a_check_is_kept_only_by_its_bound(value, bound, at_least, kept):
    check = Check("x", value, bound, at_least)
    assert check.passed is kept
    assert Finding("toy", (check,), {}, ()).passed is kept


def test_a_finding_without_checks_has_not_passed():
    assert not Finding("toy", (), {}, ()).passed


@pytest.mark.parametrize(("value", "status"), [(0.5, 0), (1.5, 1), (math.nan, 1)])
def test_the_command_writes_page_figures_and_record(tmp_path, monkeypatch, capsys, value, status):
    monkeypatch.setattr(registry, "THEORIES", {"toy": toy(value)})
    out = tmp_path / "page.md"
    assert command.main(out=out) == status
    text = out.read_text()
    assert "a \\| b" in text and "(#a-toy-of-course)" in text and "page/toy.svg" in text
    assert "Philip M. Long" in text and "Neural Computation 34(6):1488–1499, 2022" in text
    assert ("**missed**" in text) == (status == 1)
    assert (tmp_path / "page" / "toy.png").stat().st_size > 1000
    assert b"</svg>" in (tmp_path / "page" / "toy.svg").read_bytes()
    (row,) = json.loads((tmp_path / "page" / "checks.json").read_text())
    assert row["passed"] == (status == 0) and len(row["checks"]) == 2
    assert command.kept(tmp_path / "page" / "curves.npz")["toy"]["x"].tolist() == [0, 1]
    assert "kept" in capsys.readouterr().out


def test_the_formulas_of_every_theory_are_typeset():
    """By matplotlib's reader of TeX, which knows nothing of ours; no formula is left in Unicode or code."""
    for theory in THEORIES.values():
        text = typeset(" ".join([theory.predicted, theory.assumptions, theory.account]))
        formulas = re.findall(r"\$[^$]+\$", text)
        assert not [formula for formula in formulas if tex_error(formula)], theory.name
        assert all(formula.isascii() for formula in formulas), theory.name
        assert not re.search(r"[γλρσωζκ√∫ᵀ‖₁²]", re.sub(r"\$[^$]+\$", "", text)), theory.name


@pytest.mark.parametrize(("value", "shown"), [(3.01e-5, r"$3.0\times10^{-5}$"), (1e-9, "$10^{-9}$"), (0.0, "0"),
                                              (-0.02087, "−0.021"), (1.0, "1"), (2000.0, "2,000")])  # fmt: skip
def test_numbers_of_the_page_have_no_e(value, shown):
    assert number(value) == shown


def test_a_theory_that_cannot_be_run_does_not_take_the_others_with_it(tmp_path, monkeypatch):
    def broken():
        raise RuntimeError("no such luck")

    rows = {"bad": dataclasses.replace(toy(0.5, "bad"), compute=broken), "good": toy(0.5, "good")}
    monkeypatch.setattr(registry, "THEORIES", rows)
    monkeypatch.setattr(command.os, "sched_getaffinity", lambda pid: {0})
    assert command.main(out=tmp_path / "page.md") == 1
    text = (tmp_path / "page.md").read_text()
    assert "no such luck" in text and (tmp_path / "page" / "good.png").exists()


def test_bad_names_and_pages_are_refused_in_one_line(capsys, tmp_path):
    assert main(["theories", "nonsense", "--page", str(tmp_path / "t.md")]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "nonsense" in error[0] and "central-path" in error[0]
    assert main(["theories", "saddles", "--page", str(tmp_path / "t.txt")]) == 1
    assert "Markdown" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_one_theory_runs_from_the_command_line(tmp_path, capsys):
    assert main(["theories", "saddles", "--page", str(tmp_path / "t.md")]) == 0
    assert "1 of 1 theories passed" in capsys.readouterr().out
    assert (tmp_path / "t" / "saddles.png").exists()


def test_every_row_of_the_papers_table_is_there():
    cited = {key for theory in THEORIES.values() for key in theory.references}
    rows = {"papyan2020prevalence", "fang2021exploring", "zhu2021geometric", "ji2022unconstrained", "tirer2022extended",
            "mixon2022neural", "han2022neural", "tirer2023perturbation", "zhou2023unhinged"}  # fmt: skip
    assert rows | {"long2022perils", "vanrooyen2015unhinged", "soudry2018implicit"} <= cited


@pytest.mark.parametrize("key", sorted(references.entries()))
def test_every_reference_is_complete(key):
    parts = references.fields(key)
    assert parts["author"] and parts["title"] and re.fullmatch(r"\d{4}", parts["year"])
    assert any(name in parts for name in ("journal", "booktitle", "school", "url"))
    assert references.entries()[key].count("{") == references.entries()[key].count("}")


def test_every_reference_that_a_theory_names_is_in_the_file():
    for theory in THEORIES.values():
        assert set(theory.references) | set(theory.libraries) <= set(references.entries())
        assert theory.references and theory.account and theory.caption
    with pytest.raises(ValueError, match="no reference 'nobody'"):
        references.bibtex(["nobody"])


def test_citation_of_a_run_prints_what_it_used():
    finding = toy(0.5).run()
    keys = re.findall(r"^@\w+\{(\w+),$", uj.citation(finding), flags=re.MULTILINE)
    assert keys == ["zhou2023unhinged", "long2022perils", "kidger2021on"]
    assert finding.passed and np.array_equal(finding.curves["x"], [0, 1])
