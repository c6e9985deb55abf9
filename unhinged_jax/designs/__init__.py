"""Choosing schedules, decays, weights or prototypes by gradient, so that training ends where it should."""

from unhinged_jax.designs.optimise import DesignOutcome as DesignOutcome
from unhinged_jax.designs.optimise import design as design
from unhinged_jax.designs.plan import DesignPlan as DesignPlan
