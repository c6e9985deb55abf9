"""Where a run goes, how fast it gets there, and whether it grows or shrinks on the way."""

from unhinged_jax.limits.result import Limit as Limit
from unhinged_jax.limits.result import Survivors as Survivors
from unhinged_jax.limits.run import limit as limit
