"""Arrays and functions that a file names. A configuration from a store is data; it opens and runs nothing."""

from __future__ import annotations

import ast
import hashlib
import importlib
import io
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from unhinged_jax import _check
from unhinged_jax.config.sections import Array

_UNREADABLE = (ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
_HELD: ContextVar[Mapping[str, Any] | None] = ContextVar("held", default=None)


class NotHeld(Exception):
    """A configuration that is data names an array whose numbers are missing. It is not a ValueError, because it is not
    a mistake."""


@contextmanager
def only_data(arrays: Mapping[str, Any]) -> Iterator[None]:
    """Build a configuration from a store without importing anything or opening any file.

    Functions are replaced by one that cannot be called, rates and times are left out, and an array named by its path is
    the one stored under that name.

    Args:
        arrays: Name in the configuration -> numbers.
    """
    before = _HELD.set(arrays)
    try:
        yield
    finally:
        _HELD.reset(before)


def _stand_in(*_: Any, **__: Any) -> Any:
    raise NotHeld("this function is named by a store, which is data; it is not imported.")


class Files:
    """Arrays and functions that the file names; relative to its folder.

    Attributes:
        digests: SHA-256 of every file that was read.
        arrays: The arrays that were read, by their names in the configuration.
        data: Whether importing and opening files is forbidden; see `only_data`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digests: dict[str, str] = {}
        self.arrays: dict[str, np.ndarray] = {}
        self._held = _HELD.get()
        self.data = self._held is not None

    def array(self, name: str, value: Array) -> np.ndarray:
        """An array given as numbers or by path; a traced one, of a design, is returned unchanged."""
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
        if self._held is not None:
            if spec not in self._held:
                raise NotHeld(f"{name}: the numbers of {spec!r} are not held.")
            return np.asarray(self._held[spec])
        file, key = spec, ""
        if ".npz:" in spec:
            file, _, key = spec.rpartition(":")
        path = self.folder / file
        if path.suffix not in (".npy", ".npz"):
            raise ValueError(f"{name} must be the path of a .npy or .npz file, but is {spec!r}.")
        try:
            raw = path.read_bytes()  # read once, so that the digest is that of the numbers used
            self.digests[file] = hashlib.sha256(raw).hexdigest()
            loaded = np.load(io.BytesIO(raw), allow_pickle=False)
        except OSError as error:
            raise ValueError(f"{name}: cannot read {path}: {error.strerror or error}") from error
        except _UNREADABLE as error:
            raise ValueError(f"{name}: {path} is not a file of plain arrays: {error}") from error
        self.arrays[spec] = loaded if isinstance(loaded, np.ndarray) else self._member(name, loaded, path, file, key)
        return self.arrays[spec]

    @staticmethod
    def _member(name: str, loaded: np.lib.npyio.NpzFile, path: Path, file: str, key: str) -> np.ndarray:
        with loaded:
            if not key and len(loaded.files) == 1:
                key = loaded.files[0]
            found = ", ".join(loaded.files)
            if key and key not in loaded.files:
                guess = _check.nearest(key, loaded.files) or "."
                raise ValueError(f"{name}: {path} has no array {key!r}{guess} It has {found}.")
            if not key:
                raise ValueError(f"{name}: say which array of {path} to take, as {file}:KEY; it has {found}.")
            try:
                array: np.ndarray = loaded[key]
            except _UNREADABLE as error:
                raise ValueError(f"{name}: {path} is not a file of plain arrays: {error}") from error
            return array

    def function(self, spec: str) -> Callable:
        """The callable "module:name"; modules beside the file are also found."""
        if self.data:
            return _stand_in
        module, _, name = spec.partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
            raise ValueError(f"a function is given as 'module:function', but got {spec!r}.")
        folder = self.folder.resolve()
        sys.path.insert(0, str(folder))
        try:
            _forget_elsewhere(module.partition(".")[0], folder)
            found: Any = importlib.import_module(module)
            self._note(found, folder)
            for part in name.split("."):
                found = getattr(found, part)
        except Exception as error:  # any exception that a module raises while it is imported
            raise ValueError(f"{spec!r} cannot be imported: {type(error).__name__}: {error}") from error
        finally:
            sys.path.remove(str(folder))
        if not callable(found):
            raise ValueError(f"{spec!r} is not callable.")
        return found

    def _note(self, module: ModuleType, folder: Path) -> None:
        """A module beside the file is an input like a file of arrays, and so are those that it imports from there."""
        file, first = Path(getattr(module, "__file__", None) or "built in").resolve(), module.__name__.partition(".")[0]
        if not file.is_relative_to(folder) or file.relative_to(folder).parts[0] not in (first, f"{first}.py"):
            return
        sources: dict[Path, str] = {}
        _add_source(file, folder, sources)
        self.digests |= {source.relative_to(folder).as_posix(): digest for source, digest in sources.items()}
        _BESIDE.setdefault(first, {"": str(folder)}).update({str(source): found for source, found in sources.items()})


_BESIDE: dict[str, dict[str, str]] = {}
"""Modules that were found beside a file: its folder, and the digests of their sources and of what they import."""


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def _add_source(file: Path, folder: Path, sources: dict[Path, str]) -> None:
    """Add the digest of a source, and those of the sources in the folder that its import statements name."""
    if file in sources or file.suffix != ".py" or not file.is_file():
        return
    raw = file.read_bytes()
    sources[file] = hashlib.sha256(raw).hexdigest()
    for base, name in _imports(raw, file, folder):
        place = base
        for part in filter(None, name.split(".")):
            place = place / part
            _add_source(place / "__init__.py", folder, sources)
            _add_source(place.with_suffix(".py"), folder, sources)


def _imports(source: bytes, file: Path, folder: Path) -> Iterator[tuple[Path, str]]:
    """The modules that a source may import: where they are looked for, and their dotted names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [".".join(filter(None, (node.module, alias.name))) for alias in node.names]
        else:
            continue
        level = node.level if isinstance(node, ast.ImportFrom) else 0
        base = file.parents[level - 1] if level else folder
        yield from ((base, name) for name in names if name.partition(".")[0] != _OURS and base.is_relative_to(folder))


_OURS = __name__.partition(".")[0]  # a file may lie in a checkout of this package


def _forget_elsewhere(name: str, folder: Path) -> None:
    """Python keeps one module per name; a module that was found beside another file, or has changed, is loaded
    again."""
    known = _BESIDE.get(name)
    if known is None or (
        known[""] == str(folder) and all(_digest(Path(file)) == held for file, held in known.items() if file)
    ):
        return
    del _BESIDE[name]
    for other, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if other == name or other.startswith(f"{name}.") or (file and str(Path(file).resolve()) in known):
            del sys.modules[other]
    importlib.invalidate_caches()
