"""The public names as a newcomer meets them: documented in full, with examples that run, and typed from outside."""

import ast
import dataclasses
import doctest
import importlib.metadata
import inspect
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
from checkout import ROOT

import unhinged_jax as uj

SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Source", "Example")


def sections(thing):
    """Section -> its text, of a docstring in the house style."""
    found, current = {"": []}, ""
    for line in inspect.cleandoc(thing.__doc__ or "").splitlines():
        head = re.match(rf"({'|'.join(SECTIONS)}):(.*)", line)
        if head:
            current = head[1]
            found[current] = [head[2]]
        elif line and not line.startswith(" "):
            current = ""
            found[current].append(line)
        else:
            found[current].append(line)
    return {name: textwrap.dedent("\n".join(lines)).strip() for name, lines in found.items()}


def told(text):
    """The names that a list of arguments or attributes explains."""
    heads = re.findall(r"^ *([\w, ]+):", text, flags=re.MULTILINE)
    return {name.strip() for head in heads for name in head.split(",")}


def raises(function):
    """Whether the body of a function raises or checks by itself."""
    source = textwrap.dedent(inspect.getsource(function))
    return re.search(r"^\s+raise \w|_check\.\w+\(", source, flags=re.MULTILINE) is not None


def missing(thing):
    """What the docstring of a public function or class lacks."""
    there, lacks = sections(thing), []
    if not there[""]:
        lacks.append("a summary")
    if isinstance(thing, type) and issubclass(thing, Exception):
        return lacks  # it is met where it is raised, and named there
    if not there.get("Source"):
        lacks.append("Source")
    examples = doctest.DocTestParser().get_examples(there.get("Example", ""))
    if not examples or any(example.options.get(doctest.SKIP) for example in examples):
        lacks.append("an Example that runs")
    elif not any(example.want for example in examples):
        lacks.append("an Example that shows something")
    if dataclasses.is_dataclass(thing):
        fields = {field.name for field in dataclasses.fields(thing) if not field.name.startswith("_")}
        lacks += [f"the attribute {name}" for name in sorted(fields - told(there.get("Attributes", "")))]
    elif inspect.isfunction(thing):
        signature = inspect.signature(thing)
        lacks += [f"the argument {name}" for name in signature.parameters if name not in told(there.get("Args", ""))]
        if signature.return_annotation not in (None, "None") and not there.get("Returns"):
            lacks.append("Returns")
        if raises(thing) and not there.get("Raises"):
            lacks.append("Raises")
    return lacks


CALLABLE = [name for name in uj.__all__ if callable(getattr(uj, name))]


@pytest.mark.parametrize("name", CALLABLE)
def test_a_public_name_is_documented_in_full(name):
    assert missing(getattr(uj, name)) == []


def first_lines(cls):
    """Name -> first line of the docstring, of the public properties that a class has of this package."""
    of_ours = (one for one in cls.__mro__ if one.__module__.startswith("unhinged_jax"))
    named = {name: thing for one in of_ours for name, thing in vars(one).items() if not name.startswith("_")}
    return {name: (thing.__doc__ or "").split("\n")[0] for name, thing in named.items() if isinstance(thing, property)}


def test_properties_begin_without_a_colon():
    """The documentation would take what stands before it for the type of the property."""
    found = {f"{name}.{one}": line for name in CALLABLE if isinstance(getattr(uj, name), type)
             for one, line in first_lines(getattr(uj, name)).items()}  # fmt: skip
    assert len(found) > 30
    assert [f"{name}: {line}" for name, line in found.items() if ":" in re.sub(r"`[^`]*`", "", line)] == []


def test_what_is_not_callable_is_a_set_of_observables():
    others = {name: getattr(uj, name) for name in uj.__all__ if name not in CALLABLE}
    assert all(isinstance(thing, tuple) and thing for thing in others.values()), others


def test_examples_of_public_names_are_collected_where_they_are_defined():
    """An example runs as a doctest of the module that defines its name, which the suite collects."""
    for name in CALLABLE:
        thing = getattr(uj, name)
        module = inspect.getmodule(thing)
        assert module is not None and (ROOT / "unhinged_jax") in Path(inspect.getfile(module)).parents
        names = {test.name for test in doctest.DocTestFinder().find(module, module.__name__) if test.examples}
        examples = doctest.DocTestParser().get_examples(thing.__doc__ or "")
        assert not examples or f"{module.__name__}.{thing.__name__}" in names, name


def test_the_version_is_that_of_the_package_and_is_read_only_when_asked_for():
    code = "import unhinged_jax as uj; print(vars(uj).get(n := '__version__')); print(uj.__version__, n in dir(uj))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert done.stdout.split() == ["None", wanted, "True"]


def test_what_is_offered_is_public():
    code = "import unhinged_jax as uj; uj.initial; uj.plot; print([n for n in dir(uj) if not n.startswith('__')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    offered = set(ast.literal_eval(done.stdout))
    rooms = {path.stem for path in (ROOT / "unhinged_jax").iterdir() if not path.name.startswith("_")}
    assert offered >= {*uj.__all__, "initial", "plots"} and offered <= {*uj.__all__, *rooms}


def test_a_copy_that_is_not_installed_has_no_version(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert uj.__version__ == "0+unknown"


def documented(a: int, b: int = 0) -> int:
    """Add.

    Args:
        a, b: Numbers.

    Returns:
        The sum.

    Raises:
        ValueError: never below 0.

    Source: beyond the paper.

    Example:
        >>> documented(1)
        1
    """
    if a < 0:
        raise ValueError(a)
    return a + b


CHANGES = {
    "Source": ("Source: beyond the paper.", ""),
    "an Example that runs": (">>> documented(1)", ">>> documented(1)  # doctest: +SKIP"),
    "an Example that shows something": ("documented(1)\n    1", "documented(1)"),
    "the argument b": ("a, b: Numbers", "a: A number"),
    "Returns": ("Returns:", "Gives:"),
    "Raises": ("Raises:", "Fails:"),
    "a summary": ("Add.", ""),
}


@pytest.mark.parametrize("lack", CHANGES)
def test_what_is_missing_is_found(lack, monkeypatch):
    assert missing(documented) == []
    monkeypatch.setattr(documented, "__doc__", inspect.cleandoc(documented.__doc__).replace(*CHANGES[lack]))
    assert missing(documented) == [lack]


# --- types from outside -----------------------------------------------------------------------------------------------

STRICT = f"""[mypy]
strict = True
mypy_path = {ROOT}
ignore_missing_imports = True
[mypy-unhinged_jax.*]
ignore_errors = True
"""
"""A user's own settings: strict about the user's code, silent about that of the package."""


def checked(folder, *files):
    """What mypy says of some files, run in a folder with a user's settings."""
    (folder / "mypy.ini").write_text(STRICT)
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", *map(str, files)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.long
def test_a_typed_user_is_served(tmp_path):
    """The second run, quick because of the first one's cache, shows that the first one looked."""
    user = Path(__file__).with_name("typed_user.py")
    done = checked(tmp_path, user)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path / "wrong_user.py"
    wrong.write_text(user.read_text().replace("assert_type(state, uj.State)", "assert_type(state, int)"))
    done = checked(tmp_path, wrong)
    assert done.returncode == 1 and 'of type "State", not "int"' in done.stdout, done.stdout + done.stderr
    assert len([line for line in done.stdout.splitlines() if "error:" in line]) == 1, done.stdout


def test_soft_targets_in_lists_are_one_array():
    labels = uj.soft([[0.75, 0.25], [0.5, 0.5]], truth=[0, 1])
    assert [np.shape(leaf) for leaf in jax.tree.leaves(labels)] == [(2,), (2,), (2, 2)]
