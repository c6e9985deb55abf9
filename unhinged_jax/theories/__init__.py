"""Known results on learning dynamics and minimisers, each run, checked and drawn by `unhinged theories`."""

from unhinged_jax.theories.registry import THEORIES as THEORIES
from unhinged_jax.theories.registry import run as run
from unhinged_jax.theories.theory import Check as Check
from unhinged_jax.theories.theory import Finding as Finding
from unhinged_jax.theories.theory import Theory as Theory
