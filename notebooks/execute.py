"""Run the notebooks from their scripts, each in a clean kernel, and keep what they show.

    python notebooks/execute.py [NAME ...]

The scripts are the source; a notebook is its script and the outputs. What differs from one run or machine to the next
without being a result - times of execution, versions of the interpreter, random identifiers - is left out.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
os.environ.setdefault("UNHINGED_QUIET", "1")  # no line that says "compiling", which depends on the machine


def scripts() -> list[Path]:
    """Every script that is paired with a notebook."""
    paired = "\n#     formats: ipynb,py:percent"
    return sorted(path for path in HERE.glob("*.py") if paired in path.read_text(encoding="utf-8"))


def executed(script: Path) -> nbformat.NotebookNode:
    """The notebook of a script, run from a clean kernel."""
    source = jupytext.read(script)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    source.metadata = nbformat.from_dict(
        {"jupytext": {"formats": "ipynb,py:percent"}, "kernelspec": kernel, "language_info": {"name": "python"}}
    )
    NotebookClient(source, timeout=600, kernel_name="python3", record_timing=False,
                   resources={"metadata": {"path": str(HERE)}}).execute()  # fmt: skip
    for number, cell in enumerate(source.cells):
        cell.id, cell.metadata = f"cell-{number:02d}", nbformat.from_dict({})
    source.metadata["language_info"] = nbformat.from_dict({"name": "python"})
    source.nbformat, source.nbformat_minor = 4, 5
    return source


def main(names: list[str]) -> None:
    for script in [HERE / f"{name}.py" for name in names] or scripts():
        began = time.monotonic()
        notebook = executed(script)
        nbformat.validate(notebook)
        target = script.with_suffix(".ipynb")
        part = target.with_name(target.name + ".part")
        part.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
        part.replace(target)
        size = target.stat().st_size / 1024
        print(f"{script.stem}: {time.monotonic() - began:.0f} s, {size:.0f} KiB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
