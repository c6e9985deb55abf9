"""Derivatives of the dynamics: sensitivities to parameters and starts, the flow map, event times, limits, the
Hessian."""

from unhinged_jax.derivatives.event_searches import EventTime as EventTime
from unhinged_jax.derivatives.event_times import event_time as event_time
from unhinged_jax.derivatives.exponents import Lyapunov as Lyapunov
from unhinged_jax.derivatives.exponents import exact_exponents as exact_exponents
from unhinged_jax.derivatives.exponents import lyapunov as lyapunov
from unhinged_jax.derivatives.flow_map import push_forward as push_forward
from unhinged_jax.derivatives.hessian import hessian_spectrum as hessian_spectrum
from unhinged_jax.derivatives.limits import limit_sensitivity as limit_sensitivity
from unhinged_jax.derivatives.limits import one_sided as one_sided
from unhinged_jax.derivatives.parameters import Parameter as Parameter
from unhinged_jax.derivatives.parameters import available as available
from unhinged_jax.derivatives.sensitivities import disagreement as disagreement
from unhinged_jax.derivatives.sensitivities import sensitivity as sensitivity
