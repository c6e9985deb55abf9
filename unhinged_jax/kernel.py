"""Feature kernels: how the gradients of the samples' features mix if features come from a network (NTK)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _check, _memory, _numbers
from unhinged_jax._values import Value

_LARGEST_CHECKED = 1_500  # beyond this many rows an eigenvalue check costs more than most runs


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Kernel(Value):
    """A positive semi-definite kernel Theta acting on feature gradients, H' = r1 eta Theta (M W).

    Attributes:
        matrix: Theta itself, (n, n), between samples; or a factor J with Theta = J J^T, (n, m), which never forms an
            n x n array; or a kernel between feature coordinates, (n p, n p), on H flattened row by row.
        kind: "samples", "factor" or "coordinates".

    Source: Zhou et al. 2023, Section 3.5 and Theorem 8 (corrected: Theta = K_x kron I there).
    """

    matrix: Any
    kind: str = dataclasses.field(default="samples", metadata={"static": True})

    def __post_init__(self) -> None:
        _numbers.settle(self, ("matrix",), _numbers.real, "kernel.")

    def apply(self, G: jax.Array) -> jax.Array:
        """Theta G for G of shape (n, p)."""
        matrix = jnp.asarray(self.matrix, G.dtype)
        if self.kind == "samples":
            return matrix @ G
        if self.kind == "factor":
            return matrix @ (matrix.T @ G)
        return (matrix @ G.reshape(-1)).reshape(G.shape)


def as_kernel(kernel: Kernel | ArrayLike, samples: int, dim: int) -> Kernel:
    """A checked `Kernel` from a kernel or an array.

    A square (n, n) array is Theta, an (n, m) array with m != n a factor, an (n p, n p) array a kernel between feature
    coordinates.

    Raises:
        ValueError: for another shape, or a Theta that is not symmetric positive semi-definite.

    Example:
        >>> as_kernel(np.eye(4), samples=4, dim=3).kind
        'samples'
    """
    if not isinstance(kernel, Kernel):
        matrix = _numbers.real("kernel", kernel)
        shape = np.shape(matrix)
        if shape == (samples, samples):
            kind = "samples"
        elif shape == (samples * dim, samples * dim):
            kind = "coordinates"
        elif len(shape) == 2 and shape[0] == samples:
            kind = "factor"
        else:
            raise ValueError(
                f"kernel must have shape {(samples, samples)}, {(samples * dim,) * 2} or ({samples}, m) for a factor, "
                f"but got {shape}."
            )
        kernel = Kernel(matrix, kind)
    check_shape(kernel, samples, dim)
    if kernel.kind != "factor" and _check.concrete(kernel.matrix):
        _check_semi_definite(_memory.read(kernel.matrix))
    return kernel


def check_shape(kernel: Kernel, samples: int, dim: int) -> None:
    """Raise unless the matrix has the shape that its kind requires for this number of samples and dimensions."""
    _check.choice("kind of kernel", kernel.kind, ("samples", "factor", "coordinates"))
    shape = np.shape(kernel.matrix)
    rows = samples * dim if kernel.kind == "coordinates" else samples
    expected = (rows, shape[-1] if shape else 0) if kernel.kind == "factor" else (rows, rows)
    if shape != expected:
        size = f"{rows} rows" if kernel.kind == "factor" else f"{rows} rows and columns"
        raise ValueError(
            f"a kernel of kind {kernel.kind!r} must have {size} "
            f"for {samples} samples in {dim} dimensions, but has shape {shape}; give the kernel that belongs to these "
            "labels."
        )


def _check_semi_definite(matrix: np.ndarray) -> None:
    _check.finite("kernel", matrix)
    size = np.max(np.abs(matrix), initial=0.0)
    if np.max(np.abs(matrix - matrix.T), initial=0.0) > 1e-5 * size:
        raise ValueError("kernel must be symmetric; symmetrise it with (K + K.T) / 2 if it differs only by rounding.")
    if matrix.shape[0] <= _LARGEST_CHECKED:
        least = np.linalg.eigvalsh(matrix.astype(np.float64))[0]
        if least < -1e-5 * size * matrix.shape[0]:
            raise ValueError(f"kernel must be positive semi-definite, but has an eigenvalue {least:.3g}.")
