"""What a simulator needs to know of a problem: arrays that move, their velocity, and how observables see them."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from unhinged_jax.linear.compression import observed
from unhinged_jax.model import settled
from unhinged_jax.observables import ObservablePlan, View, evaluate
from unhinged_jax.special import largest, safe_norm

Body = dict[str, jax.Array]
"""The arrays that move, by name."""

Reader = Callable[[Body, list[jax.Array], jax.Array], dict[str, Any]]
"""(body, logarithms of the scales of its groups, whether nothing has moved yet) -> what is saved of that moment."""

_WITH_PROTOTYPES = frozenset({"W", "mean_W", "lead_W", "b"})


class System(eqx.Module):
    """A problem in the form in which it is simulated."""

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Names of arrays that share one scale, in which the dynamics is homogeneous; empty if it is not."""
        return ()

    @property
    def capped(self) -> bool:
        """Whether the scale that is taken out of a group is never above 1: where the dynamics is homogeneous in its
        groups at given logits alone, whose range the state cannot exceed."""
        return False

    @property
    def powers(self) -> jax.Array:
        """Powers of two that the groups of the body at the start stand for, whole numbers, (groups, ...).

        With a further axis the entries of a group have scales of their own, of the shape of its arrays.
        """
        return jnp.zeros(len(self.groups), jnp.int32)

    @property
    def guarded(self) -> tuple[tuple[str, ...], ...]:
        """Names of arrays, together of one size, that must not become too small: those that no group keeps from it."""
        return ()

    @property
    def squares(self) -> bool:
        """Whether the dynamics takes squares of entries, which then must not overflow either."""
        return False

    @property
    def compensated(self) -> bool:
        """Whether updates are summed with compensation for rounding: worth it where few numbers stand for many."""
        return False

    def log_unit(self) -> Any:
        """Logarithm of what the arrays at the start stand for."""
        return 0.0

    @abc.abstractmethod
    def body(self) -> Body:
        """The arrays that move, at the start."""

    @abc.abstractmethod
    def velocity(self, body: Body) -> Body:
        """Minus the gradient, at unit rates."""

    def velocity_at(self, body: Body, powers: jax.Array) -> Body:
        """The velocity where group i stands for 2^powers_i times itself, over the same powers of two."""
        return self.velocity(body)

    def driven(self, body: Body, rate_H: jax.Array, rate_W: jax.Array) -> Body:
        """The velocity at given rates."""
        return rated(self.velocity(body), rate_H, rate_W)

    def split(self, body: Body, rate_H: jax.Array, rate_W: jax.Array) -> tuple[Body, Body]:
        """(push, decay) with `driven` = push - decay * body, where decay holds one number an array."""
        return self.driven(body, rate_H, rate_W), {name: jnp.zeros((), array.dtype) for name, array in body.items()}

    def clean(self, body: Body) -> Body:
        """The body without what only rounding can have put there."""
        return body

    def clean_velocity(self, velocity: Body) -> Body:
        """The same for a velocity at unit rates."""
        return self.clean(velocity)

    @abc.abstractmethod
    def view(self, body: Body, logs: list[jax.Array], still: jax.Array) -> View:
        """What observables see, of arrays that stand for e^log times themselves, group by group.

        `still`: nothing has moved yet, so that the start itself may be seen.
        """

    @abc.abstractmethod
    def pack(self, velocity: Body) -> Body:
        """A dense velocity of "H", "W" and "b" in the arrays of this system."""

    @abc.abstractmethod
    def unpack(self, velocity: Body, logs: list[jax.Array], log_scale: jax.Array) -> Body:
        """The inverse of `pack`: dense "H" and "W" divided by e^log_scale, and "b"; zero for a part that stays."""

    def compressed(self) -> System:
        """A smaller system with the same body and the same values of built-in observables."""
        raise TypeError("this system has no smaller one")

    def scale(self, body: Body, factors: list[jax.Array]) -> Body:
        """Every group multiplied by its factor; what belongs to no group stays."""
        scaled = dict(body)
        for names, factor in zip(self.groups, factors, strict=True):
            scaled.update({name: body[name] * factor for name in names})
        return scaled

    def sizes(self, body: Body) -> list[jax.Array]:
        """Norm of every group."""
        return [safe_norm(*(body[name] for name in names)) for names in self.groups]

    def heights(self, body: Body) -> list[jax.Array]:
        """Largest entry of every group: its size as far as a power of two is concerned, without a branch."""
        return [largest(*(body[name] for name in names)) for names in self.groups]


def reader(system: System, plan: ObservablePlan, keep_states: bool, compressed: bool) -> Reader:
    """What saves the planned observables of a moment, and the state if states are kept.

    `compressed`: read off the smaller system.
    """
    if compressed:
        small = system.compressed()
        return lambda *moment: {"values": observed(small, system, moment, plan)}

    def read(*moment: Any) -> dict[str, Any]:
        view = system.view(*moment)
        saved = {"values": evaluate(plan, view)}
        return {**saved, "states": settled(view.state())} if keep_states else saved

    return read


def rated(body: Body, rate_H: jax.Array, rate_W: jax.Array) -> Body:
    """Every array times the rate of the part it belongs to."""
    return {name: (rate_W if name in _WITH_PROTOTYPES else rate_H) * value for name, value in body.items()}
