"""A state that is the sum of a growing direction and of a remainder, each with a scale of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from unhinged_jax.observables.distance import Orthonormal, Split
from unhinged_jax.special import safe_log, safe_norm


class Course(NamedTuple):
    """A state sign e^log_amplitude direction + e^log_rest rest with a direction of any norm; fields as in `Split`."""

    direction: Orthonormal
    rest: Orthonormal
    log_amplitude: Float[jax.Array, ""]
    sign: Float[jax.Array, ""]
    log_rest: Float[jax.Array, ""]
    whole: Orthonormal

    def beside(self, rest: Orthonormal, log_rest: Float[jax.Array, ""]) -> Course:
        """The course with e^log_rest `rest` added to its remainder."""
        both, log_rest = added(self.rest, self.log_rest, rest, log_rest)
        return self._replace(rest=both, log_rest=log_rest)

    def along(self, part: Orthonormal, sign: Float[jax.Array, ""], log_power: Float[jax.Array, ""]) -> Course:
        """The course with sign e^log_power `part` added, of which only a share lies along the direction."""
        square = sum((jnp.sum(d * d) for d in self.direction), jnp.zeros(()))
        inner = sum((jnp.sum(d * p) for d, p in zip(self.direction, part, strict=True)), jnp.zeros(()))
        share = inner / jnp.where(square > 0, square, 1.0)
        across = [sign * (p - share * d) for d, p in zip(self.direction, part, strict=True)]
        (amplitude,), log = added([self.sign], self.log_amplitude, [share * sign], log_power)
        moved = self._replace(log_amplitude=safe_log(jnp.abs(amplitude)) + log, sign=jnp.sign(amplitude))
        return moved.beside(across, log_power)

    def split(self, log_scale: Float[jax.Array, ""]) -> tuple[Split, Float[jax.Array, ""]]:
        """The split of e^log_scale times the state, and the logarithm of the norm of the direction."""
        size = safe_norm(*self.direction)
        size = jnp.where(size > 0, size, 1.0)
        log_size = jnp.log(size)
        unit = [part / size for part in self.direction]
        log_amplitude = self.log_amplitude + log_size + log_scale
        return Split(unit, self.rest, log_amplitude, self.sign, self.log_rest + log_scale, self.whole), log_size


def added(
    one: Iterable[jax.Array], log: Float[jax.Array, ""], other: Iterable[jax.Array], other_log: Float[jax.Array, ""]
) -> tuple[Any, Float[jax.Array, ""]]:
    """e^log one + e^other_log other, for lists of arrays, over the larger of the two factors; and its logarithm."""
    common = jax.lax.stop_gradient(jnp.maximum(log, other_log))
    common = jnp.where(jnp.isfinite(common), common, 0.0)
    by, other_by = jnp.exp(log - common), jnp.exp(other_log - common)
    return [by * x + other_by * y for x, y in zip(one, other, strict=True)], common
