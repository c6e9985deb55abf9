"""Sweeps: from one run to a million, resumable, labelled."""

from unhinged_jax.sweeps.plan import SweepPlan as SweepPlan
from unhinged_jax.sweeps.read import open_sweep as open_sweep
from unhinged_jax.sweeps.run import SweepIncomplete as SweepIncomplete
from unhinged_jax.sweeps.run import sweep as sweep
