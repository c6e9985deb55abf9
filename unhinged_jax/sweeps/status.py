"""What `unhinged sweep --status` reports: how much of a sweep is done, failed or damaged."""

from __future__ import annotations

import dataclasses

import numpy as np

from unhinged_jax.sweeps.read import UNSEALED
from unhinged_jax.sweeps.store import Store
from unhinged_jax.sweeps.work import tally


@dataclasses.dataclass(frozen=True)
class Status:
    """The progress of a sweep.

    Attributes:
        points, done: Points of the plan, and those that have ended, failed ones included.
        failed: Reason -> number of points.
        blocks, missing: Blocks, and those to be computed.
        failed_blocks: Blocks with a failed point.
        damaged: Blocks that were committed but are no longer whole; they also count as missing.
        seconds: Time that committed blocks took, over all workers.
        waste: Share of solver steps that lanes made only because a slower one shared their call; 0 if there are none.
    """

    points: int
    done: int
    failed: dict[str, int]
    blocks: int
    missing: tuple[int, ...]
    failed_blocks: tuple[int, ...]
    damaged: tuple[int, ...]
    seconds: float
    waste: float

    @property
    def complete(self) -> bool:
        """Whether nothing is left to compute."""
        return not self.missing


def status_of(store: Store, verify: bool = False) -> Status:
    """Count what is stored; with `verify`, read all of it and compare digests."""
    layout = store.layout
    committed = np.flatnonzero(store.committed())
    damaged = tuple(store.damaged(committed.tolist())) if verify else ()
    there = [int(number) for number in committed if number not in damaged]
    failed: dict[str, int] = {}
    failed_blocks = []
    steps = made = 0
    for number in list(there):
        region = layout.slices(number)
        try:
            result, needed = (np.asarray(store.array(name)[region]) for name in ("result", "steps"))
        except (ValueError, RuntimeError):
            there.remove(number)
            damaged = (*damaged, number)
            continue
        found = tally(result)
        for reason, count in found.items():
            failed[reason] = failed.get(reason, 0) + count
        if found:
            failed_blocks.append(number)
        own = int(needed.sum(dtype=np.int64))
        steps, made = steps + own, made + max(own, int(store.noted("steps_made", number)))
    missing = sorted({*range(layout.blocks)} - {*there})
    seconds = sum(store.noted("seconds", number) for number in there)
    return Status(
        points=layout.points,
        done=sum(layout.size(number) for number in there),
        failed=failed,
        blocks=layout.blocks,
        missing=tuple(missing),
        failed_blocks=tuple(failed_blocks),
        damaged=damaged,
        seconds=seconds,
        waste=1 - steps / made if made else 0.0,
    )


def describe(store: Store, status: Status) -> str:
    """The status in words."""
    axes = " × ".join(f"{name} {size}" for name, size in zip(store.dims, store.layout.shape, strict=True))
    attrs = store.group.attrs
    lines = [
        f"{store.path}: {attrs['title']}",
        f"  axes      {axes}",
        f"  points    {status.done:,} of {status.points:,} done, {sum(status.failed.values()):,} of them failed",
        *(f"              {reason}: {count:,}" for reason, count in status.failed.items()),
        f"  blocks    {status.blocks - len(status.missing):,} of {status.blocks:,}, of {_lanes(store)} points",
        f"  observed  {', '.join(store.observed)}{_times(store)}, {attrs['precision']}",
        f"  computed  in {status.seconds:,.1f} s of worker time, {attrs['method']}, on {attrs['device']}",
    ]
    if status.waste:
        lines.append(f"  lockstep  {status.waste:.0%} of solver steps were made waiting for slower lanes")
    if status.damaged:
        lines.append(f"  damaged   {len(status.damaged)} blocks; they will be computed again")
    if not store.sealed:
        lines.append(f"  checks    it was made by an older version: {UNSEALED}")
    versions = store.versions
    made = f"unhinged-jax {versions.get('unhinged-jax')}, jax {versions.get('jax')}, commit {attrs['commit']}"
    lines.append(f"  made with {made}")
    return "\n".join(lines)


def _times(store: Store) -> str:
    return f", {len(store.coordinate('time'))} times" if "time" in store.coordinates() else ""


def _lanes(store: Store) -> str:
    return " × ".join(str(length) for length in store.layout.block)
