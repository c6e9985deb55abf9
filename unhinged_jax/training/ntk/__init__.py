"""The neural tangent kernel of a real network, and the exact prediction of its training under the unhinged loss.

A network maps inputs (n, ...) to features (n, p). While its Jacobian J stays what it is at the start, its features obey
H' = r1 eta J J^T vec(M W): the layer-peeled model with the kernel J J^T, which `exact` solves.
"""

from unhinged_jax.training.ntk.descent import descend as descend
from unhinged_jax.training.ntk.kernels import Network as Network
from unhinged_jax.training.ntk.kernels import class_averages as class_averages
from unhinged_jax.training.ntk.kernels import class_mean_kernel as class_mean_kernel
from unhinged_jax.training.ntk.kernels import empirical_kernel as empirical_kernel
from unhinged_jax.training.ntk.kernels import ntk_network as ntk_network
from unhinged_jax.training.ntk.kernels import per_sample as per_sample
from unhinged_jax.training.ntk.prediction import FORMS as FORMS
from unhinged_jax.training.ntk.prediction import class_mean_problem as class_mean_problem
from unhinged_jax.training.ntk.prediction import predict as predict
