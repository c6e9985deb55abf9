"""The leading part of a linear run, which is carried separately as a single column.

The leading part keeps its direction d forever, so one number says how large it is. A run carries the product of the
leading part with a unit vector u, which is one column, and computes the amplitude from it:

    (lead_H, lead_W) = amplitude (d_H, d_W) u,    amplitude = <(lead_H, lead_W), d u> / |d u|^2.

The remainder of the state is carried without its leading part, so that no distance is a difference of nearly equal
numbers. In this module `rest` is that remainder.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from unhinged_jax.linear.leading_part import LeadingPart, put_together
from unhinged_jax.linear.row_space import RowSpace
from unhinged_jax.observables.distance import Orthonormal, Split
from unhinged_jax.simulation.coupling import Coupling
from unhinged_jax.simulation.system import Body
from unhinged_jax.special import safe_log


class Amplitude(NamedTuple):
    """The amplitude sign e^log of the leading part, with `log` and `sign` of shape ()."""

    log: Float[jax.Array, ""]
    sign: Float[jax.Array, ""]


class RowState(NamedTuple):
    """A state in the row space, over e^log_scale.

    Attributes:
        H, W: Features as rows of the space, (rows, p), and prototypes, (C, p).
        factor: What the residual, the part of the features orthogonal to the class sums, is multiplied by, ().
        log_scale: Logarithm of the common scale of H, W and factor, ().
        scores: W r^T for the residual r, (C, n), or None if it is not known.
    """

    H: Float[jax.Array, "rows p"]
    W: Float[jax.Array, "C p"]
    factor: Float[jax.Array, ""]
    log_scale: Float[jax.Array, ""]
    scores: Float[jax.Array, "C n"] | None


class Leading(eqx.Module):
    """What a run carries of its leading part: a column, or nothing if no distance to the limit is read."""

    @property
    @abc.abstractmethod
    def names(self) -> tuple[tuple[str, str], ...]:
        """Names of the arrays that are carried of H and of W; each pair shares a scale."""

    @property
    @abc.abstractmethod
    def rates(self) -> tuple[Any, Any]:
        """The rates of H and W; a velocity times these rates is split in the same way as a state."""

    def coupling(self, space: RowSpace) -> Coupling:
        """How the signal couples the two arrays."""
        return space

    @abc.abstractmethod
    def start_arrays(self, H: Float[jax.Array, "rows p"], W: Float[jax.Array, "C p"]) -> Body:
        """The arrays before the first update, for a start H (rows, p) and W (C, p)."""

    @abc.abstractmethod
    def velocity_arrays(self, space: RowSpace, H: Float[jax.Array, "n p"], W: Float[jax.Array, "C p"]) -> Body:
        """The arrays of a velocity with H as rows of the space, (rows, p), and W (C, p)."""

    @abc.abstractmethod
    def rest(
        self, coupling: Coupling, H: Float[jax.Array, "*rows m"], W: Float[jax.Array, "*C m"]
    ) -> tuple[Float[jax.Array, "*rows m"], Float[jax.Array, "*C m"]]:
        """The remainder of (H, W): both arrays without their leading part. `coupling` says how they are coupled."""

    @abc.abstractmethod
    def amplitude(self, body: Body, log: Float[jax.Array, ""] | None) -> Amplitude | None:
        """The amplitude of the leading part, from the column in the body, which stands for e^log times itself."""

    @abc.abstractmethod
    def join(self, amplitude: Amplitude | None, rest: RowState, start: RowState) -> RowState:
        """The state: leading part plus remainder, with an array that stays taken from the start."""

    @abc.abstractmethod
    def add(
        self, amplitude: Amplitude | None, rest: RowState, log_scale: Float[jax.Array, ""]
    ) -> tuple[Float[jax.Array, "rows p"], Float[jax.Array, "C p"]]:
        """(H, W) of leading part plus remainder, divided by e^log_scale."""

    @abc.abstractmethod
    def split(
        self, amplitude: Amplitude | None, rest: Orthonormal, log_rest: Float[jax.Array, ""], whole: Orthonormal
    ) -> Split | None:
        """The split for distances; the remainder is e^log_rest `rest`, and `whole` is the state at any scale."""

    @abc.abstractmethod
    def turned(self, turn: Callable[[jax.Array], jax.Array], residual: Float[jax.Array, "n p"]) -> Self:
        """The same leading part with `turn` applied to its rows, for a smaller problem with this residual (n, m)."""


class NoLeading(Leading):
    """Nothing is carried separately, because no distance to the limit is read."""

    names = ()
    rates = (1.0, 1.0)

    def start_arrays(self, H: Float[jax.Array, "rows p"], W: Float[jax.Array, "C p"]) -> Body:
        return {}

    def velocity_arrays(self, space: RowSpace, H: Float[jax.Array, "n p"], W: Float[jax.Array, "C p"]) -> Body:
        return {}

    def rest(
        self, coupling: Coupling, H: Float[jax.Array, "*rows m"], W: Float[jax.Array, "*C m"]
    ) -> tuple[Float[jax.Array, "*rows m"], Float[jax.Array, "*C m"]]:
        return H, W

    def amplitude(self, body: Body, log: Float[jax.Array, ""] | None) -> Amplitude | None:
        return None

    def join(self, amplitude: Amplitude | None, rest: RowState, start: RowState) -> RowState:
        return rest

    def add(
        self, amplitude: Amplitude | None, rest: RowState, log_scale: Float[jax.Array, ""]
    ) -> tuple[Float[jax.Array, "rows p"], Float[jax.Array, "C p"]]:
        unit = jnp.exp(rest.log_scale - log_scale)
        return unit * rest.H, unit * rest.W

    def split(
        self, amplitude: Amplitude | None, rest: Orthonormal, log_rest: Float[jax.Array, ""], whole: Orthonormal
    ) -> Split | None:
        return None

    def turned(self, turn: Callable[[jax.Array], jax.Array], residual: Float[jax.Array, "n p"]) -> Self:
        return self


class LeadingProbe(Leading):
    """One column of the leading part.

    Attributes:
        part: The leading part of the start.
        H: The features Theta M carrier of `part` in the row space, (rows, p).
        scores: The prototypes of `part` times r^T for the residual r, (C, n), or None if they are not known.
        direction: `part` at norm 1.
        log_start: The logarithm of the norm of `part`, ().
        unit: The unit vector u, (p, 1). It points along the longest row of `part`, so that d u is never nearly 0.
            `turned` leaves it as it is, with the p of the start.
        unit_H, unit_W: d_H u, (rows, 1), and d_W u, (C, 1); of `BalancedProbe` their two coefficients.
        led: Whether there is a leading part at all, ().
    """

    part: LeadingPart
    H: Float[jax.Array, "rows p"]
    scores: Float[jax.Array, "C n"] | None
    direction: Orthonormal
    log_start: Float[jax.Array, ""]
    unit: Float[jax.Array, "columns 1"]
    unit_H: Float[jax.Array, "..."]
    unit_W: Float[jax.Array, "..."]
    led: Bool[jax.Array, ""]

    names = (("lead_H", "lead_W"),)

    def amplitude(self, body: Body, log: Float[jax.Array, ""] | None) -> Amplitude | None:
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
        H = put_together(lead, self.H, by * rest.H)[0] if H_moves else kept * start.H
        factor = by * rest.factor if H_moves else kept * start.factor
        scores = rest.scores
        if not W_moves:
            scores = scores if scores is None or self.scores is None else kept * self.scores
            return RowState(H, kept * start.W, factor, common, scores)
        W, there = put_together(lead, self.part.prototypes, by * rest.W)
        if scores is not None and self.scores is not None:
            scores = lead * self.scores + by * scores
            scores = jnp.where(there, scores, scores - jax.lax.stop_gradient(scores))
        return RowState(H, W, factor, common, scores)

    def add(
        self, amplitude: Amplitude | None, rest: RowState, log_scale: Float[jax.Array, ""]
    ) -> tuple[Float[jax.Array, "rows p"], Float[jax.Array, "C p"]]:
        assert amplitude is not None
        lead, unit = self._times(amplitude, log_scale), jnp.exp(rest.log_scale - log_scale)
        return unit * rest.H + lead * self.H, unit * rest.W + lead * self.part.prototypes

    def _times(self, amplitude: Amplitude, log_scale: Float[jax.Array, ""]) -> Float[jax.Array, ""]:
        """The leading part as a multiple of that of the start, divided by e^log_scale, ()."""
        return amplitude.sign * jnp.exp(amplitude.log - log_scale - self.log_start)

    def split(
        self, amplitude: Amplitude | None, rest: Orthonormal, log_rest: Float[jax.Array, ""], whole: Orthonormal
    ) -> Split | None:
        assert amplitude is not None
        rest, whole = self._moving(rest), self._moving(whole)
        return Split(self.direction, rest, amplitude.log, amplitude.sign, log_rest, whole)

    def _moving(self, state: Orthonormal) -> Orthonormal:
        """The state with zeros for an array that stays, which has no limit."""
        moves = self.part.H_moves, self.part.H_moves, self.part.W_moves
        return [part if moving else jnp.zeros_like(part) for part, moving in zip(state, moves, strict=True)]

    def turned(self, turn: Callable[[jax.Array], jax.Array], residual: Float[jax.Array, "n p"]) -> Self:
        part = self.part.turned(turn)
        direction = [turn(part) if part.ndim else part for part in self.direction]
        scores = None if self.scores is None else part.prototypes @ residual.T
        return dataclasses.replace(self, part=part, H=turn(self.H), direction=direction, scores=scores)
