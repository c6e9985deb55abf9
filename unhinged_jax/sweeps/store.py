"""The store of a sweep: xarray's Zarr layout, one chunk per block, committed once and with digests.

A block is written in two steps: its chunk of every variable, then their digests into `execution/committed`. Each chunk
appears whole or not at all, so a block whose digests exist and match its data is complete; everything else is computed
again. Everything outside the blocks is under a seal, see `unhinged_jax.sweeps.seal`.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from unhinged_jax.sweeps.arrays import NOT_A_NUMBER as NOT_A_NUMBER
from unhinged_jax.sweeps.arrays import PENDING as PENDING
from unhinged_jax.sweeps.arrays import REASONS as REASONS
from unhinged_jax.sweeps.arrays import consolidate, coordinate, make_variables, plain_name
from unhinged_jax.sweeps.digests import block_digests, digest
from unhinged_jax.sweeps.grouping import Output
from unhinged_jax.sweeps.layout import Layout
from unhinged_jax.sweeps.seal import ROOT, SEAL, UNREADABLE, broken, coordinates_of, resealed, sealed
from unhinged_jax.trajectory import RunResult

FINE = (int(RunResult.COMPLETED), int(RunResult.STEADY))
_FORMAT = 1
_CREATED, _STALE = ".unfinished-", 3600.0
_TOLD = {"title", "method", "device", "precision", "commit"}
"""Attributes that every store has, and that are shown."""
_WAY_OUT = "restore it from a copy, or sweep into another folder."


class Damaged(ValueError):
    """Files of a store differ from what was written; the message names them and says what to do."""


class Store:
    """An open sweep store. `Store.create` makes one, whole or not at all.

    Args:
        path: Its folder.
        check: Refuse a store in which a coordinate, an attribute or an array description was lost or altered.

    Raises:
        Damaged: naming the files.
        ValueError: if it is not the store of a sweep.
    """

    mended: tuple[str, ...] = ()
    """Files that had been lost or altered and were written again when the store was opened."""
    source: Any = None
    """Where workers have the plan from, a `Source`; None if only the store was given."""

    def __init__(self, path: str | Path, check: bool = True) -> None:
        self.path = Path(path)
        if not (self.path / ROOT).exists():
            if (self.path / "execution").is_dir():
                raise Damaged(f"{self.path / ROOT} is missing; {_WAY_OUT}")
            raise ValueError(f"{path} is not the store of a sweep; make one with `unhinged sweep` or `sweep`.")
        try:
            self.group = zarr.open_group(self.path, mode="r+", zarr_format=3, use_consolidated=False)
            attrs = dict(self.group.attrs)
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise Damaged(f"{self.path / ROOT} is damaged; {_WAY_OUT}") from error
        if attrs.get("sweep_format") != _FORMAT:
            raise ValueError(f"{path} is a Zarr group, but not the store of a sweep of this version.")
        self.sealed = SEAL in attrs
        self.broken = broken(self.group, self.path)
        if ROOT in self.broken:
            raise Damaged(f"{self.path / ROOT} was altered after the store was made; {_WAY_OUT}")
        if check:
            self.refuse_broken()
        if not self.sealed:  # then only the folders themselves show what is missing
            for folder in (*self.path.iterdir(), *self.path.glob("execution/*")):
                if folder.is_dir():
                    self.array(folder.relative_to(self.path).as_posix())
        try:
            facts: Any = json.loads(str(attrs["execution"]))
            self.facts: dict[str, Any] = facts
            self.layout = Layout(tuple(facts["shape"]), tuple(facts["block"]))
            self.dims: tuple[str, ...] = tuple(facts["dims"])
            self.observed: tuple[str, ...] = tuple(facts["observed"])
            self.identity: dict[str, Any] = json.loads(str(attrs["plan"]))
            """The plan, and digests of the files that it reads, which two commands must share to fill one store."""
            self.versions: dict[str, str | None] = dict(json.loads(str(attrs["versions"])))
            if lacking := [*(_TOLD - {*attrs}), *({"plan", "inputs"} - {*self.identity})]:
                raise KeyError(lacking[0])
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{self.path / ROOT} is damaged; {_WAY_OUT}") from error
        for name in (*self.dims, *self.observed):
            plain_name(name)

    def refuse_broken(self) -> None:
        """Raise Damaged if a file beside the blocks was lost or altered."""
        if self.broken:
            names = ", ".join(str(self.path / name) for name in self.broken[:5])
            more = f" and {len(self.broken) - 5} more" if len(self.broken) > 5 else ""
            way = f"{self.again} writes again what it can; restore anything else from a copy."
            raise Damaged(f"{names}{more}: missing or altered after the store was made. {way}")

    @property
    def again(self) -> str:
        """The call that computes what is missing, at the beginning of a sentence."""
        own = self.group.attrs.get("method") == "function"
        return "The same call of `sweep`, with the function," if own else f"`unhinged sweep PLAN --store {self.path}`"

    @cached_property
    def committed_array(self) -> Any:
        """Digests of blocks: one per variable along the last axis, or one for all variables in a store of an older
        version."""
        return self.array("execution/committed")

    @cached_property
    def _by_variable(self) -> bool:
        return int(self.committed_array.ndim) > len(self.dims)

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
        outputs: Mapping[str, Output],
        unit: str,
        precision: str,
        coordinates: Mapping[str, tuple[str, np.ndarray, dict[str, Any]]],
        identity: dict[str, Any],
        facts: dict[str, Any],
        attrs: dict[str, Any],
    ) -> Store:
        """Make an empty store beside its place and move it there.

        Args:
            path: A folder that does not exist yet, or is empty.
            outputs, unit: See `unhinged_jax.sweeps.arrays.make_variables`.
            coordinates: Name -> (dimension, values, attributes).
            identity: See `identity`.
            facts: What workers need to know in addition to the plan.
            attrs: Attributes of the whole store.

        Returns:
            The open store, or that of another process if it was faster.

        Raises:
            OSError: if it cannot be written.
        """
        path = Path(path).resolve()  # what a symbolic link stands for: nothing can be renamed to a link
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{_CREATED}{glob.escape(path.name)}-*"):
            if time.time() - left.stat().st_mtime > _STALE:
                shutil.rmtree(left, ignore_errors=True)  # of a command that was killed
        place = Path(tempfile.mkdtemp(prefix=f"{_CREATED}{path.name}-", dir=path.parent))
        try:
            group = zarr.create_group(place, zarr_format=3)
            make_variables(group, layout, dims, outputs, unit)
            for name, (dim, values, described) in coordinates.items():
                coordinate(group, name, dim, values, described)
            execution = {"shape": layout.shape, "block": layout.block, "dims": dims, "observed": [*outputs], **facts}
            extra = [name for name, (dim, _, _) in coordinates.items() if name != dim]
            all_attrs = {
                "sweep_format": _FORMAT,
                "plan": json.dumps(identity),
                "execution": json.dumps(execution),
                "precision": precision,
                **attrs,
                **({"coordinates": " ".join(extra)} if extra else {}),
            }
            seal = sealed(group, place, coordinates, all_attrs)
            group.attrs.update({**all_attrs, SEAL: seal})
            consolidate(place)
            place.chmod(0o777 & ~_umask())
            try:
                os.rename(place, path)
            except OSError:
                if not (path / "zarr.json").exists():  # else another job has made it meanwhile
                    raise
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return cls(path)

    def change_plan(self, identity: dict[str, Any]) -> None:
        """Take over an `identity`, in one step with its digest."""
        attrs = dict(self.group.attrs)
        seal = attrs.pop(SEAL, None)
        attrs["plan"], self.identity = json.dumps(identity), identity
        changed = {"plan": attrs["plan"]} | ({} if seal is None else {SEAL: resealed(str(seal), attrs)})
        self.group.attrs.update(changed)
        consolidate(self.path)

    def read(self, number: int) -> dict[str, np.ndarray]:
        """Every variable of a block, unchecked."""
        region = self.layout.slices(number)
        return {name: np.asarray(self.array(name)[region]) for name in self.variables}

    def write(self, number: int, values: Mapping[str, np.ndarray], noted: Mapping[str, float]) -> None:
        """Write a block: first its data and what is `noted` beside it, then, in a second step, its digests."""
        region, place = self.layout.slices(number), self.layout.place(number)
        values = {name: np.ascontiguousarray(values[name], self.dtype(name)) for name in self.variables}
        self._forget(self.committed_array, place)  # a concurrent reader finds no block rather than half of one
        for name in self.variables:
            array = self.array(name)
            self._forget(array, place)
            array[region] = values[name]
        for name in (name for name in noted if f"execution/{name}" in self.group):  # an older store has fewer
            self.array(f"execution/{name}")[place] = noted[name]
        self.committed_array[place] = self._digests(number, values)

    def is_committed(self, number: int) -> bool:
        """Whether a block has been committed."""
        return bool(np.all(self.digests_of(number)))

    def committed(self) -> np.ndarray:
        """Whether each block has been committed, as a flat array. A torn entry counts as not committed."""
        try:
            return np.all(np.asarray(self.committed_array[...]).reshape(self.layout.blocks, -1) != 0, axis=1)
        except UNREADABLE:
            return np.asarray([self.is_committed(number) for number in range(self.layout.blocks)])

    def damaged(self, numbers: Iterable[int]) -> list[int]:
        """Those committed blocks whose data is missing, truncated or does not match its digest."""
        return [number for number in numbers if not self._intact(number)]

    def withdraw(self, numbers: Iterable[int]) -> None:
        """Undo the commit of damaged blocks."""
        for number in numbers:
            self._forget(self.committed_array, self.layout.place(number))

    def digests_of(self, number: int) -> np.ndarray:
        """The digests with which a block was committed; zeros if there are none."""
        try:
            return np.atleast_1d(np.asarray(self.committed_array[self.layout.place(number)]))
        except UNREADABLE:
            return np.zeros(1, np.uint64)

    def fits(self, number: int, name: str, values: np.ndarray, digests: np.ndarray) -> bool:
        """Whether the values of a variable of a block are those that were committed with some digests."""
        if not self._by_variable:
            return self._intact(number)
        return len(digests) == len(self.variables) and bool(
            block_digests(number, {name: values}, [name])[0] == digests[self.variables.index(name)]
        )

    def _digests(self, number: int, values: Mapping[str, np.ndarray]) -> np.ndarray:
        if not self._by_variable:  # an older store, with one digest for all
            return np.asarray(digest(values[name] for name in self.variables), np.uint64)
        return block_digests(number, values, self.variables)

    def _intact(self, number: int) -> bool:
        try:
            values = self.read(number)
        except UNREADABLE:
            return False
        return np.array_equal(np.atleast_1d(self._digests(number, values)), self.digests_of(number))

    def noted(self, name: str, number: int) -> float:
        """The `seconds` that a block took, or the `steps_made` by its points, waiting included; 0 if it is lost."""
        try:
            return float(self.array(f"execution/{name}")[self.layout.place(number)])
        except UNREADABLE:
            return 0.0

    def dtype(self, name: str) -> np.dtype:
        """Number type of a variable."""
        return np.dtype(self.array(name).dtype)

    def coordinates(self) -> list[str]:
        """Names of the coordinates, `time` among them."""
        seal = self.group.attrs.get(SEAL)
        if seal is not None:
            return coordinates_of(str(seal))
        return [str(name) for name in self.group.array_keys() if name not in self.variables]

    def coordinate(self, name: str) -> np.ndarray:
        """Values of a coordinate; texts as texts."""
        array = self.array(name)
        try:
            values = np.asarray(array[...])
        except UNREADABLE as error:
            raise Damaged(f"{self.path / name / 'c'} is missing or damaged; {_WAY_OUT}") from error
        texts = array.attrs.get("texts")
        return values if texts is None else np.asarray(texts)[values]

    def array(self, name: str) -> Any:
        """A variable, or an array of `execution`."""
        try:
            return self.group[name]
        except UNREADABLE as error:
            raise Damaged(f"{self.path / name / ROOT} is missing or damaged; {_WAY_OUT}") from error

    def _forget(self, array: zarr.Array, place: tuple[int, ...]) -> None:
        """Remove a chunk before it is written, because a damaged one at the border would be read and merged."""
        self._place_of(array, place).unlink(missing_ok=True)

    def chunk(self, name: str, number: int) -> Path:
        """The file of a variable of a block."""
        return self._place_of(self.array(name), self.layout.place(number))

    def _place_of(self, array: zarr.Array, place: tuple[int, ...]) -> Path:
        inner = (0,) * (array.ndim - len(place))
        return self.path / str(array.path) / array.metadata.encode_chunk_key((*place, *inner))


def _umask() -> int:
    os.umask(current := os.umask(0))
    return current
