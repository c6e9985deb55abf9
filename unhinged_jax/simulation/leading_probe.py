"""The leading part of a linear run, carried apart as one column of it.

The leading part keeps its direction d forever, so one number tells how large it is. A run carries one column of it,
its product with a unit vector u, and reads the amplitude off:

    (lead_H, lead_W) = amplitude (d_H, d_W) u,    amplitude = <(lead_H, lead_W), d u> / |d u|^2.

What is not leading is carried without it, so that distances never come from differences of nearly equal numbers.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp

from unhinged_jax.linear.leading_part import Coupled, LeadingPart, put_together
from unhinged_jax.linear.row_space import RowSpace
from unhinged_jax.observables.distance import Split
from unhinged_jax.simulation.coupling import Coupling, OneClass
from unhinged_jax.simulation.system import Body
from unhinged_jax.special import safe_log, safe_norm

Orthonormal = list[jax.Array]
"""A state in coordinates in which its norm is a sum of squares: [H (rows, p), size of the residual (), W (C, p)]."""


class Amplitude(NamedTuple):
    """The size of the leading part, sign e^log."""

    log: jax.Array
    sign: jax.Array


class RowState(NamedTuple):
    """A state in the row space, over e^log_scale.

    Attributes:
        H, W: Rows of features, (rows, p), and prototypes, (C, p).
        factor: What the residual, which is orthogonal to the class sums, is multiplied by, ().
        log_scale: Logarithm of the scale of all three, ().
        scores: W r^T for the residual r, (C, n), where it is known.
    """

    H: jax.Array
    W: jax.Array
    factor: jax.Array
    log_scale: jax.Array
    scores: jax.Array | None


class Leading(eqx.Module):
    """What a run carries of its leading part."""

    @property
    @abc.abstractmethod
    def names(self) -> tuple[tuple[str, str], ...]:
        """The arrays of H and of W that it carries, which share a scale."""

    @property
    @abc.abstractmethod
    def rates(self) -> tuple[Any, Any]:
        """Rates of H and W: a velocity divided by them is split like a state."""

    @abc.abstractmethod
    def start_arrays(self, H: jax.Array, W: jax.Array) -> Body:
        """The arrays before the first update, for a start H (rows, p) and W (C, p)."""

    @abc.abstractmethod
    def velocity_arrays(self, space: RowSpace, H: jax.Array, W: jax.Array) -> Body:
        """The arrays of a velocity, features H (n, p) and W (C, p)."""

    @abc.abstractmethod
    def rest(self, coupling: Coupling, H: jax.Array, W: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A pair of arrays without what is leading in it."""

    @abc.abstractmethod
    def amplitude(self, body: Body, log: jax.Array | None) -> Amplitude | None:
        """The amplitude of the leading part, read off the column, which stands for e^log times itself."""

    @abc.abstractmethod
    def join(self, amplitude: Amplitude | None, rest: RowState, start: RowState) -> RowState:
        """Leading part and rest together; what stays is that of the start."""

    @abc.abstractmethod
    def add(self, amplitude: Amplitude | None, rest: RowState, log_scale: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(H, W) of leading part and rest, over e^log_scale."""

    @abc.abstractmethod
    def split(
        self, amplitude: Amplitude | None, rest: Orthonormal, log_rest: jax.Array, state: Orthonormal
    ) -> Split | None:
        """The state along the leading direction and beside it, e^log_rest rest, and the state, over any scale."""

    @abc.abstractmethod
    def turned(self, turn: Callable[[jax.Array], jax.Array], residual: jax.Array) -> Self:
        """The same with every row turned, and another residual."""


class NoLeading(Leading):
    """Nothing is carried apart: no distance to the limit was asked for."""

    names = ()
    rates = (1.0, 1.0)

    def start_arrays(self, H: jax.Array, W: jax.Array) -> Body:
        return {}

    def velocity_arrays(self, space: RowSpace, H: jax.Array, W: jax.Array) -> Body:
        return {}

    def rest(self, coupling: Coupling, H: jax.Array, W: jax.Array) -> tuple[jax.Array, jax.Array]:
        return H, W

    def amplitude(self, body: Body, log: jax.Array | None) -> Amplitude | None:
        return None

    def join(self, amplitude: Amplitude | None, rest: RowState, start: RowState) -> RowState:
        return rest

    def add(self, amplitude: Amplitude | None, rest: RowState, log_scale: jax.Array) -> tuple[jax.Array, jax.Array]:
        unit = jnp.exp(rest.log_scale - log_scale)
        return unit * rest.H, unit * rest.W

    def split(
        self, amplitude: Amplitude | None, rest: Orthonormal, log_rest: jax.Array, state: Orthonormal
    ) -> Split | None:
        return None

    def turned(self, turn: Callable[[jax.Array], jax.Array], residual: jax.Array) -> Self:
        return self


class LeadingProbe(Leading):
    """One column of a leading part.

    Attributes:
        part: The leading part of the start.
        H: Its features Theta M carrier in the row space, (rows, p).
        scores: Its prototypes times r^T for the residual r, (C, n), where they are known.
        direction: The leading part at norm 1.
        log_start: The logarithm of its norm.
        unit: u, along its longest row, so that it is never nearly orthogonal to it, (p, 1).
        unit_H, unit_W: d_H u, (rows, 1), and d_W u, (C, 1).
        led: Whether there is a leading part at all.
    """

    part: LeadingPart
    H: jax.Array
    scores: jax.Array | None
    direction: Orthonormal
    log_start: jax.Array
    unit: jax.Array
    unit_H: jax.Array
    unit_W: jax.Array
    led: jax.Array

    names = (("lead_H", "lead_W"),)

    def amplitude(self, body: Body, log: jax.Array | None) -> Amplitude | None:
        assert log is not None
        of_H = [(self.unit_H, body["lead_H"])] * self.part.H_moves
        of_W = [(self.unit_W, body["lead_W"])] * self.part.W_moves
        weight = sum(jnp.sum(unit**2) for unit, _ in of_H + of_W)
        inner = sum(jnp.sum(unit * column) for unit, column in of_H + of_W)
        size = inner / jnp.where(weight > 0, weight, 1.0)
        return Amplitude(safe_log(jnp.abs(size)) + log, jnp.sign(size))

    def join(self, amplitude: Amplitude | None, rest: RowState, start: RowState) -> RowState:
        assert amplitude is not None
        common = jax.lax.stop_gradient(jnp.maximum(amplitude.log, rest.log_scale))
        H_moves, W_moves = self.part.H_moves, self.part.W_moves
        if not (H_moves and W_moves):
            common = jnp.maximum(common, start.log_scale)
        lead = self._times(amplitude, common)
        by, kept = jnp.exp(rest.log_scale - common), jnp.exp(start.log_scale - common)
        H = put_together(lead * self.H, by * rest.H) if H_moves else kept * start.H
        W = put_together(lead * self.part.prototypes, by * rest.W) if W_moves else kept * start.W
        factor = by * rest.factor if H_moves else kept * start.factor
        scores = rest.scores
        if scores is not None and self.scores is not None:
            scores = lead * self.scores + by * scores if W_moves else kept * self.scores
            scores = jnp.where(jnp.any(W != 0, axis=1, keepdims=True), scores, scores - jax.lax.stop_gradient(scores))
        return RowState(H, W, factor, common, scores)

    def add(self, amplitude: Amplitude | None, rest: RowState, log_scale: jax.Array) -> tuple[jax.Array, jax.Array]:
        assert amplitude is not None
        lead, unit = self._times(amplitude, log_scale), jnp.exp(rest.log_scale - log_scale)
        return unit * rest.H + lead * self.H, unit * rest.W + lead * self.part.prototypes

    def _times(self, amplitude: Amplitude, log_scale: jax.Array) -> jax.Array:
        """How many times that of the start the leading part is, over e^log_scale."""
        return amplitude.sign * jnp.exp(amplitude.log - log_scale - self.log_start)

    def split(
        self, amplitude: Amplitude | None, rest: Orthonormal, log_rest: jax.Array, state: Orthonormal
    ) -> Split | None:
        assert amplitude is not None
        rest, state = self._moving(rest), self._moving(state)
        return Split(self.direction, rest, amplitude.log, amplitude.sign, log_rest, state)

    def _moving(self, state: Orthonormal) -> Orthonormal:
        """A state with zeros for what stays: the limit says nothing of that."""
        moves = self.part.H_moves, self.part.H_moves, self.part.W_moves
        return [part if moving else jnp.zeros_like(part) for part, moving in zip(state, moves, strict=True)]

    def turned(self, turn: Callable[[jax.Array], jax.Array], residual: jax.Array) -> Self:
        part = self.part.turned(turn)
        direction = [turn(part) if part.ndim else part for part in self.direction]
        scores = None if self.scores is None else part.prototypes @ residual.T
        return dataclasses.replace(self, part=part, H=turn(self.H), direction=direction, scores=scores)


class CoupledProbe(LeadingProbe):
    """H and W both move: the column is one of the winning eigenvector, and the rest has no part in it."""

    @property
    def rates(self) -> tuple[Any, Any]:
        return self.part.rates.r1, self.part.rates.r2

    def start_arrays(self, H: jax.Array, W: jax.Array) -> Body:
        return {"lead_H": self.H @ self.unit, "lead_W": self.part.prototypes @ self.unit}

    def velocity_arrays(self, space: RowSpace, H: jax.Array, W: jax.Array) -> Body:
        carrier, prototypes = self.part.part(space.gather(H), W)
        return {"lead_H": space.lift(carrier) @ self.unit, "lead_W": prototypes @ self.unit}

    def rest(self, coupling: Coupling, H: jax.Array, W: jax.Array) -> tuple[jax.Array, jax.Array]:
        mode = coupling.mode if isinstance(coupling, OneClass) else None
        carrier, prototypes = self.part.part(coupling.gather(H), W, mode)
        return H - coupling.lift(carrier), W - prototypes


class DrivenProbe(LeadingProbe):
    """One part stays and pulls the other, which begins with nothing of that: the column starts with what stays alone.

    The start of the part that moves fades in the rest. Where what stays is 0, its derivatives are left to the rest.
    """

    rates = (1.0, 1.0)

    def start_arrays(self, H: jax.Array, W: jax.Array) -> Body:
        lead_H, lead_W = self.H @ self.unit, self.part.prototypes @ self.unit
        if self.part.H_moves:
            return {"lead_H": jnp.zeros_like(lead_H), "lead_W": W @ self.unit}
        return {"lead_H": H @ self.unit, "lead_W": jnp.zeros_like(lead_W)}

    def velocity_arrays(self, space: RowSpace, H: jax.Array, W: jax.Array) -> Body:
        return {"lead_H": jnp.zeros_like(self.unit_H), "lead_W": jnp.zeros_like(self.unit_W)}

    def rest(self, coupling: Coupling, H: jax.Array, W: jax.Array) -> tuple[jax.Array, jax.Array]:
        return (H, jnp.where(self.led, 0.0, W)) if self.part.H_moves else (jnp.where(self.led, 0.0, H), W)


def leading_probe(space: RowSpace, part: LeadingPart | None, W: jax.Array, residual: jax.Array | None) -> Leading:
    """What is carried of a leading part; W (C, p) is that of the start, `residual` (n, p) is None if it is not seen."""
    if part is None:
        return NoLeading()
    H = space.lift(part.carrier)
    direction_H, direction_W = space.metric(H), part.prototypes
    if not part.H_moves:
        direction_H = jnp.zeros_like(direction_H)
    if not part.W_moves:
        direction_W = jnp.zeros_like(direction_W)
    size = safe_norm(direction_H, direction_W)
    led, size = size > 0, jnp.where(size > 0, size, 1.0)
    unit = _along_longest(part.prototypes if part.W_moves else H)
    return (CoupledProbe if isinstance(part, Coupled) else DrivenProbe)(
        part=part,
        H=H,
        scores=None if residual is None else part.prototypes @ residual.T,
        direction=[direction_H / size, jnp.zeros((), W.dtype), direction_W / size],
        log_start=jnp.log(size),
        unit=unit,
        unit_H=H @ unit / size,
        unit_W=part.prototypes @ unit / size,
        led=led,
    )


def _along_longest(rows: jax.Array) -> jax.Array:
    """The unit vector along the longest of some rows, (p, 1), without derivative."""
    rows = jax.lax.stop_gradient(rows)
    largest = jnp.max(jnp.abs(rows))
    rows = rows / jnp.where(largest > 0, largest, 1.0)  # squares of rows may under- or overflow
    longest = rows[jnp.argmax(jnp.sum(rows**2, axis=1))]
    length = jnp.linalg.norm(longest)
    return (longest / jnp.where(length > 0, length, 1.0))[:, None]
