"""Change one operator, number or branch of the package at a time, and see whether a test notices.

    python tests/scripts/mutants.py [--rooms observables ...] [--sample 40] [--seed 0] [--minutes 10] [--share 0]
                                    [--only TEXT ...] [--programs FOLDER] [--list]

Each mutant is written into a copy of the checkout and judged by a few fast tests of its room, in a process of its own
that ends at the first failure. What no test fails is printed as `file:line:column  original -> mutated`; exit status 1
if more mutants survive than --share allows. What changes no number that a test could see is listed in `EXPLAINED`, with
reasons, and not tried. --only keeps the mutants whose line, as --list prints it, contains a text. Programs that no
mutant changes are compiled once, and for later calls too if they are kept in a folder.
"""

import argparse
import ast
import dataclasses
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("observables", "closed_form", "linear")


def _named(file: str, *names: str) -> list[str]:
    return [f"tests/{file}.py::test_{name}" for name in names]


TABLE = ["tests/observables/test_table.py"]
FLOW = _named(
    "closed_form/test_exact", "flow_equals_the_matrix_exponential[counts-None-30]",
    "flow_equals_the_matrix_exponential[balanced-None-30]", "a_class_without_weight_only_decays",
)  # fmt: skip
SQUARED_FILE = "closed_form/test_squared_error"
SQUARED = _named(
    SQUARED_FILE, "closed_form_is_the_flow_that_an_integrator_finds", "ten_digits_at_a_million",
    "derivatives_are_those_of_finite_differences_also_at_the_start",
)  # fmt: skip
OPTIMIZED = _named(
    "closed_form/test_constant_gradient", "closed_form_is_the_loop", "run_goes_on_from_the_memory_of_another_problem",
    "trillions_of_updates_and_where_they_end", "growth_beyond_the_range_of_numbers_and_none",
    "sizes_of_states_whose_squares_leave_the_range",
    *(f"simulated_run_is_the_same_and_each_goes_on_from_the_other[{name}]"
      for name in ("sgd", "lion", "adagrad", "rmsprop", "corrected", "adamaxw")),
)  # fmt: skip
STEPS = _named("closed_form/test_exact", "descent_with_equal_steps_equals_a_loop[both-settings0]")
UPDATES = _named("closed_form/test_exact", "descent_with_a_schedule_equals_a_loop[0.8-True-both]")
KERNEL = _named("closed_form/test_exact", "flow_equals_the_matrix_exponential[weighted-factor-25]")
FAR = _named("closed_form/test_exact", "distances_down_to_1e_30_equal_decimal_arithmetic[float64]")
DRIVEN = _named("closed_form/test_exact", "distances_of_a_driven_part_equal_decimal_arithmetic")
LARGE = _named(
    "closed_form/test_large_steps",
    "distances_where_one_mode_beats_the_rest_by_more_than_the_largest_number[regularized-12.0-0.0-0.05-1400]",
)
FIRST_START = _named("invariants/test_going_on", "gaps_refer_to_the_first_start[exact flow]")
VELOCITY = _named("invariants/test_going_on", "exact_goes_on_with_a_velocity_that_is_not_along_the_state")
EIGENVECTORS = _named("limits/test_limit", "rates_and_direction_are_those_of_the_eigenvectors")
BENDS = _named("limits/test_limit", "the_exponent_has_two_derivatives_in_the_weights")
MISSING = _named(
    "invariants/test_missing_modes", "unequal_classes_without_their_leading_mode", "classes_that_are_all_alike_stay_so",
)  # fmt: skip
MEETING = _named("derivatives/test_sensitivity", "functions_of_a_matrix_have_two_derivatives_where_eigenvalues_meet")
DEEP_FILE = "closed_form/test_deep"
DEEP = _named(
    DEEP_FILE, "closed_form_is_the_flow_and_the_descent_of_the_dense_factors[depth 4, rates, few dimensions]",
    "any_size_and_precision", "limit_below_the_threshold_and_on_it",
    "limit_above_the_threshold_is_where_the_run_goes[sizes0]",
    "a_mode_above_the_threshold_is_infinite_at_a_finite_time",
)  # fmt: skip
DEEP_SQUARED = _named(
    "closed_form/test_deep_squared", "growth_of_a_mode_has_slopes_in_its_numbers_and_any_time_and_precision",
    "growth_of_a_mode_is_that_of_an_integrator[3]",
)  # fmt: skip
PACED = _named(
    "closed_form/test_paced", "updates[both]", "flows[sharpness-aware]", "flows[clipped]",
    "a_saddle_takes_what_is_within_the_radius", "any_size[-1000.0]",
)  # fmt: skip
INERTIA = _named(
    "closed_form/test_second_order", "closed_form_and_simulation", "entire_functions", "exact_goes_on_with_a_velocity",
)  # fmt: skip
MEMORY = _named("closed_form/test_memories", "a_memory_agrees_with_a_loop", "the_average_of_a_flow")
TESTS = {
    "observables": TABLE,
    "observables/distance": ["tests/observables/test_distance.py", *TABLE[:1]],
    "observables/view": [*TABLE, *FIRST_START],
    "observables/norms": ["tests/observables/test_distance.py", *TABLE],
    "observables/accuracy": [
        *TABLE, *_named(
            "invariants/test_other_instances", "nothing_times_infinity_is_nothing",
            "objective_of_two_infinite_terms_is_the_larger", "losses_of_logits_beyond_the_range",
        )
    ],
    "closed_form": [*FLOW, *FAR, *STEPS, *DRIVEN, *UPDATES, *FIRST_START, *VELOCITY],
    "closed_form/squared_error": SQUARED,
    "closed_form/rules": OPTIMIZED,
    "closed_form/aligned": ["tests/closed_form/test_aligned.py"],
    **dict.fromkeys([f"closed_form/{name}" for name in ("flow", "gradients", "paced", "scalar")], PACED),
    "closed_form/constant_gradient": OPTIMIZED,
    "closed_form/recognised": OPTIMIZED,
    "closed_form/second_order": [*INERTIA, *MEMORY],
    "closed_form/entire": [*INERTIA, *MEMORY],
    "closed_form/residual": _named(SQUARED_FILE, "ten_digits_at_a_million"),
    "closed_form/balance": [*SQUARED, *_named(SQUARED_FILE, "what_rules_the_closed_form_out_is_named")],
    "closed_form/deep": [*DEEP, *_named(DEEP_FILE, "derivatives_are_those_of_finite_differences")],
    "closed_form/deep_run": DEEP,
    "closed_form/deep_starts": [*DEEP[:1], *_named(DEEP_FILE, "what_rules_the_closed_form_out_is_named")],
    "closed_form/deep_squared": DEEP_SQUARED,
    "limits/deep": DEEP[2:],
    "limits/deep_squared": _named("closed_form/test_deep_squared", "the_limit_is_where_the_run_goes"),
    "observables/layers": _named(DEEP_FILE, "layers_are_looked_at_one_by_one"),
    "closed_form/modes": [
        *_named(
            "closed_form/test_exact", "flow_coefficients_equal_a_decimal_matrix_exponential",
            "descent_coefficients_equal_decimal_matrix_powers", "differences_around_zero_decay_can_be_taken",
            "oscillating_descent_coefficients_equal_decimal_matrix_powers", "many_equal_steps_do_not_overflow_float32",
            "a_horizon_of_a_million",
        ), *FLOW[2:], *STEPS, *FAR,
    ],
    "closed_form/spherical": _named(
        "closed_form/test_exact", "spherical_flow_equals_an_ode_solution", "spherical_descent_equals_a_loop",
        "spherical_error_of_1e_200_is_exact", "fifty_thousand_spherical_updates_keep_their_digits",
    ) + _named("closed_form/test_large_steps", "spherical_descent_of_any_step_equals_a_loop")
    + _named("derivatives/test_sensitivity", "a_sample_without_an_angle_has_right_slopes"),
    "closed_form/updates": [*UPDATES, *LARGE, *MEMORY],
    "closed_form/timeline": [*FLOW[:1], *STEPS, *FAR, *UPDATES, *LARGE],
    "linear": [*FLOW, *FAR, *DRIVEN, *KERNEL, *EIGENVECTORS],
    "linear/leading_part": [*FAR, *EIGENVECTORS, *DRIVEN, *KERNEL, *MISSING],
    "linear/compression": _named(
        "linear/test_compressed", "every_observable_is_that_of_the_states[narrow-exact]",
        "every_observable_is_that_of_the_states[wide-exact]", "derivatives_leave_the_span_of_the_start[exact]",
    ),
    "linear/spectrum": [*MEETING, *FLOW[:2], *KERNEL, *BENDS],
    "linear/row_space": [*FLOW, *KERNEL, *FAR],
    "limits/spherical": ["tests/limits/test_limit_of_spheres.py"],
    "derivatives/event_searches": _named(
        "derivatives/test_events", "a_descent_says_the_update_and_interpolates_between"
    ),
    "sweeps/stiffness": ["tests/sweeps/test_stiffness.py"],
}  # fmt: skip
"""Which tests judge a mutant of a file, or of its room: the fastest first."""

EXPLAINED = [
    (r"finfo\(|_(NEAR|CLOSE|DRIFT|BLOCK|KEPT|TERMS|STEP)\b", r"",
     "a threshold between two ways that agree there to rounding, or one of speed and memory"),
    (r"\[:, 0\]|axis=0\)\[0\]", r"^0 -> 1$", "the only column or row: an index beyond the last is that of the last"),
    (r"", r"\* .*\.sign -> .*/ .*\.sign$|^turn \* .* -> turn / ", "a sign, by which dividing is multiplying"),
    (r"largest\(X - X\[0\]\)", r"^0 -> 1$|^X - ", "rows are compared with one of them, whichever it is"),
    (r"along < -0\.999", r"<= ", "a threshold between two directions, which are 1 apart"),
    (r"where\(x == 0, ", r"^0 -> 1$", "of an angle of 0, whose plane has no direction"),
    (r"log_bias = ", r"^size > 0 -> size >= 0$", "a common scale: any will do with which nothing is lost"),
    (r"clip\(.*maxexp", r"^2 -> 3$", "the largest power of two that is taken out, or the one below it"),
    (r"affordable|block > width|count <= block", r"", "decides on speed and memory alone"),
    (r"where\((?!.*-1\.0, 1\.0)", r"^1\.0 -> ", "a number to divide by, or to take the logarithm of, where nothing is"),
    (r"isfinite\(|/(modes|spherical)\.py: .*where\(", r"^0\.0 -> ", "a harmless number where another branch is taken"),
    (r" (wide|narrow|near|small) = .*[<>]", r"^[^&|]* [<>]=? [^&|]* -> [^&|]* [<>]=? |^(1|0\.25|0\.5|1e-06|0\.001) -> ",
     "a threshold between two ways that agree there to rounding"),
    (r"(ones|zeros)_like\(", r"^\w+ [+-] \w+ -> ", "read for its shape and type alone"),
    (r"finite\(common\)|, jnp\.inf, value\)", r" [<>]=? .* -> .* [<>]=? ", "two scales that are equal"),
]  # fmt: skip
"""(what `file: line` contains, what `original -> mutated` contains, why no test could see it), regular expressions."""

LIBRARIES = (
    "chex", "diffrax", "equinox", "hypothesis", "jax", "matplotlib.pyplot", "optax", "optimistix", "pandas", "pytest",
    "scipy.integrate", "scipy.linalg", "scipy.optimize", "xarray",
)  # fmt: skip


# --- what is changed ------------------------------------------------------------------------------------------------

BINARY = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
          ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.Mod: ast.FloorDiv, ast.FloorDiv: ast.Mult}  # fmt: skip
COMPARED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
            ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}  # fmt: skip
CALLED = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "sum": "max", "mean": "max",
          "any": "all", "all": "any", "sin": "cos", "cos": "sin", "greatest": "min"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change of one expression: where it stands in the file, in bytes, and what is there instead."""

    file: str
    line: int
    column: int
    begin: int
    end: int
    original: str
    changed: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}  {self.original} -> {self.changed}"

    def apply(self, source: bytes) -> bytes:
        return source[: self.begin] + f"({self.changed})".encode() + source[self.end :]


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What an expression may be replaced by."""
    if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        yield ast.BinOp(node.left, BINARY[type(node.op)](), node.right)
    elif isinstance(node, ast.Compare):
        yield ast.Compare(node.left, [COMPARED[type(node.ops[0])](), *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield ast.Constant(node.value + 1 if type(node.value) is int else 1.01 * node.value + 0.001)
    elif isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "where" and len(node.args) == 3:
            yield ast.Call(node.func, [node.args[0], node.args[2], node.args[1]], node.keywords)
        elif name in CALLED and isinstance(node.func, ast.Attribute):
            yield ast.Call(ast.Attribute(node.func.value, CALLED[name], ast.Load()), node.args, node.keywords)


def expressions(tree: ast.AST) -> Iterator[ast.AST]:
    """Expressions that are computed: no annotations, decorators, messages or assertions."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "type_params", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            given = getattr(child, "value", None)
            alias = isinstance(tree, ast.Module) and isinstance(given, (ast.BinOp, ast.Subscript))  # of types
            if isinstance(child, ast.AST) and not (alias or isinstance(child, (ast.Raise, ast.Assert, ast.JoinedStr))):
                yield child
                yield from expressions(child)


def mutants_of(path: Path, root: Path) -> list[Mutant]:
    """All mutants of a file, in order."""
    text = path.read_text(encoding="utf-8")
    starts, found = [0], []
    for line in text.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in expressions(ast.parse(text)):
        for other in changes(node):
            begin = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            said = ast.unparse(node), ast.unparse(other)
            found.append(Mutant(str(path.relative_to(root)), node.lineno, node.col_offset + 1, begin, end, *said))
    return sorted(found, key=lambda one: (one.line, one.begin, one.end))


def explained(mutant: Mutant, lines: list[str]) -> str:
    """Why a mutant need not be tried, or ""."""
    place, change = f"{mutant.file}: {lines[mutant.line - 1].strip()}", f"{mutant.original} -> {mutant.changed}"
    return next((why for at, what, why in EXPLAINED if re.search(at, place) and re.search(what, change)), "")


# --- how a mutant is judged -----------------------------------------------------------------------------------------


def tests_for(file: str) -> list[str]:
    """The tests of a file, else those of its room."""
    place = file.removeprefix("unhinged_jax/").removesuffix(".py")
    return TESTS.get(place) or TESTS[place.partition("/")[0]]


def judged(copy: Path, tests: list[str], log: Path, seconds: float | None) -> tuple[str, float]:
    """(first test that fails, or "", or "too long"; processor time), of tests in a process that this one forks."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.chdir(copy)
            if seconds is not None:
                sys.dont_write_bytecode = True  # of a mutant
                resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
            import pytest

            status = int(pytest.main(["-x", "-q", "-n", "0", "-m", "", "-p", "no:cacheprovider", "--tb=line", *tests]))
        finally:
            sys.stdout.flush()
            os._exit(status)
    _, status, used = os.wait4(child, 0)
    spent = used.ru_utime + used.ru_stime
    if os.WIFSIGNALED(status):
        return ("too long" if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL) else "crashed"), spent
    if os.WEXITSTATUS(status) == 0:
        return "", spent
    said = log.read_text(encoding="utf-8", errors="replace")
    failed = re.findall(r"^(?:FAILED|ERROR) \S*?(\w+\.py\S*)", said, re.M)
    return failed[0] if failed else "crashed", spent


def copied(work: Path) -> Path:
    """A copy of the tree, in which mutants are written."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "unhinged_jax", "tests",
              "pyproject.toml"]  # fmt: skip
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (work / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, work / "copy" / name)
    return work / "copy"


def prepare(work: Path, programs: Path) -> None:
    """Load the libraries once, for all processes that are forked, and say where compiled programs are kept."""
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(programs.resolve())
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    sys.path[:] = [str(work / "copy"), *(place for place in sys.path if Path(place or ".").resolve() != ROOT)]
    for name in LIBRARIES:
        __import__(name)


def tried(mutants: list[Mutant], work: Path, minutes: float, say: Callable[..., None]) -> tuple[list[Mutant], int]:
    """The survivors, and how many were tried in the time."""
    copy, log = work / "copy", work / "log"
    every = list(dict.fromkeys(test for mutant in mutants for test in tests_for(mutant.file)))
    failed, longest = judged(copy, every, log, None)
    if failed:
        raise SystemExit(f"{failed} fails without any mutant:\n{log.read_text(encoding='utf-8')[-3000:]}")
    say(f"the tests of an unchanged copy pass in {longest:.0f} s of processor time")
    survivors, spent, begun = [], [], time.monotonic()
    for mutant in mutants:
        if time.monotonic() - begun > 60 * minutes:
            break
        path = copy / mutant.file
        source, stat = path.read_bytes(), path.stat()
        path.write_bytes(mutant.apply(source))
        failed, took = judged(copy, tests_for(mutant.file), log, longest + 20)
        path.write_bytes(source)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # what was compiled of it is of that time
        spent.append(took)
        if not failed:
            survivors.append(mutant)
        say(f"{'killed  ' if failed else 'SURVIVED'} {took:5.1f} s  {mutant}{f'   ({failed})' if failed else ''}")
    say(f"{sum(spent) / max(len(spent), 1):.1f} s of processor time a mutant, {sum(spent):.0f} s in all")
    return survivors, len(spent)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rooms", nargs="*", default=ROOMS)
    parser.add_argument("--sample", type=int, help="how many mutants to draw; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no mutant after that time")
    parser.add_argument("--share", type=float, default=0.0, help="the share of mutants that may survive; default: none")
    parser.add_argument("--only", nargs="*", default=[""], help="mutants whose line in the list contains one of these")
    parser.add_argument("--programs", type=Path, help="a folder in which compiled programs are kept")
    parser.add_argument("--list", action="store_true", help="print the mutants and try none")
    options = parser.parse_args()
    found, spared = [], 0
    for room in options.rooms:
        for path in sorted((ROOT / "unhinged_jax" / room).rglob("*.py")):
            lines = path.read_text(encoding="utf-8").splitlines()
            here = [one for one in mutants_of(path, ROOT) if any(text in str(one) for text in options.only)]
            kept = [one for one in here if not explained(one, lines)]
            found, spared = found + kept, spared + len(here) - len(kept)
    if options.sample is not None:
        random.Random(options.seed).shuffle(found)
        found = found[: options.sample]
    if options.list:
        print(*found, sep="\n")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        copied(work)
        prepare(work, options.programs or work / "programs")
        survivors, count = tried(found, work, options.minutes, lambda text: print(text, flush=True))
    print(f"{count} mutants: {count - len(survivors)} killed, {len(survivors)} survived; {spared} explained, not tried")
    for survivor in survivors:
        print(survivor)
    return 1 if len(survivors) > options.share * count else 0


if __name__ == "__main__":
    sys.exit(main())
