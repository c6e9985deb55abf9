"""`python -m unhinged_jax.cli`."""

import sys

from unhinged_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
