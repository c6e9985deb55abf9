"""The dynamics of a loss linear in the logits, as class sums where labels allow it, with parts carried apart.

Nothing here knows modes: a step is the plain update. Two things make it cheap and sharp.

- Class sums. With M = diag(q) Y R, the sums S_c = sum_{i in c} q_i h_i obey S' = D R W - lambda_1 S, W' = R^T S -
  lambda_2 W, and what is orthogonal to them only decays, by one common factor. No product of n rows is needed.
- Columns. The update mixes rows and treats every column (feature coordinate) alike. When there are more columns than
  rows it is cheaper to update the identity and multiply by the start when something is read; and a column more carries
  the leading part alone, so that distances to the limit never come from differences.
- Symmetry. Balanced classes can be renamed without changing the problem, so that a difference of two classes stays one,
  and what all classes share stays shared. What the update makes of one class's sum and prototype in either, two numbers
  each, tells what it makes of all. The two are carried apart, with a scale each: where a start has only one of them,
  the other one, which may grow faster, is not there to drown it. Where classes differ, modes that the start lacks are
  taken out of what rounding makes of it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from unhinged_jax.linear.compression import compressible, smaller
from unhinged_jax.linear.leading_part import Leading, balanced_modes, put_together
from unhinged_jax.linear.row_space import RowSpace, row_space
from unhinged_jax.linear.spectrum import spectrum_of, without
from unhinged_jax.model import LayerPeeled, State
from unhinged_jax.observables import ObservablePlan, View, refers_to_start
from unhinged_jax.observables.distance import Reference, Split, reference
from unhinged_jax.observables.features import affordable
from unhinged_jax.signal import ClassSignal
from unhinged_jax.simulation.absent import Absent, absent_modes, together
from unhinged_jax.simulation.at_start import Seen, Watch, of_present, seen_by_residuals, watched
from unhinged_jax.simulation.coupling import Coupling, OneClass, force
from unhinged_jax.simulation.system import Body, System, rated
from unhinged_jax.special import safe_log, safe_norm

Form = Literal["start", "identity", "pair"]


class Whole(NamedTuple):
    """A state in the row space, e^log_scale (H, W) and the factor on its residual, with W r^T if that is known."""

    H: jax.Array
    W: jax.Array
    residual: jax.Array
    log_scale: jax.Array
    seen: jax.Array | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LinearSystem(System):
    """A linear run: its row space, its start there, and the leading part that is carried apart if there is one.

    The arrays that move: "H" (class sums or features) and "W", one column a coordinate; "residual", the factor on what
    is orthogonal to the class sums, at first `factor`; "lead_H" and "lead_W", one column of the leading part; "b".

    `form` says what the columns of "H" and "W" start as: the "start" itself, the "identity", or a "pair": what tells of
    a difference of two classes, beside what tells of all that they share in "mean_H" and "mean_W". `present` says, for
    balanced classes, whether the start has any of either; `absent` holds the modes of other ones that it lacks.
    """

    space: RowSpace
    H: jax.Array
    W: jax.Array
    b: jax.Array
    residual: jax.Array | None
    factor: jax.Array
    leading: Leading | None
    lead_H: jax.Array | None
    watch: Watch | None
    drift_b: jax.Array
    log_scale: jax.Array
    seen: Seen | None
    present: jax.Array | None = None
    reference: Reference | None = None
    absent: Absent | None = None
    form: Form = dataclasses.field(default="start", metadata={"static": True})

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        # The residual is a group of its own: W alone may be far smaller or larger than it.
        lead = () if self.leading is None else (("lead_H", "lead_W"),)
        return (*lead, *self._parts, ("residual",))

    @property
    def _parts(self) -> tuple[tuple[str, str], ...]:
        """Names of the arrays that hold what is not leading, of H and of W."""
        return (("H", "W"), ("mean_H", "mean_W")) if self.form == "pair" else (("H", "W"),)

    @property
    def _couplings(self) -> tuple[Coupling, ...]:
        """What the signal makes of each of them."""
        if self.form == "pair":
            return OneClass(self.space, 0, 0), OneClass(self.space, self.W.shape[0], 1)
        return (self.space,)

    @property
    def compensated(self) -> bool:
        return self.space.summed

    def body(self) -> Body:
        rows_H, rows_W, dtype = self.H.shape[0], self.W.shape[0], self.W.dtype
        H, W = self.H, self.W
        if self.form == "identity":
            H = jnp.eye(rows_H, rows_H + rows_W, dtype=dtype)
            W = jnp.eye(rows_W, rows_H + rows_W, k=rows_H, dtype=dtype)
        body = {"H": H, "W": W, "residual": self.factor, "b": self.b}
        if self.form == "pair":
            for names in self._parts:
                body.update(zip(names, jnp.eye(2, dtype=dtype), strict=True))
        if self.leading is None:
            return self.clean(body)
        probe = self.watch.probe  # type: ignore[union-attr]
        lead_H, lead_W = self.lead_H @ probe, self.leading.prototypes @ probe  # type: ignore[operator]
        if self.leading.kind == "anchored":
            lead_H, lead_W = jnp.zeros_like(lead_H), self.W @ probe
        elif self.leading.kind == "frozen":
            lead_H, lead_W = self.H @ probe, jnp.zeros_like(lead_W)
        return self.clean({**body, "lead_H": lead_H, "lead_W": lead_W})

    def compressible(self, plan: ObservablePlan) -> bool:
        # The first start need not lie where the smaller system looks.
        apart = self.reference is not None and refers_to_start(plan)
        return self.form == "pair" and not apart and compressible(self.space, plan)

    def compressed(self) -> LinearSystem:
        assert self.residual is not None
        space, residual, turn = smaller(self.space, self.H, self.W, self.residual)
        H, W, watch, lead, lead_H = turn(self.H), turn(self.W), self.watch, self.leading, self.lead_H
        if lead is not None and lead_H is not None and watch is not None:
            lead = dataclasses.replace(lead, carrier=turn(lead.carrier), prototypes=turn(lead.prototypes))
            along = [turn(part) if part.ndim else part for part in watch.direction]
            lead_H, watch = turn(lead_H), watch._replace(direction=along)
        seen = None if self.seen is None else seen_by_residuals(H, W, residual, lead)
        reference = self.reference
        if reference is not None:
            reference = reference._replace(beside=[jnp.zeros_like(H), jnp.zeros((), W.dtype), jnp.zeros_like(W)])
        return dataclasses.replace(
            self, space=space, H=H, W=W, residual=residual, leading=lead, lead_H=lead_H, watch=watch, seen=seen,
            reference=reference,
        )  # fmt: skip

    def velocity(self, body: Body) -> Body:
        model = self.space.model
        fade = -model.decay_H * body["residual"] if model.features_move else jnp.zeros_like(body["residual"])
        moves_b = model.bias and model.prototypes_move
        move_b = self.drift_b - model.decay_W * body["b"] if moves_b else jnp.zeros_like(body["b"])
        moved = {"residual": fade, "b": move_b}
        parts = [*zip(self._parts, self._couplings, strict=True)]
        if self.leading is not None:
            parts.append((("lead_H", "lead_W"), self.space))
        for names, coupling in parts:
            moved.update(zip(names, force(model, coupling, *(body[name] for name in names)), strict=True))
        return moved

    def clean(self, body: Body) -> Body:
        """Take out of the rest what rounding puts back into it: the leading part, and modes that the start lacks."""
        cleaned = dict(body)
        for names, coupling in zip(self._parts, self._couplings, strict=True):
            cleaned.update(zip(names, self._cleaned(coupling, *(body[name] for name in names)), strict=True))
        if self.absent is not None and self.leading is not None:
            lead = self.absent.taken_out(self.space, body["lead_H"], body["lead_W"])
            cleaned.update(zip(("lead_H", "lead_W"), lead, strict=True))
        return cleaned

    def _cleaned(self, coupling: Coupling, H: jax.Array, W: jax.Array) -> tuple[jax.Array, jax.Array]:
        leading = self.leading
        if self.form == "start" and self.present is not None:
            H, W = of_present(self.present, H), of_present(self.present, W)
        if self.absent is not None:
            H, W = self.absent.taken_out(self.space, H, W)
        if leading is None:
            return H, W
        if leading.kind != "coupled":
            # What stays drives the leading part; where that is 0, its derivatives are left to the rest.
            led = self.watch.led  # type: ignore[union-attr]
            return (H, jnp.where(led, 0.0, W)) if leading.kind == "anchored" else (jnp.where(led, 0.0, H), W)
        mode = coupling.mode if isinstance(coupling, OneClass) else None
        carrier, prototypes = leading.part(coupling.gather(H), W, mode)
        return H - coupling.lift(carrier), W - prototypes

    @property
    def _rates(self) -> tuple[Any, Any]:
        """Rates of H and W, in which the leading part is defined; 1 where there is none or a part stays."""
        if self.leading is None or self.leading.kind != "coupled":
            return 1.0, 1.0
        return self.leading.r1, self.leading.r2

    def clean_velocity(self, velocity: Body) -> Body:
        # The leading part belongs to K, so to velocities at their rates.
        r1, r2 = self._rates
        return rated(self.clean(rated(velocity, r1, r2)), 1 / r1, 1 / r2)

    def pack(self, velocity: Body) -> Body:
        r1, r2 = self._rates
        return rated(self._packed(rated(velocity, r1, r2)), 1 / r1, 1 / r2)

    def _packed(self, velocity: Body) -> Body:
        H, W, space = velocity["H"], velocity["W"], self.space
        ratio = jnp.zeros((), W.dtype)
        if space.summed:
            assert isinstance(space.signal, ClassSignal) and self.residual is not None
            square = jnp.sum(self.residual**2)
            ratio = jnp.sum(H * self.residual) / jnp.where(square > 0, square, 1.0)
            # What the sum of a large and a tiny part has lost of the tiny one would outweigh it.
            lost = jnp.abs(ratio) * jnp.sqrt(square) <= 16 * jnp.finfo(ratio.dtype).eps * safe_norm(H)
            ratio = ratio - jax.lax.stop_gradient(jnp.where(lost, ratio, 0.0))
            H = space.signal.class_sums(H)
        body = {"H": H, "W": W, "residual": ratio, "b": velocity["b"]}
        if self.leading is None:
            return body
        carrier, prototypes = self.leading.part(space.gather(H), W)
        if self.leading.kind == "anchored":
            carrier, prototypes = jnp.zeros_like(carrier), jnp.zeros_like(W)
        probe = self.watch.probe  # type: ignore[union-attr]
        lead_H = jnp.zeros_like(H) @ probe if self.leading.kind == "frozen" else space.lift(carrier) @ probe
        return self.clean({**body, "lead_H": lead_H, "lead_W": prototypes @ probe})

    def unpack(self, velocity: Body, logs: list[jax.Array], log_scale: jax.Array) -> Body:
        r1, r2 = self._rates
        body, _, log_rest = self._rest(rated(velocity, r1, r2), logs)
        rest = jnp.exp(log_rest - log_scale)
        H, W = rest * body["H"], rest * body["W"]
        if self.leading is not None:
            assert self.watch is not None and self.lead_H is not None
            split = self._split(body, logs, log_rest)
            lead = split.sign * jnp.exp(split.log_amplitude - log_scale - self.watch.log_start)
            H, W = H + lead * self.lead_H, W + lead * self.leading.prototypes
        model = self.space.model
        dense = self.space.features(H, self.residual, rest * body["residual"]).dense()
        return {
            "H": dense / r1 if model.features_move else jnp.zeros_like(dense),
            "W": W / r2 if model.prototypes_move else jnp.zeros_like(W),
            "b": velocity["b"],
        }

    def _rest(self, body: Body, logs: list[jax.Array]) -> tuple[Body, Any, jax.Array]:
        """The body with all that is not leading over one scale, uncompressed, W r^T if known, and the scale's log."""
        log_parts, log_residual = jnp.stack(logs[-1 - len(self._parts) : -1]), logs[-1]
        there = log_parts
        if self.form == "pair" and self.present is not None:
            there = jnp.where(self.present, log_parts, -jnp.inf)
        common = jnp.max(there)
        if self.residual is not None and self.space.model.features_move:
            common = jnp.maximum(common, log_residual)
        common = jax.lax.stop_gradient(common)
        # Of a part that the start lacks only derivatives are seen, as large as their type allows.
        most = math.log(float(jnp.finfo(common.dtype).max)) / 2
        shrink = jnp.exp(jnp.minimum(log_parts - common, most))
        of_H, of_W = ([shrink[i] * body[names[k]] for i, names in enumerate(self._parts)] for k in (0, 1))
        seen = None if self.seen is None or self.form == "start" else self._applied(of_W, self.seen.start)
        both = jnp.concatenate([self.H, self.W]) if self.form != "start" else None
        H, W = self._applied(of_H, both), self._applied(of_W, both)
        residual = jnp.exp(log_residual - common) * body["residual"]
        return {**body, "H": H, "W": W, "residual": residual}, seen, common

    def _applied(self, moved: list[jax.Array], start: jax.Array | None) -> jax.Array:
        """What columns that have moved make of a start, (rows of H and W, columns)."""
        if start is None:
            return moved[0]
        if self.form == "identity":
            return moved[0] @ start
        difference, shared = moved
        X, Y = jnp.split(start, [self.H.shape[0]])
        mean_X, mean_Y = jnp.mean(X, axis=0), jnp.mean(Y, axis=0)
        parts = [difference[0] * (X - mean_X) + difference[1] * (Y - mean_Y), shared[0] * mean_X + shared[1] * mean_Y]
        if self.present is not None:
            parts = [without(part, here) for part, here in zip(parts, self.present, strict=True)]
        return parts[0] + parts[1]

    def view(self, body: Body, logs: list[jax.Array], still: jax.Array) -> View:
        body, seen, log_rest = self._rest(body, logs)
        now, split = Whole(body["H"], body["W"], body["residual"], log_rest, seen), None
        if self.leading is not None:
            split = self._split(body, logs, log_rest)
            now = self._joined(now, split)
        # At the start it is read as it was given: a part that is far smaller than the other has digits of its own.
        start_seen = None if now.seen is None else self.seen.start[self.H.shape[0] :]  # type: ignore[union-attr]
        start = Whole(self.H, self.W, self.factor, self.log_scale, start_seen)
        H, W, residual, log_scale, seen = jax.tree.map(lambda one, other: jnp.where(still, one, other), start, now)
        features = self.space.features(H, self.residual, residual, with_prototypes=seen)
        view = View(self.space.model, features, W, body["b"], log_scale)
        if split is None:
            return view
        assert self.leading is not None and self.watch is not None
        split = split._replace(whole=self._seen_by_distances(H, residual, W))
        return dataclasses.replace(view, split=split, log_start=self.watch.log_start + self.log_scale).referred(
            self.reference
        )

    def _joined(self, rest_part: Whole, split: Split) -> Whole:
        """Leading part and rest put together."""
        assert self.leading is not None and self.watch is not None and self.lead_H is not None
        H, W, residual, log_rest, seen = rest_part
        kind, log_start = self.leading.kind, self.watch.log_start
        common = jax.lax.stop_gradient(jnp.maximum(split.log_amplitude, log_rest))
        common = common if kind == "coupled" else jnp.maximum(common, self.log_scale)
        lead = split.sign * jnp.exp(split.log_amplitude - common - log_start)
        rest, still = jnp.exp(log_rest - common), jnp.exp(self.log_scale - common)
        total_H = still * self.H if kind == "frozen" else put_together(lead * self.lead_H, rest * H)
        total_W = still * self.W if kind == "anchored" else put_together(lead * self.leading.prototypes, rest * W)
        residual = still * self.factor if kind == "frozen" else rest * residual
        if seen is not None:  # W r^T of the whole W, from that of its rest
            assert self.seen is not None and self.seen.leading is not None
            lead_seen = self.seen.leading
            seen = still * lead_seen if kind == "anchored" else lead * lead_seen + rest * seen
            seen = jnp.where(jnp.any(total_W != 0, axis=1, keepdims=True), seen, seen - jax.lax.stop_gradient(seen))
        return Whole(total_H, total_W, residual, common, seen)

    def _seen_by_distances(self, H: jax.Array, residual: jax.Array, W: jax.Array) -> list[jax.Array]:
        """A state in orthonormal coordinates, (H, residual, W), as far as the limit says anything of it."""
        assert self.leading is not None
        size = jnp.zeros((), W.dtype) if self.residual is None else safe_norm(self.residual)
        parts = [self.space.metric(H), residual * size, W]
        if self.leading.kind == "anchored":
            parts[2] = jnp.zeros_like(W)
        elif self.leading.kind == "frozen":
            parts[:2] = [jnp.zeros_like(parts[0]), jnp.zeros_like(parts[1])]
        return parts

    def _split(self, body: Body, logs: list[jax.Array], log_rest: jax.Array) -> Split:
        assert self.leading is not None and self.watch is not None
        kind, unit = self.leading.kind, [self.watch.unit_H, self.watch.unit_W]
        now = [body["lead_H"], body["lead_W"]]
        moving = {"coupled": (0, 1), "anchored": (0,), "frozen": (1,)}[kind]
        weight = sum(jnp.sum(unit[i] ** 2) for i in moving)
        amplitude = sum(jnp.sum(unit[i] * now[i]) for i in moving) / jnp.where(weight > 0, weight, 1.0)
        rest = self._seen_by_distances(body["H"], body["residual"], body["W"])
        log_amplitude = safe_log(jnp.abs(amplitude)) + logs[0]
        return Split(self.watch.direction, rest, log_amplitude, jnp.sign(amplitude), log_rest, rest)


def linear_system(
    model: LayerPeeled,
    state: State,
    leading: Leading | None,
    memory: Any = None,
    origin: tuple[Leading, Any] | None = None,
    bare: bool = False,
) -> LinearSystem:
    """Bring a state into the row space of its linear model; without a velocity, `memory`, it may update an identity.

    `bare`: whether modes that the start lacks are to be kept out of it, where classes differ. `origin`: for a run that
    goes on, the leading part of the first start and the logarithm of its scale.
    """
    H, W = state.H, state.W
    space = row_space(model, W.dtype)
    rows, residual, factor = space.project(H)
    form: Form = "start"
    if memory is None and space.summed:
        wide = H.shape[1] > rows.shape[0] + W.shape[0]
        form = "pair" if model.labels.balanced else "identity" if wide else "start"
    lead_H = None if leading is None else space.lift(leading.carrier)
    watch = None if leading is None or lead_H is None else watched(space, leading, lead_H)
    drift_b = space.signal.column_sums(W.dtype)
    log_scale = jnp.asarray(state.log_scale, W.dtype)
    seen = None
    if form != "start" and residual is not None and affordable(residual.shape[0], W.shape[0]):
        seen = seen_by_residuals(rows, W, residual, leading)
    referred = None
    if watch is not None and origin is not None:
        referred = reference(watch.direction, space.vector(*origin[0].parts), origin[1])
    started_H, started_W = together(H, W, memory)
    present, absent = None, None
    if space.summed and model.labels.balanced:
        present = jax.lax.stop_gradient(balanced_modes(space.signal.transpose_times(started_H), started_W))
    elif bare:
        known = None if leading is None else leading.spectrum
        spectrum = known or spectrum_of(space.signal, model.kernel, model.samples, model.dim, W.dtype)
        absent = absent_modes(spectrum, space.signal.transpose_times(started_H), started_W)
    return LinearSystem(
        space, rows, W, state.b, residual, factor, leading, lead_H, watch, drift_b, log_scale, seen, present, referred,
        absent, form,
    )  # fmt: skip
