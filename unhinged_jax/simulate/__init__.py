"""Simulation: diffrax for flows, optax updates in a compiled loop for descents."""

from unhinged_jax.simulate.run import simulate as simulate
