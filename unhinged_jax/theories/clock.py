"""Time counted in decades."""

from __future__ import annotations

import diffrax
import numpy as np

from unhinged_jax.dynamics import Flow
from unhinged_jax.schedules import exponential


def in_log_time(decades: int, per_decade: int = 8, rtol: float = 1e-7) -> tuple[Flow, np.ndarray]:
    """A flow in s = log(1 + t), eta(s) = e^s, with an implicit solver, and times s, evenly spaced.

    Losses with an infimum at infinity slow down like 1/t, so in log t their flow moves at a constant rate. Directions
    that relax quickly make it stiff, which an implicit solver tolerates.

    Args:
        decades: Last time is 10^decades.
        per_decade: Times in each decade, besides 0.
        rtol: Tolerance of the solver, relative and absolute. In s the velocity is t times a gradient, so its rounding
            is t times that of the gradient, 1e-6 after ten decades: below that the solver only follows noise.

    Returns:
        The flow, and the times s at which to observe; `numpy.expm1(s)` is t.

    Example:
        >>> flow, times = in_log_time(10)
        >>> bool(np.isclose(np.expm1(times[-1]), 1e10))
        True
    """
    flow = Flow(exponential(1.0, rate=-1.0), solver=diffrax.Kvaerno5(), rtol=rtol, atol=rtol)
    last = np.log1p(10.0**decades)
    return flow, np.linspace(0.0, last, per_decade * decades + 1)
