"""Decoded images that stay on the disk."""

from __future__ import annotations

import os
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pooch
from numpy.typing import NDArray

from latentflow_experiments.data.frames import FactorGrid, FrameStore, Indices, Pixels
from latentflow_experiments.errors import UsageError
from latentflow_experiments.locks import held
from latentflow_experiments.reading import open_regular, reading

__all__ = ["CachedFrames"]

_OWNER = 8  # bytes that say what is in a slot: the index of the image + 1, and its check sum 32 bits above
_FREE = 0  # nothing, as in a new file
_INDEX = np.uint64(0xFFFFFFFF)


class _Opened(NamedTuple):
    """The file of the cache, as one process has opened it."""

    process: int
    file: IO[bytes]
    owners: NDArray[np.uint64]
    pixels: Pixels
    known: NDArray[np.uint64]  # what this process has found in a slot, of the images whose check sum it has compared


class CachedFrames:
    """Keeps what a store reads in a file of limited size.

    Image ``i`` has its place in slot ``i mod slots``, and takes it from whichever image is there. A slot is marked as
    free before its pixels are written and as taken after, so that a process that is killed leaves no wrong image
    behind; of several processes one at a time writes. When a process first reads an image, it is compared with its
    check sum; one that is damaged is read from the store again. The file belongs to one set of images, by their
    SHA-256 and shape, and takes the place of one of the same set with another limit.

    Args:
        store: The images.
        limit_bytes: Largest size of the file; at least one image and 8 bytes.
        folder: Folder of the file; by default that of the user's cache.

    Raises:
        UsageError: If the limit is too small for one image.
    """

    def __init__(self, store: FrameStore, limit_bytes: int, folder: Path | None = None) -> None:
        self._opened: _Opened | None = None
        self.store = store
        channels, height, width = store.shape
        self._image = (height, width, channels)
        self._slots = min(limit_bytes // (height * width * channels + _OWNER), len(store.grid))
        if self._slots < 1:
            raise UsageError(
                f"cache: expected room for an image of {height * width * channels} bytes, got {limit_bytes}"
            )
        self._folder = folder or Path(pooch.os_cache("latentflow")) / "frames"

    @property
    def path(self) -> Path:
        """The file or folder of the store."""
        return self.store.path

    @property
    def grid(self) -> FactorGrid:
        """The factors with the values that are there."""
        return self.store.grid

    @property
    def digits(self) -> tuple[tuple[int, ...], ...]:
        """Which values of the whole family those are."""
        return self.store.digits

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image."""
        return self.store.shape

    @property
    def synthetic(self) -> dict[str, object] | None:
        """What made the images, for a stand-in."""
        return self.store.synthetic

    def sha256(self) -> str:
        """Identify the files of the store."""
        return self.store.sha256()

    def read(self, indices: Indices) -> Pixels:
        """Read images, from the cache where they are in it, the others in one call of the store."""
        self.grid.checked(indices)
        cache, slots = self._cache(), indices % self._slots
        with held(cache.file.fileno(), alone=False):
            there = self._there(cache, indices, slots)
            if there.all():
                return np.take(cache.pixels, slots, 0)
            images: Pixels = np.empty((len(indices), *self._image), np.uint8)
            images[there] = cache.pixels[slots[there]]
        wanted, back = np.unique(indices[~there], return_inverse=True)
        read = self.store.read(wanted)
        images[~there] = read[back]
        self._keep(cache, wanted, read)
        return images

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file behind: another process opens its own."""
        return self.__dict__ | {"_opened": None}

    def __del__(self) -> None:
        """Close the file; the pixels stay where they are."""
        self._close()

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.file.close()
            self._opened = None

    def _there(self, cache: _Opened, indices: Indices, slots: Indices) -> NDArray[np.bool_]:
        """Find which images are in their slots, and are what was put there."""
        owners = np.asarray(cache.owners[slots])
        there: NDArray[np.bool_] = (owners & _INDEX) == (indices + 1).astype(np.uint64)
        for i in np.flatnonzero(there & (cache.known[slots] != owners)).tolist():
            slot, index = int(slots[i]), int(indices[i])
            if cache.known[slot] == owners[i]:
                continue
            if _owner(cache.pixels[slot].tobytes(), index) == owners[i]:
                cache.known[slot] = owners[i]
            else:
                there[i] = False
        return there

    def _keep(self, cache: _Opened, wanted: Indices, read: Pixels) -> None:
        """Put images into their slots; of several for one slot, the first."""
        slots, first = np.unique(wanted % self._slots, return_index=True)
        owners = [_owner(read[i].tobytes(), int(wanted[i])) for i in first.tolist()]
        with held(cache.file.fileno(), alone=True):
            cache.owners[slots] = _FREE
            cache.pixels[slots] = read[first]
            cache.owners[slots] = cache.known[slots] = np.asarray(owners, np.uint64)

    def _cache(self) -> _Opened:
        """Open the file, once for each process: the lock of a file is shared with a forked process."""
        if self._opened is not None and self._opened.process != os.getpid():
            self._close()
        if self._opened is None:
            height, width, channels = self._image
            size = self._slots * (height * width * channels + _OWNER)
            name = f"{self.store.sha256()}-{height}x{width}x{channels}"
            path = self._folder / f"{name}-{self._slots}.cache"
            with reading(path, f"room for {size} bytes of decoded images"):
                self._folder.mkdir(parents=True, exist_ok=True)
                for other in self._folder.glob(f"{name}-*.cache"):
                    if other != path:
                        with suppress(OSError):
                            other.unlink()
                file = _reserve(path, size)
                content = np.asarray(np.memmap(file, np.uint8, "r+", shape=(size,)))
            owners = content[: self._slots * _OWNER].view(np.uint64)
            pixels = content[self._slots * _OWNER :].reshape(self._slots, *self._image)
            self._opened = _Opened(os.getpid(), file, owners, pixels, np.zeros(self._slots, np.uint64))
        return self._opened


def _owner(pixels: bytes, index: int) -> int:
    """Say which image is in a slot, with a check sum of it and its place."""
    return zlib.crc32(pixels, index) << 32 | index + 1


def _reserve(path: Path, size: int) -> IO[bytes]:
    """Open a file that has the disk space for its size; what is new in it is zero."""
    new = not path.exists()
    file = open_regular(path, os.O_RDWR | os.O_CREAT)
    try:
        if os.fstat(file.fileno()).st_size < size:
            if sys.platform == "linux":
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                os.truncate(file.fileno(), size)
    except OSError:
        file.close()
        if new:
            path.unlink(missing_ok=True)
        raise
    return file
