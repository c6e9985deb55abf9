"""One compiled program for a block of points, sharded over the local devices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from unhinged_jax import _memory
from unhinged_jax.precision import scope
from unhinged_jax.sweeps.lanes import Lane

Values = tuple[dict[str, np.ndarray], ...]
"""For each dimension, key -> values along it, with a leading axis of devices."""

_TINY, _FEW = 256, 8  # entries of H and W together; lanes


def width_of(adaptive: int | None, platform: str) -> int | None:
    """How many points of a block are lanes that take every step together; None: all of them.

    Lanes of an adaptive solve wait for the slowest, and each step selects between the old and the new state of every
    lane. On a CPU only tiny problems, whose steps are a handful of short operations, gain more from lanes than that
    costs, and a few lanes gain most of it. An accelerator needs all lanes, and no lane waits if all do the same work.

    Args:
        adaptive: See `Group`.
        platform: As JAX calls it.
    """
    if platform != "cpu" or adaptive is None:
        return None
    return _FEW if adaptive <= _TINY else 1


def block(lane: Lane, values: tuple[dict[str, Any], ...], width: int | None = None) -> dict[str, Any]:
    """All points of a block, `width` at a time; None: all at once, and whatever does not depend on a dimension is
    computed once for all its points."""

    def level(depth: int, chosen: dict[str, Any]) -> Any:
        if depth == len(values):
            return lane.run(chosen)
        if not values[depth]:
            return level(depth + 1, chosen)
        return jax.vmap(lambda here: level(depth + 1, {**chosen, **here}))(values[depth])

    varied = [axes for axes in values if axes]
    if width is None or not varied:
        return level(0, {})
    sizes = tuple(next(iter(axes.values())).shape[0] for axes in varied)
    count = math.prod(sizes)
    points = np.minimum(np.arange(-(-count // width) * width), count - 1)  # the last group repeats the last point
    places = np.unravel_index(points if width == 1 else points.reshape(-1, width), sizes)
    chosen = {key: array[place] for axes, place in zip(varied, places, strict=True) for key, array in axes.items()}

    def shaped(array: jax.Array) -> jax.Array:
        rest = array.shape[places[0].ndim :]
        return array.reshape(-1, *rest)[:count].reshape(*sizes, *rest)

    return jax.tree.map(shaped, jax.lax.map(lane.run if width == 1 else jax.vmap(lane.run), chosen))


class TooLarge(Exception):
    """A block needs more memory than the device has."""


@dataclasses.dataclass
class Programs:
    """The compiled programs of one group, by the shape of the block.

    Attributes:
        lane: What every point runs.
        keys: Keys that vary inside a block, for each dimension.
        memory: Bytes a device may use for a block; None for no limit.
        adaptive: See `Group`.
    """

    lane: Lane
    keys: tuple[tuple[str, ...], ...]
    memory: int | None = None
    adaptive: int | None = None

    def __post_init__(self) -> None:
        self.devices = jax.local_devices()
        self.platform = self.devices[0].platform
        self.width = width_of(self.adaptive, self.platform)
        self._compiled: dict[tuple[int, ...], Callable[..., Any] | None] = {}

    def __call__(self, values: Values, shape: tuple[int, ...]) -> dict[str, Any]:
        """Run one block on every device; arrays come back with the axes device, dimensions, (time).

        A block that does not fit into memory is run in halves.
        """
        try:
            with scope(self.lane.precision):
                found = self._program(shape)(values)
                found = _memory.read_all(found)
        except (TooLarge, MemoryError, jax.errors.JaxRuntimeError) as error:
            if not _out_of_memory(error):
                raise
            if max(shape) == 1:
                raise MemoryError("one point alone does not fit into memory; shrink the problem.") from error
            self._compiled[shape] = None
            return self._halves(values, shape)
        begin = (len(self.devices), *shape)
        return jax.tree.map(lambda array: array.reshape(*begin, *array.shape[1 + self._depth :]), found)

    def steps_made(self, needed: np.ndarray) -> np.ndarray:
        """Steps that each point of a block made if it needed so many: adaptive lanes make those of the slowest."""
        if self.adaptive is None:
            return needed
        width = self.width or needed.size
        groups = padded(needed.ravel(), -(-needed.size // width) * width).reshape(-1, width)
        return np.repeat(groups.max(axis=1), width)[: needed.size].reshape(needed.shape)

    @property
    def _depth(self) -> int:
        return sum(bool(keys) for keys in self.keys)

    def _program(self, shape: tuple[int, ...]) -> Callable[..., Any]:
        if shape not in self._compiled:
            self._compiled[shape] = self._compile(shape)
        program = self._compiled[shape]
        if program is None:
            raise TooLarge
        return program

    def _compile(self, shape: tuple[int, ...]) -> Callable[..., Any] | None:
        types = tuple(
            {key: jax.ShapeDtypeStruct((count,), self.lane.dtypes[key]) for key in keys}
            for keys, count in zip(self.keys, shape, strict=True)
        )
        make = _one_for_each if self.platform == "cpu" else _sharded
        compiled, run = make(lambda values: block(self.lane, values, self.width), types, self.devices)
        needed = compiled.memory_analysis()  # of one device
        too_large = (
            self.memory is not None
            and needed is not None
            and needed.temp_size_in_bytes + needed.output_size_in_bytes > self.memory
        )
        return None if too_large and max(shape) > 1 else run

    def _halves(self, values: Values, shape: tuple[int, ...]) -> dict[str, Any]:
        axis = int(np.argmax(shape))
        half = (shape[axis] + 1) // 2
        smaller = (*shape[:axis], half, *shape[axis + 1 :])
        parts = []
        for piece in (slice(0, half), slice(half, None)):
            chosen = {key: padded(array[:, piece], half, 1) for key, array in values[axis].items()}
            parts.append(self((*values[:axis], chosen, *values[axis + 1 :]), smaller))

        def joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
            return np.concatenate([first, second], axis=1 + axis).take(range(shape[axis]), axis=1 + axis)

        return jax.tree.map(joined, *parts)


@dataclasses.dataclass
class Calls:
    """What computes blocks of a lane that cannot be traced: one call for each point, with ordinary numbers."""

    lane: Lane

    def __post_init__(self) -> None:
        self.devices = jax.local_devices()[:1]

    def __call__(self, values: Values, shape: tuple[int, ...]) -> dict[str, Any]:
        """Run one block; arrays come back with the axes device, dimensions, own."""
        found: dict[tuple[Any, ...], Any] = {}  # values at the border are repeated, but not computed again
        points = []
        for index in np.ndindex(shape):
            given = {key: array[0, at] for part, at in zip(values, index, strict=True) for key, array in part.items()}
            point = tuple(value.item() for value in given.values())
            if point not in found:
                with scope(self.lane.precision):
                    found[point] = _memory.read_all(self.lane.run({key: one.item() for key, one in given.items()}))
            points.append(found[point])
        trees: list[Any] = [jax.tree.structure(one) for one in points]
        if any(tree != trees[0] for tree in trees):
            raise ValueError("the function returns other arrays at some points than at others; return the same names.")
        return jax.tree.map(lambda *leaves: np.stack(leaves).reshape(1, *shape, *np.shape(leaves[0])), *points)

    def steps_made(self, needed: np.ndarray) -> np.ndarray:
        """Steps that each point of a block made, which are those that it needed."""
        return needed


def _sharded(function: Callable[..., Any], types: PyTree, devices: list[Any]) -> tuple[Any, Callable[..., Any]]:
    """One program over all devices, compiled once."""
    mesh = jax.sharding.Mesh(np.asarray(devices), ("device",))
    spec = jax.sharding.PartitionSpec("device")

    def local(values: PyTree) -> Any:
        return jax.tree.map(lambda array: array[None], function(jax.tree.map(lambda array: array[0], values)))

    # shard_map and not a sharded argument: adaptive solves on different devices must not wait for each other.
    program = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))
    wide = jax.tree.map(lambda kind: jax.ShapeDtypeStruct((len(devices), *kind.shape), kind.dtype), types)
    compiled = program.lower(wide).compile()
    return compiled, compiled


def _one_for_each(function: Callable[..., Any], types: PyTree, devices: list[Any]) -> tuple[Any, Callable[..., Any]]:
    """The same program for each CPU device, because a program that XLA compiles for several at once rounds
    differently."""
    program = jax.jit(function)
    places = [jax.sharding.SingleDeviceSharding(device) for device in devices]
    lowered = [
        program.lower(
            jax.tree.map(lambda kind, at=place: jax.ShapeDtypeStruct(kind.shape, kind.dtype, sharding=at), types)
        )
        for place in places
    ]
    with ThreadPoolExecutor(len(devices)) as pool:
        compiled = list(pool.map(lambda one: one.compile(), lowered))

    def run(values: PyTree) -> Any:
        mine = [jax.tree.map(lambda array, i=i: array[i], values) for i in range(len(devices))]
        running = [one(jax.device_put(part, place)) for one, part, place in zip(compiled, mine, places, strict=True)]
        return jax.tree.map(lambda *parts: np.stack([_memory.read(part) for part in parts]), *running)

    return compiled[0], run


def padded(array: np.ndarray, length: int, axis: int = 0) -> np.ndarray:
    """The array with its last entry along an axis repeated up to a length."""
    places = np.minimum(np.arange(length), array.shape[axis] - 1)
    return np.take(array, places, axis=axis)


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, TooLarge) or bool(_memory.out_of_memory(error))
