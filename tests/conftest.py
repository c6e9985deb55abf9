"""Settings shared by all tests."""

import os
import sys
from pathlib import Path

import hypothesis
import jax
import pytest

os.environ.setdefault("UNHINGED_CACHE", "off")  # commands in tests leave the user's folders alone

sys.path.append(str(Path(__file__).parent))  # for `oracles`, under any import mode

from little_optimization import compile_with_little_optimization

hypothesis.settings.register_profile("offline", deadline=None, database=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("offline")


def pytest_configure():
    """Tests compile a thousand programs and run each for milliseconds: this more than halves their time.

    What the options leave out is exercised by other scripts and pages that `.ci/full` runs. Workers inherit them.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        compile_with_little_optimization()


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs():
    """Drop compiled programs after every module: LLVM keeps memory maps for each of them."""
    yield
    jax.clear_caches()


_MAPS, _MOST_MAPS = Path("/proc/self/maps"), 20_000
"""Linux allows a process 65,530 of them; beyond that XLA crashes while it compiles."""


@pytest.fixture(autouse=True)
def _few_memory_maps(request):
    """The same between long tests of one module, which compile more than a module may."""
    yield
    if request.node.get_closest_marker("long") and _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MOST_MAPS:
        jax.clear_caches()
