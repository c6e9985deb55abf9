"""The dynamics of a loss linear in the logits, in the row space of its problem, in parts that are carried separately.

With M = diag(q) Y R the class sums S_c = sum_{i in c} q_i h_i obey, at unit rates,

    S' = D R W - lambda_1 S,    W' = R^T S - lambda_2 W,    b' = M^T 1 - lambda_b b,    D_c = sum_{i in c} q_i^2,

and the residual, the part of the features orthogonal to the class sums, only decays, by one common factor. No product
with n rows is needed. Updates are plain ones and do not use modes. Three choices make a run cheap and accurate: the row
space (class sums), the propagator (what is carried of the start), and the leading part, which is carried separately.
The remainder of the state is the sum of everything but the leading part. Only `clean` looks at modes: it removes from
the remainder what rounding puts back into it.

A run calls `body` first, and `pack` if it continues with momentum; then `velocity` at every step, with `clean` on every
velocity of a flow and after every few updates of a descent; `view` at every time that is read; and `unpack` at the end.

See docs/exact-solutions.md for the same dynamics in closed form, and for the names of the coefficients.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from unhinged_jax.dynamics import PartRates
from unhinged_jax.linear.compression import smaller
from unhinged_jax.linear.leading_part import Coupled, LeadingPart, Origin, balanced_modes
from unhinged_jax.linear.row_space import RowSpace, row_space
from unhinged_jax.linear.spectrum import spectrum_of
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.observables import View
from unhinged_jax.observables.distance import Orthonormal, Reference, reference
from unhinged_jax.signal import ClassSignal
from unhinged_jax.simulation.absent import Absent, absent_modes, together
from unhinged_jax.simulation.choose import Choice
from unhinged_jax.simulation.coupling import Bias, force
from unhinged_jax.simulation.leading_probe import Leading, LeadingProbe, RowState
from unhinged_jax.simulation.probes import leading_probe
from unhinged_jax.simulation.propagator import BalancedPair, Identity, Propagator, StartItself
from unhinged_jax.simulation.system import Body, Spread, System, rated
from unhinged_jax.special import safe_norm


class Scales(NamedTuple):
    """Logarithms of the scales of the carried arrays.

    Attributes:
        lead: Of the column of the leading part, (), or None without one.
        pairs: Of the pairs of arrays of the propagator, (pairs,).
        factor: Of the factor of the residual, ().
    """

    lead: Float[jax.Array, ""] | None
    pairs: Float[jax.Array, "pairs"]
    factor: Float[jax.Array, ""]


class LinearSystem(System):
    """A linear run: its row space, its start there, and how the run is carried.

    The moving arrays are as follows. Each pair, and `factor`, has a scale of its own; `b` has none.

    | name | shape | when |
    |---|---|---|
    | lead_H, lead_W | (rows, 1), (C, 1), or (2,) each | the leading part is carried separately |
    | H, W | (rows, p), (C, p) | the start itself is carried |
    | H, W | (rows, rows + C), (C, rows + C) | a matrix that multiplies the start is carried, at first the identity |
    | H, W and mean_H, mean_W | (2,) each | balanced classes: differences between classes, and the mean of all |
    | factor | () | always: what the residual is multiplied by |
    | b | (C,) | the biases move, or the run carries more than its state |

    Attributes:
        space: The row space: class sums, or the features themselves.
        H, W: The start in the row space, (rows, p), and (C, p), divided by e^log_scale.
        residual: The part of the features orthogonal to the class sums, over `factor`, (n, p); None without class sums.
        factor: What the residual is multiplied by at the start, a power of two, ().
        propagator: How the remainder of the state is carried, which is everything but the leading part.
        leading: How the leading part is carried.
        bias: The biases.
        log_scale: Logarithm of the scale of the start, ().
        start_scores: [H_0; W_0] r^T for the residual r, (rows + C, n), so that logits need no product over p; or None.
        reference: The leading part at the first start, if the run continues another one, for signs and sizes; or None.
        absent: The modes that a start of unequal classes lacks, or None.
    """

    space: RowSpace
    H: Float[jax.Array, "rows p"]
    W: Float[jax.Array, "C p"]
    residual: Float[jax.Array, "n p"] | None
    factor: Float[jax.Array, ""]
    propagator: Propagator
    leading: Leading
    bias: Bias
    log_scale: Float[jax.Array, ""]
    start_scores: Float[jax.Array, "rows+C n"] | None = None
    reference: Reference | None = None
    absent: Absent | None = None

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        # The residual is a group of its own, because W may be far smaller or larger than it.
        return (*self.leading.names, *self.propagator.names, ("factor",))

    @property
    def stays(self) -> tuple[str, ...]:
        moves = self.space.model.moves
        kept = [k for k, moving in enumerate((moves.H, moves.W)) if not moving]
        return tuple(names[k] for names in (*self.leading.names, *self.propagator.names) for k in kept)

    @property
    def compensated(self) -> bool:
        return self.space.summed

    def log_unit(self) -> Float[jax.Array, ""]:
        return self.log_scale

    def spread(self) -> Spread:
        moves = self.space.model.moves
        square = self.space.largest_square(self.W.dtype) if moves.coupled else 0.0
        decays = (decay if moving else 0.0 for decay, moving in zip(self.space.model.decays, moves, strict=True))
        return Spread(square, *decays)

    def body(self) -> Body:
        arrays = self.propagator.start_arrays(self.H, self.W) | self.leading.start_arrays(self.H, self.W)
        return self.clean({**arrays, "factor": self.factor, **self.bias.arrays()})

    def velocity(self, body: Body) -> Body:
        model = self.space.model
        fade = -model.decay_H * body["factor"] if model.moves.H else jnp.zeros_like(body["factor"])
        moved = {"factor": fade, **self.bias.velocities(body)}
        pairs = [*zip(self.propagator.names, self.propagator.couplings(self.space), strict=True)]
        for names, coupling in pairs + [(names, self.leading.coupling(self.space)) for names in self.leading.names]:
            moved.update(zip(names, force(model, coupling, *(body[name] for name in names)), strict=True))
        return moved

    def clean(self, body: Body) -> Body:
        """The body without what rounding puts back: a leading part in the remainder, and modes that the start lacks."""
        cleaned = dict(body)
        for names, coupling in zip(self.propagator.names, self.propagator.couplings(self.space), strict=True):
            H, W = self._without_absent(*self.propagator.clean(*(body[name] for name in names)))
            cleaned.update(zip(names, self.leading.rest(coupling, H, W), strict=True))
        for names in self.leading.names:
            cleaned.update(zip(names, self._without_absent(*(body[name] for name in names)), strict=True))
        return cleaned

    def _without_absent(
        self, H: Float[jax.Array, "*rows m"], W: Float[jax.Array, "*C m"]
    ) -> tuple[Float[jax.Array, "*rows m"], Float[jax.Array, "*C m"]]:
        return (H, W) if self.absent is None else self.absent.taken_out(self.space, H, W)

    def clean_velocity(self, velocity: Body) -> Body:
        rates, inverse = self._rates()
        return rated(self.clean(rated(velocity, rates)), inverse)

    def pack(self, velocity: Body) -> Body:
        rates, inverse = self._rates()
        return rated(self.packed(rated(velocity, rates)), inverse)

    def _rates(self) -> tuple[PartRates, PartRates]:
        """Rates that turn a velocity at unit rates into one of H and W together, and their inverse. b, which neither
        touches, gets any rate and loses it again."""
        r1, r2 = self.leading.rates
        return PartRates(r1, r2, r2), PartRates(1 / r1, 1 / r2, 1 / r2)

    def packed(self, moving: Body) -> Body:
        H, W, space = moving["H"], moving["W"], self.space
        ratio = jnp.zeros((), W.dtype)
        if space.summed:
            assert isinstance(space.signal, ClassSignal) and self.residual is not None
            square = jnp.sum(self.residual**2)
            ratio = jnp.sum(H * self.residual) / jnp.where(square > 0, square, 1.0)
            # A share of the residual so tiny is only rounding of its sum with the larger part, and is set to 0.
            lost = jnp.abs(ratio) * jnp.sqrt(square) <= 16 * jnp.finfo(ratio.dtype).eps * safe_norm(H)
            ratio = ratio - jax.lax.stop_gradient(jnp.where(lost, ratio, 0.0))
            H = space.signal.class_sums(H)
        return self.clean(
            {"H": H, "W": W, "factor": ratio, "b": moving["b"], **self.leading.velocity_arrays(space, H, W)}
        )

    def unpack(self, velocity: Body, logs: list[Float[jax.Array, ""]], log_scale: Float[jax.Array, ""]) -> Body:
        rates, inverse = self._rates()
        return rated(self.unpacked(rated(velocity, rates), logs, log_scale), inverse)

    def unpacked(self, moving: Body, logs: list[Float[jax.Array, ""]], log_scale: Float[jax.Array, ""]) -> Body:
        scales = self._scales(logs)
        rest = self._rest(moving, scales)
        H, W = self.leading.add(self.leading.amplitude(moving, scales.lead), rest, log_scale)
        factor = jnp.exp(rest.log_scale - log_scale) * rest.factor
        return {"H": self.space.features(H, self.residual, factor).dense(), "W": W, "b": moving["b"]}

    def _scales(self, logs: list[Float[jax.Array, ""]]) -> Scales:
        of = dict(zip(self.groups, logs, strict=True))
        lead = next((of[names] for names in self.leading.names), None)
        return Scales(lead, jnp.stack([of[names] for names in self.propagator.names]), of[("factor",)])

    def _rest(self, body: Body, scales: Scales) -> RowState:
        """The remainder, everything but the leading part, as a state in the row space with one common scale."""
        common = jnp.max(self.propagator.there(scales.pairs))
        if self.residual is not None and self.space.model.moves.H:
            common = jnp.maximum(common, scales.factor)
        common = jax.lax.stop_gradient(common)
        # A part that the start lacks only contributes derivatives, which may be as large as their type allows.
        most = math.log(float(jnp.finfo(common.dtype).max)) / 2
        shrink = jnp.exp(jnp.minimum(scales.pairs - common, most))
        of_H, of_W = ([shrink[i] * body[pair[k]] for i, pair in enumerate(self.propagator.names)] for k in (0, 1))
        start = jnp.concatenate([self.H, self.W])
        H, W = self.propagator.apply(of_H, start), self.propagator.apply(of_W, start)
        scores = None if self.start_scores is None else self.propagator.apply(of_W, self.start_scores)
        return RowState(H, W, jnp.exp(scales.factor - common) * body["factor"], common, scores)

    def view(self, body: Body, logs: list[Float[jax.Array, ""]], still: Bool[jax.Array, ""]) -> View:
        scales = self._scales(logs)
        rest = self._rest(body, scales)
        amplitude = self.leading.amplitude(body, scales.lead)
        # The start is read as it was given: a sum would lose digits of a part that is far smaller than the other.
        start_scores = None if self.start_scores is None else self.start_scores[self.H.shape[0] :]
        start = RowState(self.H, self.W, self.factor, self.log_scale, start_scores)
        moved = self.leading.join(amplitude, rest, start)
        now: RowState = jax.tree.map(lambda one, other: jnp.where(still, one, other), start, moved)
        features = self.space.features(now.H, self.residual, now.factor, with_prototypes=now.scores)
        view = View(self.space.model, features, now.W, self.bias.of(body), now.log_scale)
        split = self.leading.split(amplitude, self._orthonormal(rest), rest.log_scale, self._orthonormal(now))
        if split is None:
            return view
        assert isinstance(self.leading, LeadingProbe)
        log_start = self.leading.log_start + self.log_scale
        return dataclasses.replace(view, split=split, log_start=log_start).referred(self.reference)

    def _orthonormal(self, state: RowState) -> Orthonormal:
        size = jnp.zeros((), state.W.dtype) if self.residual is None else self.space.length(self.residual)
        return [self.space.metric(state.H), state.factor * size, state.W]

    def compressed(self) -> LinearSystem:
        assert self.residual is not None
        space, residual, turn = smaller(self.space, self.H, self.W, self.residual)
        H, W, reference = turn(self.H), turn(self.W), self.reference
        if reference is not None:
            reference = reference._replace(beside=[jnp.zeros_like(H), jnp.zeros((), W.dtype), jnp.zeros_like(W)])
        return dataclasses.replace(
            self, space=space, H=H, W=W, residual=residual, leading=self.leading.turned(turn, residual),
            start_scores=None if self.start_scores is None else jnp.concatenate([H, W]) @ residual.T,
            reference=reference,
        )  # fmt: skip


def linear_system(
    model: LayerPeeled,
    state: State,
    part: LeadingPart | None,
    choice: Choice,
    memory: dict[str, jax.Array] | None = None,
    origin: Origin | None = None,
    per_rate: bool = False,
) -> LinearSystem:
    """The system of a linear run that starts from a state.

    Args:
        model: The problem.
        state: The start.
        part: The leading part of the start, to be carried separately; None if no distance is read.
        choice: How the run is simulated.
        memory: The velocity, or the slots, that the run begins with, a dictionary of dense arrays; or None.
        origin: If the run continues another one, the leading part of the first start; else None.
        per_rate: Whether `memory` is a velocity at unit rates.
    """
    H, W = state.H, state.W
    space = row_space(model, W.dtype)
    rows, residual, factor = space.project(H)
    started_H, started_W = together(H, W, memory)
    present = None
    if space.summed and model.labels.balanced:
        assert isinstance(space.signal, ClassSignal)
        # By the class sums themselves: a mean that the signal maps to 0, as at gamma = 1/(C-1), still decays.
        present = jax.lax.stop_gradient(balanced_modes(space.signal.class_sums(started_H), started_W))
    propagator: Propagator = StartItself(present)
    if choice.propagator == "pair":
        assert present is not None
        propagator = BalancedPair(present)
    elif choice.propagator == "identity":
        propagator = Identity()
    beside = _in_rows(space, part, memory, per_rate) if isinstance(part, Coupled) and memory is not None else None
    leading = leading_probe(space, part, W, residual if choice.scores else None, choice.propagator == "pair", beside)
    absent = None
    if choice.absent:
        spectrum = part.spectrum if isinstance(part, Coupled) else None
        spectrum = spectrum or spectrum_of(space.signal, model.kernel, model.samples, model.dim, W.dtype)
        absent = absent_modes(spectrum, space.signal.transpose_times(started_H), started_W)
    referred = None
    if isinstance(leading, LeadingProbe) and origin is not None:
        referred = reference(leading.direction, space.vector(*origin.part.parts), origin.log_scale)
    return LinearSystem(
        space=space,
        H=rows,
        W=W,
        residual=residual,
        factor=factor,
        propagator=propagator,
        leading=leading,
        bias=Bias(state.b, space.signal.column_sums(W.dtype), model.decays.b, model.moves.b, choice.biases),
        log_scale=jnp.asarray(state.log_scale, W.dtype),
        start_scores=jnp.concatenate([rows, W]) @ residual.T if choice.scores and residual is not None else None,
        reference=referred,
        absent=absent,
    )


def _in_rows(space: RowSpace, part: Coupled, memory: Body, per_rate: bool) -> Body:
    """What a run begins with beside its state, with features as rows of the space: H (k, rows, p), W (k, C, p)."""
    H, W = (jnp.reshape(memory[name], (-1, *memory[name].shape[-2:])) for name in ("H", "W"))
    if per_rate:
        H, W = part.rates.r1 * H, part.rates.r2 * W
    return {"H": jax.vmap(lambda slot: space.project(slot)[0])(H), "W": W}
