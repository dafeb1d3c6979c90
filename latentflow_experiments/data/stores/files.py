"""What files are known by: their hash, and the mark of a stand-in."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from latentflow_experiments.data.originals import PublicFile
from latentflow_experiments.errors import DataError

__all__ = ["file_sha256", "published_faults", "read_mark"]


def file_sha256(path: Path) -> str:
    """Hash a file.

    Args:
        path: The file.

    Returns:
        Its SHA-256, 64 hexadecimal digits.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: expected a readable file, got {error}") from error


def published_faults(path: Path, published: PublicFile) -> list[str]:
    """Compare a file with the published one.

    Args:
        path: The file.
        published: By what the published file is known.

    Returns:
        What is wrong: nothing, or one line.
    """
    try:
        found = file_sha256(path)
    except DataError as error:
        return [str(error)]
    if found == published.sha256:
        return []
    return [f"{path}: expected the published file with SHA-256 {published.sha256}, got {found}"]


def read_mark(text: str, path: Path) -> dict[str, object]:
    """Read what a stand-in says of its making.

    Args:
        text: JSON.
        path: Where it is from.

    Returns:
        Its contents.

    Raises:
        DataError: If it is not a JSON object.
    """
    try:
        mark = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: expected JSON in the mark of a stand-in, got {error}") from error
    if not isinstance(mark, dict):
        raise DataError(f"{path}: expected a JSON object in the mark of a stand-in, got {mark!r}")
    return mark
