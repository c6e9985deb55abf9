"""Choosing by gradient: schedules, decays, weights, prototypes that make training end where it should."""

from unhinged_jax.designs.optimise import DesignOutcome as DesignOutcome
from unhinged_jax.designs.optimise import design as design
from unhinged_jax.designs.plan import DesignPlan as DesignPlan
