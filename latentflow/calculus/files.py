"""Files that are never half written, and JSON that says one thing only."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latentflow.calculus.checks import describe


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


def strict_json(text: str | bytes) -> object:
    """Parse JSON in which no key occurs twice and every number is finite.

    Args:
        text: The JSON.

    Returns:
        Its contents.

    Raises:
        ValueError: If it is something else.
        RecursionError: If it is nested too deeply.

    Example:
        >>> strict_json('{"a": 1, "a": 2}')
        Traceback (most recent call last):
        ValueError: the key 'a' twice
    """
    values: object = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite)
    return values


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {describe(text)}")
    return number


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {describe(key)} twice")
        found[key] = value
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"the number {name}")
