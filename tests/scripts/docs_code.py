"""Run every block of code in README.md and the pages of docs/: python, bash and toml, page by page in order.

    python tests/scripts/docs_code.py [PAGE ...] [--cells]

A page has one namespace and one temporary folder. What a comment in the page excepts is listed with its reason;
blocks of {code-cell} are run by the build of the documentation, or here with --cells. Exit status 1 if a block fails.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # for the helpers of the tests

import doc_blocks
from doc_blocks import ROOT, Block

LONGEST = 900  # seconds


def run_bash(block: Block, folder: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    python = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": python},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST,
    )
    if done.returncode:
        raise RuntimeError(f"status {done.returncode}\n{done.stdout[-4000:]}")


def check_toml(block: Block, folder: Path) -> None:
    """Sections of a file that one of the commands reads; what is left out comes from the shipped example."""
    from unhinged_jax import DesignPlan, SweepPlan
    from unhinged_jax.config import build, config_of
    from unhinged_jax.training import Settings

    tables = tomllib.loads(block.code)
    if not {"data", "network", "head", "train"}.isdisjoint(tables):
        Settings.of(tables, block.place)
        return
    example = ROOT / "examples" / "regularized.toml"
    tables = {**tomllib.loads(example.read_text(encoding="utf-8")), **tables}
    path = folder / block.place.replace("/", "-")  # beside the files of the page
    if "sweep" in tables:
        SweepPlan.of(tables, path)
    elif "design" in tables:
        DesignPlan.of(tables, path)
    else:
        build(config_of(tables, path))


def run_block(block: Block, folder: Path, names: dict) -> None:
    if block.note == "file":
        (folder / block.detail).write_text(block.text + "\n", encoding="utf-8")
    if block.language == "toml":
        check_toml(block, folder)
    elif block.language == "bash":
        run_bash(block, folder)
    elif block.note != "file":
        exec(compile(block.code, block.place, "exec"), names)


def cell_of(block: Block) -> Block:
    """A {code-cell} as a block; one that is to raise does so, and then goes on."""
    lines = [line for line in block.text.splitlines() if not line.startswith((":", "%"))]
    if "raises-exception" in block.text:
        caught = [f"    {line}" for line in lines]
        lines = ["import pytest", "with pytest.raises(Exception) as _told:", *caught, "print(_told.value)"]
    return Block(block.page, block.line, "python", "\n".join(lines))


def run_page(page: Path, cells: bool) -> int:
    """Run a page; the number of blocks that failed."""
    failed, names = 0, {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["MPLBACKEND"] = "Agg"
        sys.path.insert(0, folder)
        for block in doc_blocks.blocks(page):
            if block.language == "{code-cell}" and cells:
                block = cell_of(block)
            if block.language not in doc_blocks.RUN:
                continue
            if block.skipped:
                print(f"  not run  {block.place}: {block.skipped}", flush=True)
                continue
            began = time.monotonic()
            try:
                run_block(block, Path(folder), names)
            except Exception as error:
                failed += 1
                told = str(error) if block.language != "python" else traceback.format_exc()
                print(f"  FAILED   {block.place}: {type(error).__name__}: {told}", flush=True)
            else:
                print(f"  {time.monotonic() - began:5.1f} s  {block.place} ({block.language})", flush=True)
        os.chdir(ROOT)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--cells", action="store_true")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    pages = [page.resolve() for page in asked.pages] or doc_blocks.pages()
    if asked.alone:
        return min(run_page(pages[0], asked.cells), 1)
    failed = []
    for page in pages:
        wanted = (*doc_blocks.RUN, "{code-cell}") if asked.cells else doc_blocks.RUN
        if any(block.language in wanted for block in doc_blocks.blocks(page)):
            # A process for each page, so that none can lean on another.
            flags = ["--alone", *(["--cells"] if asked.cells else [])]
            if subprocess.run([sys.executable, __file__, str(page), *flags]).returncode:
                failed.append(str(page.relative_to(ROOT)))
    print(f"failed: {', '.join(failed)}" if failed else f"{len(pages)} pages: every block of code ran")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
