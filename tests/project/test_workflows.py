"""The workflows, the hooks and the gate say the same: which Pythons, which scripts, how large a file may be."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in ROOT.glob(".github/workflows/*")}
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]


def minor(version):
    """Of `>=3.11` or `3.11`: 11."""
    return int(re.fullmatch(r"(?:>=)?3\.(\d+)", version)[1])


def test_the_gate_runs_with_every_python_that_the_package_names():
    offered = [minor(version) for version in WORKFLOWS["gate"]["jobs"]["gate"]["strategy"]["matrix"]["python"]]
    named = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in PROJECT["classifiers"]]
    assert offered[0] == minor(PROJECT["requires-python"])
    assert offered == list(range(offered[0], offered[-1] + 1))
    assert {minor(line[1]) for line in named if line} <= {*offered}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_runs_scripts_that_are_there_within_a_time_with_no_rights_but_those_it_needs(name):
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 360
        assert job.get("permissions", {"id-token": "write"}) == {"id-token": "write"}
        commands = "\n".join(step.get("run", "") for step in job["steps"])
        for script in re.findall(r"\.ci/\w+", commands):
            assert (ROOT / script).is_file()


def test_only_what_was_built_and_tried_is_published():
    jobs = WORKFLOWS["release"]["jobs"]
    assert [name for name, job in jobs.items() if "permissions" in job] == ["publish"]
    assert jobs["publish"]["needs"] == "build"
    assert any("bash .ci/wheel dist/" in step.get("run", "") for step in jobs["build"]["steps"])


def test_hooks_and_gate_allow_files_of_the_same_size():
    entries = [hook["entry"] for repository in HOOKS for hook in repository["hooks"]]
    kibibytes = next(re.search(r"--maxkb=(\d+)", entry)[1] for entry in entries if "--maxkb" in entry)
    allowed = re.search(r"^largest=(\d+)", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    assert 1024 * int(kibibytes) == int(allowed[1])
