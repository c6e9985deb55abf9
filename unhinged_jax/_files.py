"""Files that appear whole or not at all, and that replace others only on request."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def placed(path: str | Path) -> Iterator[None]:
    """System errors inside that name no file, such as a full disk, name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror or os.strerror(error.errno), str(path)) from error
        raise


@contextmanager
def whole(path: str | Path, *, force: bool = True, way: str = "--force") -> Iterator[Path]:
    """A place beside `path` to write to. It becomes `path` if the block succeeds, and is removed if it fails.

    The file gets the usual permissions of a new file. Two writers do not disturb each other, and the last one wins.

    Args:
        path: The final path of the file.
        force: Replace an existing file (default); otherwise it is refused, even if it appeared meanwhile.
        way: How the caller's user asks for that.

    Raises:
        ValueError: if there is such a file and `force` is not set.
        OSError: if it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole(f"{folder}/numbers.txt") as part:
        ...         _ = part.write_text("1 2 3")
        ...     [file.name for file in Path(folder).iterdir()]
        ['numbers.txt']
    """
    path = Path(path)
    if not path.parent.is_dir():  # checked now, because later the message would name the temporary file
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(path.parent))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a file was expected, not a folder", str(path))
    if not force:
        refuse_there([path], way)
    part = path.with_name(f".{path.name[:150]}.{uuid4().hex[:12]}.part{path.suffix[:20]}")
    try:
        with placed(path):
            yield part
            with part.open("rb") as file:
                os.fsync(
                    file.fileno()
                )  # before renaming, because a power cut must not leave an empty file of that name
        if force:
            part.replace(path)
        else:
            _give_name(part, path, way)
    finally:
        part.unlink(missing_ok=True)


def _give_name(part: Path, path: Path, way: str) -> None:
    """Rename without replacing."""
    try:
        os.link(part, path)
    except FileExistsError:
        refuse_there([path], way)
    except OSError:  # a file system without links
        refuse_there([path], way)
        part.replace(path)


def refuse_there(paths: Iterable[Path], way: str = "--force") -> None:
    """Raise ValueError if any of the files exists, because nothing is replaced unless that is asked for."""
    found = [str(path) for path in paths if path.exists() or path.is_symlink()]
    if found:
        names = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
        are = "is there already; replace it" if len(found) == 1 else "are there already; replace them"
        raise ValueError(f"{names} {are} with {way}, or choose another place.")


def make_folder(path: str | Path) -> None:
    """Make a folder and its parents, also behind a symbolic link whose target may not exist yet.

    Raises:
        OSError: if it cannot be made.
    """
    Path(path).resolve().mkdir(parents=True, exist_ok=True)


def make_room(
    folder: Path, names: Iterable[str], what: str, *, force: bool = False, resume: bool = False, needs: str = ""
) -> list[str]:
    """Make a folder for files of these names, and say which of them are there.

    Args:
        folder: Made if needed, with those above it.
        names: Files and folders that belong to one result.
        what: What that is, such as "a run".
        force: They may be replaced.
        resume: They are gone on with, and there must be one of the name `needs`.

    Raises:
        ValueError: if there are some and neither is set, or if there is nothing to go on with.
        OSError: if the folder cannot be made.
    """
    found = [name for name in names if (folder / name).exists()]
    if found and not (force or resume):
        more = ", go on with --resume" if needs else ""
        raise ValueError(
            f"{folder} already holds {what} ({', '.join(found)}); replace it with --force{more}, or choose another "
            "folder."
        )
    if resume and needs not in found:
        raise ValueError(f"{folder} holds no {needs} to resume from; run without --resume first.")
    make_folder(folder)
    return found
