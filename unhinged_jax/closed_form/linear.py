"""The exact state of every linear case at one moment, from the coefficients of its modes.

    W = W_from_W(G) W_0 + W_from_F(G) F_0,    H = H_from_H H_0 + lift(H_from_W(G) W_0 + H_from_F(G) F_0)

with F_0 = M^T H_0 = gather(H_0). The same coefficients, evaluated without the winning modes, give the remainder beside
the leading part. See docs/exact-solutions.md, which lists these names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from unhinged_jax.closed_form.course import Course, added
from unhinged_jax.closed_form.modes import Coefficients
from unhinged_jax.closed_form.timeline import Record
from unhinged_jax.linear.compression import smaller
from unhinged_jax.linear.leading_part import Coupled, LeadingPart, Origin
from unhinged_jax.linear.row_space import RowSpace
from unhinged_jax.linear.spectrum import BalancedSpectrum, GeneralSpectrum, Spectrum, without
from unhinged_jax.model import State
from unhinged_jax.observables import View
from unhinged_jax.observables.distance import Orthonormal, Split, reference
from unhinged_jax.observables.features import affordable
from unhinged_jax.special import largest, safe_log


class Columns(NamedTuple):
    """m columns that evolve like feature coordinates: H (rows, m), F = M^T H (C, m) and W (C, m)."""

    H: Float[jax.Array, "rows m"]
    F: Float[jax.Array, "C m"]
    W: Float[jax.Array, "C m"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ExactLinear:
    """Everything that does not change along a run: its start, divided by e^log_scale except for b, and its spectrum.

    Attributes:
        space, spectrum: The row space, and the spectrum of G = M^T Theta M.
        H, F, W, b, drift_b: H_0 (rows, p), F_0 = M^T H_0 (C, p), W_0 (C, p), b_0 (C,) and M^T 1 (C,).
        residual, factor: Residual of the features r (n, p), or None without class sums; r is multiplied by factor ().
        leading, origin: The leading part of this start, and that of the first start of a chain of runs; or None.
        seen: S_0 r^T, F_0 r^T and W_0 r^T, (C, n), or None. Evolved like other columns they give the part of the logits
            that is due to the residual without a product over p. `scatter` is the same, (C, m), for m < n rows with
            the Gram matrix of r.
        others, others_b: The velocity at the start, or the other slots of a memory, of H, F and W and of b; none for a
            fresh start.
        downhill: Whether velocities are those of momentum: at unit rates, and kept with the sign of the gradient.
    """

    space: RowSpace
    spectrum: Spectrum
    H: Float[jax.Array, "rows p"]
    residual: Float[jax.Array, "n p"] | None
    factor: Float[jax.Array, ""]
    F: Float[jax.Array, "C p"]
    W: Float[jax.Array, "C p"]
    b: Float[jax.Array, "C"]
    drift_b: Float[jax.Array, "C"]
    log_scale: Float[jax.Array, ""]
    leading: LeadingPart | None
    seen: Columns | None
    scatter: Columns | None = None
    origin: Origin | None = None
    others: tuple[Columns, ...] = ()
    others_b: tuple[Float[jax.Array, "C"], ...] = ()
    downhill: bool = dataclasses.field(default=True, metadata={"static": True})

    def view(self, record: Record, slopes: Record) -> View:
        """The state at one moment. `slopes` are the derivatives of the record with respect to the eigenvalues of G."""
        model = self.space.model
        H, W = self._evolve(record.full, slopes.full, Columns(self.H, self.F, self.W))
        log_full, b = record.log_full, self.b
        moves_b = model.moves.b
        if moves_b:
            b = record.bias.b_from_b * self.b + record.bias.b_from_drift * self.drift_b
        for pushed, slope, other, other_b in self._pushed(record, slopes):
            more = self._evolve(pushed.full, slope.full, other)
            (H, W), log_full = added((H, W), log_full, more, pushed.log_full)
            b = b + pushed.bias.b_from_b * other_b if moves_b else b
        known: dict[str, Any] = {}
        if self.seen is not None:
            known["with_sums"], known["with_prototypes"] = self._evolve(record.full, slopes.full, self.seen)
        if self.scatter is not None:
            known["scatter"], _ = self._evolve(record.full, slopes.full, self.scatter)
        features = self.space.features(H, self.residual, record.full.H_from_H * self.factor, **known)
        view = View(model, features, W, b, log_full + self.log_scale)
        if self.leading is None:
            return view
        whole = [self.space.metric(H), record.full.H_from_H * self._residual_norm(), W]
        split, log_start = self._split(record, slopes, whole)
        view = dataclasses.replace(view, split=split, log_start=log_start + self.log_scale)
        if self.origin is None:
            return view
        first = self.space.vector(*self.origin.part.parts)
        return view.referred(reference(split.direction, first, self.origin.log_scale))

    def memory(self, record: Record, slopes: Record, log_scale: Float[jax.Array, ""]) -> list[dict[str, jax.Array]]:
        """What is carried beside the state at one moment, over e^log_scale, with the sign of a simulated run.

        That is minus the velocity for momentum.
        """
        return [self._beside(record, slopes, place, log_scale) for place in range(len(record.beside))]

    def _beside(
        self, record: Record, slopes: Record, place: int, log_scale: Float[jax.Array, ""]
    ) -> dict[str, jax.Array]:
        (coefficients, bias), slope = record.beside[place], slopes.beside[place].modes
        H, W = self._evolve(coefficients, slope, Columns(self.H, self.F, self.W))
        log_full, b = record.log_full, bias.b_from_b * self.b + bias.b_from_drift * self.drift_b
        H = self.space.features(H, self.residual, coefficients.H_from_H * self.factor).dense()
        for pushed, slope_of, other, other_b in self._pushed(record, slopes):
            (coefficients, bias), slope = pushed.beside[place], slope_of.beside[place].modes
            (H, W), log_full = added((H, W), log_full, self._evolve(coefficients, slope, other), pushed.log_full)
            b = b + bias.b_from_b * other_b
        sign = -1.0 if self.downhill else 1.0
        size = sign * jnp.exp(log_full + self.log_scale - log_scale)
        return {"H": size * H, "W": size * W, "b": sign * b}

    def _pushed(self, record: Record, slopes: Record) -> Iterable[tuple[Record, Record, Columns, jax.Array]]:
        """What the run began with beside its state: (record, slopes, columns, bias) of each."""
        return zip(record.pushed, slopes.pushed, self.others, self.others_b, strict=True)

    def compressed(self) -> ExactLinear:
        """A smaller problem with the same observables, for balanced classes."""
        assert self.residual is not None
        space, residual, turn = smaller(self.space, self.H, self.W, self.residual)
        H, W = turn(self.H), turn(self.W)
        lead = None if self.leading is None else self.leading.turned(turn)
        origin = None if self.origin is None else self.origin._replace(part=self.origin.part.turned(turn))
        few = residual.shape[1] < residual.shape[0]
        return dataclasses.replace(
            self,
            space=space,
            H=H,
            W=W,
            F=space.gather(H),
            residual=residual,
            leading=lead,
            origin=origin,
            seen=None if self.seen is None else as_seen(space, H, W, residual),
            scatter=as_seen(space, H, W, jnp.linalg.qr(residual, mode="r")) if few else None,
        )

    def _evolve(
        self, c: Coefficients, dc: Coefficients, start: Columns
    ) -> tuple[Float[jax.Array, "rows m"], Float[jax.Array, "C m"]]:
        """H (rows, m) and W (C, m) from the coefficients of a moment, their slopes, and a start."""
        apply = self.spectrum.apply
        W = apply(c.W_from_W, dc.W_from_W, start.W) + apply(c.W_from_F, dc.W_from_F, start.F)
        carrier = apply(c.H_from_W, dc.H_from_W, start.W) + apply(c.H_from_F, dc.H_from_F, start.F)
        return c.H_from_H * start.H + self.space.lift(carrier), W

    def _split(self, record: Record, slopes: Record, whole: Orthonormal) -> tuple[Split, Float[jax.Array, ""]]:
        """The state split into leading part and remainder: other modes, mu- of the winning ones, the uncoupled part."""
        lead = self.leading
        if not isinstance(lead, Coupled):
            return self._driven_split(record, whole)
        r1, r2 = (lead.rates.r1, lead.rates.r2) if self.downhill else (1.0, 1.0)
        rest, log_powers = self._without_lead(record, slopes, Columns(self.H, self.F, self.W), (1.0, 1.0))
        residual = record.rest.H_from_H * self._residual_norm()
        course = Course(
            self.space.vector(lead.carrier, lead.prototypes),
            [self.space.metric(rest[0]), residual, rest[1]],
            log_powers[0],
            record.signs[0],
            record.log_rest,
            whole,
        )
        for pushed, slope, other, _ in self._pushed(record, slopes):
            rest, log_powers = self._without_lead(pushed, slope, other, (r1, r2))
            course = course.beside([self.space.metric(rest[0]), 0 * residual, rest[1]], pushed.log_rest)
            led = self.space.vector(*lead.part(r1 * other.F, r2 * other.W))
            course = course.along(led, pushed.signs[0], log_powers[0])
        return course.split(self.log_scale)

    def _without_lead(
        self, record: Record, slopes: Record, start: Columns, rates: tuple[Any, Any]
    ) -> tuple[tuple[Float[jax.Array, "rows p"], Float[jax.Array, "C p"]], Float[jax.Array, "4"]]:
        """The remainder (H, W) of a start times `rates` (1 for a state), over e^log_rest; log |p| at the four nodes."""
        assert isinstance(self.leading, Coupled)
        lead, k = self.leading, self.leading.growth
        others = jax.tree.map(lambda c: c if c.ndim == 0 else (1 - lead.mask) * c, record.rest)
        x, y = lead.top(start.F), lead.top(start.W)
        if isinstance(self.spectrum, BalancedSpectrum) and self.space.summed:  # class sums consist of its modes
            bare = self.spectrum.apply(1 - lead.mask, jnp.zeros_like(lead.mask), start.H)
        else:
            bare = start.H - self.space.lift(x / lead.square)
            # If only rounding is left, it would outlast everything that decays.
            there = largest(bare) > 16 * jnp.finfo(bare.dtype).eps * largest(start.H)
            bare = without(bare, there)
        H, W = self._evolve(others, slopes.rest, start._replace(H=bare))
        log_powers = record.log_powers
        if isinstance(self.spectrum, GeneralSpectrum):
            # The record treats its eigenvalues as constants; the derivatives of the winning one enter here.
            drift = lead.square - jax.lax.stop_gradient(lead.square)
            log_powers = log_powers + slopes.log_powers[0] * drift + slopes.log_powers[1] * drift**2 / 2
        fall = record.signs[1] * jnp.exp(log_powers[1] - record.log_rest) / (2 * k.d)
        x, y = rates[0] * x, rates[1] * y
        H = H + self.space.lift(fall * (k.rising / lead.square * x - lead.rates.r1 * y))
        W = W + fall * (k.falling * y - lead.rates.r2 * x)
        return (H, W), log_powers

    def _residual_norm(self) -> Float[jax.Array, ""]:
        return jnp.zeros((), self.W.dtype) if self.residual is None else self.factor * self.space.length(self.residual)

    def _driven_split(self, record: Record, whole: Orthonormal) -> tuple[Split, Float[jax.Array, ""]]:
        """H or W stays and drives the other along a fixed direction, in all modes alike; the other's start decays."""
        assert self.leading is not None
        still, none = jnp.zeros_like, jnp.zeros((), self.W.dtype)
        if self.leading.H_moves:
            direction = [self.space.metric(self.space.lift(self.W)), none, still(self.W)]
            rest = [self.space.metric(self.H), self._residual_norm(), still(self.W)]
            ramp, fade, whole = record.full.H_from_W[0], 2, [*whole[:2], still(self.W)]
        else:
            direction = [still(self.space.metric(self.H)), none, self.F]
            rest = [still(self.space.metric(self.H)), none, self.W]
            ramp, fade, whole = record.full.W_from_F[0], 3, [still(whole[0]), none, whole[2]]
        rest = [record.signs[fade] * part for part in rest]
        log_amplitude = safe_log(jnp.abs(ramp)) + record.log_full
        course = Course(direction, rest, log_amplitude, jnp.sign(ramp), record.log_powers[fade], whole)
        for pushed, other in zip(record.pushed, self.others, strict=True):
            # What it begins with fades; its part that stays, which a velocity lacks, drives as that of the state does.
            if fade == 2:
                ramp, H, W = pushed.full.H_from_W[0], other.H, still(self.W)
                driven = [self.space.metric(self.space.lift(other.W)), none, still(self.W)]
            else:
                ramp, H, W = pushed.full.W_from_F[0], still(self.H), other.W
                driven = [still(self.space.metric(self.H)), none, other.F]
            rate = (self.leading.rates.r1 if fade == 2 else self.leading.rates.r2) if self.downhill else 1.0
            course = course.along(
                [rate * self.space.metric(H), none, rate * W], pushed.signs[fade], pushed.log_powers[fade]
            )
            if not self.downhill:
                course = course.along(driven, jnp.sign(ramp), safe_log(jnp.abs(ramp)) + pushed.log_full)
        return course.split(self.log_scale)


def as_seen(
    space: RowSpace, rows: Float[jax.Array, "rows p"], W: Float[jax.Array, "C p"], residual: Float[jax.Array, "m p"]
) -> Columns:
    """The start times r^T for some rows r of residuals, (m, p): S r^T, M^T H r^T and W r^T, (C, m) each."""
    S_r = rows @ residual.T
    return Columns(S_r, space.gather(S_r), W @ residual.T)


def exact_linear(
    space: RowSpace,
    spectrum: Spectrum,
    state: State,
    leading: LeadingPart | None,
    origin: Origin | None = None,
    others: Sequence[dict[str, jax.Array]] = (),
    downhill: bool = True,
) -> ExactLinear:
    """The start in the form from which every later moment is evaluated; `origin` is as in `linear_system`.

    `others` is what the run begins with beside the state: a velocity, or minus it if it is momentum (`downhill`), or
    the other slots of a memory; the row space must then not be `summed`.
    """
    begin = [jax.tree.map(jnp.negative, other) for other in others] if downhill else others
    rows, residual, factor = space.project(state.H)
    seen = None
    if residual is not None and affordable(residual.shape[0], state.W.shape[0]):
        seen = as_seen(space, rows, state.W, residual)
    return ExactLinear(
        space=space,
        spectrum=spectrum,
        H=rows,
        residual=residual,
        factor=factor,
        F=space.gather(rows),
        W=state.W,
        b=state.b,
        drift_b=space.signal.column_sums(state.W.dtype),
        log_scale=jnp.asarray(state.log_scale, state.W.dtype),
        leading=leading,
        seen=seen,
        origin=origin,
        others=tuple(Columns(other["H"], space.gather(other["H"]), other["W"]) for other in begin),
        others_b=tuple(other["b"] for other in begin),
        downhill=downhill,
    )
