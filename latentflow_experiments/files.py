"""Files that are never half written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file beside its place and move it there when it is complete.

    Args:
        path: Where the file goes; what is there stays as it was until the new one is on the disk.

    Yields:
        The path to write to, in the same folder.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     target = Path(folder, "note.txt")
        ...     with replacing(target) as temporary:
        ...         _ = temporary.write_text("done")
        ...     assert target.read_text() == "done" and len(list(Path(folder).iterdir())) == 1
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file that is never half written."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
