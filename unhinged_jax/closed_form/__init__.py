"""Closed forms of the dynamics."""

from unhinged_jax.closed_form.run import NoClosedForm as NoClosedForm
from unhinged_jax.closed_form.run import exact as exact
