"""The theory on inertia and averages."""

import pytest

from unhinged_jax.theories import registry


@pytest.mark.long
def test_the_theory_keeps_its_bounds():
    assert registry.run("acceleration").passed
