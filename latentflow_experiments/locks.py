"""Folders and files that one process at a time works in; the system lets go of them when that process dies."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from latentflow_experiments.errors import ExperimentError, printable

if sys.platform != "win32":
    import fcntl

__all__ = ["LOCK", "held", "held_folder", "owned"]

LOCK = ".lock"
"""The file in an owned folder that names its owner; it is gone when the owner has left in order."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # of a file system without locks
_open: set[int] = set()  # the lock files of this process


def _forget() -> None:
    """Let go of the locks in a forked process: they are its parent's, and must end with that."""
    for descriptor in _open:
        with suppress(OSError):
            os.close(descriptor)
    _open.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def owned(folder: Path, purpose: str) -> Iterator[None]:
    """Own a folder: no other process that asks for it gets it until the block is left or this process dies.

    The lock is one of the system (``flock``) on the file ``.lock`` in the folder, so that the death of the owner, by
    whatever signal, sets it free. Where the file system has no locks, nothing is locked.

    Args:
        folder: The folder, which is made if it is missing.
        purpose: What this process does in it, for the message that another one gets, such as ``making images``.

    Raises:
        ExperimentError: If another process owns it, which the message names, or it cannot be written to.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place, owned(Path(place), "making images"):
        ...     try:
        ...         with owned(Path(place), "making images"):
        ...             pass
        ...     except ExperimentError as error:
        ...         assert f"process {os.getpid()}, which is making images" in str(error)
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _take(path)
    except BlockingIOError:
        raise ExperimentError(
            f"{folder}: expected a folder that no other process writes to, got one of {_owner(path)}; wait for it"
        ) from None
    except OSError as error:
        raise ExperimentError(f"{folder}: expected a folder that can be written to, got {error}") from error
    _open.add(descriptor)
    owner = os.getpid()
    try:
        with suppress(OSError):  # a full disk: the lock holds without a name
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{owner} {printable(purpose)}\n".encode())
        yield
    finally:
        if os.getpid() == owner:
            with suppress(OSError):
                path.unlink()
            _open.discard(descriptor)
            os.close(descriptor)


@contextmanager
def held(descriptor: int, *, alone: bool) -> Iterator[None]:
    """Wait for a lock of an open file or folder, and hold it; without one where the system offers none.

    Args:
        descriptor: The open file.
        alone: Whether no other process may hold it at the same time; otherwise all that ask for it so may.
    """
    if sys.platform == "win32":
        yield
        return
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Wait until no other process holds a folder, and hold it alone.

    Args:
        folder: A folder that exists.

    Raises:
        OSError: If it cannot be opened.
    """
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with held(descriptor, alone=True):
            yield
    finally:
        os.close(descriptor)


def _take(path: Path) -> int:
    """Open and lock a file; a ``BlockingIOError`` says that another process has it."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    while True:
        descriptor = os.open(path, flags, 0o644)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "Not a regular file", str(path))
            _lock(descriptor)
            if _is(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the owner before has just removed this file


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _is(descriptor: int, path: Path) -> bool:
    """Tell whether a file is still the one at its path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _owner(path: Path) -> str:
    """Name the owner of a folder by what it has written."""
    try:
        with path.open("rb") as file:
            number, _, purpose = file.read(200).decode(errors="replace").strip().partition(" ")
    except OSError:
        number, purpose = "", ""
    return f"process {number}, which is {purpose}" if number.isdecimal() else "another process"
