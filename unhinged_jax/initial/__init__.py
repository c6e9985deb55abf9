"""Initial features and prototypes, random or given by a published generator.

Two kinds of draw live here. ``normal``, ``kaiming_uniform``, ``kaiming_normal``, ``simplex_etf``, ``orthoplex``,
``softmax_code``, ``group_prototypes``, ``balanced_partner`` and ``spectral_factors`` take a JAX key and, but for a
code that is looked for, work under ``jit`` and ``vmap``, in the current precision. ``torch_cpu_normal`` and
``cuda_uniform`` repeat, in NumPy and always in float64, the streams of two PyTorch generators, because the numerical
experiments of Zhou et al. (2023) start from them; ``paper_features``, ``paper_prototypes`` and ``paper_anchors`` are
those starts.
"""

from unhinged_jax.initial.balanced import balanced_partner
from unhinged_jax.initial.draws import kaiming_normal, kaiming_uniform, normal, simplex_etf
from unhinged_jax.initial.frames import orthoplex, softmax_code
from unhinged_jax.initial.group_starts import group_prototypes
from unhinged_jax.initial.paper import paper_anchors, paper_features, paper_prototypes
from unhinged_jax.initial.spectral import spectral_factors
from unhinged_jax.initial.streams import cuda_uniform, torch_cpu_normal

__all__ = [
    "balanced_partner",
    "cuda_uniform",
    "group_prototypes",
    "kaiming_normal",
    "kaiming_uniform",
    "normal",
    "orthoplex",
    "paper_anchors",
    "paper_features",
    "paper_prototypes",
    "simplex_etf",
    "softmax_code",
    "spectral_factors",
    "torch_cpu_normal",
]
