"""The peaks that shares are taken of, measured in the process and by the device that everything else runs on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import by_c
from benchmarks.timing import timed

_LARGE, _SMALL = 1 << 29, 1 << 18  # bytes an array: beyond any cache; 256 KiB


def measure(quick: bool = False) -> dict[str, Any]:
    """Peaks in bytes a second and floating-point operations a second; each is the best of the ways named beside it.

    "memory" and "cache" are triads a = s b + a in place, which read two arrays and write one.
    """
    large = _LARGE // 8 if quick else _LARGE
    side = 1024 if quick else 3072
    found = {
        "memory": _best({"jax": partial(_triad_jax, large), **_by_c(large, 1)}),
        "cache": _best({"jax": partial(_loop_jax, _SMALL), **_by_c(_SMALL, 2000)}),
    }
    for name in ("float32", "float64", "bfloat16"):
        if name != "float64" or jax.default_backend() != "tpu":
            found[f"gemm_{name}"] = _best(_products(name, side))
    return found


def _best(ways: dict[str, Callable[[], float]]) -> dict[str, Any]:
    rates: dict[str, float] = {}
    for name, way in ways.items():
        with contextlib.suppress(Exception):  # a way that a device cannot go is no peak of it
            rates[name] = way()
    best = max(rates, key=rates.__getitem__)
    return {"rate": rates[best], "by": best, "ways": rates}


def _rate(work: float, run: Callable[[], Any], repeats: int = 5) -> float:
    """Work a second, by the least of a few times: a peak is what the machine can do undisturbed."""
    run()
    return work / min(timed(run)[0] for _ in range(repeats))


def _triad_jax(size: int) -> float:
    count = size // 4

    @partial(jax.jit, donate_argnums=0)
    def triad(a: jax.Array, b: jax.Array) -> jax.Array:
        return a + 0.5 * b

    held = [jnp.zeros(count, jnp.float32)]
    b = jnp.ones(count, jnp.float32)

    def run() -> jax.Array:
        held[0] = triad(held[0], b)
        return held[0]

    return _rate(3 * size, run)


def _loop_jax(size: int) -> float:
    count, times = size // 4, 2000

    @jax.jit
    def loop(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, times, lambda _, a: a + 0.5 * b, a)

    a, b = jnp.zeros(count, jnp.float32), jnp.ones(count, jnp.float32)
    return _rate(3 * size * times, lambda: loop(a, b))


def _by_c(size: int, times: int) -> dict[str, Callable[[], float]]:
    """The same in C, where the processor is the device and there is a compiler."""
    loaded = by_c.library("float32") if jax.default_backend() == "cpu" else None
    if loaded is None:
        return {}

    def measured() -> float:
        a, b = np.zeros(size // 4, np.float32), np.ones(size // 4, np.float32)
        return _rate(3 * size * times, lambda: loaded.triad(a, b, size // 4, times, 1e-9))

    return {"c": measured}


def _products(name: str, side: int) -> dict[str, Callable[[], float]]:
    ways: dict[str, Callable[[], float]] = {"jax": partial(_product_jax, name, side)}
    if jax.default_backend() == "cpu" and name != "bfloat16":
        ways["numpy"] = partial(_product_numpy, name, side)
        ways["torch"] = partial(_product_torch, name, side)
    return ways


def _product_jax(name: str, side: int) -> float:
    with jax.enable_x64(name == "float64"):
        a = jnp.ones((side, side), name)
        product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))
        return _rate(2 * side**3, lambda: product(a, a))


def _product_numpy(name: str, side: int) -> float:
    a, out = np.ones((side, side), name), np.empty((side, side), name)
    return _rate(2 * side**3, lambda: np.matmul(a, a, out=out))


def _product_torch(name: str, side: int) -> float:
    import torch

    a = torch.ones((side, side), dtype=getattr(torch, name))
    return _rate(2 * side**3, lambda: torch.mm(a, a))
