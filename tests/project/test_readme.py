"""README.md and CONTRIBUTING.md: short, and what they link to exists; `scripts/printed_code.py` runs their code."""

import re

import pytest
from checkout import ROOT
from doc_blocks import texts


def links(page: str) -> set[str]:
    """Relative targets of the links and pictures of a page, HTML ones too, code left out."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    text = re.sub(r"`[^`\n]*`", "", text)
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    return {target for target in found if not re.match(r"[a-z]+:|#", target)}


def test_the_commands_of_the_readme_are_one_line_each():
    commands = texts("README.md", "bash")
    assert len(commands) == 2 and not any("\n" in command for command in commands)
    assert "unhinged reproduce" in commands[0] and "-m pytest" in commands[1]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    found = links(page)
    assert found
    missing = sorted(target for target in found if not (ROOT / target.partition("#")[0]).exists())
    assert not missing, f"{page} links to what is not there: {', '.join(missing)}"


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 75 and max(map(len, lines)) < 200
