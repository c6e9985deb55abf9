"""Sweeps: from one run to a million, resumable, labelled."""

from unhinged_jax.sweep.plan import Plan as Plan
from unhinged_jax.sweep.read import open_sweep as open_sweep
from unhinged_jax.sweep.run import SweepIncomplete as SweepIncomplete
from unhinged_jax.sweep.run import sweep as sweep
