"""Compile with little optimization, where programs are many and each runs for milliseconds."""

import os
import subprocess
import sys

_FLAGS = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)


def compile_with_little_optimization():
    """Set the flags for this process, before its first use of JAX, and for those that it starts.

    A version of XLA that does not know a flag ends the process, so another one tries them.
    """
    if "XLA_FLAGS" in os.environ:
        return
    trial = [sys.executable, "-c", "import jax; jax.numpy.zeros(1)"]
    if subprocess.run(trial, env={**os.environ, "XLA_FLAGS": _FLAGS}, capture_output=True, check=False).returncode == 0:
        os.environ["XLA_FLAGS"] = _FLAGS
