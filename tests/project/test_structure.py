"""The shape of the package, read from its source: sizes, the order of imports, what it must not touch.

The order is that of `LAYERS`: a module may import rooms of the layers above its own and its own room, nothing else,
also where the import stands inside a function. A room is a module or a package right under `unhinged_jax`. So nothing
can be reached in a circle, simulated and exact can share no formula that only one of them owns, and who sees both is
written down here.
"""

import ast
import functools
import io
import tokenize
from collections.abc import Collection

import pytest
from checkout import ROOT

PACKAGE = "unhinged_jax"
SOURCE = ROOT / PACKAGE

LAYERS = (
    "_garbage _html _interrupt _memory _platform",
    "_check _files _loop _terminal _values special",
    "_numbers precision",
    "collapse diagnosis initial kernel labels",
    "optimizers schedules signal",
    "dynamics losses",
    "model",
    "observables",
    "config linear plots",
    "ensembles trajectory",
    "_request comparison references",
    "closed_form measurement simulation",
    "limits paper runs",
    "sweeps",
    "certificate derivatives designs",
    "theories training",
    "cli",
)
"""Rooms from the bottom up. A new room belongs into the lowest layer above everything it imports."""

SEES_BOTH = {
    "certificate", "cli", "derivatives", "designs", "paper", "runs", "sweeps",
    "theories", "training",
}  # fmt: skip
"""Rooms that see simulated and exact; every other one at most one of them, also through what it imports."""

LONGEST_FILE, LONGEST_FUNCTION = 320, 60
"""Lines of a file, all of them; lines of code of a function, without docstring, comments and blank lines. What is
longer says why in a comment that begins with `EXCUSE`."""
MOST_POSITIONAL, MOST_MODULES = 7, 18
"""Arguments of a function that may be given by place, and modules right under the package beside its `__init__`."""
MOST_ANY = 0.03
"""Share of the arguments of all functions that may be typed `Any`, by that name or by another name for it."""
EXCUSE = "# Long because"
OVERRIDES = "# Overrides"


# --- reading --------------------------------------------------------------------------------------------------------


@functools.cache
def sources() -> dict[str, str]:
    """Module -> source, the package itself as ''; names without the package's."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


@functools.cache
def nodes(source: str) -> tuple[ast.AST, ...]:
    """Every node of a source."""
    found: list[ast.AST] = [ast.parse(source)]
    for node in found:
        found += ast.iter_child_nodes(node)
    return tuple(found)


def imported(source: str, modules: Collection[str]) -> set[str]:
    """Modules of the package that a source imports, anywhere in it, also by `importlib.import_module("...")`."""
    names = []
    for node in nodes(source):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write the package's name in imports"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names += [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
    inside = [name.removeprefix(f"{PACKAGE}.") for name in names if name.startswith(f"{PACKAGE}.")]
    # `from a.b import c` names a module a.b.c or something in the module a.b.
    return {name if name in modules else name.rpartition(".")[0] for name in inside}


@functools.cache
def code_lines(source: str) -> set[int]:
    """Numbers of the lines that hold more than a comment."""
    silent = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {line for t in tokens if t.type not in silent for line in range(t.start[0], t.end[0] + 1)}


def room(module: str) -> str:
    """The room a module is in."""
    return module.partition(".")[0]


def rooms_seen(files: dict[str, str]) -> dict[str, set[str]]:
    """Room -> other rooms it imports; the package's `__init__`, which offers everything, left out."""
    seen: dict[str, set[str]] = {room(module): set() for module in files if module}
    for module, source in files.items():
        if module:
            seen[room(module)] |= {room(name) for name in imported(source, files) if name} - {room(module)}
    return seen


# --- rules: each gives what breaks it -------------------------------------------------------------------------------


def wrong_imports(files: dict[str, str]) -> list[str]:
    height = {name: level for level, names in enumerate(LAYERS) for name in names.split()}
    seen = rooms_seen(files)
    found = [f"{name} is in no layer" for name in sorted({*seen} - {*height})]
    for name, others in seen.items():
        for other in sorted(others & {*height}):
            if name in height and height[other] >= height[name]:
                found.append(f"{name} imports {other}, which is not below it")
    return found


def wrong_views(files: dict[str, str]) -> list[str]:
    seen = rooms_seen(files)

    def reached(name: str, before: frozenset = frozenset()) -> set[str]:
        others = seen.get(name, set()) - before
        return others.union(*(reached(other, before | others) for other in others)) if others else set()

    views = {name: {"closed_form", "simulation"} & {name, *reached(name)} for name in seen}
    both = {name for name, view in views.items() if len(view) == 2}
    return [f"{name} sees both simulated and exact" for name in sorted(both - SEES_BOTH)]


def stale_rules(files: dict[str, str]) -> list[str]:
    rooms = {room(module) for module in files}
    named = [name for names in LAYERS for name in names.split()]
    found = [f"{name} is in the rules and not in the package" for name in sorted({*named, *SEES_BOTH} - rooms)]
    return found + [f"{name} is in two layers" for name in sorted({n for n in named if named.count(n) > 1})]


def circles(files: dict[str, str]) -> list[str]:
    """Modules that import one another, be it inside a function or for a type checker only."""
    waits = {m: imported(source, files) - {m, ""} for m, source in files.items() if m}
    loaded: set[str] = set()
    while ready := {module for module, others in waits.items() if module not in loaded and others <= loaded}:
        loaded |= ready
    return [f"{module} is in a circle of imports" for module in sorted({*waits} - loaded)]


def long_files(files: dict[str, str]) -> list[str]:
    sizes = {module: source.count("\n") for module, source in files.items() if EXCUSE not in source}
    return [f"{module or PACKAGE} has {size} lines" for module, size in sizes.items() if size > LONGEST_FILE]


def long_functions(files: dict[str, str]) -> list[str]:
    found = []
    for module, source in files.items():
        code = code_lines(source)
        lines = source.splitlines()
        for node in nodes(source):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.end_lineno is None:
                continue
            own = set(range(node.lineno, node.end_lineno + 1))
            if ast.get_docstring(node) is not None:
                own -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
            excused = any(EXCUSE in lines[number - 1] for number in range(node.lineno, node.end_lineno + 1))
            if len(own & code) > LONGEST_FUNCTION and not excused:
                found.append(f"{module}.{node.name} has {len(own & code)} lines of code")
    return found


def many_positional(files: dict[str, str]) -> list[str]:
    """Functions with many arguments by place, but for those that override a function of another library."""
    found = []
    for module, source in files.items():
        lines = source.splitlines()
        for node in nodes(source):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            places = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
            count = len(places) - (places[:1] in (["self"], ["cls"]))
            if count > MOST_POSITIONAL and OVERRIDES not in lines[node.lineno - 2]:
                found.append(f"{module}.{node.name} has {count} positional arguments")
    return found


def loose_types(files: dict[str, str]) -> list[str]:
    """Too many arguments whose type says nothing: a tree of arrays is a `PyTree`, what is only shown an `object`."""
    kinds = []
    for source in files.values():
        named = {ast.unparse(node.targets[0]): ast.unparse(node.value) for node in nodes(source)
                 if isinstance(node, ast.Assign)}  # fmt: skip
        for node in nodes(source):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                types = [ast.unparse(argument.annotation) for argument in given if argument.annotation is not None]
                kinds += [named.get(name, name) for name in types]
    loose = sum(kind in ("Any", "typing.Any") for kind in kinds)
    return [f"{loose} of {len(kinds)} arguments are typed Any"] if loose > MOST_ANY * len(kinds) else []


def loose_modules(files: dict[str, str]) -> list[str]:
    loose = [m for m in files if m and "." not in m and not any(other.startswith(f"{m}.") for other in files)]
    # A package without modules of its own is one file, too.
    return [f"{len(loose)} modules stand right under the package"] if len(loose) > MOST_MODULES else []


def private_jax(files: dict[str, str]) -> list[str]:
    found = []
    for module, source in files.items():
        for node in nodes(source):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            if isinstance(node, ast.Attribute) and node.attr == "_src":
                names = [ast.unparse(node)]
            if any(name == "jax._src" or name.startswith("jax._src.") for name in names):
                found.append(f"{module} uses jax._src")
    return found


def global_precision(files: dict[str, str]) -> list[str]:
    """Places that could set JAX's global flag: the flag by its name in a string, or assigned to."""
    found = []
    for module, source in files.items():
        for node in nodes(source):
            named = isinstance(node, ast.Constant) and str(node.value).lower() == "jax_enable_x64"
            targets = node.targets if isinstance(node, ast.Assign) else []
            if named or any(ast.unparse(target).endswith("jax_enable_x64") for target in targets):
                found.append(f"{module} sets the global precision flag")
    return found


RULES = (
    wrong_imports,
    wrong_views,
    stale_rules,
    circles,
    long_files,
    long_functions,
    many_positional,
    loose_types,
    loose_modules,
    private_jax,
    global_precision,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule):
    assert rule(sources()) == []


BROKEN = {
    "upwards": (wrong_imports, {"losses": "from unhinged_jax.model import State\n"}, "losses imports model"),
    "upwards, by module": (wrong_imports, {"labels": "from unhinged_jax import model\n"}, "labels imports model"),
    "upwards, plainly": (wrong_imports, {"initial": "import unhinged_jax.model.cases\n"}, "initial imports model"),
    "inside a function": (
        wrong_imports,
        {"schedules.shapes": "def f():\n    from unhinged_jax.model import State\n"},
        "schedules imports model",
    ),
    "by a string": (
        wrong_imports,
        {"model.state": "import importlib\nimportlib.import_module('unhinged_jax.simulation')\n"},
        "model imports simulation",
    ),
    "sideways": (
        wrong_imports,
        {"closed_form.modes": "from unhinged_jax.simulation.spherical import x"},
        "closed_form imports simulation",
    ),
    "the other way": (
        wrong_imports,
        {"simulation.dense": "import unhinged_jax.closed_form\n"},
        "simulation imports closed_form",
    ),
    "a new room": (wrong_imports, {"novelty": ""}, "novelty is in no layer"),
    "a new view": (
        wrong_views,
        {"limits": "import unhinged_jax.simulation, unhinged_jax.closed_form\n"},
        "limits sees both",
    ),
    "a view through another": (
        wrong_views,
        {"plots": "import unhinged_jax.simulation, unhinged_jax.limits\n"},
        "plots sees both",
    ),
    "a circle": (circles, {"model.state": "from unhinged_jax.model import cases\n"}, "model.state is in a circle"),
    "a circle inside a function": (
        circles,
        {"model.state": "def f():\n    from unhinged_jax.model import cases\n"},
        "model.state is in a circle",
    ),
    "a circle of types": (
        circles,
        {"model.state": "if TYPE_CHECKING:\n    from unhinged_jax.model import cases\n"},
        "model.state is in a circle",
    ),
    "a long file": (long_files, {"special": "x = 1\n" * 321}, "special has 321 lines"),
    "a long function": (long_functions, {"special": "def f():\n" + "    x = 1\n" * 60}, "special.f has 61 lines"),
    "a long method": (
        long_functions,
        {"special": "class A:\n    def f(self):\n" + "        x = (\n            1)\n" * 30},
        "special.f has 61 lines",
    ),
    "many arguments": (
        many_positional,
        {"special": "def f(a, b, c, d, e, f, g, h, *, i):\n    pass\n"},
        "special.f has 8 positional arguments",
    ),
    "arguments of any type": (
        loose_types,
        {"special": f"def f({', '.join(f'a{i}: Any' for i in range(150))}): pass\n"},
        "arguments are typed Any",
    ),
    "arguments of any type, by another name": (
        loose_types,
        {"special": f"Thing = Any\ndef f({', '.join(f'a{i}: Thing' for i in range(150))}): pass\n"},
        "arguments are typed Any",
    ),
    "many loose modules": (loose_modules, {f"loose_{i}": "" for i in range(19)}, "modules stand right under"),
    "jax._src": (private_jax, {"special": "from jax._src import core\n"}, "special uses jax._src"),
    "jax._src, an attribute": (private_jax, {"special": "import jax\njax._src.core.Tracer\n"}, "special uses jax._src"),
    "the flag": (
        global_precision,
        {"precision": "import jax\njax.config.update('jax_enable_x64', True)\n"},
        "precision sets the global precision flag",
    ),
    "the flag, assigned": (
        global_precision,
        {"precision": "import jax\njax.config.jax_enable_x64 = True\n"},
        "precision sets the global precision flag",
    ),
    "the flag, by the environment": (
        global_precision,
        {"precision": "import os\nos.environ['JAX_ENABLE_X64'] = '1'\n"},
        "precision sets the global precision flag",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_breach_is_found(case):
    rule, changes, told = BROKEN[case]
    found = rule(sources() | changes)
    assert any(told in line for line in found), found


EXCUSED = {
    "comments, blank lines and docstring": 'def f():\n    """D\n' + "    d\n" * 70 + '    """\n' + "    # c\n\n" * 70,
    "a reason": "def f():\n    # Long because it is a table.\n" + "    x = 1\n" * 70,
}


@pytest.mark.parametrize("case", EXCUSED)
def test_what_is_no_breach_of_length(case):
    assert long_functions({"special": EXCUSED[case]}) == []
