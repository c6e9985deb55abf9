"""README.md and CONTRIBUTING.md: what they print runs, and where they point there is something."""

import contextlib
import io
import re
from pathlib import Path

import jax
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


def run(code: str) -> tuple[str, dict]:
    """What a block prints, and its names."""
    names: dict = {"__name__": "page"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, "page", "exec"), names)
    return printed.getvalue(), names


def test_the_readme_runs_as_printed():
    (code,) = blocks("README.md", "python")
    printed, names = run(code)
    difference = float(re.search(r"worst relative difference (\S+);", printed)[1])
    assert difference < 1e-3  # float32, and a solver
    assert names["run"].kind == "simulated" and names["truth"].kind == "exact"
    # Decay acts on every mode alike: the logarithm of the norm falls by it times the integral of the rate, which for a
    # cosine is half of peak times horizon.
    slope = float(printed.strip().splitlines()[-1])
    assert abs(slope + 0.5 * 1_000 / 2) < 0.01
    assert "−250" in code.splitlines()[-1]


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


def test_every_example_of_contributing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = blocks("CONTRIBUTING.md", "python")
    assert len(found) == 4  # a loss, a case, an observable, a closed form
    for code in found:
        run(code)  # each asserts what it promises
        jax.clear_caches()
