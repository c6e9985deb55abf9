"""The command line. Nothing here imports JAX before a command needs it."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from collections.abc import Sequence

from cyclopts import CycloptsError

from unhinged_jax import _interrupt
from unhinged_jax._garbage import rarely_collected
from unhinged_jax.cli import checks, keys, networks, runs, sweeps  # noqa: F401  (they register their commands)
from unhinged_jax.cli.application import app
from unhinged_jax.cli.cache import keep_programs

__all__ = ["app", "main"]

BAD_INPUT = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments after the program's name; default those of the process.

    Returns:
        Exit status. Bad input is one line on standard error and status 1; interrupted by Ctrl-C, SIGTERM or SIGHUP it
        is 130, 143 or 129; if nobody reads its output to the end, as with `| head`, it is 141.

    Source: beyond the paper.

    Example:
        >>> main(["--version"])  # doctest: +SKIP
        0
    """
    for name in ("COLUMNS", "LINES"):
        if os.environ.get(name, "").strip("0 ") == "":
            os.environ.pop(name, None)  # a terminal of no size: as if nothing were said of it
    keep_programs(sys.argv[1:] if argv is None else argv)
    atexit.register(gc.freeze)  # else Python searches what was imported for garbage once more, for a tenth of a second
    with _interrupt.heeded(), rarely_collected():
        try:
            status = app(
                None if argv is None else list(argv),
                exit_on_error=False,
                print_error=False,
                result_action="return_value",
            )
            sys.stdout.flush()
        except BrokenPipeError as error:
            return _interrupt.told(error) if _interrupt.struck() else _unread()
        except (CycloptsError, ValueError, OSError) as error:
            return _interrupt.told(error) if _interrupt.struck() else _complain(error)
        except KeyboardInterrupt as error:
            return _interrupt.told(error)
        except Exception as error:
            from unhinged_jax import _memory

            if not (said := _memory.out_of_memory(error)):
                raise
            return _complain(MemoryError(said))
    return status if isinstance(status, int) else 0


def _unread() -> int:
    """Nobody reads the output any more, which is no error: the status of a program that a closed pipe ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:  # Python would try again at its end, and say so
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return 128 + signal.SIGPIPE


def _complain(error: Exception) -> int:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    print("unhinged: error:", " ".join(text.split()) or type(error).__name__, file=sys.stderr)
    return BAD_INPUT
