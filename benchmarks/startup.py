"""What a user waits for before anything is computed: imports, help, and the first simulation of a cold process."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks import processes
from benchmarks.timing import quartiles

_PUBLIC = "unhinged_jax as uj; [getattr(uj, name) for name in uj.__all__]"  # names load their modules when first used
_FIRST = """
import jax, unhinged_jax as uj
model = uj.unconstrained(uj.balanced(classes=10, per_class=10), dim=64)
run = uj.simulate(model, uj.Descent(0.1), model.init(jax.random.key(0)), uj.steps(1000, 11))
assert run["norm"][-1] > 0
"""
COMMANDS = {
    "import jax, diffrax": ["-c", "import jax, diffrax"],
    "import jax, diffrax, unhinged_jax": ["-c", "import jax, diffrax, unhinged_jax"],
    "import jax, diffrax and every public name": ["-c", f"import jax, diffrax, {_PUBLIC}"],
    "unhinged --help": ["-m", "unhinged_jax.cli", "--help"],
    "first small simulation, cold process": ["-c", _FIRST],
}


def measure(rounds: int, say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Seconds of each command, as median, lower and upper; in alternating rounds, the first of several dropped."""
    samples: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds):
        for name, command in COMMANDS.items():
            say(f"start-up: {name}")
            begin = time.perf_counter()
            text = processes.python(command)
            if text is not None and (number or rounds == 1):
                samples[name].append(time.perf_counter() - begin)
    found = {name: quartiles(values) for name, values in samples.items() if values}
    return {name: {"median": q.median, "lower": q.lower, "upper": q.upper} for name, q in found.items()}
