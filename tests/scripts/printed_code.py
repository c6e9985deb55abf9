"""What README.md and CONTRIBUTING.md print runs and says what they say.

    python -m pytest -n 0 tests/scripts/printed_code.py

Its programs take minutes to compile, so it is no part of the test suite.
"""

import contextlib
import io
import re

import jax
from doc_blocks import texts


def run(code: str) -> tuple[str, dict]:
    """What a block prints, and its names."""
    names: dict = {"__name__": "page"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, "page", "exec"), names)
    return printed.getvalue(), names


def test_the_readme_runs_as_printed():
    (code,) = texts("README.md", "python")
    printed, names = run(code)
    difference = float(re.search(r"worst relative difference ([\d.e+-]+)", printed)[1])
    assert difference < 1e-3  # float32, and a solver
    assert names["run"].kind == "simulated" and names["truth"].kind == "exact"
    # Decay acts on every mode alike: the logarithm of the norm falls by it times the integral of the rate, which for a
    # cosine is half of peak times horizon.
    slope = float(printed.strip().splitlines()[-1])
    assert abs(slope + 0.5 * 1_000 / 2) < 0.01
    assert "−250" in code.splitlines()[-1]


def test_every_example_of_contributing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = texts("CONTRIBUTING.md", "python")
    assert len(found) == 4  # a loss, a case, an observable, a closed form
    for code in found:
        run(code)  # each asserts what it promises
        jax.clear_caches()
