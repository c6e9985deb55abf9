"""C by hand, compiled with the system's compiler when it is first asked for."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.case import Case
from benchmarks.contender import Run
from benchmarks.peers.by_numpy import named, observer

_SOURCE = Path(__file__).with_name("fused.c")
# Not -ffast-math itself: a library linked with it makes the whole process flush subnormal numbers to zero.
_FAST = ("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno", "-freciprocal-math")
_FLAGS = ("-O3", "-march=native", *_FAST, "-fopenmp", "-shared", "-fPIC")


def compiler() -> str | None:
    """The system's C compiler, or None."""
    names = (os.environ.get("CC"), "cc", "gcc", "clang")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def refuses(case: Case) -> str | None:
    """Without a compiler, or one without OpenMP, there is nothing to run."""
    if compiler() is None:
        return "no C compiler found"
    return None if library(case.precision) else "the C compiler does not take -fopenmp -march=native"


@functools.cache
def library(precision: str) -> ctypes.CDLL | None:
    """The compiled source for one precision; None if the compiler refuses it."""
    found = compiler()
    if found is None:
        return None
    real = "double" if precision == "float64" else "float"
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "fused.so")
        command = [found, *_FLAGS, f"-DREAL={real}", f"-DPARTS={os.cpu_count() or 1}", str(_SOURCE), "-o", target]
        if subprocess.run(command, capture_output=True).returncode:
            return None
        loaded = ctypes.CDLL(target)  # stays mapped after the file is gone
    pointer = np.ctypeslib.ndpointer(np.dtype(precision), flags="C")
    loaded.descend.argtypes = (pointer, pointer, *[ctypes.c_long] * 4, *[ctypes.c_double] * 2)
    loaded.triad.argtypes = (pointer, pointer, *[ctypes.c_long] * 2, ctypes.c_double)
    loaded.triad.restype = None
    return loaded


def descent(case: Case) -> Run:
    """Unconstrained gradient descent; what is logged is computed by NumPy."""
    start, gamma, loaded = case.start(), case.gammas[0], library(case.precision)
    if loaded is None:
        raise RuntimeError("the C source does not compile here")
    observe = observer(case, *start)
    pull, push = case.rate * (1 + gamma) / case.samples, case.rate * gamma / case.samples

    def run() -> dict[str, np.ndarray]:
        H, W = (part.copy() for part in start)
        saved = [observe(H, W)]
        for _ in range(case.steps // case.every):
            if loaded.descend(H, W, case.classes, case.per_class, case.dim, case.every, pull, push):
                raise MemoryError("no memory for the class sums")
            saved.append(observe(H, W))
        return named(saved)

    return run
