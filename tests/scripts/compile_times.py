"""How long small programs take to compile: every case, dynamics and kind of labels, with all observables.

    python tests/scripts/compile_times.py [--only TEXT ...] [--longest 20]

Problems are tiny, so that what is measured is tracing and compiling: seconds of the processor of a first call, caches
cleared before it. `--only` keeps the rows whose name contains every text. Prints the table and its slowest rows, and
ends with status 1 if a program takes longer than `--longest`.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import warnings
from collections.abc import Callable, Iterator

import jax
import numpy as np
import optax

import unhinged_jax as uj

P = 3
COUNTS = uj.from_counts([3, 2, 1])
LABELS = {
    "balanced": uj.balanced(3, 2),
    "counts": COUNTS,
    "noisy counts": COUNTS.symmetric_noise(0.1),
    "soft": uj.soft(np.random.default_rng(0).dirichlet(np.ones(3), size=6)),
}
FACTOR = np.random.default_rng(1).normal(size=(6, 2))
CASES: dict[str, Callable[[uj.Labels], uj.LayerPeeled]] = {
    "unconstrained": lambda labels: uj.unconstrained(labels, P),
    "regularized": lambda labels: uj.regularized(labels, P, decay=(0.1, 0.2), bias=True),
    "anchored": lambda labels: uj.anchored(labels, P, decay=0.1),
    "frozen": lambda labels: uj.frozen(labels, P, decay=0.1),
    "spherical": lambda labels: uj.spherical(labels, P, decay=0.1, rescale=1),
    "free spherical": lambda labels: uj.spherical(labels, P, free_prototypes=True),
    "kernel": lambda labels: uj.ntk_invariant(labels, P, FACTOR, decay=0.1),
    "cross-entropy": lambda labels: uj.regularized(labels, P, decay=0.1, loss="cross_entropy"),
}
DYNAMICS: dict[str, tuple[uj.Flow | uj.Descent, list[float]]] = {
    "flow": (uj.Flow(uj.cosine(0.5, horizon=9.0)), [0.0, 1.0, 2.0]),
    "descent": (uj.Descent(uj.cosine(0.5, horizon=9.0)), [0, 3, 7]),
    "momentum": (uj.Descent(0.1, momentum=0.5), [0, 3, 7]),
    "adam": (uj.Descent(optimizer=optax.adam(0.1)), [0, 3, 7]),
}
WAYS = ("exact", "simulate", "dense", "first derivatives", "second derivatives")


def rows() -> Iterator[tuple[str, Callable[[], object]]]:
    """Name and call of everything that is measured."""
    for case, moves, labels, way in itertools.product(CASES, DYNAMICS, LABELS, WAYS):
        model = CASES[case](LABELS[labels])
        dynamics, times = DYNAMICS[moves]
        state = model.init(jax.random.key(0))
        name = f"{case}, {moves}, {labels}, {way}"

        def run(way: str = way, given: tuple = (model, dynamics, state, times)) -> object:
            if way == "exact":
                return uj.exact(*given, uj.all_observables, states=True)
            if way in ("simulate", "dense"):
                return uj.simulate(*given, uj.all_observables, states=True, reduce=way == "simulate")
            order = 1 if way.startswith("first") else 2
            return uj.sensitivity(*given, ["loss", "log_norm", "accuracy_margin"], order=order)

        yield name, run


def measured(run: Callable[[], object]) -> float | None:
    """Seconds of the processor of a first call; None where there is no such thing."""
    jax.clear_caches()
    begin = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            jax.block_until_ready(run())
    except uj.NoClosedForm:
        return None
    return time.process_time() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--longest", type=float, default=20.0)
    options = parser.parse_args()
    table = {}
    for name, run in rows():
        if all(text in f"{name}," for text in options.only) and (took := measured(run)) is not None:
            table[name] = took
            print(f"{took:7.1f} s  {name}", flush=True)
    print("\nThe slowest:")
    for name, took in sorted(table.items(), key=lambda row: row[1])[-10:]:
        print(f"{took:7.1f} s  {name}")
    worst = max(table.values(), default=0.0)
    print(f"{len(table)} programs, {sum(table.values()):.0f} s together, the slowest {worst:.1f} s")
    return int(worst > options.longest)


if __name__ == "__main__":
    sys.exit(main())
