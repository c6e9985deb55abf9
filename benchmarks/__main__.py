"""`python -m benchmarks`."""

import os
import sys

# Read when JAX is imported. A share of the memory of an accelerator must be left to the peers that use it too.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from benchmarks.cli import main

if __name__ == "__main__":
    sys.exit(main())
