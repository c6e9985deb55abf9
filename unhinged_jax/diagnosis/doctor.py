"""Whether this machine can be trusted: versions, devices, precision, and a canary.

Some releases of JAX compile programs of our kind to wrong numbers without a warning, each only on some devices and at
some sizes. ``known_problem`` names the releases. ``canary`` tests the device itself: it runs small programs of the
shapes this library uses and compares them with NumPy.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import platform
from collections.abc import Iterator, Sequence
from json import dumps
from typing import Any

import jax
import numpy as np

from unhinged_jax.diagnosis.canary import LANES, CanaryResult, canary, one_line

__all__ = ["LANES", "CanaryResult", "canary", "known_problem", "main", "report"]

PACKAGES = ("jax", "jaxlib", "optax", "diffrax", "equinox", "numpy")
COMPILERS = ("jax", "jaxlib")
THIS_PACKAGE = "unhinged_jax"

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
    """Versions, devices and current precision; never raises, whatever is broken.

    Returns:
        A dictionary that JSON can hold:
        ``python``, ``system``: strings;
        ``packages``: version by name, or None if not installed;
        ``devices``: list of {"id", "platform", "kind"};
        ``default_backend``: default platform, or None;
        ``default_dtype``: dtype of a new array of floats;
        ``x64``: whether float64 is enabled in the caller;
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


def main(json: bool = False) -> int:
    """Print the report and the canary.

    Args:
        json: print one JSON object instead of tables; default False. There, an error that is not finite is null.

    Returns:
        Exit status: 1 if a canary fails or a release of jax or jaxlib is known to be broken, else 0.

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
        console.print("[green]Every program is correct, and no release known to be broken is installed.[/]")
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
    except Exception:  # broken metadata must not suppress the rest of the report
        return None


def _package(name: str) -> tuple[str | None, str | None]:
    """Version of a package, and what is wrong with it."""
    version = _installed_version(name)
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a package built for another jax may raise anything at import
        return version, f"{name} does not import: {one_line(error)}"
    return version or getattr(module, "__version__", None), None


def _devices() -> tuple[list[dict[str, Any]], str | None, str | None]:
    """Devices, default platform, and what is wrong with them."""
    try:
        found: Sequence[Any] = jax.devices()
        devices = [{"id": d.id, "platform": d.platform, "kind": d.device_kind} for d in found]
        return devices, jax.default_backend(), None
    except Exception as error:  # a driver that does not match may raise anything
        return [], None, f"devices cannot be listed: {one_line(error)}"
