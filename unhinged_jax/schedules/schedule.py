"""What every schedule is: a rate and its integral, on checked times."""

from __future__ import annotations

import abc

from jax import Array
from jax.typing import ArrayLike

from unhinged_jax._values import RegisteredValue
from unhinged_jax.schedules.checks import checked_times
from unhinged_jax.schedules.quadrature import Number


class Schedule(RegisteredValue, abc.ABC):
    """A learning rate eta(t) >= 0 for t >= 0, with its integral.

    Times that are not traced are checked: a negative, infinite or NaN time raises `ValueError`.
    """

    def __call__(self, t: ArrayLike) -> Array:
        """The rate eta(t), continuous from the right where it jumps.

        Args:
            t: times or integer step counts, any shape.

        Returns:
            Rates, of the shape of `t`.
        """
        return self._rate(checked_times(t))

    def integral(self, t: ArrayLike) -> Array:
        """The integrated rate zeta(t) = int_0^t eta(s) ds.

        Args:
            t: times or integer step counts, any shape, in any order.

        Returns:
            Integrals, of the shape of `t`; their derivative with respect to `t` is eta(t).
        """
        return self._integral(checked_times(t))

    @property
    @abc.abstractmethod
    def breaks(self) -> tuple[Number, ...]:
        """Times, ascending, at which eta is not smooth."""

    @abc.abstractmethod
    def _rate(self, t: Array) -> Array: ...

    @abc.abstractmethod
    def _integral(self, t: Array) -> Array: ...
