"""What programs are compiled for."""

import jax


def on_accelerator() -> bool:
    """Whether programs are compiled for an accelerator by default: there an operation on a few numbers takes as long as
    its launch, and a branch waits for the host. This decides about speed alone, never about a number."""
    return jax.default_backend() != "cpu"
