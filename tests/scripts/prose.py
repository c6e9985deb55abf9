"""Run proselint over all prose: pages, docstrings, comments and messages.

    python tests/scripts/prose.py

prints what it finds, as `file:line: what`, and exits with status 1 if it finds anything. The checks are chosen in
pyproject.toml, under `tool.proselint`; `tests/project/test_english.py` looks for this project's own phrases.
"""

import sys
import tomllib
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # for the helpers of the tests

import english
from checkout import ROOT
from proselint.checks import __register__
from proselint.config import DEFAULT
from proselint.registry import CheckRegistry
from proselint.tools import LintFile


def complaints() -> list[str]:
    """What proselint finds."""
    CheckRegistry().register_many(__register__)
    chosen = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["proselint"]["checks"]
    config = {**DEFAULT, "checks": {**DEFAULT["checks"], **chosen}}
    found = set()
    for one in english.everything():
        for result in LintFile(one.path, content=one.text).lint(config):
            message = result.check_result
            found.add(f"{one.place(message.span[0])}: {message.check_path}: {message.message}")
    return sorted(found)


if __name__ == "__main__":
    said = complaints()
    print("\n".join(said))
    sys.exit(bool(said))
