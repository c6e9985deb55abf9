"""The command line. Nothing here imports JAX before a command needs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclopts import CycloptsError

from unhinged_jax.cli import checks, networks, runs, sweeps  # noqa: F401  (they register their commands)
from unhinged_jax.cli.application import app

__all__ = ["app", "main"]

BAD_INPUT, INTERRUPTED = 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments after the program's name; default those of the process.

    Returns:
        Exit status. Bad input is one line on standard error and status 1.

    Source: beyond the paper.

    Example:
        >>> main(["--version"])  # doctest: +SKIP
        0
    """
    try:
        status = app(
            None if argv is None else list(argv),
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except (CycloptsError, ValueError, OSError) as error:
        return _complain(error)
    except KeyboardInterrupt:
        print("unhinged: interrupted; results that were there are unchanged.", file=sys.stderr)
        return INTERRUPTED
    return status if isinstance(status, int) else 0


def _complain(error: Exception) -> int:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    print("unhinged: error:", " ".join(text.split()) or type(error).__name__, file=sys.stderr)
    return BAD_INPUT
