"""The store of a sweep: xarray's Zarr layout, one chunk a block, committed once and with a digest.

A block is written in two steps: its chunk of every variable, then its digest into `execution/committed`. Each chunk
appears whole or not at all, so a block whose digest is there and fits its data is complete; everything else is
computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from unhinged_jax.observables import OBSERVABLES
from unhinged_jax.sweep.layout import Layout
from unhinged_jax.trajectory import Result

NOT_A_NUMBER, PENDING = 5, -1
REASONS = {**{int(code): code.name.lower() for code in Result}, NOT_A_NUMBER: "not_a_number"}
"""Why a point ended, by its number in the variable `result`."""
FINE = (int(Result.COMPLETED), int(Result.STEADY))
_FORMAT = 1
_CREATED, _STALE = ".unfinished-", 3600.0

zarr.config.set({"array.write_empty_chunks": True})  # a missing chunk must mean a missing block


class Store:
    """An open sweep store. `Store.create` makes one, whole or not at all."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / "zarr.json").exists():
            raise ValueError(f"{path} is not the store of a sweep; make one with `unhinged sweep PLAN --store {path}`.")
        self.group = zarr.open_group(self.path, mode="r+", zarr_format=3, use_consolidated=False)
        if self.group.attrs.get("sweep_format") != _FORMAT:
            raise ValueError(f"{path} is a Zarr group, but not the store of a sweep of this version.")
        facts: Any = json.loads(str(self.group.attrs["execution"]))
        self.facts: dict[str, Any] = facts
        self.layout = Layout(tuple(facts["shape"]), tuple(facts["block"]))
        self.dims: tuple[str, ...] = tuple(facts["dims"])
        self.observed: tuple[str, ...] = tuple(facts["observed"])
        self.committed_array: Any = self.group["execution/committed"]

    @property
    def identity(self) -> dict[str, Any]:
        """The plan, and digests of the files it reads: what two commands must share to fill one store."""
        found: dict[str, Any] = json.loads(str(self.group.attrs["plan"]))
        return found

    @property
    def variables(self) -> tuple[str, ...]:
        """Every variable of a block."""
        return (*self.observed, "result", "elapsed", "steps")

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        layout: Layout,
        dims: tuple[str, ...],
        observed: tuple[str, ...],
        times: np.ndarray,
        precision: str,
        coordinates: Mapping[str, tuple[str, np.ndarray, dict[str, Any]]],
        identity: dict[str, Any],
        facts: dict[str, Any],
        attrs: dict[str, Any],
    ) -> Store:
        """Make an empty store beside its place and move it there.

        Args:
            path: A folder that is not there yet, or is empty.
            coordinates: Name -> (dimension, values, attributes).
            identity: See `identity`.
            facts: What workers need to know beside the plan.
            attrs: Attributes of the whole store.

        Returns:
            The open store; where another process was faster, its store.

        Raises:
            OSError: if it cannot be written.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{_CREATED}{path.name}-*"):
            if time.time() - left.stat().st_mtime > _STALE:
                shutil.rmtree(left, ignore_errors=True)  # of a command that was killed
        place = Path(tempfile.mkdtemp(prefix=f"{_CREATED}{path.name}-", dir=path.parent))
        try:
            group = zarr.create_group(place, zarr_format=3)
            _make_variables(group, layout, dims, observed, times, precision)
            for name, (dim, values, described) in coordinates.items():
                _coordinate(group, name, dim, values, described)
            execution = {
                "shape": layout.shape, "block": layout.block, "dims": dims, "observed": observed, **facts,
            }  # fmt: skip
            extra = [name for name, (dim, _, _) in coordinates.items() if name != dim]
            group.attrs.update(
                {
                    "sweep_format": _FORMAT,
                    "plan": json.dumps(identity),
                    "execution": json.dumps(execution),
                    "precision": precision,
                    **attrs,
                    **({"coordinates": " ".join(extra)} if extra else {}),
                }
            )
            place.chmod(0o777 & ~_umask())
            try:
                os.rename(place, path)
            except OSError:
                if not (path / "zarr.json").exists():  # else another job has made it meanwhile
                    raise
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return cls(path)

    def read(self, number: int) -> dict[str, np.ndarray]:
        """Every variable of a block."""
        region = self.layout.slices(number)
        return {name: np.asarray(self.array(name)[region]) for name in self.variables}

    def write(self, number: int, values: Mapping[str, np.ndarray], seconds: float) -> None:
        """Write a block: its data first, then, in a second step, its digest."""
        region, place = self.layout.slices(number), self.layout.place(number)
        for name in self.variables:
            array = self.array(name)
            self._forget(array, place)
            array[region] = np.ascontiguousarray(values[name], array.dtype)
        seconds_array: Any = self.group["execution/seconds"]
        seconds_array[place] = seconds
        self.committed_array[place] = digest(values[name] for name in self.variables)

    def is_committed(self, number: int) -> bool:
        """Whether a block has been committed."""
        try:
            return int(self.committed_array[self.layout.place(number)]) != 0
        except (ValueError, RuntimeError):
            return False

    def committed(self) -> np.ndarray:
        """Digests of all blocks, 0 where there is none, flat. A torn entry counts as none."""
        try:
            return np.asarray(self.committed_array[...]).reshape(-1)
        except (ValueError, RuntimeError):
            return np.asarray([self._digest_of(i) for i in range(self.layout.blocks)], np.uint64)

    def damaged(self, numbers: Iterable[int]) -> list[int]:
        """Those committed blocks whose data is missing, truncated or does not fit its digest."""
        return [number for number in numbers if not self._intact(number)]

    def withdraw(self, numbers: Iterable[int]) -> None:
        """Take back what was committed of blocks that are damaged."""
        for number in numbers:
            self._forget(self.committed_array, self.layout.place(number))

    def _digest_of(self, number: int) -> int:
        try:
            return int(self.committed_array[self.layout.place(number)])
        except (ValueError, RuntimeError):
            return 0

    def _intact(self, number: int) -> bool:
        try:
            values = self.read(number)
        except (ValueError, RuntimeError, OSError):
            return False
        return digest(values[name] for name in self.variables) == self._digest_of(number)

    def seconds(self, number: int) -> float:
        """Time that a block took; 0 if that is lost."""
        try:
            return float(self.array("execution/seconds")[self.layout.place(number)])
        except (ValueError, RuntimeError):
            return 0.0

    def dtype(self, name: str) -> np.dtype:
        """Number type of a variable."""
        return np.dtype(self.array(name).dtype)

    def coordinate(self, name: str) -> np.ndarray:
        """Values of a coordinate; texts as texts."""
        array: Any = self.group[name]
        values = np.asarray(array[...])
        texts = array.attrs.get("texts")
        return values if texts is None else np.asarray(texts)[values]

    def array(self, name: str) -> Any:
        """A variable, or an array of `execution`."""
        return self.group[name]

    def _forget(self, array: Any, place: tuple[int, ...]) -> None:
        """Remove a chunk before it is written: a damaged one at the border would be read and merged."""
        inner = (0,) * (array.ndim - len(place))
        chunk = self.path / array.path / array.metadata.encode_chunk_key((*place, *inner))
        chunk.unlink(missing_ok=True)


def digest(arrays: Iterable[np.ndarray]) -> int:
    """64 bits of BLAKE2 over the bytes of arrays, never 0."""
    state = hashlib.blake2b(digest_size=8)
    for array in arrays:
        state.update(np.ascontiguousarray(array).tobytes())
    return int.from_bytes(state.digest(), "little") or 1


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


_CODECS = (ZstdCodec(level=1), Crc32cCodec())  # without the second, flipped bits pass unseen


def _array(group: Any, name: str, shape: Any, chunks: Any, dtype: Any, fill: Any, dims: Any, attrs: Any = None) -> Any:
    return group.create_array(
        name, shape=shape, chunks=chunks, dtype=dtype, fill_value=fill, dimension_names=dims,
        compressors=_CODECS, attributes=attrs or {},
    )  # fmt: skip


def _make_variables(
    group: Any, layout: Layout, dims: tuple[str, ...], observed: tuple[str, ...], times: np.ndarray, precision: str
) -> None:
    descent = np.issubdtype(times.dtype, np.integer)
    count = times.shape[0]
    for name in observed:
        known = OBSERVABLES.get(name)
        attrs = {"long_name": known.meaning if known else name, "units": "1"}
        _array(
            group, name, (*layout.shape, count), (*layout.block, count), precision, float("nan"), (*dims, "time"), attrs
        )
    meanings = {"flag_values": list(REASONS), "flag_meanings": " ".join(REASONS.values())}
    codes = {"long_name": "why a point ended", **meanings}
    unit = "updates" if descent else "time"
    _array(group, "result", layout.shape, layout.block, "int8", PENDING, dims, codes)
    attrs = {"long_name": "how far a point came", "units": unit}
    _array(group, "elapsed", layout.shape, layout.block, "float64", float("nan"), dims, attrs)
    attrs = {"long_name": "steps of the solver or updates made; 0 for a closed form", "units": "1"}
    _array(group, "steps", layout.shape, layout.block, "int32", 0, dims, attrs)
    _coordinate(group, "time", "time", times, {"long_name": "number of updates" if descent else "time", "units": unit})
    counts, single = layout.counts, (1,) * len(layout.counts)
    blocks = [f"block_{dim}" for dim in dims]
    _array(group, "execution/committed", counts, single, "uint64", 0, blocks, {"long_name": "digest of a block"})
    _array(group, "execution/seconds", counts, single, "float32", float("nan"), blocks, {"units": "s"})


def _coordinate(group: Any, name: str, dim: str, values: np.ndarray, attrs: dict[str, Any]) -> None:
    """A coordinate; texts are stored as numbers with their meanings beside, which every reader of Zarr understands."""
    if values.dtype.kind == "U":
        texts = list(dict.fromkeys(values.tolist()))
        attrs = {**attrs, "texts": texts}
        values = np.asarray([texts.index(text) for text in values.tolist()], np.int32)
    with warnings.catch_warnings():
        array = _array(group, name, values.shape, values.shape, values.dtype, 0, (dim,), attrs)
        array[...] = values
