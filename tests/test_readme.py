"""README.md and CONTRIBUTING.md: short, and where they point there is something; `tests/printed_code.py` runs them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S)


def links(page: str) -> set[str]:
    """Relative targets of the links and pictures of a page, HTML ones too, code left out."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    text = re.sub(r"`[^`\n]*`", "", text)
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    return {target for target in found if not re.match(r"[a-z]+:|#", target)}


def test_the_commands_of_the_readme_are_one_line_each():
    commands = blocks("README.md", "bash")
    assert len(commands) == 2 and all(command.count("\n") == 1 for command in commands)
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
