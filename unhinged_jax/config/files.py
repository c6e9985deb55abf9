"""Arrays and functions that a file names."""

from __future__ import annotations

import hashlib
import importlib
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unhinged_jax.config.sections import Array


class Files:
    """Arrays and functions that the file names; relative to its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digests: dict[str, str] = {}

    def array(self, name: str, value: Array) -> np.ndarray:
        """An array given in place or by path; a traced one, of a design, passes as it is."""
        if isinstance(value, jax.core.Tracer):
            return value
        if isinstance(value, list):
            try:
                array = np.asarray(value)
            except ValueError:
                raise ValueError(f"{name} must have rows of one length.") from None
        else:
            array = self._load(name, value)
        if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
            raise ValueError(f"{name} must hold numbers, but holds {array.dtype}.")
        return array

    def _load(self, name: str, spec: str) -> np.ndarray:
        file, key = spec, ""
        if ".npz:" in spec:
            file, _, key = spec.rpartition(":")
        path = self.folder / file
        if path.suffix not in (".npy", ".npz"):
            raise ValueError(f"{name} must be the path of a .npy or .npz file, but is {spec!r}.")
        try:
            self.digests[file] = hashlib.sha256(path.read_bytes()).hexdigest()
            loaded = np.load(path, allow_pickle=False)
        except OSError as error:
            raise ValueError(f"{name}: cannot read {path}: {error.strerror or error}") from error
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{name}: {path} is not a file of plain arrays: {error}") from error
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            if not key and len(loaded.files) == 1:
                key = loaded.files[0]
            if key not in loaded.files:
                found = ", ".join(loaded.files)
                raise ValueError(f"{name}: say which array of {path} to take, as {file}:KEY; it has {found}.")
            return loaded[key]

    def function(self, spec: str) -> Callable:
        """The callable "module:name"; modules beside the file are found, too."""
        module, _, name = spec.partition(":")
        sys.path.insert(0, str(self.folder.resolve()))
        try:
            found: Any = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{spec!r} cannot be imported: {error}") from error
        finally:
            sys.path.remove(str(self.folder.resolve()))
        if not callable(found):
            raise ValueError(f"{spec!r} is not callable.")
        return found
