"""Packages that only training needs."""

from __future__ import annotations

import importlib
from typing import Any


class NotInstalled(ValueError):
    """An optional package is missing; the message says how to install it."""


def require(module: str) -> Any:
    """An optional module.

    Raises:
        NotInstalled: naming the command that installs it.

    Example:
        >>> require("json").dumps([])
        '[]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise NotInstalled(
            f"{module.split('.')[0]} is needed here but not installed; run pip install 'unhinged-jax[train]'."
        ) from error
