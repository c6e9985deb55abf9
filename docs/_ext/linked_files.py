"""Files of the project that a page links to open in the browser: text on a page of its own, pictures and HTML as such.

MyST makes a download of every link to a file that is no page. Here such a link leads to `files/PATH` of the site, and a
link whose text is the name of a function of a Python file leads to that function.
"""

import re
import shutil
from pathlib import Path
from urllib.parse import quote

from docutils import nodes
from sphinx import addnodes
from sphinx.util.osutil import relative_uri

ROOT = Path(__file__).parents[2]
SHOWN = {".png", ".svg", ".html"}
LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json"}
_DEFINES = re.compile(r"(?:def|class) (\w+)")


def _address(path: str) -> str:
    """Where a file of the project lies in the site."""
    return f"files/{path}" if Path(path).suffix in SHOWN else f"files/{path}.html"


def open_links(app, doctree) -> None:
    """Turn downloads that Markdown links made into links; the role `{download}` stays a download."""
    if app.builder.format != "html":
        return
    env = app.env
    for node in list(doctree.findall(addnodes.download_reference)):
        if node.get("reftype") != "myst":
            continue
        file = (Path(env.doc2path(env.docname)).parent / node["reftarget"]).resolve()
        if not file.is_file() or not file.is_relative_to(ROOT):
            continue  # said by Sphinx
        path = file.relative_to(ROOT).as_posix()
        env.linked_files.setdefault(env.docname, set()).add(path)
        address = relative_uri(app.builder.get_target_uri(env.docname), quote(_address(path)))
        place = node.astext()
        if file.suffix == ".py" and place in _DEFINES.findall(file.read_text(encoding="utf-8")):
            address += f"#{place}"
        node.replace_self(nodes.reference("", "", *node.children, refuri=address, internal=True))


def _paths(app) -> list[str]:
    return sorted({path for paths in app.env.linked_files.values() for path in paths})


def text_pages(app):
    """A page for every text file that is linked to, with an anchor at each function."""
    for path in _paths(app):
        file = ROOT / path
        if file.suffix in SHOWN:
            continue
        text = file.read_text(encoding="utf-8")
        language = LANGUAGES.get(file.suffix, "text")
        html = app.builder.highlighter.highlight_block(text, language)
        if file.suffix == ".py":
            lines = html.splitlines()
            for place, line in enumerate(text.splitlines()):
                if found := _DEFINES.match(line):
                    lines[place] = f'<span id="{found[1]}"></span>{lines[place]}'
            html = "\n".join(lines)
        yield (
            f"files/{path}",
            {"title": path, "body": f"<h1>{path}</h1><div class='highlight-{language}'>{html}</div>", "parents": []},
            "page.html",
        )


def copy_shown(app, exception) -> None:
    """Pictures and pages that are whole by themselves."""
    if exception or app.builder.format != "html":
        return
    for path in _paths(app):
        if (ROOT / path).suffix in SHOWN:
            target = Path(app.outdir) / _address(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, target)


def _begin(_app, env, _names) -> None:
    if not hasattr(env, "linked_files"):
        env.linked_files = {}


def _forget(_app, env, name) -> None:
    env.linked_files.pop(name, None)


def _merge(_app, env, _names, other) -> None:
    env.linked_files.update(other.linked_files)


def setup(app) -> dict:
    """Connect to the build."""
    app.connect("env-before-read-docs", _begin)
    app.connect("env-purge-doc", lambda app, env, name: hasattr(env, "linked_files") and _forget(app, env, name))
    app.connect("env-merge-info", _merge)
    app.connect("doctree-read", open_links, priority=400)  # before Sphinx collects what is to be downloaded
    app.connect("html-collect-pages", text_pages)
    app.connect("build-finished", copy_shown)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
