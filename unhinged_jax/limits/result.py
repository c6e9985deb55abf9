"""What `limit` returns: direction, rates, growth and threshold."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from unhinged_jax import _check
from unhinged_jax._values import Tabled, Value
from unhinged_jax.model import State

STOPS, SHORT, OVERSHOOTS, SWINGS, LINE, ROOT, ONE_LENGTH, ARRIVES, HOVERS, FADES, ALIKE, PARABOLA, MEAN = range(1, 14)
_NOTES = {
    0: "",
    STOPS: "all remaining rates add up to a finite sum, so the run stops at `direction`",
    SHORT: "lengths change so fast that features turn only by a finite angle, so they come to rest at `direction`, "
    "short of their targets",
    OVERSHOOTS: "lengths shrink, so equal steps turn features further and further; the rate holds until they "
    "overshoot, which they then do repeatedly",
    SWINGS: "steps are so large that some features oscillate about their targets forever",
    LINE: "nothing decays, so the norm grows in proportion to zeta, in a descent to the number of updates, and the "
    "direction error falls like its inverse",
    PARABOLA: "nothing decays and nothing resists for long, so the norm grows in proportion to t², and the direction "
    "error falls like its inverse",
    ROOT: "updates become smaller, so the norm grows like the square root of their number, and the direction error "
    "falls like its inverse",
    ONE_LENGTH: "gradients are brought to one length, so the norm grows by `speed` per unit of zeta, in a descent per "
    "update, and the direction error falls like the power -`power` of that",
    ARRIVES: "gradients have norm 1, so the run comes to its end after a finite time, at `direction`",
    HOVERS: "steps do not become shorter than some length, so the run ends in oscillations of about that length, which "
    "depend on its start",
    FADES: "the run dies, so its average falls like the inverse of their number, along the sum of all states",
    MEAN: "the run comes to rest, or goes to and fro, so the mean of its states settles, and its error falls like the "
    "inverse of their number",
    ALIKE: "nothing grows, so everything falls like the power -1/(1 - beta) of the number of updates, and no part wins",
}

_SIDES = {STOPS: "stops", ONE_LENGTH: "grows", HOVERS: "oscillates", FADES: "shrinks", ALIKE: "shrinks",
          MEAN: "converges"}  # fmt: skip

_NUMBERS = ("rate", "rate_H", "rate_W", "exponent", "threshold", "excess")
_OF_NOISE = ("second_moment_growth", "mean_growth", "critical_batch", "critical_rate")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Survivors(Value):
    """Singular values of the logits H W^T in the limit of squared error.

    Attributes:
        values: From this start, (k,), each in the place of the singular value of the targets that it belongs to: that
            of its class for one-hot targets, ascending for others.
        possible: The same at the global minimum: the p largest of max(0, s - lambda / q), where s = sqrt(n_c) for
            one-hot targets.
        by_class: Whether they belong to classes.

    Source: beyond the paper; for balanced classes Tirer & Bruna 2022.

    Example:
        >>> Survivors(np.array([2.0, 0.0, 0.0]), np.array([2.0, 0.5, 0.0]), True).note
        'class 2 dies; class 1 dies from this start, but not at the minimum'
    """

    values: Any
    possible: Any
    by_class: bool = dataclasses.field(default=True, metadata={"static": True})

    @property
    def note(self) -> str:
        """Which of them die, in words; "" if none does."""
        here, there = np.asarray(self.values), np.asarray(self.possible)
        here, there = (here > 0), (there > 0)
        what = ("class", "classes") if self.by_class else ("singular value", "singular values")

        def said(dead: np.ndarray, then: str) -> str:
            names = [str(place) for place in np.flatnonzero(dead)]
            listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""
            return f"{what[len(names) > 1]} {listed} die{'s' * (len(names) == 1)}{then}" if names else ""

        both = said(~here & ~there, ""), said(~here & there, " from this start, but not at the minimum")
        return "; ".join(filter(None, both))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Limit(Tabled):
    """The asymptotics of a run.

    Attributes:
        direction: The limit of (H, W)/||(H, W)|| and the limit of the bias (infinite if it grows without bound). For
            anchored prototypes, frozen features and spherical features: the limit direction of the part that moves, at
            norm 1 (each row at norm 1 if spherical), together with the part that stays. If signs change forever, the
            limit after an even number of updates. NaN if there is none; see `note`. Samples that are held out do not
            count in a norm, or in a rate.
        rate: The direction error decays like e^(-rate zeta(t)) in a flow, e^(-rate k) in a descent of constant step; 0
            if it decays only like a power, or not at all. For spherical descent it is a lower bound. It is never
            negative if `target` is "top".
        rate_H, rate_W: The same for H and W separately.
        exponent: The norm grows like e^(exponent zeta(t)), or e^(exponent k); for spherical features each length does,
            once its direction has settled. In a flow with damping `rate` and `exponent` are per unit of t, not of zeta;
            Nesterov's flow has a power of t beside them. In a descent it is the logarithm of the largest modulus of the
            eigenvalues of the update, including those of momentum, among those in which the start has a part.
        threshold: sigma^2, the largest squared singular value: the norm grows if and only if lambda_1 lambda_2 <
            threshold, if steps are not too large. Infinite if one part stays.
        excess: threshold - lambda_1 lambda_2.
        angle: The argument of that eigenvalue, which is 0 in a flow; in a flow with damping the frequency of the
            winning part. At pi every update changes the sign of the winning
            part; between 0 and pi the winning part oscillates like the cosine of angle times k.
        ending: 0, or the reason why the direction is not approached at one rate forever; see `note`.
        survivors: The singular values of the logits in the limit of squared error, else None; see `Survivors`.
        moving: "both" parts, the one that is "driven" by the other (under spectral descent both), or the "lengths" of
            spherical features; the exponent belongs to their norm.
        second_moment_growth: E ||(H, W)||^2 grows like e^(second_moment_growth k) in a descent that draws batches or
            labels; None, as the fields below, for other dynamics. All other fields above are those of the mean. It is
            the growth from almost every start, the largest of any; see `generic`. For a driven part it is that of the
            difference from where the part settles.
        mean_growth: The same of ||E (H, W)||^2, the squared norm of the mean, from almost every start. Above 0 for the
            second moment and below 0 for the mean, noise alone keeps runs alive.
        critical_batch: The batch size above which the second moment dies, and below which it grows, a real number that
            may be below 1; 0 if it dies at any size, infinite if it dies at none, because the mean does not, or because
            the noise of fresh labels alone makes it grow.
        critical_rate: The value of the schedule below which the second moment dies, and above which it grows; 0 if it
            dies at none, because the mean does not, infinite if it dies at any.
        blow_up: The zeta after which the norm of a deep model is infinite, which is infinite if it never is; else None.
            The exponent is then infinite, and the direction is that in which it leaves.
        speed: The norm grows by this much per unit of zeta, or per update, in the end, if gradients are clipped or
            normalised and the run grows, 0 if it does not; None for other dynamics.
        power: The direction error then falls like the power -power of zeta, or of the number of updates; 0 otherwise.
        generic: Whether the start has a part in the mode that grows with `second_moment_growth`. A start without one,
            such as one in a single class if classes do not meet (gamma = 0), grows more slowly.

    Source: Zhou et al. 2023, Corollaries 3 and 5, Theorems 6 and 7; any signal, decays, rates, descent: beyond the
    paper.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.regularized(uj.balanced(classes=4, per_class=4), dim=8, decay=0.2)
        >>> found = uj.limit(model, uj.Flow(), model.init(jax.random.key(0)))
        >>> found.side, round(float(found.threshold), 4), round(float(found.excess), 4)
        ('shrinks', 0.0278, -0.0122)
        >>> found = uj.limit(model, uj.Descent(3.0, batch=1), model.init(jax.random.key(0)))
        >>> bool(found.mean_growth < 0 < found.second_moment_growth), round(float(found.critical_batch), 2)
        (True, 3.8)
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
    survivors: Survivors | None = None
    moving: str = dataclasses.field(default="both", metadata={"static": True})
    second_moment_growth: Any = None
    mean_growth: Any = None
    critical_batch: Any = None
    critical_rate: Any = None
    generic: Any = None
    blow_up: Any = None
    speed: Any = None
    power: Any = None

    @property
    def quantities(self) -> dict[str, Any]:
        """The numbers that have derivatives, by name; those of noise, of a deep model, of steps of one length where
        there is one."""
        found = {name: getattr(self, name) for name in (*_NUMBERS, *_OF_NOISE, "blow_up", "speed", "power")}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def side(self) -> str:
        """Whether the norm "grows", "stays" or "shrinks". A part that has a limit of its own "converges" to it or
        "oscillates" about it forever, and a run whose rates have a finite sum "stops".

        Raises:
            ValueError: for a batch, whose members have one side each, and while the limit is being traced.
        """
        if not _check.concrete(self) or np.ndim(self.rate):
            raise ValueError(
                "`side` needs one limit whose numbers are known; take a member of a batch with "
                "`jax.tree.map(lambda leaf: leaf[0], limit)`, and while tracing use `excess` and `exponent`."
            )
        if int(self.ending) in _SIDES:
            return _SIDES[int(self.ending)]
        if float(self.exponent) != 0:
            return "grows" if float(self.exponent) > 0 else "shrinks"
        if self.moving == "both":
            return "stays"
        if float(self.angle) != 0:
            return "oscillates"
        return "grows" if self.moving == "driven" and float(self.rate) == 0 else "converges"

    @property
    def note(self) -> str:
        """Remarks about the numbers, in words; "" if there are none.

        Raises:
            ValueError: As for `side`.
        """
        _ = self.side  # one limit, whose numbers are known
        said = [_NOTES[int(self.ending)], "" if self.survivors is None else self.survivors.note]
        if self.blow_up is not None and math.isfinite(float(self.blow_up)) and int(self.ending) != STOPS:
            said.append(f"it is infinite after zeta = {float(self.blow_up):.6g}")
        angle = float(self.angle)
        if math.isclose(angle, math.pi, rel_tol=1e-6):
            said.append("its sign changes with every update")
        elif angle:
            said.append(f"it oscillates, through 0, once in {2 * math.pi / angle:.4g} updates")
        if self.generic is not None and not bool(self.generic):
            said.append("this start has no part in the mode of `second_moment_growth`, so its own grows more slowly")
        return "; ".join(filter(None, said))

    def rows(self) -> dict[str, str]:
        """What a notebook shows: how the norm ends and how fast; of a batch the lowest and the highest numbers."""
        hidden = ("threshold", *(_OF_NOISE[2:] if self.moving == "driven" else ()))
        numbers = {name: np.asarray(value) for name, value in self.quantities.items() if name not in hidden}
        said = {name: " to ".join(dict.fromkeys(_number(end(value)) for end in (np.min, np.max)))
                for name, value in numbers.items()}  # fmt: skip
        if np.ndim(self.rate):
            return {"batch of shape": str(np.shape(self.rate)), **said}
        said |= {name: words for name in said if (words := self._unbounded(name))}
        return {self.moving: self.side, **said, **({"note": self.note} if self.note else {})}

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
            _number(value) for value in (self.exponent, self.rate, self.rate_H, self.rate_W)
        )
        falls = "falls" if float(self.rate) > 0 else "rises" if float(self.rate) < 0 else "does not fall exponentially"
        return (
            f"Limit: {size} {self.side}, exponent {exponent}; the direction error {falls}, rate {rate} (H {rate_H}, "
            f"W {rate_W})\n  (both per unit of zeta in a flow, per update in a descent)"
            + (f"\n  {self.note}" if self.note else "")
            + (f"\n  {decays}" if np.isfinite(threshold) else "")
            + (f"\n  {self._of_noise()}" if self.second_moment_growth is not None else "")
        )

    def _of_noise(self) -> str:
        """What noise does to the second moment, in words."""
        second, mean = float(self.second_moment_growth), float(self.mean_growth)
        if self.moving == "driven":
            return "noise is added to the driven part and not multiplied, so the second moment grows only with the mean"
        batch, rate = (
            self._unbounded(name) or f"{what} which the second moment dies: {_number(getattr(self, name))}"
            for name, what in (("critical_batch", "batch above"), ("critical_rate", "rate below"))
        )
        return (
            f"with noise E||(H, W)||^2 {_moves(second)}, exponent {second:.6g}, and ||E(H, W)||^2 {_moves(mean)}, "
            f"exponent {mean:.6g}\n  {batch}\n  {rate}"
        )

    def _unbounded(self, name: str) -> str:
        """What holds instead, in words, where the batch size or the rate has no threshold; else ""."""
        what = {"critical_batch": "batch size", "critical_rate": "rate"}.get(name)
        value = float(getattr(self, name)) if what else 1.0
        if what is None or 0 < value < math.inf:
            return ""
        if int(self.ending) == STOPS:
            return f"there is no threshold of the {what}, because the run stops"
        if (value == 0) == (name == "critical_batch"):
            return f"the second moment dies at any {what}"
        mean = float(self.mean_growth)
        if mean < 0:  # fresh labels are noise that no size of the batch removes
            return f"the second moment grows at any {what}, because the noise of labels suffices"
        does = "grows" if mean > 0 else "does not die"
        return f"the second moment {does} at any {what}, because the mean {does}"


def _moves(growth: float) -> str:
    return "grows" if growth > 0 else "shrinks" if growth < 0 else "stays"


def _number(value: Any) -> str:
    return f"{float(value) + 0.0:.6g}"  # no -0
