"""Check a request to run a problem and prepare it: what `simulate`, `exact` and similar functions do first."""

from unhinged_jax._request.checks import check_kinds
from unhinged_jax._request.going_on import each_member, one_at_a_time
from unhinged_jax._request.request import Task, prepare
from unhinged_jax.precision import traceable

__all__ = ["Task", "check_kinds", "each_member", "one_at_a_time", "prepare", "traceable"]
