"""The columns that runs carry of their leading part: for coupled arrays, balanced classes, or one array that stays."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from unhinged_jax.linear.leading_part import Coupled, LeadingPart
from unhinged_jax.linear.row_space import RowSpace
from unhinged_jax.simulation.coupling import Coupling, OneClass, both_modes
from unhinged_jax.simulation.leading_probe import Leading, LeadingProbe, NoLeading
from unhinged_jax.simulation.system import Body
from unhinged_jax.special import safe_norm


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


class CarriedProbe(CoupledProbe):
    """`CoupledProbe` of a run that begins with a velocity, or with slots of a memory, of a run before.

    If that run had other rates or decays, what these hold of the winning mode need not be a multiple of the leading
    part. The column then takes what lies along it, and what lies across is left in the remainder.

    Attributes:
        crossed: Whether anything lies across, ().
    """

    crossed: Bool[jax.Array, ""]

    def velocity_arrays(self, space: RowSpace, H: Float[jax.Array, "n p"], W: Float[jax.Array, "C p"]) -> Body:
        carrier, prototypes = self.part.part(space.gather(H), W)
        along = self._along(space, space.lift(carrier), prototypes)
        return {"lead_H": along * self.unit_H, "lead_W": along * self.unit_W}

    def rest(
        self, coupling: Coupling, H: Float[jax.Array, "*rows m"], W: Float[jax.Array, "*C m"]
    ) -> tuple[Float[jax.Array, "*rows m"], Float[jax.Array, "*C m"]]:
        kept_H, kept_W = (jnp.where(self.crossed, part, 0.0) for part in self.across(coupling, H, W))
        H, W = super().rest(coupling, H, W)
        return H + kept_H, W + kept_W

    def across(
        self, coupling: Any, H: Float[jax.Array, "*rows m"], W: Float[jax.Array, "*C m"]
    ) -> tuple[Float[jax.Array, "*rows m"], Float[jax.Array, "*C m"]]:
        """What H and W hold of the winning mode across the leading part."""
        carrier, prototypes = self.part.part(coupling.gather(H), W)
        lead_H, size = coupling.lift(carrier), jnp.exp(self.log_start)
        along = self._along(coupling, lead_H, prototypes)
        return lead_H - along / size * self.H, prototypes - along / size * self.part.prototypes

    def _along(self, space: Any, H: Float[jax.Array, "rows p"], W: Float[jax.Array, "C p"]) -> Float[jax.Array, ""]:
        direction_H, _, direction_W = self.direction
        return jnp.sum(direction_H * space.metric(H)) + jnp.sum(direction_W * W)


class BalancedProbe(CoupledProbe):
    """`CoupledProbe` for balanced classes: two numbers stand for either part of the column.

    Differences between classes stay multiples of one vector, and the mean of all classes stays a multiple of another.
    The arrays lead_H, lead_W, `unit_H` and `unit_W`, (2,) each, hold the coefficients of these two, at unit norm.
    """

    def coupling(self, space: RowSpace) -> Coupling:
        return both_modes(space, self.unit_W.dtype)

    def start_arrays(self, H: Float[jax.Array, "rows p"], W: Float[jax.Array, "C p"]) -> Body:
        part, lead_H, lead_W = self.part, self.H @ self.unit, self.part.prototypes @ self.unit
        assert isinstance(part, Coupled)
        return {"lead_H": _coefficients(part, lead_H, lead_W), "lead_W": _coefficients(part, lead_W, lead_W)}


def _coefficients(
    part: Coupled, column: Float[jax.Array, "C 1"], along: Float[jax.Array, "C 1"]
) -> Float[jax.Array, "2"]:
    """The coefficients of a column along the differences between the classes of another one, and along their mean.

    A mode that does not win has 0, because rounding might grow faster in it than what wins.
    """
    differences = along - jnp.mean(along)
    size = safe_norm(differences)
    along = differences / jnp.where(size > 0, size, 1.0)  # first, because a product of two small columns is 0
    both = [jnp.sum(column * along), jnp.mean(column) * column.shape[0] ** 0.5]
    return jnp.where(part.mask > 0, jnp.stack(both), 0.0)


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
        return self.start_arrays(H, W)  # no velocity has a part that stays, but slots of a memory have

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
    beside: Body | None = None,
) -> Leading:
    """What a run carries of `part`, or `NoLeading` if that is None.

    Args:
        space: The row space.
        part: The leading part of the start.
        W: The prototypes of the start, (C, p).
        residual: The residual r, (n, p), if `scores` are wanted, else None.
        paired: Whether classes are balanced and carried as `BalancedPair`.
        beside: What the run begins with beside its state, in units of the state: H (k, rows, p) and W (k, C, p); or
            None.
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
        assert isinstance(part, Coupled)
        kind = BalancedProbe
        unit_H, unit_W = _coefficients(part, unit_H, unit_W), _coefficients(part, unit_W, unit_W)
    probe = kind(
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
    return probe if beside is None or type(probe) is not CoupledProbe else _carried(probe, space, beside)


def _carried(probe: CoupledProbe, space: RowSpace, beside: Body) -> CarriedProbe:
    """The probe of a run that begins with what is `beside` its state."""
    fields: dict[str, Any] = {field.name: getattr(probe, field.name) for field in dataclasses.fields(probe)}
    found, size = CarriedProbe(**fields, crossed=jnp.zeros((), bool)), jnp.exp(probe.log_start)

    def crosses(H: jax.Array, W: jax.Array) -> jax.Array:
        across = safe_norm(*found.across(space, H, W))
        return across > 1e3 * jnp.finfo(W.dtype).eps * (size + safe_norm(H, W))

    return dataclasses.replace(found, crossed=jnp.any(jax.vmap(crosses)(beside["H"], beside["W"])))


def _along_longest(rows: Float[jax.Array, "rows p"]) -> Float[jax.Array, "p 1"]:
    """The unit vector along the longest of the rows, (p, 1), a constant for derivatives; 0 if all rows are 0."""
    rows = jax.lax.stop_gradient(rows)
    largest = jnp.max(jnp.abs(rows))
    rows = rows / jnp.where(largest > 0, largest, 1.0)  # squares of rows may under- or overflow
    longest = rows[jnp.argmax(jnp.sum(rows**2, axis=1))]
    length = jnp.linalg.norm(longest)
    return (longest / jnp.where(length > 0, length, 1.0))[:, None]
