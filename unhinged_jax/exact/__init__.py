"""Closed forms of the dynamics."""

from unhinged_jax.exact.run import NoClosedForm as NoClosedForm
from unhinged_jax.exact.run import exact as exact
