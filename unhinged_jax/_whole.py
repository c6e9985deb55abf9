"""Files that are there whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A place beside `path` to write to: it becomes `path` when the block ends well, and is gone when it does not.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole(f"{folder}/numbers.txt") as part:
        ...         _ = part.write_text("1 2 3")
        ...     [file.name for file in Path(folder).iterdir()]
        ['numbers.txt']
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
