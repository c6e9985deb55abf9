"""The leading part of a linear dynamics: the component of a state along the eigenvector of mu_+ in the winning modes.

The winning modes share one squared singular value g, and their block is K = [[-a, r_1 g], [r_2, -c]]. Let x and y be
the projections of F = M^T H and of W on these modes. The leading part consists of the features Theta M `carrier` and
of the `prototypes`,

    carrier = ((d - delta)/g x + r_1 y) / 2d,    prototypes = (r_2 x + (d + delta) y) / 2d.

It keeps its direction forever. The remainder of the state is carried separately, so that the distance between two
directions is a ratio of two computed numbers and never a difference of nearly equal ones.

The winning modes are those that grow fastest under gradient flow: those of the largest singular value, with eigenvalue
mu_+. A descent uses the same modes. If its steps are so large that another |1 + eta mu| is the largest, then that
1 + eta mu is negative: signs change with every update, no direction is approached, and the distance to the leading
direction does not fall. `limit` says what wins in that case.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from unhinged_jax.dynamics import Dynamics
from unhinged_jax.kernel import Kernel
from unhinged_jax.linear.rates import Rates, unit_rates
from unhinged_jax.linear.spectrum import BalancedSpectrum, Spectrum, spectrum_of
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.special import largest, safe_sqrt


class Growth(NamedTuple):
    """Eigenvalues of each mode's 2 x 2 block K = [[-a, r_1 g], [r_2, -c]], a = r_1 lambda_1, c = r_2 lambda_2.

    Every entry has the shape of g. With delta = (a - c) / 2:

    Attributes:
        d: sqrt(delta^2 + r_1 r_2 g).
        rising: d + delta, computed without cancellation.
        falling: d - delta, computed without cancellation.
        plus: mu_+ = -(a + c) / 2 + d.
        minus: mu_- = -(a + c) / 2 - d.
    """

    d: Float[jax.Array, "*k"]
    rising: Float[jax.Array, "*k"]
    falling: Float[jax.Array, "*k"]
    plus: Float[jax.Array, "*k"]
    minus: Float[jax.Array, "*k"]


def growth(g: Float[jax.Array, "*k"], rates: Rates) -> Growth:
    """The eigenvalues of K for squared singular values g.

    They are not differentiable where d = 0; `closed_form.modes` has functions of K that are.

    Source: Zhou et al. 2023, Theorem 4; any two decays and rates: beyond the paper.
    """
    a, c = rates.a, rates.c
    delta, m, coupling = (a - c) / 2, -(a + c) / 2, rates.r1 * rates.r2 * g
    square = delta**2 + coupling
    d = safe_sqrt(square)

    def partner(larger: jax.Array) -> jax.Array:
        return coupling / jnp.where(larger > 0, larger, 1.0)

    rising = jnp.where(delta >= 0, d + delta, partner(d - delta))
    falling = jnp.where(delta >= 0, partner(d + delta), d - delta)
    total = d - m
    plus = (coupling - a * c) / jnp.where(total > 0, total, 1.0)
    return Growth(d, rising, falling, plus, m - d)


class LeadingPart(eqx.Module):
    """The part of (H, W) that wins: features Theta M `carrier` and `prototypes`, in units of the state.

    Attributes:
        carrier: Stands for the features Theta M `carrier` of the leading part, (C, p).
        prototypes: The prototypes of the leading part, (C, p).
        rates: Decay rates and rates of H and W.
        H_moves, W_moves: Whether the features and the prototypes move; an array that does not move keeps its start.
    """

    carrier: Float[jax.Array, "C p"]
    prototypes: Float[jax.Array, "C p"]
    rates: Rates
    H_moves: ClassVar[bool] = True
    W_moves: ClassVar[bool] = True

    @property
    def parts(self) -> tuple[Float[jax.Array, "C p"], Float[jax.Array, "C p"]]:
        """(carrier, prototypes)."""
        return self.carrier, self.prototypes

    @abc.abstractmethod
    def part(
        self, F: Float[jax.Array, "*C m"], W: Float[jax.Array, "*C m"], mode: int | None = None
    ) -> tuple[Float[jax.Array, "*C m"], Float[jax.Array, "*C m"]]:
        """(carrier, prototypes) of the leading part of a state.

        Args:
            F: M^T H, (C, p).
            W: Prototypes, (C, p).
            mode: None if F and W are rows of classes. Otherwise the state lies in one mode alone, and this is the index
                of that mode, (k,). F and W may then have any shape, such as the two entries (2,) per array that
                `BalancedPair` carries, because nothing has to be projected.
        """

    def turned(self, turn: Callable[[jax.Array], jax.Array]) -> Self:
        """The same leading part with `turn` applied to the rows of carrier and prototypes."""
        return dataclasses.replace(self, carrier=turn(self.carrier), prototypes=turn(self.prototypes))


class Coupled(LeadingPart):
    """Features and prototypes both move: the component along the eigenvector of mu_+ in the winning modes.

    Attributes:
        spectrum: The spectrum of M^T Theta M, with k eigenvalues.
        mask: 1 for the winning modes, else 0, (k,).
        square: The squared singular value g of the winning modes, (); 1 if nothing leads.
        growth: The eigenvalues of the block of the winning modes.
    """

    spectrum: Spectrum
    mask: Float[jax.Array, "k"]
    square: Float[jax.Array, ""]
    growth: Growth

    def part(
        self, F: Float[jax.Array, "*C m"], W: Float[jax.Array, "*C m"], mode: int | None = None
    ) -> tuple[Float[jax.Array, "*C m"], Float[jax.Array, "*C m"]]:
        k, r1, r2 = self.growth, self.rates.r1, self.rates.r2
        x, y = (self.top(F), self.top(W)) if mode is None else (self.mask[mode] * F, self.mask[mode] * W)
        return (k.falling / self.square * x + r1 * y) / (2 * k.d), (r2 * x + k.rising * y) / (2 * k.d)

    def top(self, X: Float[jax.Array, "C m"]) -> Float[jax.Array, "C m"]:
        """The projection of X, (C, p), on the winning modes."""
        return self.spectrum.apply(self.mask, jnp.zeros_like(self.mask), X)


class Anchored(LeadingPart):
    """W stays and pulls H along Theta M W; that is the leading part, whatever modes it contains."""

    W_moves: ClassVar[bool] = False

    def part(
        self, F: Float[jax.Array, "*C m"], W: Float[jax.Array, "*C m"], mode: int | None = None
    ) -> tuple[Float[jax.Array, "*C m"], Float[jax.Array, "*C m"]]:
        return W, W


class Frozen(LeadingPart):
    """H stays and pulls W along M^T H, which is the leading part."""

    H_moves: ClassVar[bool] = False

    def part(
        self, F: Float[jax.Array, "*C m"], W: Float[jax.Array, "*C m"], mode: int | None = None
    ) -> tuple[Float[jax.Array, "*C m"], Float[jax.Array, "*C m"]]:
        return jnp.zeros_like(F), F


def present_modes(spectrum: Spectrum, F: Float[jax.Array, "C m"], W: Float[jax.Array, "C m"]) -> Bool[jax.Array, "k"]:
    """Which modes a state with F = M^T H contains beyond rounding, (k,) bool. It never acquires any of the others.

    A state of zeros contains no mode; then all of them are reported as present.
    """
    if isinstance(spectrum, BalancedSpectrum):
        return balanced_modes(F, W)

    def parts(X: jax.Array) -> jax.Array:
        return jnp.max(jnp.abs(spectrum.vectors.T @ X), axis=1) > _noise(X)

    return _or_all(parts(F) | parts(W))


def balanced_modes(F: Float[jax.Array, "C m"], W: Float[jax.Array, "C m"]) -> Bool[jax.Array, "2"]:
    """`present_modes` for balanced classes: whether the state has class contrasts, and whether it has a common mean."""

    def parts(X: jax.Array) -> jax.Array:  # differences of rows, because the computed mean of equal rows may differ
        return jnp.stack([largest(X - X[0]), largest(jnp.mean(X, axis=0))]) > _noise(X)

    return _or_all(parts(F) | parts(W))


def _noise(X: jax.Array) -> jax.Array:
    """The size up to which combinations of entries of X are rounding."""
    return 16 * jnp.finfo(X.dtype).eps * largest(X)


def _or_all(present: jax.Array) -> jax.Array:
    """`present`, or all modes if none is present."""
    return present | ~jnp.any(present)


def top_modes(spectrum: Spectrum, target: str, present: Bool[jax.Array, "k"] | None = None) -> Float[jax.Array, "k"]:
    """1 for the winning modes, else 0, (k,).

    With target "top" these are the modes that share the largest singular value among those `present`; "contrast" and
    "mean" name a mode of balanced labels.
    """
    values = spectrum.values
    if target == "top":
        slack = jnp.finfo(values.dtype).eps ** 0.6
        if present is not None:
            values = jnp.where(present, values, -1.0)
        return (values >= jnp.max(values) * (1 - slack)).astype(values.dtype)
    if not isinstance(spectrum, BalancedSpectrum):
        raise ValueError(
            f"target {target!r} is defined for balanced one-hot labels without a kernel; use target='top'."
        )
    return jnp.asarray([1.0, 0.0] if target == "contrast" else [0.0, 1.0], values.dtype)


def leading_part(model: LayerPeeled, dynamics: Dynamics, state: State, target: str = "top") -> LeadingPart:
    """The leading part of a state (H, W) under a linear dynamics with proportional rates.

    Source: Zhou et al. 2023, Corollaries 3 and 5 and Theorem 6; any signal, decays, rates and kernel: beyond the paper.
    """
    signal, kernel, (H, W) = model.signal(), model.kernel, (state.H, state.W)
    rates = unit_rates(model, dynamics, W.dtype)
    if not model.moves.H:
        return Frozen(jnp.zeros_like(W), signal.transpose_times(H), rates)
    if not model.moves.W:
        return Anchored(W, W, rates)
    spectrum = spectrum_of(signal, kernel, model.samples, model.dim, W.dtype)
    F = signal.transpose_times(H)
    mixed = kernel is not None and kernel.kind == "coordinates"
    mask = top_modes(spectrum, target, None if mixed else present_modes(spectrum, F, W))
    square = jnp.sum(mask * spectrum.eigenvalues()) / jnp.sum(mask)
    nothing = jax.lax.stop_gradient(square) <= _rounding(model, kernel, W.dtype)
    mask, square = jnp.where(nothing, 0.0, mask), jnp.where(nothing, 1.0, square)
    blank = Coupled(W, W, rates, spectrum, mask, square, growth(square, rates))
    carrier, prototypes = blank.part(F, W)
    return dataclasses.replace(blank, carrier=carrier, prototypes=prototypes)


class Origin(NamedTuple):
    """The leading part at the start of the first run in a chain of continued runs: e^log_scale times `part`.

    Attributes:
        part: The leading part of that start, over its scale.
        log_scale: Logarithm of the scale of that start, ().
    """

    part: LeadingPart
    log_scale: Float[jax.Array, ""]


def leading_parts(
    model: LayerPeeled, dynamics: Dynamics, state: State, first: State | None, target: str
) -> tuple[LeadingPart, Origin | None]:
    """The leading part of a start, and that of the `first` start if the run continues another one, else None.

    Signs and sizes are relative to the first start.
    """
    part = leading_part(model, dynamics, state, target)
    if first is None or not model.moves.coupled:
        return part, None
    return part, Origin(leading_part(model, dynamics, first, target), first.log_scale)


def _rounding(model: LayerPeeled, kernel: Kernel | None, dtype: DTypeLike) -> jax.Array:
    """The squared singular value that rounding gives a signal that vanishes; if none is larger, nothing leads."""
    q = jnp.asarray(model.labels.weights, dtype)
    theta = (
        1.0
        if kernel is None
        else jnp.max(jnp.abs(jnp.asarray(kernel.matrix, dtype))) ** (2 if kernel.kind == "factor" else 1)
    )
    return (8 * jnp.finfo(dtype).eps) ** 2 * model.classes * jnp.sum(q * q) * theta


def put_together(
    lead: Float[jax.Array, ""], direction: Float[jax.Array, "rows m"], rest: Float[jax.Array, "rows m"]
) -> tuple[Float[jax.Array, "rows m"], Bool[jax.Array, "rows 1"]]:
    """lead direction + rest, with rows in which only rounding is left set to 0, so that a row of zeros stays one; and
    which rows are not 0."""
    total = lead * direction + rest
    # At least half of the largest entries of both terms together, without a pass over the remainder.
    size = jnp.abs(lead) * largest(direction) + largest(total)
    there = ~jnp.all(jnp.abs(total) <= 16 * jnp.finfo(total.dtype).eps * size, axis=1, keepdims=True)
    return total - jax.lax.stop_gradient(jnp.where(there, 0.0, total)), there
