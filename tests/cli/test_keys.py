"""The reference of keys says what the code takes, and the page of the documentation is the one that it writes."""

import json
import subprocess
import sys
import tomllib

import pytest
from checkout import ROOT

from unhinged_jax import losses
from unhinged_jax.cli import main
from unhinged_jax.config import dynamics, labels, model, reference
from unhinged_jax.config.reading import config_of
from unhinged_jax.designs.domains import KINDS
from unhinged_jax.designs.plan import SHIPPED as DESIGNS
from unhinged_jax.designs.sections import FreeSection
from unhinged_jax.sweeps.plan import SHIPPED as SWEEPS


def said(capsys, *arguments):
    assert main(["keys", *arguments]) == 0
    return capsys.readouterr().out


def test_the_page_is_up_to_date(capsys):
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == said(capsys, "--page"), "write it again: unhinged keys --page > docs/configuration.md"


def test_choices_are_those_of_the_code(capsys):
    schema = json.loads(said(capsys, "--schema"))["properties"]

    def listed(section, key):
        return set(schema[section]["properties"][key]["enum"])

    assert listed("model", "case") == set(model._CASES)
    assert listed("labels", "layout") == set(labels._LAYOUTS)
    assert listed("dynamics", "kind") == set(dynamics._ONLY)
    assert listed("run", "precision") == {"float32", "float64"}
    noise = schema["labels"]["properties"]["noise"]["properties"]["kind"]["enum"]
    assert noise == ["symmetric", "asymmetric", "transition"]
    meanings = {key.name: key.meaning for kind in reference.run_sections().values() for key in reference.keys_of(kind)}
    for key, known in (
        ("schedule", dynamics._SCHEDULES),
        ("prototypes", model._STARTS["prototypes"]),
        ("features", model._STARTS["features"]),
    ):
        assert all(f'"{name}"' in meanings[key] for name in known)
    assert '"unhinged"' in meanings["loss"] and "unhinged" in losses.NAMED
    (domain,) = (key for key in reference.keys_of(FreeSection) if key.name == "domain")
    assert set(reference.choices(domain)) == set(KINDS)


def test_defaults_are_those_of_a_file_without_the_key():
    read = config_of(
        {"model": {"case": "frozen", "dim": 2}, "labels": {"layout": "balanced"}, "dynamics": {"kind": "flow"}}
    )
    for name in ("model", "labels", "state", "dynamics", "run"):
        section = getattr(read, name)
        for key in reference.keys_of(type(section)):
            assert key.needed or getattr(section, key.name) == key.default


def shipped():
    yield ROOT / "examples" / "regularized.toml"
    for folder, names in (("sweeps", SWEEPS), ("designs", DESIGNS)):
        yield from (ROOT / "unhinged_jax" / folder / "plans" / f"{name}.toml" for name in names)


@pytest.mark.parametrize("path", list(shipped()), ids=lambda path: path.stem)
def test_every_shipped_file_fits_the_schema(path, capsys):
    validator = pytest.importorskip("jsonschema").Draft202012Validator(json.loads(said(capsys, "--schema")))
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    assert [error.message for error in validator.iter_errors(tables)] == []
    for broken in ({"model": {**tables["model"], "gama": 0.1}}, {"run": {**tables["run"], "points": "many"}}):
        assert list(validator.iter_errors({**tables, **broken}))


def test_one_section_is_listed_and_another_refused(capsys):
    text = said(capsys, "state")
    assert "prototypes" in text and "momentum" not in text
    assert main(["keys", "optimiser"]) == 1
    assert "section must be one of" in capsys.readouterr().err


@pytest.mark.parametrize("asked", [["keys", "--schema"], ["--help"]], ids=" ".join)
def test_a_pipe_that_nobody_reads_ends_a_command_quietly(asked):
    command = [sys.executable, "-m", "unhinged_jax.cli", *asked]
    done = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    done.stdout.close()  # as `head` does once it has its lines
    assert done.stderr.read() == "" and done.wait() in (1, 141)  # 1 is from the printer of the help
    done.stderr.close()


def test_the_shell_learns_the_commands(tmp_path, monkeypatch, capsys):
    for name, value in {"HOME": str(tmp_path), "SHELL": "/bin/bash"}.items():
        monkeypatch.setenv(name, value)
    assert main(["--install-completion"]) == 0
    (script,) = (tmp_path / ".local").rglob("unhinged")
    assert all(word in script.read_text() for word in ("reproduce", "simulate", "--resume"))
    capsys.readouterr()
