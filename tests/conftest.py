"""Settings shared by all tests."""

import gc
import os
import sys
from pathlib import Path

import hypothesis
import jax
import pytest

os.environ.setdefault("UNHINGED_CACHE", "off")  # commands in tests leave the user's folders alone

sys.path.append(str(Path(__file__).parent))  # for `oracles`, under any import mode

from little_optimization import compile_with_little_optimization

# Tracing makes many long-lived objects, and searching them for cycles took a tenth of the time.
gc.set_threshold(100_000, 20, 100)
hypothesis.settings.register_profile("offline", deadline=None, database=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("offline")


_VARIABLES: dict[str, str] = {}


def _variables():
    """Those of the environment that change what a command does. Other libraries set some for themselves."""
    ours = "EQX_", "JAX_", "UNHINGED_", "XLA_"
    return {name: value for name, value in os.environ.items() if name.startswith(ours)}


def pytest_configure():
    """Tests compile a thousand programs and run each for milliseconds: this more than halves their time.

    What the options leave out is exercised by other scripts and pages that `.ci/full` runs. Workers inherit them.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        compile_with_little_optimization()
    _VARIABLES.update(_variables())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Run the parameters that a test's marker `long_for` names with the long tests."""
    marked = [item for item in items if item.get_closest_marker("long_for")]
    for item in marked:
        if item.callspec.id in item.get_closest_marker("long_for").args:
            item.add_marker(pytest.mark.long)
    for test in {item.function: item for item in marked}.values():
        found = [item.callspec.id for item in marked if item.function is test.function]
        if unknown := set(test.get_closest_marker("long_for").args).difference(found if len(found) > 1 else ()):
            raise pytest.UsageError(f"{test.originalname} has no parameters {sorted(unknown)}, but {found}")


@pytest.fixture(scope="module", autouse=True)
def _environment():
    """Commands in tests inherit it: a variable that an import or a test leaves behind changes what others see."""
    yield
    changed = {name for name, _ in _variables().items() ^ _VARIABLES.items()}
    assert not changed, f"this module, or importing one for its examples, has changed the variables {sorted(changed)}"


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
