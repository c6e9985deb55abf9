"""The site that the documentation becomes: its own extensions, and the walk through it in a browser."""

import importlib
import io
import re

import pytest
from checkout import ROOT
from doc_blocks import blocks, pages
from rich.console import Console

import unhinged_jax as uj
from unhinged_jax.cli import app

DOCS = ROOT / "docs"
WIDEST = 88
"""Characters of a line of code: as many as a desktop shows beside both sidebars."""


def extension(name, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    return importlib.import_module(name)


def summarised():
    """Names in the summary tables of the reference."""
    found = set()
    for page in (DOCS / "api").glob("*.md"):
        module = ""
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith(".. currentmodule:: "):
                module = line.split()[-1]
            elif re.fullmatch(r"   \w+", line):
                found.add(f"{module}.{line.strip()}")
    return found


@pytest.mark.parametrize("page", [page for page in pages() if page.name != "README.md"], ids=lambda page: page.stem)
def test_code_in_pages_fits_a_desktop(page):
    wide = [
        f"{block.place}: {line}"
        for block in blocks(page)
        if block.language in ("python", "bash", "toml", "{code-cell}")
        for line in block.text.splitlines()
        if len(line) > WIDEST
    ]
    assert not wide, "\n".join(wide)


def test_every_public_name_has_a_page_of_its_own():
    named = summarised()
    sets = {name for name in uj.__all__ if isinstance(getattr(uj, name), tuple)}
    assert {f"unhinged_jax.{name}" for name in uj.__all__ if name not in sets} <= named
    from unhinged_jax import collapse

    assert {f"unhinged_jax.collapse.{name}" for name in collapse.__all__ if not name.isupper()} <= named


def test_every_command_has_a_heading_and_a_table_of_all_its_options(monkeypatch):
    pytest.importorskip("sphinx", reason="the documentation needs it; pip install '.[docs]'")
    tables = extension("option_tables", monkeypatch)
    text = (DOCS / "api" / "command-line.md").read_text(encoding="utf-8")
    commands = [name for name in app if not name.startswith("-")]
    headed = re.findall(r"^## unhinged (\S+)$", text, re.M)
    assert headed == re.findall(r"^## unhinged (\S+)\n\n```{unhinged-command} \1$", text, re.M)
    assert sorted(headed) == sorted(commands)
    for name in commands:
        printed = io.StringIO()
        app.help_print([name], console=Console(file=printed, width=200))
        shown = re.findall(r"^│ [* ]*(--[a-z-]+)", printed.getvalue(), re.M)
        assert shown == [option for option, *_ in tables.rows(name) if option.startswith("--")]
    assert tables.described("simulate")[0] == "unhinged simulate CONFIG --out PATH [OPTIONS]"
    assert ("--precision", "float32 or float64", "", "Instead of the one in the file.") in tables.rows("simulate")


def test_pages_that_use_a_name_are_found(monkeypatch):
    used = extension("used_in", monkeypatch).used_in
    assert "tutorials/cluster" in used("unhinged_jax.sweep")
    assert used("unhinged_jax.training.ntk.predict") == ["training"]
    assert used("unhinged_jax.anchored")[0] == "notebooks/theorem-6-anchored"
    assert used("unhinged_jax.no_such_name") == [] and "quickstart" not in used("unhinged_jax.losses.Hinge")


def test_links_to_files_open_and_names_lead_to_functions(tmp_path, monkeypatch):
    pytest.importorskip("myst_parser", reason="the documentation needs it; pip install '.[docs]'")
    linked = extension("linked_files", monkeypatch)
    monkeypatch.setattr(linked, "ROOT", tmp_path)
    source = tmp_path / "docs"
    source.mkdir()
    (source / "conf.py").write_text("extensions = ['myst_parser', 'linked_files']\nhtml_theme = 'basic'\n")
    (tmp_path / "code.py").write_text("x = 1\n\n\ndef found():\n    return x\n")
    (source / "picture.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (source / "index.md").write_text(
        "# Title\n\n[`found`](../code.py) [whole](../code.py) [picture](picture.svg) {download}`kept <../code.py>`\n"
    )
    from sphinx.cmd.build import build_main

    assert build_main(["-q", "-b", "html", str(source), str(tmp_path / "html")]) == 0
    text = (tmp_path / "html" / "index.html").read_text()
    links = re.findall(r'<a class="([^"]*)"[^>]*? href="([^"]*)"', text)
    to = [href for kind, href in links if "code.py" in href or "svg" in href]
    assert to[:3] == ["files/code.py.html#found", "files/code.py.html", "files/docs/picture.svg"]
    assert [href for kind, href in links if "download" in kind] == to[3:] and to[3].startswith("_downloads/")
    shown = (tmp_path / "html" / "files" / "code.py.html").read_text()
    assert re.search(r'<span id="found"></span>.*def', shown)
    assert (tmp_path / "html" / "files" / "docs" / "picture.svg").read_text() == (source / "picture.svg").read_text()


FAULTS = """<!DOCTYPE html><html><head><style>
pre {{ overflow: auto; width: 20em; }} a {{ color: inherit; }} {style}</style>
</head><body><article>
<p class="faint">Text that is hard to read.</p><pre>{code}</pre><a href="#there">here</a>
<a href="two.html#nowhere">there</a><a href="three.html">gone</a><a href="two.html" download>two</a>
<p id="there">A place.</p></article></body></html>"""


def test_the_walk_finds_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "scripts"))
    walk = importlib.import_module("docs_browser")
    program = walk.chromium.found()
    if program is None:
        pytest.skip("there is no Chromium on the PATH, in CHROMIUM or of Playwright")
    faint = "@media (prefers-color-scheme: dark) { body { background: #111; color: #eee; } .faint { color: #666; } }"
    (tmp_path / "index.html").write_text(FAULTS.format(style=faint, code="x" * 200))
    (tmp_path / "two.html").write_text("<!DOCTYPE html><html><body><p>Whole.</p></body></html>")
    server = walk.served(tmp_path)
    with walk.chromium.opened(program) as tab:
        site = walk.Site(tab, tmp_path, f"http://127.0.0.1:{server.server_port}")
        seen = {page: list(site.visit(page)) for page in ("index.html", "two.html")}
        links = list(site.wrong_links("index.html"))
    server.shutdown()
    assert seen["two.html"] == []
    cut = [f"a block is cut at {width} pixels" for width in walk.DESKTOPS]
    assert [what.partition(":")[0] for what in seen["index.html"]] == [*cut, "contrast in the dark theme"]
    assert "Text that is hard" in seen["index.html"][-1]
    assert links == [
        "two.html#nowhere is no such place",
        "three.html is not there",
        "two.html is downloaded, not opened",
    ]
