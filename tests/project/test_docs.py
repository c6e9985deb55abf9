"""What can be said about the documentation without building it; `tests/scripts/docs_code.py` runs its code."""

import re

import doc_blocks
import pytest
from checkout import ROOT

from unhinged_jax.cli import app


@pytest.mark.parametrize("page", doc_blocks.pages(), ids=lambda page: page.stem)
def test_links_lead_to_files(page):
    for file, _ in doc_blocks.links(page):
        assert not file or (page.parent / file).exists(), f"{page.name} links to {file}"


@pytest.mark.parametrize("page", doc_blocks.pages(), ids=lambda page: page.stem)
def test_every_block_is_run_or_shown(page):
    for block in doc_blocks.blocks(page):
        known = block.language.startswith("{") or block.language in (*doc_blocks.RUN, *doc_blocks.SHOWN)
        assert known, f"{block.place}: nothing runs {block.language!r}"


def options_of(command):
    """The options of a command, without those that only take one back."""
    arguments = app[command].assemble_argument_collection()
    named = [one.names for one in arguments if one.show and one.field_info.kind.name == "KEYWORD_ONLY"]
    return {name for names in named for name in names if not name.startswith(("--no-", "--empty-"))}


def test_the_table_of_commands_has_every_option():
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `unhinged (\w+)(.*?)` \|", page, re.M)
    said = {name: {*re.findall(r"--[a-z-]+", options)} for name, options in rows}
    assert len(said) > 10
    assert said == {name: options_of(name) for name in app if not name.startswith("-")}


def test_blocks_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Text.\n\n```python\na = 1\n```\n\n<!-- code: not run: takes hours -->\n\n```bash\nunhinged doctor\n```\n\n"
        "```bash\npip install x\n# a comment\n```\n\n"
        "<!-- code: run as: shorter\nunhinged --help -->\n```bash\nunhinged verify\n```\n"
        "````text\n```python\n1 / 0\n```\n````\n"
    )
    found = doc_blocks.blocks(page)
    assert [block.language for block in found] == ["python", "bash", "bash", "bash", "text"]
    assert [block.skipped for block in found[:4]] == ["", "takes hours", "installs only", ""]
    assert found[3].code == "unhinged --help"


def test_an_exception_needs_a_reason(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- code: not run -->\n```bash\nfalse\n```\n")
    with pytest.raises(ValueError, match="say why"):
        doc_blocks.blocks(page)
