"""The shapes that the core's annotations name, checked while every form of run is traced."""

import json
import os
import subprocess
import sys

import pytest
from checkout import ROOT

NAMED = {
    "BalancedPair", "BalancedSpectrum", "BiasCoefficients", "ClassFeatures", "Coefficients", "Coupled", "CoupledProbe",
    "DenseFeatures", "ExactLinear", "GeneralSpectrum", "Growth", "LeadingPart", "LinearSystem", "Modes", "Normal",
    "PlaneFeatures", "Rates", "Record", "Reference", "RowSpace", "RowState", "Split", "StartItself", "State",
    "Trajectory", "View",
}  # fmt: skip
"""Classes whose fields must have shapes."""


@pytest.fixture(scope="module")
def found():
    script = ROOT / "tests" / "scripts" / "checked_shapes.py"
    places = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": places}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.long
def test_every_form_of_run_has_the_shapes_that_are_named(found):
    assert found["classes"] and set(found["classes"]) >= NAMED
    assert len(found["solved"]) == 10


@pytest.mark.long
def test_a_wrong_shape_is_caught(found):
    assert found["caught"] == dict.fromkeys(found["caught"], True) and len(found["caught"]) == 7
