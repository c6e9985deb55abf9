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

from unhinged_jax.linear.leading_part import Coupled, LeadingPart, put_together
from unhinged_jax.linear.row_space import RowSpace
from unhinged_jax.observables.distance import Orthonormal, Split
from unhinged_jax.simulation.coupling import Coupling, OneClass, both_modes
from unhinged_jax.simulation.system import Body
from unhinged_jax.special import safe_log, safe_norm


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
        H = put_together(lead * self.H, by * rest.H) if H_moves else kept * start.H
        W = put_together(lead * self.part.prototypes, by * rest.W) if W_moves else kept * start.W
        factor = by * rest.factor if H_moves else kept * start.factor
        scores = rest.scores
        if scores is not None and self.scores is not None:
            scores = lead * self.scores + by * scores if W_moves else kept * self.scores
            scores = jnp.where(jnp.any(W != 0, axis=1, keepdims=True), scores, scores - jax.lax.stop_gradient(scores))
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


class CoupledProbe(LeadingProbe):
    """H and W both move. The column belongs to the winning eigenvector, which the remainder does not contain."""

    @property
    def rates(self) -> tuple[Any, Any]:
        return self.part.rates.r1, self.part.rates.r2

    def start_arrays(self, H: Float[jax.Array, "rows p"], W: Float[jax.Array, "C p"]) -> Body:
        return {"lead_H": self.H @ self.unit, "lead_W": self.part.prototypes @ self.unit}

    def velocity_arrays(self, space: RowSpace, H: Float[jax.Array, "n p"], W: Float[jax.Array, "C p"]) -> Body:
        carrier, prototypes = self.part.part(space.gather(H), W)
        return {"lead_H": space.lift(carrier) @ self.unit, "lead_W": prototypes @ self.unit}

    def rest(
        self, coupling: Coupling, H: Float[jax.Array, "*rows m"], W: Float[jax.Array, "*C m"]
    ) -> tuple[Float[jax.Array, "*rows m"], Float[jax.Array, "*C m"]]:
        mode = coupling.mode if isinstance(coupling, OneClass) else None
        carrier, prototypes = self.part.part(coupling.gather(H), W, mode)
        return H - coupling.lift(carrier), W - prototypes


class BalancedProbe(CoupledProbe):
    """`CoupledProbe` for balanced classes: two numbers stand for either part of the column.

    Differences between classes stay multiples of one vector, and the mean of all classes stays a multiple of another.
    The arrays lead_H, lead_W, `unit_H` and `unit_W`, (2,) each, hold the coefficients of these two, at unit norm.
    """

    def coupling(self, space: RowSpace) -> Coupling:
        return both_modes(space, self.unit_W.dtype)

    def start_arrays(self, H: Float[jax.Array, "rows p"], W: Float[jax.Array, "C p"]) -> Body:
        lead_H, lead_W = self.H @ self.unit, self.part.prototypes @ self.unit
        return {"lead_H": _coefficients(lead_H, lead_W), "lead_W": _coefficients(lead_W, lead_W)}


def _coefficients(column: Float[jax.Array, "C 1"], along: Float[jax.Array, "C 1"]) -> Float[jax.Array, "2"]:
    """The coefficients of a column along the differences between the classes of another one, and along their mean."""
    differences = along - jnp.mean(along)
    size = safe_norm(differences)
    return jnp.stack(
        [jnp.sum(column * differences) / jnp.where(size > 0, size, 1.0), jnp.mean(column) * column.shape[0] ** 0.5]
    )


class DrivenProbe(LeadingProbe):
    """One of H and W stays and pulls the other. The column starts with the one that stays, and with 0 for the other.

    The start of the array that moves only decays, in the remainder. If the array that stays is 0, nothing leads, and it
    is left in the remainder, which then has its derivatives.
    """

    rates = (1.0, 1.0)

    def start_arrays(self, H: Float[jax.Array, "rows p"], W: Float[jax.Array, "C p"]) -> Body:
        lead_H, lead_W = self.H @ self.unit, self.part.prototypes @ self.unit
        if self.part.H_moves:
            return {"lead_H": jnp.zeros_like(lead_H), "lead_W": W @ self.unit}
        return {"lead_H": H @ self.unit, "lead_W": jnp.zeros_like(lead_W)}

    def velocity_arrays(self, space: RowSpace, H: Float[jax.Array, "n p"], W: Float[jax.Array, "C p"]) -> Body:
        return {"lead_H": jnp.zeros_like(self.unit_H), "lead_W": jnp.zeros_like(self.unit_W)}

    def rest(
        self, coupling: Coupling, H: Float[jax.Array, "*rows m"], W: Float[jax.Array, "*C m"]
    ) -> tuple[Float[jax.Array, "*rows m"], Float[jax.Array, "*C m"]]:
        return (H, jnp.where(self.led, 0.0, W)) if self.part.H_moves else (jnp.where(self.led, 0.0, H), W)


def leading_probe(
    space: RowSpace,
    part: LeadingPart | None,
    W: Float[jax.Array, "C p"],
    residual: Float[jax.Array, "n p"] | None,
    paired: bool = False,
) -> Leading:
    """What a run carries of `part`, or `NoLeading` if that is None.

    Args:
        space: The row space.
        part: The leading part of the start.
        W: The prototypes of the start, (C, p).
        residual: The residual r, (n, p), if `scores` are wanted, else None.
        paired: Whether classes are balanced and carried as `BalancedPair`.
    """
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
    unit_H, unit_W = H @ unit / size, part.prototypes @ unit / size
    kind: type[LeadingProbe] = CoupledProbe if isinstance(part, Coupled) else DrivenProbe
    if paired and kind is CoupledProbe:
        kind, unit_H, unit_W = BalancedProbe, _coefficients(unit_H, unit_W), _coefficients(unit_W, unit_W)
    return kind(
        part=part,
        H=H,
        scores=None if residual is None else part.prototypes @ residual.T,
        direction=[direction_H / size, jnp.zeros((), W.dtype), direction_W / size],
        log_start=jnp.log(size),
        unit=unit,
        unit_H=unit_H,
        unit_W=unit_W,
        led=led,
    )


def _along_longest(rows: Float[jax.Array, "rows p"]) -> Float[jax.Array, "p 1"]:
    """The unit vector along the longest of the rows, (p, 1), a constant for derivatives; 0 if all rows are 0."""
    rows = jax.lax.stop_gradient(rows)
    largest = jnp.max(jnp.abs(rows))
    rows = rows / jnp.where(largest > 0, largest, 1.0)  # squares of rows may under- or overflow
    longest = rows[jnp.argmax(jnp.sum(rows**2, axis=1))]
    length = jnp.linalg.norm(longest)
    return (longest / jnp.where(length > 0, length, 1.0))[:, None]
