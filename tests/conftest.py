"""Settings shared by all tests."""

import sys
from pathlib import Path

import hypothesis
import jax
import pytest

sys.path.append(str(Path(__file__).parent))  # for `oracles`, under any import mode

hypothesis.settings.register_profile("offline", deadline=None, database=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("offline")


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs():
    """Drop compiled programs after every module: LLVM keeps memory maps for each of them."""
    yield
    jax.clear_caches()
