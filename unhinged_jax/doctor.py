"""Whether the machine underneath can be trusted: versions, devices, precision, and a canary.

Some releases of JAX compile programs of our kind to wrong numbers without a warning, each on some
devices and at some sizes only. ``known_problem`` names the releases, ``canary`` asks the device
itself: it runs small programs of the shapes this library uses and compares them with NumPy.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterator, Sequence
from json import dumps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["LANES", "CanaryResult", "canary", "known_problem", "main", "report"]

PACKAGES = ("jax", "jaxlib", "optax", "diffrax", "equinox", "chex", "numpy")
COMPILERS = ("jax", "jaxlib")
THIS_PACKAGE = "unhinged_jax"

# One above a power of two, where the wrong releases split a loop badly.
LANES = (4097, 16385, 32769)

# A right program stays within 10 roundings on these inputs; a wrong one is off by percents.
BOUND_IN_ROUNDINGS = 64

_SCAN = "GPU: a scan of a vmapped step can give wrong numbers (jax issue 36958)"
_REDUCTION = "CPU: a vmapped matrix-vector product and sum gives wrong numbers (jax issue 39103)"
_EAGER = "GPU: operations outside jit can give wrong numbers (jax issue 40633)"
KNOWN_PROBLEMS = {
    "0.10.0": _SCAN,
    "0.10.1": _SCAN,
    "0.10.2": _REDUCTION,
    "0.11.0": _EAGER,
    "0.11.1": _EAGER,
}
REMEDY = "try another release of jax, such as pip install 'jax!=0.10.*,!=0.11.0,!=0.11.1'."


@dataclasses.dataclass(frozen=True)
class CanaryResult:
    """One program of the canary on one size and dtype.

    Attributes:
        name: what was run.
        lanes: number of independent lanes in the batch.
        dtype: "float32" or "float64".
        relative_error: largest over lanes of ‖device − NumPy‖/‖NumPy‖; infinite if the program
            did not run.
        bound: largest error of a right program, 64 roundings of ``dtype``.
        ok: whether the error is within the bound; false for NaN.
        detail: why the program did not run, else empty.
    """

    name: str
    lanes: int
    dtype: str
    relative_error: float
    bound: float
    ok: bool
    detail: str = ""


def known_problem(version: str) -> str | None:
    """What is known to be wrong with a release of jax or jaxlib.

    Args:
        version: version as the package states it, e.g. "0.10.2"; a local part ("+cuda12") is
            ignored.

    Returns:
        One sentence that names the device and the public issue, or None.

    Source:
        Beyond the paper.

    Example:
        >>> known_problem("0.9.2") is None
        True
        >>> known_problem("0.10.2")
        'CPU: a vmapped matrix-vector product and sum gives wrong numbers (jax issue 39103)'
    """
    return KNOWN_PROBLEMS.get(version.split("+")[0])


def report() -> dict[str, Any]:
    """Versions, devices and precision in force; never raises, whatever is broken.

    Returns:
        A dictionary that JSON can hold:
        ``python``, ``system``: strings;
        ``packages``: version by name, or None where not installed;
        ``devices``: list of {"id", "platform", "kind"};
        ``default_backend``: platform that runs by default, or None;
        ``default_dtype``: dtype of a new array of floats;
        ``x64``: whether float64 is enabled where this is called;
        ``matmul_precision``: JAX's default for products, None if left to the device;
        ``problems``: sentences: packages that do not import, devices that cannot be listed,
        releases known to compute wrong numbers.

    Source:
        Beyond the paper.

    Example:
        >>> import jax
        >>> report()["packages"]["jax"] == jax.__version__
        True
    """
    packages, problems = {}, []
    for name in PACKAGES:
        packages[name], problem = _package(name)
        problems += [problem] if problem else []
    packages[THIS_PACKAGE] = _installed_version(THIS_PACKAGE)
    for name in COMPILERS:
        problem = known_problem(packages[name] or "")
        problems += [f"{name} {packages[name]}: {problem}"] if problem else []
    devices, backend, problem = _devices()
    problems += [problem] if problem else []
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": packages,
        "devices": devices,
        "default_backend": backend,
        "default_dtype": jax.dtypes.canonicalize_dtype(float).name,
        "x64": bool(jax.config.jax_enable_x64),  # type: ignore[attr-defined]
        "matmul_precision": jax.config.jax_default_matmul_precision,  # type: ignore[attr-defined]
        "problems": problems,
    }


def canary(lanes: Sequence[int] = LANES) -> list[CanaryResult]:
    """Run programs of this library's kind on the default device against NumPy in float64.

    Four programs: Σ(M r)² of each row r; 32 steps x ← x + h (A x + b) in a scan; eight steps of
    gradient descent on the unhinged loss by class sums, one learning rate a lane, against the
    full signal matrix; and elementwise operations outside ``jit``. Each in float32 and, where the
    device has it, in float64. Products run at the highest precision, as everywhere in the library.

    Args:
        lanes: batch sizes; default 4097, 16385 and 32769.

    Returns:
        One result for each program, dtype and size. A program that fails to run is a result that
        is not ok, never an exception.

    Source:
        Beyond the paper.

    Example:
        >>> all(result.ok for result in canary(lanes=(17,)))
        True
    """
    dtypes = ("float32", "float64") if _has_float64() else ("float32",)
    return [_examine(p, size, dtype) for p in _PROGRAMS for dtype in dtypes for size in lanes]


def main(json: bool = False) -> int:
    """Print the report and the canary.

    Args:
        json: print one JSON object instead of tables; default False. An error that is not finite
            is null there.

    Returns:
        Exit status: 1 if a canary fails or jax or jaxlib is a release known to be wrong, else 0.

    Source:
        Beyond the paper.

    Example:
        >>> main()  # doctest: +SKIP
        0
    """
    machine, results = report(), canary()
    wrong_release = any(known_problem(machine["packages"][name] or "") for name in COMPILERS)
    healthy = all(result.ok for result in results) and not wrong_release
    if json:
        rows = [dataclasses.asdict(result) for result in results]
        for row in rows:
            if not np.isfinite(row["relative_error"]):
                row["relative_error"] = None
        print(dumps({"report": machine, "canary": rows, "ok": healthy}, indent=2, allow_nan=False))
    else:
        _print_tables(machine, results, healthy)
    return 0 if healthy else 1


def _print_tables(machine: dict[str, Any], results: list[CanaryResult], healthy: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    facts = Table("", "", show_header=False, title="This machine", title_justify="left")
    for name, value in _facts(machine):
        facts.add_row(name, escape(value))
    console.print(facts)
    checks = Table(title="Compiled programs against NumPy", title_justify="left")
    for heading in ("program", "dtype", "lanes", "relative error", "bound", "verdict"):
        checks.add_column(heading, no_wrap=True)
    for result in results:
        verdict = "[green]ok[/]" if result.ok else "[red]WRONG[/]"
        error, bound = f"{result.relative_error:.1e}", f"{result.bound:.1e}"
        checks.add_row(result.name, result.dtype, str(result.lanes), error, bound, verdict)
    console.print(checks)
    failures = [f"{r.name}, {r.dtype}, {r.lanes} lanes: {r.detail}" for r in results if r.detail]
    for problem in machine["problems"] + failures:
        console.print(f"[red]problem[/] {escape(problem)}")
    if healthy:
        console.print("[green]Every program is right, and no release known to be wrong is here.[/]")
    else:
        console.print(f"[red]Numbers from this machine cannot be trusted;[/] {escape(REMEDY)}")


def _facts(machine: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "python", machine["python"]
    yield "system", machine["system"]
    for name, version in machine["packages"].items():
        yield name, version or "not installed"
    for device in machine["devices"]:
        default = " (default)" if device["platform"] == machine["default_backend"] else ""
        yield f"device {device['id']}", f"{device['platform']}: {device['kind']}{default}"
    yield "default dtype", machine["default_dtype"]
    yield "float64 enabled", "yes" if machine["x64"] else "no"
    yield "matmul precision", machine["matmul_precision"] or "left to the device"


def _installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except Exception:  # broken metadata must not hide the rest of the report
        return None


def _package(name: str) -> tuple[str | None, str | None]:
    """Version of a package, and what is wrong with it."""
    version = _installed_version(name)
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a package built for another jax may raise anything at import
        return version, f"{name} does not import: {_one_line(error)}"
    return version or getattr(module, "__version__", None), None


def _devices() -> tuple[list[dict[str, Any]], str | None, str | None]:
    """Devices, default platform, and what is wrong with them."""
    try:
        found: Sequence[Any] = jax.devices()
        devices = [{"id": d.id, "platform": d.platform, "kind": d.device_kind} for d in found]
        return devices, jax.default_backend(), None
    except Exception as error:  # a driver that does not match may raise anything
        return [], None, f"devices cannot be listed: {_one_line(error)}"


def _one_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def _has_float64() -> bool:
    """Whether the default device computes in float64 at all; some accelerators do not."""
    try:
        with jax.enable_x64(True):
            return bool(jnp.asarray(1.0, jnp.float64) + 2.0**-40 > 1.0)
    except Exception:  # backends refuse a dtype in their own ways
        return False


@dataclasses.dataclass(frozen=True)
class _Program:
    """A program, its input and its value in NumPy."""

    name: str
    inputs: Callable[[np.random.Generator, int], tuple[np.ndarray, ...]]
    run: Callable[..., jax.Array]
    reference: Callable[..., np.ndarray]


def _examine(program: _Program, lanes: int, dtype: str) -> CanaryResult:
    inputs = program.inputs(np.random.default_rng(0), lanes)
    inputs = tuple(array.astype(dtype) for array in inputs)
    exact = program.reference(*(array.astype(np.float64) for array in inputs))
    bound = BOUND_IN_ROUNDINGS * float(np.finfo(dtype).eps)
    try:
        with jax.enable_x64(dtype == "float64"):
            got = np.asarray(program.run(*map(jnp.asarray, inputs)), np.float64)
        error = _worst_lane(got, exact)
    except Exception as failure:  # a broken device is a finding, not a crash of the doctor
        detail = _one_line(failure)
        return CanaryResult(program.name, lanes, dtype, float("inf"), bound, False, detail)
    return CanaryResult(program.name, lanes, dtype, error, bound, error <= bound)


def _worst_lane(got: np.ndarray, exact: np.ndarray) -> float:
    if got.shape != exact.shape:
        raise ValueError(f"the result has shape {got.shape}, expected {exact.shape}")
    difference = (got - exact).reshape(len(exact), -1)
    size = np.linalg.norm(exact.reshape(len(exact), -1), axis=1)
    return float(np.max(np.linalg.norm(difference, axis=1) / size))


_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


# Program 1: one matrix-vector product and a sum in each lane.


def _rows(rng: np.random.Generator, lanes: int) -> tuple[np.ndarray, ...]:
    return rng.standard_normal((lanes, 3)), np.eye(3) + 0.3 * rng.uniform(-1, 1, (3, 3))


@jax.jit
def _squares(rows: jax.Array, matrix: jax.Array) -> jax.Array:
    return jax.vmap(lambda row: jnp.sum(_product(matrix, row) ** 2))(rows)


def _squares_reference(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return np.einsum("ni,ij,nj->n", rows, matrix.T @ matrix, rows)


# Program 2: a scan of affine steps. Compilers fold such a step into one scaled product with bias,
# and some have left the bias unscaled; so the rate is a shared constant and the bias large.

AFFINE_STEPS, AFFINE_RATE = 32, 0.1


def _affine_inputs(rng: np.random.Generator, lanes: int) -> tuple[np.ndarray, ...]:
    matrix = -np.eye(16) + rng.uniform(-0.1, 0.1, (16, 16))
    return rng.standard_normal((lanes, 16)), matrix, rng.uniform(2, 5, 16)


@jax.jit
def _affine(start: jax.Array, matrix: jax.Array, bias: jax.Array) -> jax.Array:
    def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return jax.vmap(lambda row: row + AFFINE_RATE * (_product(matrix, row) + bias))(x), None

    return jax.lax.scan(step, start, length=AFFINE_STEPS)[0]


def _affine_reference(x: np.ndarray, matrix: np.ndarray, bias: np.ndarray) -> np.ndarray:
    for _ in range(AFFINE_STEPS):
        x = x + AFFINE_RATE * (x @ matrix.T + bias)
    return x


# Program 3: descent on the unhinged loss, every lane with its own rate and state. The device sums
# features by class; NumPy multiplies by the whole signal matrix.

DESCENT_STEPS, DESCENT_DECAY, DESCENT_GAMMA = 8, 0.01, 0.3
# 32 bits, because a jitted function that closes over a 64-bit NumPy array and has run in float32
# fails when it is next called under jax.enable_x64.
DESCENT_LABELS = np.array([0, 1, 2, 0, 1, 0], np.int32)
DESCENT_CLASSES = 3


def _descent_inputs(rng: np.random.Generator, lanes: int) -> tuple[np.ndarray, ...]:
    features = rng.standard_normal((lanes, len(DESCENT_LABELS), 3))
    prototypes = rng.standard_normal((lanes, DESCENT_CLASSES, 3))
    return rng.uniform(0.01, 0.5, lanes), features, prototypes


def _descent_step(rate: jax.Array, features: jax.Array, prototypes: jax.Array) -> Any:
    weight = 1.0 / len(DESCENT_LABELS)
    own = (1.0 + DESCENT_GAMMA) * prototypes[DESCENT_LABELS]
    pull = weight * (own - DESCENT_GAMMA * prototypes.sum(axis=0))
    sums = jax.ops.segment_sum(features, DESCENT_LABELS, num_segments=DESCENT_CLASSES)
    push = weight * ((1.0 + DESCENT_GAMMA) * sums - DESCENT_GAMMA * features.sum(axis=0))
    return (
        features + rate * (pull - DESCENT_DECAY * features),
        prototypes + rate * (push - DESCENT_DECAY * prototypes),
    )


@jax.jit
def _descent(rate: jax.Array, features: jax.Array, prototypes: jax.Array) -> jax.Array:
    def step(state: Any, _: None) -> tuple[Any, None]:
        return jax.vmap(_descent_step)(rate, *state), None

    state, _ = jax.lax.scan(step, (features, prototypes), length=DESCENT_STEPS)
    return jnp.concatenate(state, axis=1)


def _descent_reference(
    rate: np.ndarray, features: np.ndarray, prototypes: np.ndarray
) -> np.ndarray:
    one_hot = np.eye(DESCENT_CLASSES)[DESCENT_LABELS]
    signal = ((1 + DESCENT_GAMMA) * one_hot - DESCENT_GAMMA) / len(DESCENT_LABELS)
    step = rate[:, None, None]
    for _ in range(DESCENT_STEPS):
        features, prototypes = (
            features + step * (signal @ prototypes - DESCENT_DECAY * features),
            prototypes + step * (signal.T @ features - DESCENT_DECAY * prototypes),
        )
    return np.concatenate([features, prototypes], axis=1)


# Program 4: single operations, each compiled by itself.


def _positive(rng: np.random.Generator, lanes: int) -> tuple[np.ndarray, ...]:
    return (rng.uniform(0.5, 512.0, lanes),)


def _eager(x: jax.Array) -> jax.Array:
    return jnp.sqrt(x) + jnp.ones_like(x) + 1.0


def _eager_reference(x: np.ndarray) -> np.ndarray:
    return np.sqrt(x) + 2.0


_PROGRAMS = (
    _Program("product and sum", _rows, _squares, _squares_reference),
    _Program("affine scan", _affine_inputs, _affine, _affine_reference),
    _Program("class-sum descent", _descent_inputs, _descent, _descent_reference),
    _Program("outside jit", _positive, _eager, _eager_reference),
)
