"""Look at the built documentation: links, what it would load from elsewhere, search, completeness of the
API pages, whose names show their types and their source.

    python tests/scripts/docs_site.py HTML_FOLDER

Exit status 1 if anything is wrong.
"""

import html.parser
import json
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import unhinged_jax as uj

TERMS = {
    "lockstep": "batching",
    "resum": "tutorials/sweep",
    "heavi": "api/generated/unhinged_jax.Descent",
    "cosh": "exact-solutions",
}
"""Stems and a page that a search for them must find."""


class Page(html.parser.HTMLParser):
    """Anchors, links and loaded files of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.anchors.update(value for name, value in given.items() if name in ("id", "name"))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("canonical", "index", "search", "next", "prev", "author"):
            self.loads.append(given.get("href", ""))
        elif tag in ("script", "img", "source", "video", "iframe", "object") and ("src" in given or "data" in given):
            self.loads.append(given.get("src", given.get("data", "")))


def wrong_links(folder: Path, pages: dict[Path, Page]) -> list[str]:
    found = []
    for path, page in pages.items():
        where = path.relative_to(folder)
        for link in page.loads:
            if urlsplit(link).netloc:
                found.append(f"{where} loads {link}")
        for link in (*page.links, *page.loads):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                found.append(f"{where}: {link} leads nowhere")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{where}: {link} has no such place")
    return found


def wrong_search(folder: Path) -> list[str]:
    text = (folder / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("Search.setIndex(").rstrip().removesuffix(")"))
    found = []
    for stem, page in TERMS.items():
        places = [index[kind].get(stem, []) for kind in ("terms", "titleterms")]
        names = [index["docnames"][k] for one in places for k in ([one] if isinstance(one, int) else one)]
        if page not in names:
            found.append(f"a search for {stem!r} finds {names or 'nothing'}, not {page}")
    return found


def missing_names(pages: dict[Path, Page]) -> list[str]:
    anchors = {anchor for page in pages.values() for anchor in page.anchors}
    return [f"unhinged_jax.{name} is in no API page" for name in uj.__all__ if f"unhinged_jax.{name}" not in anchors]


def without_source(folder: Path) -> list[str]:
    """Pages of the reference that show no source or, of a function, no types."""
    found = []
    for path in sorted((folder / "api" / "generated").glob("*.html")):
        text = path.read_text(encoding="utf-8")
        if "viewcode-link" not in text:
            found.append(f"{path.name} has no link to its source")
        if "sig-param" in text and 'class="sig-return"' not in text and "py function" in text:
            found.append(f"{path.name} shows no types")
    return found


def twins(folder: Path) -> list[str]:
    """Titles that several pages have."""
    pages: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.html")):
        name = path.relative_to(folder).as_posix()
        found = re.search(r"<h1>(.*?)<a ", path.read_text(encoding="utf-8"), re.DOTALL)
        if found and not name.startswith(("_", "files/")):
            pages.setdefault(re.sub("<[^>]*>", "", found[1]).strip(), []).append(name)
    return [f"{' and '.join(names)} have the title {title!r}" for title, names in pages.items() if len(names) > 1]


def main() -> int:
    folder = Path(sys.argv[1]).resolve()
    pages = {path: Page(path) for path in sorted(folder.rglob("*.html"))}
    wrong = [
        *wrong_links(folder, pages),
        *wrong_search(folder),
        *missing_names(pages),
        *without_source(folder),
        *twins(folder),
    ]
    print("\n".join(wrong) or f"{len(pages)} pages: links, search, API names are whole, all files local")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
