"""Names and import paths of the release before: they work for one more, and say what to write."""

import subprocess
import sys

import pytest

import unhinged_jax as uj

OLD = {
    "from unhinged_jax import Plan": ("SweepPlan", "Plan is SweepPlan"),
    "from unhinged_jax import Outcome": ("DesignOutcome", "Outcome is DesignOutcome"),
    "from unhinged_jax import Result": ("RunResult", "Result is RunResult"),
    "from unhinged_jax.sweep import Plan": ("sweeps.SweepPlan", "Plan is SweepPlan"),
    "from unhinged_jax.parameters import available": ("derivatives.available", "callable(available)"),
    "from unhinged_jax.sensitivity import disagreement": ("derivatives.disagreement", "callable(disagreement)"),
    "from unhinged_jax.limit import Limit": ("limits.Limit", "Limit is unhinged_jax.Limit"),
    "from unhinged_jax.verify import Comparison": ("comparison.Comparison", "Comparison is unhinged_jax.Comparison"),
}
LOOK = """
import warnings, unhinged_jax
from unhinged_jax import SweepPlan, DesignOutcome, RunResult
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter('always')
    {statement}
assert {holds}
told = [str(one.message) for one in found if one.category is DeprecationWarning]
assert any('unhinged_jax.{new};' in line for line in told), told
"""
CALL = """
import warnings, jax, unhinged_jax
warnings.simplefilter('ignore')
from unhinged_jax.limit import Limit
from unhinged_jax.sweep import Plan
model = unhinged_jax.unconstrained(unhinged_jax.balanced(2, 2), 3)
found = unhinged_jax.limit(model, unhinged_jax.Flow(), model.init(jax.random.key(0)))
assert isinstance(found, Limit), found
"""


@pytest.mark.long_for(
    "from unhinged_jax.sensitivity import disagreement",
    "from unhinged_jax.verify import Comparison",
    "from unhinged_jax import Plan",
    "from unhinged_jax.parameters import available",
    "from unhinged_jax import Result",
)
@pytest.mark.parametrize("statement", OLD)
def test_an_old_name_works_and_warns(statement):
    new, holds = OLD[statement]
    code = LOOK.format(statement=statement, holds=holds, new=new)
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_function_whose_old_module_was_imported_is_still_called():
    subprocess.run([sys.executable, "-c", CALL], check=True)


def test_no_old_name_is_a_name_of_now():
    assert not {*uj._RENAMED} & {*uj.__all__}
    assert {*uj._RENAMED.values()} <= {*uj.__all__}
    assert {*uj._MOVED.values()} <= {*uj._HOMES}
