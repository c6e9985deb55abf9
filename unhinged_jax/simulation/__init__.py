"""Simulation: diffrax integrates flows, and a compiled loop of optax updates runs descents."""

from unhinged_jax.simulation.run import check_adjoint as check_adjoint
from unhinged_jax.simulation.run import crossing as crossing
from unhinged_jax.simulation.run import modes_explained as modes_explained
from unhinged_jax.simulation.run import scale_must_fit as scale_must_fit
from unhinged_jax.simulation.run import simulate as simulate
