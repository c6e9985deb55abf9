"""The notebooks: pairs agree, outputs are kept, nothing of a machine is left in them. `.ci/full` runs them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from checkout import ROOT

FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
EXPECTED = {
    "theorem-2-unconstrained", "theorem-4-regularized", "theorem-6-anchored", "theorem-7-spherical", "theorem-8-ntk",
    "figures", "phase-diagram", "imbalance", "label-noise", "gradients", "losses", "benchmark", "noise",
}  # fmt: skip
LARGEST = 1_000_000
# Absolute paths of machines and memory addresses; URLs and fractions such as 1/(C-1) are none.
PRIVATE = re.compile(
    r"(?<![\w.:/])/(?:home|root|Users|tmp|work|mnt|opt|usr|var)/|[A-Z]:\\\\|\bat 0x[0-9a-f]{6,}|\.py:\d+: "
)

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the notebooks are in a checkout of the project only")


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def shown(cell: dict) -> str:
    """All text that a cell put out."""
    texts = []
    for output in cell["outputs"]:
        texts += [output.get("text", ""), *(v for k, v in output.get("data", {}).items() if k.startswith("text/"))]
    return "\n".join("".join(text) for text in texts)


def test_every_notebook_is_there_with_its_script() -> None:
    scripts = [path for path in FOLDER.glob("*.py") if "\n#     formats: ipynb,py:percent" in path.read_text("utf-8")]
    paired = {path.stem for path in scripts}
    assert {path.stem for path in NOTEBOOKS} == EXPECTED == paired


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_and_script_agree(path: Path) -> None:
    jupytext = pytest.importorskip("jupytext", reason="jupytext compares notebook and script; pip install '.[docs]'")
    notebook, script = jupytext.read(path), jupytext.read(path.with_suffix(".py"))
    assert notebook.metadata["jupytext"]["formats"] == script.metadata["jupytext"]["formats"] == "ipynb,py:percent"
    assert [(c.cell_type, c.source) for c in notebook.cells] == [(c.cell_type, c.source) for c in script.cells]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_whole_and_say_nothing_of_the_machine(path: Path) -> None:
    notebook = read(path)
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "not run once from the top"
    kinds = [output["output_type"] for cell in cells for output in cell["outputs"]]
    assert "error" not in kinds and "stream" in kinds
    assert not any(output.get("name") == "stderr" for cell in cells for output in cell["outputs"])
    pictures = [o for cell in cells for o in cell["outputs"] if "image/png" in o.get("data", {})]
    assert pictures, "no picture"
    drawing = [cell for cell in cells if "plt.show()" in "".join(cell["source"])]
    assert drawing and all(any("image/png" in o.get("data", {}) for o in cell["outputs"]) for cell in drawing)
    private = [found for cell in cells for found in PRIVATE.findall(shown(cell))]
    assert not private and not PRIVATE.search(json.dumps(notebook["metadata"]))
    assert set(notebook["metadata"]) == {"jupytext", "kernelspec", "language_info"}
    assert all(not cell["metadata"] for cell in notebook["cells"])
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_reader_is_told_what_comes_and_everything_is_checked(path: Path) -> None:
    notebook = read(path)
    first, last = notebook["cells"][0], code_cells(notebook)[-1]
    opening = "".join(first["source"])
    assert first["cell_type"] == "markdown" and opening.startswith("# ") and "ou will see" in opening
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"])
    assert "$" in text and "\n## Check\n" in f"\n{text}"
    check = "".join(last["source"])
    assert len(re.findall(r"^\s*assert ", check, flags=re.MULTILINE)) >= 2
    # What a clock shows differs from run to run, so that a check of it would fail on a busy day.
    asserted = [line for line in check.splitlines() if "assert" in line]
    assert not [line for line in asserted if re.search(r"perf_counter|\bwarm\b|\btook\b|\bms\b", line)]


SEEN = [f"/{'home'}/me/x.py", f"File /{'root'}/a", "<object at 0x7f12ab34>", "x.py:12: UserWarning"]


@pytest.mark.parametrize("text", SEEN)
def test_paths_of_machines_are_recognised(text: str) -> None:
    assert PRIVATE.search(text)
    assert not PRIVATE.search("1/(C-1), https://example.org/home/x, a/tmp/b")
