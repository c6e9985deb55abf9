"""The canary: small programs of the shapes this library uses, on the device compared with NumPy."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["LANES", "CanaryResult", "canary"]

# One above a power of two, where the broken releases split a loop wrongly.
LANES = (4097, 16385, 32769)

# A correct program stays within 10 roundings on these inputs; a broken one is wrong by percents.
BOUND_IN_ROUNDINGS = 64


@dataclasses.dataclass(frozen=True)
class CanaryResult:
    """One program of the canary on one size and dtype.

    Attributes:
        name: what was run.
        lanes: number of independent lanes in the batch.
        dtype: "float32" or "float64".
        relative_error: largest over lanes of ‖device − NumPy‖/‖NumPy‖; infinite if the program
            did not run.
        bound: largest error of a correct program, 64 roundings of ``dtype``.
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


def canary(lanes: Sequence[int] = LANES) -> list[CanaryResult]:
    """Run programs of this library's kind on the default device and compare them with NumPy in float64.

    Four programs: Σ(M r)² of each row r; 32 steps x ← x + h (A x + b) in a scan; eight steps of gradient descent on the
    unhinged loss by class sums, one learning rate per lane, against the full signal matrix; and elementwise operations
    outside ``jit``. Each runs in float32 and, if the device supports it, in float64. Products use the highest
    precision, as everywhere in the library.

    Args:
        lanes: batch sizes; default 4097, 16385 and 32769.

    Returns:
        One result for each program, dtype and size. A program that fails to run gives a result that is not ok, never an
        exception.

    Source:
        Beyond the paper.

    Example:
        >>> all(result.ok for result in canary(lanes=(17,)))
        True
    """
    dtypes = ("float32", "float64") if _has_float64() else ("float32",)
    return [_examine(p, size, dtype) for p in _PROGRAMS for dtype in dtypes for size in lanes]


def _has_float64() -> bool:
    """Whether the default device can compute in float64; some accelerators cannot."""
    try:
        with jax.enable_x64(True):
            return bool(jnp.asarray(1.0, jnp.float64) + 2.0**-40 > 1.0)
    except Exception:  # backends refuse a dtype in different ways
        return False


def one_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


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
    except Exception as failure:  # a broken device must be reported, not crash the doctor
        detail = one_line(failure)
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
    def step(state: tuple[jax.Array, ...], _: None) -> tuple[Any, None]:
        return jax.vmap(_descent_step)(rate, *state), None

    state, _ = jax.lax.scan(step, (features, prototypes), length=DESCENT_STEPS)
    return jnp.concatenate(state, axis=1)


def _descent_reference(rate: np.ndarray, features: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
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
