"""Walk through the built documentation in a headless Chromium, as a reader does.

    python tests/scripts/docs_browser.py HTML_FOLDER [--pages PATTERN]

No block of code or output is cut on a desktop and no page is wider than a phone; links lead to places that exist, and
open a page where one is meant; every page loads in time; text has enough contrast in both themes; what readers ask for
is found by the search and within two clicks. Exit status 1 if anything is wrong. Without a Chromium (`CHROMIUM`, the
PATH, or `playwright install chromium`) nothing is checked, which is said.
"""

import argparse
import functools
import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

sys.path.append(str(Path(__file__).parents[1]))  # for the helpers of the tests

import chromium

SLOWEST = 3.0  # seconds
DESKTOPS = (1280, 1440, 1920)  # widths in pixels: without and with the contents of the page beside it
CONTRAST, CONTRAST_OF_LARGE_TEXT = 4.5, 3.0
ALONE = ("_static/", "files/docs/")
"""Pages that are not of the site's making, such as the animation."""
KEPT = (".ipynb", ".py", ".csv")  # what a link may download, where a page says so

QUESTIONS = {
    "install on a GPU machine": ("installation.html", '".[cuda]"', "install GPU"),
    "the key for Nesterov momentum in a file": ("how-to.html", "nesterov = true", "nesterov"),
    "the formula of NC3": ("observables.html", "NC3: self-duality", "NC3"),
    "what gap_H is": ("observables.html", "gap_H, gap_W", "gap_H"),
    "resume a sweep on SLURM": ("tutorials/cluster.html", "SLURM_ARRAY_TASK_ID", "SLURM"),
    "results that differ from the printed paper": (
        "ledger.html",
        "What differs from the printed paper",
        "printed paper",
    ),
    "run Adam in closed form": ("exact-solutions.html", "optax.adam", "Adam closed form"),
    "set a depth": ("exact-solutions.html", "depth=L", "depth"),
    "hold samples out": ("exact-solutions.html", "labels.hold_out", "hold_out"),
    "add an average": ("exact-solutions.html", "MovingAverage(keep)", "moving average"),
    "the limits of the library": ("design-decisions.html", "reason, and what to do", "limits"),
}
"""Question -> the page that answers it, words of the answer, words to search for."""

CUT = """[...document.querySelectorAll("article pre")].filter(one => one.clientWidth > 0)
    .filter(one => one.scrollWidth > one.clientWidth + 1)
    .map(one => one.textContent.split("\\n").sort((a, b) => b.length - a.length)[0].slice(0, 100))"""

LINKS = """[...document.querySelectorAll("a[href]")].map(one =>
    [one.href, one.hasAttribute("download") || one.classList.contains("download")])"""

PLACES = """[...document.querySelectorAll("[id], a[name]")].flatMap(one => [one.id, one.name]).filter(one => one)"""

WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"

FAINT = """(() => {
  const parsed = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const over = (a, b) => [0, 1, 2].map(k => a[k] * a[3] + b[k] * (1 - a[3])).concat(1);
  const behind = one => {
    const layers = [];
    for (let at = one; at; at = at.parentElement) layers.push(parsed(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
  };
  const light = c => [0.2126, 0.7152, 0.0722].reduce((sum, weight, k) => {
    const v = c[k] / 255; return sum + weight * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); }, 0);
  const found = new Map();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walk.nextNode(); text; text = walk.nextNode()) {
    const one = text.parentElement;
    if (!text.data.trim() || one.closest("svg, mjx-container, script, style, noscript, template")) continue;
    const seen = one.checkVisibility({opacityProperty: true, visibilityProperty: true});
    if (!seen || !one.getClientRects().length) continue;
    const style = getComputedStyle(one), size = parseFloat(style.fontSize), back = behind(one);
    const [a, b] = [light(over(parsed(style.color), back)), light(back)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? LARGE : SMALL)) found.set(style.color + " on " + back.slice(0, 3).map(Math.round),
      ratio.toFixed(2) + ": " + text.data.trim().slice(0, 40));
  }
  return [...found].map(([colours, what]) => `${what} (${colours})`);
})()""".replace("LARGE", str(CONTRAST_OF_LARGE_TEXT)).replace("SMALL", str(CONTRAST))

HITS = """(async () => {
  for (let turn = 0; turn < 100; turn++) {
    await new Promise(done => setTimeout(done, 100));
    const status = document.querySelector(".search-summary");
    if (status && status.textContent.match(/\\d|not match/)) break;
  }
  return [...document.querySelectorAll("ul.search li a")].map(one => one.href);
})()"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_arguments) -> None:
        pass


def served(folder: Path) -> http.server.ThreadingHTTPServer:
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Site:
    """What was seen of the pages."""

    def __init__(self, tab: chromium.Page, folder: Path, root: str) -> None:
        self.tab, self.folder, self.root = tab, folder, root
        self.links: dict[str, list[tuple[str, bool]]] = {}
        self.places: dict[str, set[str]] = {}

    def visit(self, page: str) -> Iterator[str]:
        """Look at one page; what is wrong with it."""
        tab = self.tab
        tab.size(1280, 900)
        tab.theme("light")
        seconds = tab.go(f"{self.root}/{page}")
        if seconds > SLOWEST:  # a busy machine may be slow once
            seconds = tab.go(f"{self.root}/{page}")
        if seconds > SLOWEST:
            yield f"takes {seconds:.1f} s to load"
        self.links[page] = [(href, load) for href, load in tab.run(LINKS) if href.startswith(self.root)]
        self.places[page] = set(tab.run(PLACES))
        for width in DESKTOPS:
            tab.size(width, 900)
            yield from (f"a block is cut at {width} pixels: {text}" for text in tab.run(CUT))
        for theme in ("light", "dark"):
            tab.theme(theme)
            yield from (f"contrast in the {theme} theme: {what}" for what in tab.run(FAINT))
        tab.size(390, 844)
        if (wider := tab.run(WIDER)) > 0:
            yield f"is {wider} pixels wider than a phone"

    def wrong_links(self, page: str) -> Iterator[str]:
        for href, load in dict.fromkeys(self.links[page]):
            address, place = urldefrag(href)
            target = unquote(urlsplit(address).path).lstrip("/") or "index.html"
            if not (self.folder / target).is_file():
                yield f"{target} is not there"
            elif load and not target.endswith(KEPT):
                yield f"{target} is downloaded, not opened"
            elif place and target in self.places and unquote(place) not in self.places[target]:
                yield f"{target}#{place} is no such place"

    def near(self) -> set[str]:
        """Pages within two clicks of the first one."""
        reached = {"index.html"}
        for _ in range(2):
            for page in list(reached):
                for href, _load in self.links.get(page, ()):
                    reached.add(unquote(urlsplit(href).path).lstrip("/"))
        return reached

    def unanswered(self) -> Iterator[str]:
        near = self.near()
        for question, (page, words, search) in QUESTIONS.items():
            self.tab.go(f"{self.root}/{page}")
            if words not in self.tab.run("document.body.innerText"):
                yield f"{question}: {page} does not say {words!r}"
            if page not in near:
                yield f"{question}: {page} is not within two clicks of the first page"
            self.tab.go(f"{self.root}/search.html?q={search.replace(' ', '+')}")
            hits = [urlsplit(one).path.lstrip("/") for one in self.tab.run(HITS)][:10]
            if page not in hits:
                yield f"{question}: a search for {search!r} finds {hits or 'nothing'}, not {page}"


def opens(tab: chromium.Page, root: str) -> Iterator[str]:
    """Clicking on pictures and on a file of the project opens them."""
    for page, link in {"gallery.html": "sphere.html", "ledger.html": "test_ledger_setup.py"}.items():
        tab.go(f"{root}/{page}")
        tab.run(f"document.querySelector('a[href*=\"{link}\"]').click()")
        tab.wait("Page.loadEventFired", 10)
        if link not in tab.run("location.href"):
            yield f"a click on {link} in {page} does not open it"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pages", default="*")
    given = parser.parse_args()
    program = chromium.found()
    if program is None:
        print("skipped: no Chromium on the PATH, in CHROMIUM or of Playwright")
        return 0
    folder = given.folder.resolve()
    wrong = []
    server = served(folder)
    root = f"http://127.0.0.1:{server.server_port}"
    with chromium.opened(program) as tab:
        site = Site(tab, folder, root)
        pages = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.html"))]
        pages = [page for page in pages if not page.startswith(ALONE) and Path(page).match(given.pages)]
        for page in pages:
            wrong += [f"{page}: {what}" for what in site.visit(page)]
        wrong += [f"{page}: {what}" for page in pages for what in site.wrong_links(page)]
        if given.pages == "*":
            wrong += [*opens(tab, root), *site.unanswered()]
    server.shutdown()
    print("\n".join(wrong) or f"{len(pages)} pages: nothing cut, slow, faint or broken; every question answered")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
