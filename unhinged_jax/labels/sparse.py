"""Rows of targets most of whose entries are 0, kept by their other entries."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from unhinged_jax import _check, _memory, _numbers
from unhinged_jax._values import Value
from unhinged_jax.special import segment_sum


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SparseRows(Value):
    """An (n, C) matrix Y with at most k entries other than 0 in a row; all rows are as long as the longest.

    Attributes:
        columns: Where the entries are, (n, k). A row with fewer entries is filled with zeros in column 0.
        values: The entries, (n, k).
        classes: C.
    """

    columns: Any
    values: Any
    classes: int = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, C), after the axes of a batch."""
        return (*np.shape(self.values)[:-1], self.classes)

    @property
    def dtype(self) -> np.dtype:
        """The type of the entries."""
        return jnp.result_type(self.values)

    def __getitem__(self, rows: ArrayLike) -> SparseRows:
        known = _check.concrete((self, rows))
        xp = np if known else jnp
        columns, values = (xp.asarray(part)[xp.asarray(rows)] for part in (self.columns, self.values))
        return SparseRows(columns, values, self.classes)

    def dense(self) -> jax.Array:
        """Y as an array, (n, C), after a check that it fits into memory."""
        columns, values = jnp.asarray(self.columns), jnp.asarray(self.values)
        wanted = int(np.prod(self.shape)) * values.dtype.itemsize
        _memory.refuse(wanted, f"sparse targets of shape {self.shape} as a dense array, which this needs,")
        rows = jnp.arange(values.shape[-2])[:, None]

        def one(columns: jax.Array, values: jax.Array) -> jax.Array:
            return jnp.zeros(self.shape[-2:], values.dtype).at[rows, columns].add(values)

        return jnp.vectorize(one, signature="(n,k),(n,k)->(n,c)")(columns, values)

    def times(self, W: jax.Array) -> jax.Array:
        """Y W, (n, p), for W (C, p)."""
        return jnp.sum(jnp.asarray(self.values, W.dtype)[:, :, None] * W[jnp.asarray(self.columns)], axis=1)

    def transpose_times(self, H: jax.Array) -> jax.Array:
        """Y^T H, (C, p), for H (n, p)."""
        terms = jnp.asarray(self.values, H.dtype)[:, :, None] * H[:, None, :]
        return segment_sum(terms.reshape(-1, H.shape[1]), jnp.asarray(self.columns).reshape(-1), self.classes)


def is_sparse(value: object) -> bool:
    """Whether this is a matrix or array of scipy.sparse."""
    return hasattr(value, "tocsr") and hasattr(value, "nnz")


def sparse_rows(name: str, matrix: Any) -> SparseRows:
    """A matrix or array of scipy.sparse, (n, C), in any format; entries given twice are added."""
    csr = matrix.tocsr()
    if csr.ndim != 2 or 0 in csr.shape:
        raise ValueError(f"{name} must have shape (n, C), but got {csr.shape}.")
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    entries = _numbers.array(name, csr.data)
    _check.finite(name, entries, array=True)
    counts = np.diff(csr.indptr)
    longest = max(1, int(counts.max()))
    _memory.refuse(
        csr.shape[0] * longest * (4 + entries.dtype.itemsize),
        f"{name} whose longest row has {longest:,} entries, to which all others are filled up,",
    )
    row = np.repeat(np.arange(csr.shape[0]), counts)
    place = np.arange(entries.size) - np.repeat(csr.indptr[:-1], counts)
    columns, values = np.zeros((csr.shape[0], longest), np.int32), np.zeros((csr.shape[0], longest), entries.dtype)
    columns[row, place], values[row, place] = csr.indices, entries
    return SparseRows(columns, values, csr.shape[1])
