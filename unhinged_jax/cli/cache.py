"""Compiled programs that outlive a command, so that the next command does not compile them again.

They lie in the user's cache folder, one folder for each kind of processor, because a program compiled for one may stop
another with an illegal instruction. The names of the files hold the versions of JAX and XLA. When the cache is full,
the programs that have gone unused for the longest time are removed. All of this is JAX's persistent compilation cache;
here it is only switched on, for a process of its own. Beside it lie programs as they were traced (`_request.kept`).
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path

MOST_BYTES = 512 * 1024**2


def keep_programs(arguments: Sequence[str]) -> None:
    """Switch the cache on for this process and those that it starts, unless `UNHINGED_CACHE` is "off".

    `UNHINGED_CACHE` may also name another folder. Nothing happens if JAX has been imported already or its own cache has
    been set up.

    Args:
        arguments: Those of the command, to see whether it runs code of its user.
    """
    wish = os.environ.get("UNHINGED_CACHE", "")
    if wish.lower() in ("off", "0", "no", "false") or "jax" in sys.modules or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = (Path(wish).expanduser() if wish else _user_folder()) / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written to; the command does not need it
        return
    if not os.access(folder, os.W_OK):
        return
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(MOST_BYTES),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
    }
    if not any(map(_names_code, arguments)):
        # JAX does not keep a program that may raise a Python error, as diffrax' checks of the times of a flow do. With
        # this setting times out of order give NaN instead; commands check them before. Errors in code of the user would
        # become NaN as well, so the setting is left alone where there is any.
        settings["EQX_ON_ERROR"] = "nan"
        settings["UNHINGED_WHOLE_PROGRAMS"] = str(folder / "whole")  # only programs that raise nothing can be kept
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    # On CPUs, XLA reports two preferences of its own compiler as missing features of the processor whenever it loads a
    # program (openxla/xla#44565). Errors still reach Python. "1" is what JAX itself sets, perhaps in a parent process.
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def _names_code(argument: str) -> bool:
    """Whether an argument is a file that names a function of its own, as "module:name"."""
    try:
        text = Path(argument).read_text(encoding="utf-8") if argument.endswith(".toml") else argument
    except (OSError, ValueError):
        return False
    return re.search(r"""["'][\w./]+:[A-Za-z_]\w*["']""", text) is not None


def _user_folder() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("unhinged_jax") / "programs"


def _processor() -> str:
    """A name for the kind of this processor: machine, model and instructions."""
    told = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    known = dict(line.partition(":")[::2] for line in reversed(lines))  # of the first processor
    told += [value for name, value in sorted(known.items()) if name.strip() in ("model name", "flags", "Features")]
    return f"{platform.machine()}-{hashlib.sha256(' '.join(told).encode()).hexdigest()[:12]}"
