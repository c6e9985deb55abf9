"""The kinds of memories."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from unhinged_jax import _check
from unhinged_jax.dynamics.memory import Combination, Memory
from unhinged_jax.dynamics.rates import is_number


def _matrix(rows: list[list[Any]]) -> jax.Array:
    return jnp.stack([jnp.stack([jnp.asarray(entry, float) for entry in row]) for row in rows])


def _row(entries: list[Any]) -> jax.Array:
    return _matrix([entries])[0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PolyakAverage(Memory):
    """The mean of all states before the last: after k updates (Z_0 + ... + Z_{k-1})/k, and Z_0 at the start.

    Every observable of a run with this memory, and `final`, is that of the mean. In a flow it is the mean over time.

    Source: Polyak & Juditsky 1992; Ruppert 1988.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(classes=2, per_class=1), dim=2)
        >>> state = model.init(jax.random.key(0))
        >>> biases = uj.exact(model.replace(bias=True), uj.Descent(0.1), state, [0, 1], states=True).states.b
        >>> mean = uj.exact(model.replace(bias=True), uj.Descent(0.1, memory=uj.PolyakAverage()), state, [2]).final.b
        >>> bool(jnp.allclose(mean, jnp.mean(biases, 0)))
        True
    """

    @property
    def first(self) -> tuple[int, ...]:
        return 1, 1

    def share_at(self, time: jax.Array) -> jax.Array:
        return jnp.where(time > 0, 1 / jnp.where(time > 0, time, 1.0), jnp.inf)

    def combined(self, k: jax.Array) -> Combination:
        share = 1 / (k + 1.0)
        return Combination(_row([0, 1]), _matrix([[1 - share, share], [0, 1]]), _row([0, 1]))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MovingAverage(Memory):
    """An exponential moving average of the states: after every update it is `keep` of itself and 1 - keep of the state.

    Every observable of a run with this memory, and `final`, is that of the average. In a flow it keeps this share of
    itself per unit of time.

    Attributes:
        keep: The share that stays, between 0 and 1; above 0 in a flow.

    Source: beyond the paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.unconstrained(uj.balanced(classes=2, per_class=1), dim=2)
        >>> descent = uj.Descent(0.1, memory=uj.MovingAverage(0.9))
        >>> run = uj.simulate(model, descent, model.init(jax.random.key(0)), [0, 10], "norm")
        >>> run["norm"].shape
        (2,)
    """

    keep: Any = 0.99

    @property
    def first(self) -> tuple[int, ...]:
        return 1, 1

    def share_at(self, time: jax.Array) -> jax.Array:
        return -jnp.log(jnp.asarray(self.keep, time.dtype))

    def combined(self, k: jax.Array) -> Combination:
        new = 1 - self.keep
        return Combination(_row([0, 1]), _matrix([[self.keep, new], [0, 1]]), _row([new, 1]))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lookahead(Memory):
    """Slow weights that follow fast ones: after every `steps` updates both become slow + share (fast - slow).

    The fast weights are observed.

    Attributes:
        steps: Updates between two meetings, at least 1.
        share: How far the slow weights go, between 0 and 1.

    Source: Zhang, Lucas, Hinton & Ba 2019.

    Example:
        >>> import unhinged_jax as uj
        >>> uj.Descent(0.1, memory=uj.Lookahead(steps=5)).memory
        Lookahead(steps=5, share=0.5)
    """

    steps: int = dataclasses.field(default=5, metadata={"static": True})
    share: Any = 0.5

    def check(self) -> None:
        _check.whole("steps", self.steps, 1)
        super().check()

    @property
    def first(self) -> tuple[int, ...]:
        return 1, 1

    def combined(self, k: jax.Array) -> Combination:
        meet = jnp.mod(k + 1, self.steps) == 0
        fast, slow = jnp.where(meet, self.share, 1.0), jnp.where(meet, 1.0 - self.share, 0.0)
        own, other = jnp.where(meet, 1.0 - self.share, 1.0), jnp.where(meet, self.share, 0.0)
        return Combination(_row([1, 0]), _matrix([[fast, slow], [other, own]]), _row([fast, other]))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScheduleFree(Memory):
    """Schedule-free descent: gradients at (1 - beta) z + beta x, where x is the mean of the z so far and is observed.

    Attributes:
        beta: Between 0 (the mean is only observed) and 1 (gradients at the mean).

    Source: Defazio, Yang, Mehta, Mishchenko, Khaled & Cutkosky 2024, with equal weights.

    Example:
        >>> import unhinged_jax as uj
        >>> uj.Descent(0.1, memory=uj.ScheduleFree()).memory
        ScheduleFree(beta=0.9)
    """

    beta: Any = 0.9

    @property
    def first(self) -> tuple[int, ...]:
        return 1, 1

    def combined(self, k: jax.Array) -> Combination:
        share = 1 / (k + 1.0)
        return Combination(_row([self.beta, 1 - self.beta]), _matrix([[1 - share, share], [0, 1]]), _row([share, 1]))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Optimistic(Memory):
    """Optimistic descent: the last change counts again with a minus sign, Z <- Z + (1 + beta) d_k - beta d_{k-1}.

    The first update is a plain one.

    Attributes:
        beta: Between 0 (plain descent) and 1.

    Source: Popov 1980; Daskalakis, Ilyas, Syrgkanis & Zeng 2018.

    Example:
        >>> import unhinged_jax as uj
        >>> uj.Descent(0.1, memory=uj.Optimistic()).memory
        Optimistic(beta=1.0)
    """

    beta: Any = 1.0

    @property
    def first(self) -> tuple[int, ...]:
        return 1, 0

    def combined(self, k: jax.Array) -> Combination:
        ahead = jnp.where(k == 0, 1.0, 1.0 + self.beta)
        return Combination(_row([1, 0]), _matrix([[1, -jnp.asarray(self.beta)], [0, 0]]), _row([ahead, 1]))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class QuasiHyperbolic(Memory):
    """Quasi-hyperbolic momentum: v <- beta v + (1 - beta) d, Z <- Z + (1 - nu) d + nu v.

    Attributes:
        beta: The share of v that stays.
        nu: The share of the update that is momentum; 0 is plain descent.

    Source: Ma & Yarats 2019.

    Example:
        >>> import unhinged_jax as uj
        >>> uj.Descent(0.1, memory=uj.QuasiHyperbolic(0.9)).memory
        QuasiHyperbolic(beta=0.9, nu=0.7)
    """

    beta: Any = 0.999
    nu: Any = 0.7

    @property
    def first(self) -> tuple[int, ...]:
        return 1, 0

    def combined(self, k: jax.Array) -> Combination:
        new = 1 - self.beta
        return Combination(
            _row([1, 0]), _matrix([[1, self.nu * self.beta], [0, self.beta]]), _row([1 - self.nu + self.nu * new, new])
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AggregatedMomentum(Memory):
    """The mean of several momenta: v_i <- beta_i v_i + d, Z <- Z + mean of v_i. With one it is heavy-ball momentum.

    Attributes:
        betas: The damping coefficients, (m,), between 0 and 1.

    Source: Lucas, Sun, Zemel & Grosse 2019.

    Example:
        >>> import unhinged_jax as uj
        >>> len(uj.Descent(0.1, memory=uj.AggregatedMomentum((0.0, 0.9, 0.99))).memory.betas)
        3
    """

    betas: Any = (0.0, 0.9, 0.99)

    def __post_init__(self) -> None:
        if isinstance(self.betas, list):
            object.__setattr__(self, "betas", tuple(self.betas))
        super().__post_init__()

    def check(self) -> None:
        if not isinstance(self.betas, tuple) and getattr(self.betas, "ndim", 0) != 1:
            raise ValueError(
                f"betas must be a list of numbers, one for each momentum, but got {_check.given(self.betas)}."
            )
        if not len(self.betas):
            raise ValueError("betas must hold a number for each momentum, but is empty; leave out `memory` for none.")
        for beta in self.betas:
            if _check.concrete(beta) and not 0 <= float(_check.real("an entry of betas", beta)) < 1:
                raise ValueError(f"betas must lie in [0, 1), but got {_check.given(beta)}.")

    @property
    def first(self) -> tuple[int, ...]:
        return 1, *(0 for _ in self.betas)

    def combined(self, k: jax.Array) -> Combination:
        betas = _row([0, *self.betas])
        count = len(self.betas)
        keep = jnp.diag(betas).at[0].set(betas / count).at[0, 0].set(1.0)
        return Combination(jnp.eye(count + 1)[0], keep, jnp.ones(count + 1))


MEMORIES = (
    PolyakAverage, MovingAverage, Lookahead, ScheduleFree, Optimistic, QuasiHyperbolic, AggregatedMomentum,
)  # fmt: skip
AVERAGES = PolyakAverage, MovingAverage


def check_memory(memory: Any, allowed: tuple[type, ...], name: str) -> None:
    """Raise unless this is a memory of one of the kinds that a dynamics takes, or None."""
    if isinstance(memory, (type, str, float, int, list, dict)) or callable(memory):
        names = ", ".join(f"{kind.__name__}()" for kind in allowed)
        raise ValueError(f"memory of a {name} must be one of {names}, but got {_check.given(memory)}.")
    if name == "Flow" and isinstance(memory, MovingAverage) and is_number(memory.keep) and _check.concrete(memory.keep):
        hint = "use a number above 0: an average that keeps nothing is the state, for which `memory` is left out"
        _check.positive("keep of a Flow", memory.keep, hint)
    if isinstance(memory, Memory) and not isinstance(memory, allowed):
        names = " or ".join(kind.__name__ for kind in allowed)
        raise ValueError(f"a {name} takes {names} as its memory, but got {type(memory).__name__}; use a Descent.")
