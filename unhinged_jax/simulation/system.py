"""What a simulator needs to know about a problem: arrays that move, their velocity, and how observables read them."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from unhinged_jax.dynamics import PartRates
from unhinged_jax.linear.compression import observed
from unhinged_jax.model import settled
from unhinged_jax.observables import ObservablePlan, View, evaluate
from unhinged_jax.special import largest, safe_norm

Body = dict[str, jax.Array]
"""The arrays that move, by name."""

Reader = Callable[[Body, list[jax.Array], jax.Array], dict[str, Any]]
"""(body, logarithms of the scales of its groups, `still` as in `System.view`) -> what is saved at that moment."""

_WITH_PROTOTYPES = frozenset({"W", "mean_W", "lead_W"})


class Scaled(NamedTuple):
    """What is integrated: the arrays that move, each group at unit norm at first, and the logarithm of its scale."""

    body: Body
    logs: list[jax.Array]


class Packing(NamedTuple):
    """Functions from a tree of arrays to what the solver is given, and back."""

    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]


class Spread(eqx.Module):
    """How far apart the growth rates of a linear dynamics are.

    Each mode of H and W grows at the two eigenvalues of K = [[-a, r_1 g], [r_2, -c]], a = r_1 lambda_1, c = r_2
    lambda_2, which are 2 sqrt((a - c)^2/4 + r_1 r_2 g) apart. Biases decay at r_b lambda_b.

    Attributes:
        square: The largest squared singular value g of the signal, (); 0 if H or W stays.
        decay_H, decay_W, decay_b: Decay rates at unit rates, (); 0 for what stays.
    """

    square: Any
    decay_H: Any
    decay_W: Any
    decay_b: Any

    def at(self, rates: PartRates) -> jax.Array:
        """The largest difference between two growth rates at these rates, ()."""
        delta = (rates.H * self.decay_H - rates.W * self.decay_W) / 2
        return jnp.maximum(2 * jnp.sqrt(delta**2 + rates.H * rates.W * self.square), rates.b * self.decay_b)


class System(eqx.Module):
    """A problem in the form in which it is simulated: its start, and what a simulator may ask about it.

    A body is a dictionary of the arrays that move. Group i of its arrays stands for e^logs_i times the stored arrays.
    """

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Groups of names of arrays. The dynamics is homogeneous in each group, whose scale is carried separately.

        Empty if the dynamics is not homogeneous.
        """
        return ()

    @property
    def capped(self) -> bool:
        """Whether the scale of a group never exceeds 1. This is so if the dynamics is homogeneous only at given logits,
        whose range then bounds the state."""
        return False

    @property
    def powers(self) -> jax.Array:
        """Exponents k, whole numbers, (groups, ...): at the start, a group stands for 2^k times its arrays.

        If there are further axes, they are those of the arrays, whose entries then have scales of their own.
        """
        return jnp.zeros(len(self.groups), jnp.int32)

    @property
    def guarded(self) -> tuple[tuple[str, ...], ...]:
        """Groups of names of arrays that have no scale of their own; a run ends if one becomes too small as a whole."""
        return ()

    @property
    def squares(self) -> bool:
        """Whether the dynamics squares entries, so that the squares must not overflow either."""
        return False

    @property
    def bursts(self) -> bool:
        """Whether the state can become infinite in finite time, so that a flow has to tell when times no longer differ
        by enough."""
        return False

    @property
    def compensated(self) -> bool:
        """Whether updates are summed with compensation for rounding, which pays if a few numbers stand for many."""
        return False

    @property
    def stays(self) -> tuple[str, ...]:
        """Arrays of the body that stay where they are, whatever an optimiser makes of their velocity of 0."""
        return ()

    def spread(self) -> Spread | None:
        """How far apart growth rates are; None if they are not constant or not known."""
        return None

    def log_unit(self) -> Any:
        """Logarithm of the scale of the start, (), which multiplies every group in addition to 2^powers."""
        return 0.0

    @abc.abstractmethod
    def body(self) -> Body:
        """The arrays that move, as they are at the start."""

    @abc.abstractmethod
    def velocity(self, body: Body) -> Body:
        """Minus the gradient, at unit rates; 0 for an array that stays."""

    def velocity_at(self, body: Body, powers: jax.Array) -> Body:
        """The velocity of a body whose group i stands for 2^powers_i times its arrays, divided by these powers of two.

        By default this is `velocity`, as for a homogeneous dynamics.
        """
        return self.velocity(body)

    def at_update(self, k: jax.Array) -> System:
        """The system whose gradient update k follows: another one for each, if batches or labels are drawn."""
        return self

    def at_time(self, time: jax.Array) -> System:
        """The system that a flow follows at a time: another one if its damping depends on time."""
        return self

    def driven(self, body: Body, rates: PartRates) -> Body:
        """The velocity at the given rates of H, W and b."""
        return rated(self.velocity(body), rates)

    def split(self, body: Body, rates: PartRates) -> tuple[Body, Body]:
        """(push, decay) with `driven` = push - decay * body; decay holds one number () for each array."""
        return self.driven(body, rates), {name: jnp.zeros((), array.dtype) for name, array in body.items()}

    def clean(self, body: Body) -> Body:
        """The body without what only rounding can have put there. By default the body is returned unchanged.

        A flow calls this on every velocity in a step and on every state that is read. A descent of a system with groups
        calls it on the state after every few updates and after every block of updates.
        """
        return body

    def clean_velocity(self, velocity: Body) -> Body:
        """`clean` for a velocity at unit rates, which a descent carries as its momentum."""
        return self.clean(velocity)

    @abc.abstractmethod
    def view(self, body: Body, logs: list[jax.Array], still: jax.Array) -> View:
        """What observables are given at one moment.

        Args:
            body: The arrays that move.
            logs: For each group the logarithm of its scale, (); group i stands for e^logs_i times its arrays.
            still: Whether nothing has moved the state yet, because every rate so far was 0, (). The view may then be
                that of the start itself, exactly as it was given.
        """

    @abc.abstractmethod
    def pack(self, velocity: Body) -> Body:
        """The velocity of the arrays of this system, from a dense velocity "H" (n, p), "W" (C, p) and "b" (C,)."""

    @abc.abstractmethod
    def unpack(self, velocity: Body, logs: list[jax.Array], log_scale: jax.Array) -> Body:
        """The inverse of `pack`: dense "H" and "W", divided by e^log_scale, and "b"; 0 for an array that stays."""

    def packed(self, moving: Body) -> Body:
        """`pack` for arrays in units of the state, which no rate divides."""
        return self.pack(moving)

    def unpacked(self, moving: Body, logs: list[jax.Array], log_scale: jax.Array) -> Body:
        """The inverse of `packed`."""
        return self.unpack(moving, logs, log_scale)

    def carried(self, body: Body, logs: list[jax.Array], log_scale: jax.Array) -> Body | None:
        """What a flow carries in addition to its state, as dense arrays over e^log_scale; None for nothing."""
        return None

    def compressed(self) -> System:
        """A smaller system with the same body and the same values of built-in observables."""
        raise TypeError("this system has no smaller one with the same observables.")

    def scale(self, body: Body, factors: list[jax.Array]) -> Body:
        """The body with every group multiplied by its factor; arrays that belong to no group stay."""
        scaled = dict(body)
        for names, factor in zip(self.groups, factors, strict=True):
            scaled.update({name: body[name] * factor for name in names})
        return scaled

    def sizes(self, body: Body) -> list[jax.Array]:
        """The norm of every group, ()."""
        return [safe_norm(*(body[name] for name in names)) for names in self.groups]

    def heights(self, body: Body) -> list[jax.Array]:
        """The largest absolute entry of every group, (): good enough to choose a power of two, and without a branch."""
        return [largest(*(body[name] for name in names)) for names in self.groups]


class Wrapping(System):
    """A system made of another one, of which it keeps what is not said otherwise.

    Attributes:
        system: The other one.
    """

    system: System

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        return self.system.groups

    @property
    def guarded(self) -> tuple[tuple[str, ...], ...]:
        return self.system.guarded

    @property
    def squares(self) -> bool:
        return self.system.squares

    @property
    def bursts(self) -> bool:
        return self.system.bursts

    @property
    def stays(self) -> tuple[str, ...]:
        return self.system.stays

    def log_unit(self) -> Any:
        return self.system.log_unit()

    def body(self) -> Body:
        return self.system.body()

    def view(self, body: Body, logs: list[jax.Array], still: jax.Array) -> View:
        return self.system.view(body, logs, still)

    def pack(self, velocity: Body) -> Body:
        return self.system.pack(velocity)

    def unpack(self, velocity: Body, logs: list[jax.Array], log_scale: jax.Array) -> Body:
        return self.system.unpack(velocity, logs, log_scale)

    def compressed(self) -> System:
        return dataclasses.replace(self, system=self.system.compressed())


def reader(system: System, plan: ObservablePlan, keep_states: bool, compressed: bool) -> Reader:
    """A function that saves the planned observables of a moment, and the state if `keep_states`.

    If `compressed`, observables are read off the smaller system.
    """
    if compressed:
        small = system.compressed()
        return lambda *moment: {"values": observed(small, system, moment, plan)}

    def read(*moment: Any) -> dict[str, Any]:
        view = system.view(*moment)
        saved = {"values": evaluate(plan, view)}
        return {**saved, "states": settled(view.state())} if keep_states else saved

    return read


def _with_prototypes(name: str) -> bool:
    return name in _WITH_PROTOTYPES or name.startswith("inner_")


def rated(body: Body, rates: PartRates) -> Body:
    """Every array times the rate of the part it belongs to: H, W or b."""

    def rate_of(name: str) -> Any:
        return rates.b if name == "b" else rates.W if _with_prototypes(name) else rates.H

    return {name: rate_of(name) * value for name, value in body.items()}
