"""What `limit` returns: direction, rates, growth, threshold."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from unhinged_jax import _check
from unhinged_jax._values import Value
from unhinged_jax.model import State

STOPS, SHORT, OVERSHOOTS, SWINGS = 1, 2, 3, 4
_NOTES = {
    0: "",
    STOPS: "all rates that are still to come add up to a finite sum: the run stops where `direction` says",
    SHORT: "lengths change so fast that all that turns features adds up to a finite angle: they come to rest where "
    "`direction` says, short of their targets",
    OVERSHOOTS: "lengths shrink, so that equal steps turn features farther and farther: the rate is that of before "
    "they overshoot, again and again",
    SWINGS: "steps are so large that some features swing about their targets forever",
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Limit(Value):
    """The asymptotics of a run.

    Attributes:
        direction: The limit of (H, W)/||(H, W)|| and the limit of the bias (infinite where it grows without bound). For
            anchored prototypes, frozen features and spherical features: the limit direction of the part that moves, at
            norm 1 (each row at norm 1 if spherical), beside the part that stays. Where signs change forever, that
            after an even number of updates.
        rate: The direction error decays like e^(-rate zeta(t)) in a flow, e^(-rate k) in a descent of constant step; 0
            where it decays like a power only, or not at all. For spherical descent a lower bound. Above 0 if `target`
            is "top".
        rate_H, rate_W: The same for H and for W alone.
        exponent: The norm grows like e^(exponent zeta(t)), or e^(exponent k); of spherical features each length does,
            once its direction has settled. In a descent the logarithm of the largest modulus of the eigenvalues of the
            update, those of momentum included, in which the start has a part.
        threshold: sigma^2, the largest squared singular value: growth iff lambda_1 lambda_2 < threshold, if steps are
            not too large. Infinite where one part stays.
        excess: threshold - lambda_1 lambda_2.
        angle: The argument of that eigenvalue: 0 in a flow. pi: an update changes the sign of what wins. Between: what
            wins oscillates, as the cosine of angle times k.
        ending: 0, or why a direction is not approached at one rate forever: see `note`.
        moving: "both" parts, the one that is "driven" by the other, or the "lengths" of spherical features: whose norm
            the exponent is that of.

    Source: Zhou et al. 2023, Corollaries 3 and 5, Theorems 6 and 7; any signal, decays, rates, descent: beyond the
    paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.regularized(uj.balanced(classes=4, per_class=4), dim=8, decay=0.2)
        >>> found = uj.limit(model, uj.Flow(), model.init(jax.random.key(0)))
        >>> found.side, round(float(found.threshold), 4), round(float(found.excess), 4)
        ('shrinks', 0.0278, -0.0122)
    """

    direction: State
    rate: jax.Array
    rate_H: jax.Array
    rate_W: jax.Array
    exponent: jax.Array
    threshold: jax.Array
    excess: jax.Array
    angle: Any = 0.0
    ending: Any = 0
    moving: str = dataclasses.field(default="both", metadata={"static": True})

    @property
    def side(self) -> str:
        """Whether the norm "grows", "stays" or "shrinks"; a part with a limit of its own "converges", or "oscillates"
        about it forever; a run whose rates add up to a finite sum "stops".

        Raises:
            ValueError: for a batch, whose members have one each, and where the limit is being traced.
        """
        if not _check.concrete(self) or np.ndim(self.rate):
            raise ValueError(
                "`side` belongs to one limit whose numbers are known; of what jax.vmap returns take a member with "
                "`jax.tree.map(lambda leaf: leaf[0], limit)`, and of what is traced look at `excess` and `exponent`."
            )
        if int(self.ending) == STOPS:
            return "stops"
        if float(self.exponent) != 0:
            return "grows" if float(self.exponent) > 0 else "shrinks"
        if self.moving == "both":
            return "stays"
        if float(self.angle) != 0:
            return "oscillates"
        return "grows" if self.moving == "driven" and float(self.rate) == 0 else "converges"

    @property
    def note(self) -> str:
        """What is to be said beside the numbers, in words: "" where nothing is.

        Raises:
            ValueError: as `side`.
        """
        _ = self.side  # one limit, whose numbers are known
        said = [_NOTES[int(self.ending)]]
        angle = float(self.angle)
        if math.isclose(angle, math.pi, rel_tol=1e-6):
            said.append("its sign changes with every update")
        elif angle:
            said.append(f"it oscillates, through 0, once in {2 * math.pi / angle:.4g} updates")
        return "; ".join(filter(None, said))

    def __repr__(self) -> str:
        if not _check.concrete(self):
            return "Limit(traced)"
        if np.ndim(self.rate):
            return f"Limit: a batch of shape {np.shape(self.rate)}; `jax.tree.map(lambda leaf: leaf[0], limit)` is one"
        threshold, excess = float(self.threshold), float(self.excess)
        where = "above" if excess < 0 else "below"
        decays = f"lambda_1 lambda_2 is {abs(excess):.4g} {where} the threshold {threshold:.4g} of growth"
        whose = "norm of the driven part" if self.moving == "driven" else "norm"
        size = "every feature's length" if self.moving == "lengths" else f"the {whose}"
        exponent, rate, rate_H, rate_W = (
            f"{float(value) + 0.0:.6g}"  # no -0
            for value in (self.exponent, self.rate, self.rate_H, self.rate_W)
        )
        falls = "falls" if float(self.rate) > 0 else "rises" if float(self.rate) < 0 else "does not fall exponentially"
        return (
            f"Limit: {size} {self.side}, exponent {exponent}; the direction error {falls}, rate {rate} (H {rate_H}, "
            f"W {rate_W})\n  (both per unit of zeta in a flow, per update in a descent)"
            + (f"\n  {self.note}" if self.note else "")
            + (f"\n  {decays}" if np.isfinite(threshold) else "")
        )
