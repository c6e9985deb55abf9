"""Parameters that stay in their domain: each is a smooth function of unconstrained coordinates."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

KINDS = ("real", "positive", "interval", "simplex", "sphere")


@dataclasses.dataclass(frozen=True)
class Domain:
    """Where a parameter lives.

    kind: "real" (anything), "positive" (x = e^u), "interval" (low < x < high, a sigmoid), "simplex" (positive entries
    with sum `total`, a softmax), "sphere" (an array of Frobenius norm `total`).
    """

    kind: str
    low: float = 0.0
    high: float = 1.0
    total: float = 1.0

    def inside(self, u: jax.Array) -> jax.Array:
        """The parameter at unconstrained coordinates u.

        Example:
            >>> Domain("simplex", total=3.0).inside(jnp.zeros(3)).tolist()
            [1.0, 1.0, 1.0]
        """
        if self.kind == "positive":
            return jnp.exp(u)
        if self.kind == "interval":
            return self.low + (self.high - self.low) * jax.nn.sigmoid(u)
        if self.kind == "simplex":
            return self.total * jax.nn.softmax(u)
        if self.kind == "sphere":
            return self.total * u / jnp.sqrt(jnp.sum(u * u))
        return u

    def outside(self, x: npt.ArrayLike) -> np.ndarray:
        """Unconstrained coordinates of a parameter in its domain; the inverse of `inside`.

        Raises:
            ValueError: if x does not lie in the domain.

        Example:
            >>> Domain("interval", low=0.0, high=4.0).outside(2.0).item()
            0.0
        """
        x = np.asarray(x, float)
        if not np.all(np.isfinite(x)):
            raise ValueError(f"a start must be finite, but is {x.tolist()}.")
        if self.kind == "positive":
            self._require(bool(np.all(x > 0)), x, "above 0")
            return np.log(x)
        if self.kind == "interval":
            self._require(bool(np.all((x > self.low) & (x < self.high))), x, f"between {self.low} and {self.high}")
            return np.log((x - self.low) / (self.high - x))
        if self.kind == "simplex":
            self._require(x.ndim == 1 and bool(np.all(x > 0)), x, "a list of numbers above 0")
            self._require(math.isclose(float(x.sum()), self.total, rel_tol=1e-6), x, f"of sum {self.total}")
            logs = np.log(x)
            return logs - logs.mean()
        if self.kind == "sphere":
            self._require(bool(np.any(x != 0)), x, "an array that is not zero")
            return x * (self.total / np.linalg.norm(x))
        return x

    @staticmethod
    def _require(fine: bool, x: np.ndarray, expected: str) -> None:
        if not fine:
            shown = x.tolist() if x.size <= 8 else f"an array of shape {x.shape}"
            raise ValueError(f"a start must be {expected}, but is {shown}.")
