"""The certificate: simulation compared with closed form, over every case, dynamics and precision."""

from unhinged_jax.certificate.cases import problems
from unhinged_jax.certificate.command import certificate, main

__all__ = ["certificate", "main", "problems"]
