"""What a store of numbered images offers, whatever its files are."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from latentflow_experiments.data.grid import FactorGrid, Indices

__all__ = ["FrameStore", "Pixels"]

Pixels = NDArray[np.uint8]


class FrameStore(Protocol):
    """Images on the disk, numbered by a grid of factors, which are read when they are asked for.

    A store holds no archive in memory, opens its files in the process that reads, and can be pickled.
    """

    @property
    def path(self) -> Path:
        """The file or folder."""

    @property
    def grid(self) -> FactorGrid:
        """The factors with the values that are there; of a subset fewer than the whole family has."""

    @property
    def digits(self) -> tuple[tuple[int, ...], ...]:
        """Which values of the whole family those are."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image, ``(channels, height, width)``."""

    @property
    def synthetic(self) -> dict[str, object] | None:
        """What made the images, for a stand-in; None for files that do not say that they are one."""

    def read(self, indices: Indices) -> Pixels:
        """Read images.

        Args:
            indices: Indices in the grid, shape ``(n,)``, in any order and possibly repeated.

        Returns:
            The images, shape ``(n, height, width, channels)``, from 0 to 255.

        Raises:
            DataError: If an image cannot be read; the message names its file.
        """

    def sha256(self) -> str:
        """Identify the files: the SHA-256 of a single file, of the names and sizes of the files of a folder."""
