"""The experiments of the paper's Section 4 and beyond it, as shipped configurations."""

from unhinged_jax.training.experiments.plan import SHIPPED as SHIPPED
from unhinged_jax.training.experiments.plan import Experiment as Experiment
from unhinged_jax.training.experiments.run import run_experiment as run_experiment
