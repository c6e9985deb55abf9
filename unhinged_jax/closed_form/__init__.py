"""The closed form of every linear dynamics and of spherical features: what `exact` evaluates."""

from unhinged_jax.closed_form.existence import NoClosedForm as NoClosedForm
from unhinged_jax.closed_form.run import exact as exact
