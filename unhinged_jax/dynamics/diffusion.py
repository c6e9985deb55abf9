"""The stochastic differential equation whose noise is that of a descent on batches, or with labels drawn again."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from unhinged_jax import _check
from unhinged_jax.dynamics.rates import Rated, check_draws, settle


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Diffusion(Rated):
    """The diffusion that a stochastic descent approaches at small rates: dZ = eta r (-dL/dZ) dt + eta r B(Z) dw.

    B B^T is the covariance of the gradient of a batch, or of the gradient for labels that are drawn again. Time counts
    updates: `Diffusion(schedule, batch=m)` at time t stands beside `Descent(schedule, batch=m)` after t updates, and
    beside `Flow(schedule)` at time t, which is its mean if the loss is linear. In tau, the integral of eta, it reads
    dZ = r (-dL/dZ) dtau + sqrt(eta) r B(Z) dw: the rate is the temperature of the noise. Expectations differ from those
    of the descent by a multiple of eta.

    `simulate` makes Euler-Maruyama steps, each for n normal numbers (n C more with fresh labels) and one gradient of
    all samples; with fresh labels and a loss that is not linear, one of C losses of the same logits. Their expectations
    differ from those of the diffusion by a multiple of eta times `step`; with step 1, the first two moments under a
    linear loss are those of the descent itself. `exact` gives expectations of the diffusion itself, without steps.

    Attributes:
        schedule: eta(t), as for a `Flow`. Default 1.
        rate_H, rate_W: r_1 and r_2 (default 1), numbers or schedules.
        rate_b: The rate of the biases, a number or a schedule; None (default): that of W.
        batch: m, the size of the batches whose noise it is, a number above 0 that need not be whole; None (default):
            all samples, without noise of their own.
        replacement: Whether the samples of a batch are drawn with replacement (True, default) or without (False), which
            makes the noise smaller by (n - m)/(n - 1).
        fresh_labels: Whether there is the noise of labels that are drawn again all the time, from the targets, as those
            of `labels.symmetric_noise(rate)`.
        step: Length of a step of `simulate`, as a time. Times are multiples of it. Default 0.1.
        halvings: How many times the steps of a coarser run were halved that follows the same Brownian path; see
            `finer`. Default 0.

    Raises:
        ValueError: for a rate, batch or step that is not above 0; for batches of epochs, whose noise has a memory; and,
            when it runs, for neither a batch nor fresh labels.

    Source: Li, Tai & E 2017 and 2019 (the equation and its order); exact moments beyond the papers.

    Example:
        >>> import unhinged_jax as uj
        >>> model = uj.regularized(uj.balanced(classes=3, per_class=4), dim=5, decay=0.1)
        >>> state, diffusion = model.init(jax.random.key(0)), Diffusion(0.1, batch=4)
        >>> path = uj.simulate(model, diffusion, state, [0, 1.5, 30], ["norm"], key=jax.random.key(1))
        >>> path["norm"].shape, int(path.steps)
        ((3,), 300)
    """

    schedule: Any = 1.0
    rate_H: Any = 1.0
    rate_W: Any = 1.0
    rate_b: Any = None
    batch: Any = None
    replacement: bool | str = dataclasses.field(default=True, metadata={"static": True})
    fresh_labels: bool = dataclasses.field(default=False, metadata={"static": True})
    step: float = dataclasses.field(default=0.1, metadata={"static": True})
    halvings: int = dataclasses.field(default=0, metadata={"static": True})

    momentum, optimizer, nesterov, memory = None, None, False, None  # a run carries nothing from step to step

    def __post_init__(self) -> None:
        settle(self)
        if isinstance(self.replacement, str) and self.replacement == "epochs":
            raise ValueError(
                "batches of one epoch depend on one another, so their noise is no diffusion; give replacement=True or "
                "False, or use Descent."
            )
        check_draws(self.batch, self.replacement, self.fresh_labels)
        if not _check.concrete(self.step):
            raise ValueError("the step of a Diffusion must be known when it is compiled, but it is traced.")
        _check.positive("step", self.step)
        if np.ndim(self.step):
            raise ValueError(f"step must be one number, but got {_check.given(self.step)}.")
        object.__setattr__(self, "step", float(self.step))
        _check.whole("halvings", self.halvings, 0, 30)

    @property
    def stochastic(self) -> bool:
        """Whether there is noise. A run without any is refused."""
        return self.batch is not None or self.fresh_labels

    def finer(self) -> Diffusion:
        """The same diffusion in steps of half the length, which follow the same Brownian path for the same key.

        The path of the coarser run is divided by Brownian bridges, as in a virtual Brownian tree. A step costs one more
        draw of its normal numbers for each halving.

        Source: Lévy's construction of Brownian motion; as a tree without memory Li, Wong, Chen & Duvenaud 2020.

        Example:
            >>> Diffusion(0.1, batch=4, step=1.0).finer().step
            0.5
        """
        return dataclasses.replace(self, step=self.step / 2, halvings=self.halvings + 1)
