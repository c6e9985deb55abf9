"""What a person waits for: the first call in a process of its own, in seconds of the processor.

Everything before the call, imports and the start among it, is not counted; for the README's example everything is. With
a warm cache, JAX finds its compiled programs on disk, as the command `unhinged` does from the second time on.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import unhinged_jax as uj
from benchmarks import ours, processes
from benchmarks.case import Case
from benchmarks.contender import Run
from benchmarks.peers import by_jax, by_solvers, by_torch
from benchmarks.timing import quartiles, timed

README = "README's example, from the start of Python"
YARDSTICK = "plain diffrax, flow"
MEASURED = "measure, 50,000 × 512 features of 100 classes"
_SHAPE: dict[str, Any] = {"classes": 10, "per_class": 20, "dim": 64, "decay": 0.01}


def _case(loss: str = "unhinged", descent: bool = False) -> Case:
    if descent:
        return Case("latency", "small", "float32", **_SHAPE, loss=loss, rate=0.1, steps=740, every=10)
    return Case("latency", "small", "float32", **_SHAPE, loss=loss, rate=1.0, horizon=100.0, points=75, rtol=1e-5)


def _ours(solve: Callable[..., uj.Trajectory], case: Case) -> Run:
    """One run with the default observables."""
    model, dynamics, state = ours.model_of(case), ours.dynamics_of(case), jax.device_put(ours.state_of(case))
    return lambda: dict(solve(model, dynamics, state, case.times).observables)


def _gradient(case: Case) -> Run:
    """d/d start of the logarithm of the norm at the end of a flow."""
    model, dynamics, state = ours.model_of(case), ours.dynamics_of(case), jax.device_put(ours.state_of(case))
    simulate = uj.simulate  # imports diffrax, which is not counted

    def final(state: uj.State) -> jax.Array:
        return simulate(model, dynamics, state, case.times, "log_norm").last("log_norm")

    return lambda: {"gradient": jax.grad(final)(state).H}


def _sensitivity(case: Case) -> Run:
    model, dynamics, state = ours.model_of(case), ours.dynamics_of(case), jax.device_put(ours.state_of(case))
    sensitivity = uj.sensitivity

    def table() -> dict[str, Any]:
        return {"first": sensitivity(model, dynamics, state, case.times, "log_norm", ["decay"])["first"].values}

    return table


def _measured() -> Run:
    """Every metric of neural collapse of 50,000 features in 512 dimensions, of 100 classes."""
    draws, count, dim, classes = np.random.default_rng(0), 50_000, 512, 100
    labels, W = draws.integers(0, classes, count), draws.standard_normal((classes, dim))
    H = (0.3 * W[labels] + draws.standard_normal((count, dim), np.float32)).astype(np.float32)
    measure = uj.measure
    return lambda: dict(measure(H, labels, W, np.zeros(classes)).values)


_LINEAR, _DESCENT = _case(), _case(descent=True)
_ENTROPY, _ENTROPY_DESCENT = _case("cross_entropy"), _case("cross_entropy", descent=True)
FIRST_CALLS: dict[str, Callable[[], Run]] = {
    "simulate, flow": lambda: _ours(uj.simulate, _LINEAR),
    "exact, flow": lambda: _ours(uj.exact, _LINEAR),
    "simulate, descent": lambda: _ours(uj.simulate, _DESCENT),
    "simulate, cross-entropy flow": lambda: _ours(uj.simulate, _ENTROPY),
    "simulate, cross-entropy descent": lambda: _ours(uj.simulate, _ENTROPY_DESCENT),
    "jax.grad of a flow": lambda: _gradient(_LINEAR),
    "sensitivity, one parameter of a descent": lambda: _sensitivity(_DESCENT),
    MEASURED: _measured,
    YARDSTICK: lambda: by_solvers.flow_by_diffrax(_LINEAR),
    "plain diffrax, cross-entropy flow": lambda: by_solvers.flow_by_diffrax(_ENTROPY),
    "plain diffrax, jax.grad of a flow": lambda: by_solvers.gradient_by_diffrax(_LINEAR),
    "naive JAX, descent": lambda: by_jax.descent(_DESCENT),
    "PyTorch, descent": lambda: by_torch.descent(_DESCENT),
}


def probe(name: str) -> int:
    """Print {"first", "again", "compiled_again"} of a first call as JSON: two times in seconds, and programs."""
    if name == README:
        (example,) = re.findall(r"## Example\n+```python\n(.*?)```", (processes.ROOT / "README.md").read_text(), re.S)
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(example, "README.md", "exec"), {})
        print(json.dumps({"first": time.process_time()}))
        return 0
    run = FIRST_CALLS[name]()
    reports: list[tuple[str, float, dict[str, str | int]]] = []
    first, _ = timed(run, clock=time.process_time)

    def listen(event: str, duration_secs: float, **said: str | int) -> None:
        reports.append((event, duration_secs, said))

    jax.monitoring.register_event_duration_secs_listener(listen)
    again = min(timed(run)[0] for _ in range(3))
    compiled = sum(event.endswith("backend_compile_duration") for event, *_ in reports)
    print(json.dumps({"first": first, "again": again, "compiled_again": compiled}))
    return 0


def measure(rounds: int, say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Of each first call: median seconds of the processor with a cold and a warm cache, seconds of a later call, and
    how many programs later calls compile."""
    names = [*FIRST_CALLS, README]
    found: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    with tempfile.TemporaryDirectory() as folder:
        warm = {
            "JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "EQX_ON_ERROR": "nan", "TF_CPP_MIN_LOG_LEVEL": "3",
        }  # fmt: skip
        for number in range(rounds):
            for name in names:
                say(f"first calls: {name}")
                if number == 0:
                    _probed(name, warm)  # fills the cache
                for label, variables in (("cold", {}), ("warm", warm)):
                    for key, value in _probed(name, variables).items():
                        key = label if key == "first" else key
                        found[name].setdefault(key, []).append(value)
    return {name: {key: quartiles(values).median for key, values in of.items()} for name, of in found.items() if of}


def _probed(name: str, variables: dict[str, str]) -> dict[str, float]:
    text = processes.python(["-m", "benchmarks", "first-call", name], variables)
    return json.loads(text) if text else {}
