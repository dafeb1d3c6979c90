"""Files from elsewhere: opened only if they are files, read only as far as they should go, and never trusted."""

from __future__ import annotations

import io
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from PIL import Image

from latentflow.calculus.files import strict_json

if TYPE_CHECKING:
    from latentflow_experiments.data.factors import Family
from latentflow_experiments.errors import DataError, printable

__all__ = [
    "BROKEN",
    "MARK_BYTES",
    "brief",
    "check_size",
    "open_regular",
    "parse_mark",
    "parse_object",
    "read_limited",
    "reading",
]

BROKEN = (
    OSError,
    ValueError,  # also UnicodeDecodeError and json.JSONDecodeError
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    BufferError,
    MemoryError,
    RuntimeError,  # also RecursionError, NotImplementedError
    SyntaxError,  # of a header that is a Python literal, and of PIL
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    Image.DecompressionBombError,
)
"""What the readers of npz, HDF5, PNG, gzip and JSON raise when a file is broken."""

MARK_BYTES = 2**20
"""The largest size of what a stand-in says of its making."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_SLACK = 2**26  # bytes that a file may have beyond its images: labels, names, descriptions


def brief(value: object, longest: int = 300) -> str:
    """Show a value from a file in a message: what it is, in one line that is not long.

    Args:
        value: The value, or the error that says what is wrong.
        longest: The largest number of characters.

    Returns:
        Its text; of an error without a text the name of its class.

    Example:
        >>> brief([1] * 1000, longest=12), brief(MemoryError())
        ('[1, 1, 1,...', 'MemoryError')
    """
    if isinstance(value, BaseException):
        return printable(str(value) if any(value.args) else type(value).__name__, longest)
    return printable(repr(value), longest)


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Turn whatever a broken file raises into one line with its name.

    Args:
        path: The file.
        expected: What it should be.

    Raises:
        DataError: For each of :data:`BROKEN`; another ``DataError`` is passed on.

    Example:
        >>> with reading(Path("a.npz"), "a number"):
        ...     int("one")
        Traceback (most recent call last):
        latentflow_experiments.errors.DataError: a.npz: expected a number, got invalid literal for int() with ...
    """
    try:
        yield
    except BROKEN as error:
        raise DataError(f"{path}: expected {expected}, got {brief(error)}") from error


def open_regular(path: Path, flags: int = os.O_RDONLY) -> io.BufferedReader:
    """Open a file that is a file: a pipe, which would wait for ever, a device, a socket or a folder is refused.

    Args:
        path: The file, or a link to it.
        flags: How to open it, as for :func:`os.open`.

    Returns:
        The open file, read from its start.

    Raises:
        DataError: If it is not a regular file.
        OSError: If it cannot be opened.
    """
    if path.exists():
        _check_regular(path.stat().st_mode, path)  # before it is opened, which a device may notice
    quick = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags | quick, 0o644)
    try:
        _check_regular(os.fstat(descriptor).st_mode, path)
        return cast("io.BufferedReader", os.fdopen(descriptor, "r+b" if flags & os.O_RDWR else "rb"))
    except BaseException:
        os.close(descriptor)
        raise


def _check_regular(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
        raise DataError(f"{path}: expected a regular file, got {kind}")


def read_limited(path: Path, most: int) -> bytes:
    """Read a small file.

    Args:
        path: The file.
        most: The largest number of bytes; no more than that is ever read.

    Returns:
        Its content.

    Raises:
        DataError: If it cannot be read, is larger, or is not a regular file.
    """
    with reading(path, "a readable file"), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(min(size, most) + 1)
        if max(size, len(data)) > most:
            raise DataError(f"{path}: expected at most {most:,} bytes, got {size:,}")
        return data


def check_size(path: Path, family: Family) -> None:
    """Refuse a file that is larger than all images of a family are.

    Args:
        path: The file.
        family: What it should hold.

    Raises:
        DataError: If it is larger, is not a regular file, or cannot be opened; not if there is nothing.
    """
    if not path.exists():
        return
    channels, height, width = family.shape
    most = len(family.grid) * channels * height * width + _SLACK
    with reading(path, "a readable file"), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
    if size > most:
        raise DataError(f"{path}: expected at most {most:,} bytes, those of all {family.title} images, got {size:,}")


def parse_mark(text: str | bytes, path: Path) -> dict[str, object]:
    """Read what a stand-in says of its making.

    Args:
        text: JSON.
        path: Where it is from.

    Returns:
        Its contents.

    Raises:
        DataError: If it is too long or not a JSON object, has a key twice, or a number that is none.

    Example:
        >>> parse_mark('{"a": 1, "a": 2}', Path("x"))
        Traceback (most recent call last):
        latentflow_experiments.errors.DataError: x: expected JSON in the mark of a stand-in, got the key 'a' twice
    """
    if len(text) > MARK_BYTES:
        raise DataError(f"{path}: expected a mark of at most {MARK_BYTES:,} bytes, got {len(text):,}")
    return parse_object(text, path, "JSON in the mark of a stand-in")


def parse_object(text: str | bytes, path: Path, expected: str) -> dict[str, Any]:
    """Parse a JSON object without keys that occur twice, and with finite numbers only.

    Args:
        text: JSON.
        path: Where it is from.
        expected: What it should be, for the message.

    Returns:
        Its contents.

    Raises:
        DataError: If it is something else.
    """
    with reading(path, expected):
        values = strict_json(text)
    if not isinstance(values, dict):
        raise DataError(f"{path}: expected {expected.replace('JSON', 'a JSON object', 1)}, got {brief(values)}")
    return values
