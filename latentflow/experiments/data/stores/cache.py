"""Decoded images that stay on the disk."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pooch
from numpy.typing import NDArray

from latentflow.experiments.data.frames import FrameStore, Pixels
from latentflow.experiments.data.grid import FactorGrid, Indices
from latentflow.experiments.errors import UsageError

__all__ = ["CachedFrames"]

_FREE = -1


class CachedFrames:
    """Keeps what a store reads in a file of limited size.

    Image ``i`` has its place in slot ``i mod slots``, and takes it from whichever image is there. A slot is marked as
    free before its pixels are written and as taken after, so that a process that is killed leaves no wrong image
    behind. The file belongs to one set of images, by their SHA-256.

    Args:
        store: The images.
        limit_bytes: Largest size of the file with its index; at least one image and the index entry for it.
        folder: Folder of the file; by default that of the user's cache.

    Raises:
        UsageError: If the limit is too small for one image.
    """

    def __init__(self, store: FrameStore, limit_bytes: int, folder: Path | None = None) -> None:
        self.store = store
        channels, height, width = store.shape
        self._image = (height, width, channels)
        self._slots = min(limit_bytes // (height * width * channels + 8), len(store.grid))
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
        owners, pixels = self._maps
        slots = indices % self._slots
        missing = owners[slots] != indices
        images: Pixels = pixels[slots]
        missing |= owners[slots] != indices  # another process may have taken a slot meanwhile
        if missing.any():
            wanted, back = np.unique(indices[missing], return_inverse=True)
            read = self.store.read(wanted)
            images[missing] = read[back]
            places = wanted % self._slots
            _, last = np.unique(places[::-1], return_index=True)  # of several for one slot, the last
            kept = len(places) - 1 - last
            owners[places[kept]] = _FREE
            pixels[places[kept]] = read[kept]
            owners[places[kept]] = wanted[kept]
        return images

    def __getstate__(self) -> dict[str, Any]:
        """Leave the maps behind: another process opens its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_maps"}

    @cached_property
    def _maps(self) -> tuple[NDArray[np.int64], Pixels]:
        """Which image each slot holds, and its pixels, in one sparse file each."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self.store.sha256()}-{self._slots}"
        owners_path, pixels_path = path.with_suffix(".owners"), path.with_suffix(".pixels")
        size = self._slots * int(np.prod(self._image))
        if not owners_path.exists() or not pixels_path.exists() or pixels_path.stat().st_size != size:
            with pixels_path.open("wb") as file:
                file.truncate(size)
            np.full(self._slots, _FREE, np.int64).tofile(owners_path)
        owners = np.memmap(owners_path, np.int64, "r+", shape=(self._slots,))
        pixels = np.memmap(pixels_path, np.uint8, "r+", shape=(self._slots, *self._image))
        return np.asarray(owners), np.asarray(pixels)
