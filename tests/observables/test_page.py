"""The page of observables has each of them once, with a formula, and the ideal value and the paper of each metric."""

import math
import re

import pytest
from checkout import ROOT

from unhinged_jax.collapse import MEASURED
from unhinged_jax.observables import OBSERVABLES

PAGE = (ROOT / "docs" / "observables.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^##+ .+\n\n", PAGE, flags=re.M)[1:]
VALUES = {"0": 0.0, "1": 1.0, "∞": math.inf, "arccos(−1/(C−1))": math.acos(-1 / 9), "C/(C−1)": 10 / 9}


def heads():
    """Name -> its section, by the first line of each, which lists names and their ideal value."""
    found = {}
    for section in SECTIONS:
        head = section.split("\n\n")[0]
        if re.fullmatch(r"(`\w+`(, )?)+(ideal \S+)?", head):
            for name in re.findall(r"`(\w+)`", head):
                assert name not in found, name
                found[name] = section
    return found


def test_every_observable_and_every_metric_has_one_place():
    assert heads().keys() == {*OBSERVABLES, *MEASURED}


@pytest.mark.parametrize("name", {**OBSERVABLES, **MEASURED})
def test_it_has_a_formula_words_and_an_ideal_value(name):
    section = heads()[name]
    head, formula, words, *_ = section.split("\n\n")
    assert formula.startswith("$$\n") and formula.endswith("\n$$") and len(words) > 40
    if name in MEASURED:
        (ideal,) = re.findall(r"ideal (\S+)$", head)
        assert MEASURED[name].ideal(10) == pytest.approx(VALUES[ideal])
        assert MEASURED[name].reference in " ".join(section.split())
    else:
        assert "ideal" not in head
