"""What every run returns: the record of a run, its tables, the file that holds it, and runs that are joined."""

from unhinged_jax.trajectory.chain import concat
from unhinged_jax.trajectory.files import load
from unhinged_jax.trajectory.results import STEPS, Asked, Remark, RunResult, batch_message
from unhinged_jax.trajectory.run import Trajectory

__all__ = ["STEPS", "Asked", "Remark", "RunResult", "Trajectory", "batch_message", "concat", "load"]
