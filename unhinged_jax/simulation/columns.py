"""Losses that depend on the logits alone, with features H (p, n) and prototypes W (p, C) as columns, as in the paper.

    H' = W P - lambda_1 H,    W' = H P^T - lambda_2 W,    b' = P 1 - lambda_b b,    P = -dL/d(W^T H + b 1^T)

In this layout all three matrix products of a step read and write contiguous memory. CPUs compute them nearly as fast as
a large product; with samples as rows they are a fifth slower in float64.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp

from unhinged_jax.dynamics import PartRates
from unhinged_jax.model import LayerPeeled, State, multiplied
from unhinged_jax.observables import View
from unhinged_jax.observables.features import DenseFeatures
from unhinged_jax.simulation.system import Body, System
from unhinged_jax.special import counted, largest, power_of_two

_UNIT = PartRates(1.0, 1.0, 1.0)


class ColumnSystem(System):
    """The moving arrays are "H" (p, n), "W" (p, C) and "b" (C,).

    At given logits the dynamics is homogeneous in (H, W), so a descent may carry their common scale separately.

    Attributes:
        model: The problem.
        H, W, b: The start, (p, n), (p, C) and (C,); the true H and W are 2^power times these.
        targets: Probabilities of the classes for each sample, (C, n), constant.
        power: See above, a whole number, (); 0 if not `scaled`.
        scaled: Whether H and W form a group whose scale is carried separately.
    """

    model: LayerPeeled
    H: jax.Array
    W: jax.Array
    b: jax.Array
    targets: jax.Array
    power: jax.Array
    scaled: bool = eqx.field(default=False, static=True)

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        return (("H", "W"),) if self.scaled else ()

    @property
    def stays(self) -> tuple[str, ...]:
        return tuple(name for name, moves in self.model.moves._asdict().items() if not moves)

    @property
    def capped(self) -> bool:
        return True

    @property
    def guarded(self) -> tuple[tuple[str, ...], ...]:
        return () if self.scaled else (("H",), ("W",))

    @property
    def powers(self) -> jax.Array:
        return jnp.ravel(self.power) if self.scaled else super().powers

    def body(self) -> Body:
        return {"H": self.H, "W": self.W, "b": self.b}

    def velocity(self, body: Body) -> Body:
        return self.driven(body, _UNIT)

    def velocity_at(self, body: Body, powers: jax.Array) -> Body:
        if not self.scaled:
            return self.velocity(body)
        info = jnp.finfo(self.W.dtype)
        unit = power_of_two(jnp.clip(powers[0], info.minexp, info.maxexp - 1), self.W.dtype)
        push = self.pushed(body, self.pull(body, self.scores(body) * unit * unit), _UNIT)
        decay = self.decays(_UNIT)
        return {name: push[name] - decay[name] * body[name] for name in body}

    def driven(self, body: Body, rates: PartRates) -> Body:
        push, decay = self.split(body, rates)
        return {name: push[name] - decay[name] * body[name] for name in body}

    def split(self, body: Body, rates: PartRates) -> tuple[Body, Body]:
        return self.pushed(body, self.pull(body, self.scores(body)), rates), self.decays(rates)

    def scores(self, body: Body) -> jax.Array:
        """The logits without biases, W^T H, shape (C, n)."""
        # Without the barrier the product would read W with a stride.
        return jax.lax.optimization_barrier(body["W"].T) @ body["H"]

    def pull(self, body: Body, scores: jax.Array) -> jax.Array:
        """Minus the gradient of the loss with respect to the scores W^T H; both are (C, n)."""
        weights = jnp.asarray(self.model.labels.weights, scores.dtype)
        logits = scores + body["b"][:, None]
        if self.model.labels.held_out is not None:  # samples of weight 0
            logits = counted(weights, logits)
        pull = self.model.loss.pull(logits, self.targets, weights)
        # Without the barrier XLA would compute the softmax again for every product that uses it.
        return jax.lax.optimization_barrier(pull)

    def pushed(self, body: Body, pull: jax.Array, rates: PartRates) -> Body:
        """Minus the gradients of the loss with respect to H, W and b, times the rates; 0 for an array that stays."""
        moves = self.model.moves
        # The rate of H multiplies the smaller factor, which saves a pass over an array of the size of H.
        return {
            "H": body["W"] @ (rates.H * pull) if moves.H else jnp.zeros_like(body["H"]),
            "W": rates.W * (body["H"] @ pull.T) if moves.W else jnp.zeros_like(body["W"]),
            "b": rates.b * jnp.sum(pull, axis=1) if moves.b else jnp.zeros_like(body["b"]),
        }

    def decays(self, rates: PartRates) -> Body:
        """The decay rate of every array, () each; 0 for an array that stays."""
        parts = zip("HWb", rates, self.model.decays, self.model.moves, strict=True)
        return {name: jnp.asarray(r * decay if moves else 0.0, self.W.dtype) for name, r, decay, moves in parts}

    def pack(self, velocity: Body) -> Body:
        return _turned(velocity)

    def unpack(self, velocity: Body, logs: list[jax.Array], log_scale: jax.Array) -> Body:
        turned = _turned(velocity)
        if not self.scaled:
            return turned
        unit = jnp.exp(logs[0] - log_scale)
        return {**turned, "H": unit * turned["H"], "W": unit * turned["W"]}

    def view(self, body: Body, logs: list[jax.Array], still: jax.Array) -> View:
        log_scale = logs[0] if self.scaled else jnp.zeros((), body["W"].dtype)
        return View(self.model, DenseFeatures(body["H"].T), body["W"].T, body["b"], log_scale)


def column_system(model: LayerPeeled, state: State, scaled: bool) -> ColumnSystem:
    """The system that starts from a state, whose samples and classes are rows: H (n, p) and W (C, p)."""
    power = start_power(state) if scaled else jnp.zeros((), jnp.int32)
    H, W = multiplied(state, power)
    targets = model.labels.probabilities().T.astype(H.dtype)
    return ColumnSystem(model, H.T, W.T, state.b, targets, power, scaled)


def start_power(state: State) -> jax.Array:
    """The power of two that is taken out of H and W at the start, a whole number, (); 0 unless every entry is small."""
    size = jax.lax.stop_gradient(largest(state.H, state.W))
    there = (size > 0) & jnp.isfinite(size)
    logarithm = jnp.log(jnp.where(there, size, 1.0)) + jax.lax.stop_gradient(state.log_scale)
    power = jnp.round(logarithm / jnp.log(jnp.asarray(2.0, size.dtype)))
    return jnp.where(there & (power < -20), power, 0).astype(jnp.int32)


def _turned(velocity: Body) -> Body:
    """The velocity with H and W transposed, between samples as rows and samples as columns."""
    return {**velocity, "H": velocity["H"].T, "W": velocity["W"].T}
