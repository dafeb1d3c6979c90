"""Images that are numbered by factors: their grid, and the stores that hold them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class FactorGrid:
    r"""Numbers every combination of the values of several factors; the last factor runs fastest.

    .. math:: \mathrm{index} = \sum_j \mathrm{digit}_j \prod_{i > j} \mathrm{size}_i

    Args:
        names: The name of each factor.
        sizes: The number of values of each factor, at least 1.

    Raises:
        ValueError: If the names are not as many as the sizes or not distinct, or a size is not positive.

    Example:
        >>> grid = FactorGrid(("hue", "shape"), (10, 4))
        >>> assert len(grid) == 40 and grid.encode([2, 1]) == 9
        >>> assert grid.decode(9).tolist() == [2, 1]
        >>> assert grid.line([9], "hue", [0, 1, 2]).tolist() == [[1, 5, 9]]
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.sizes) or len(set(self.names)) != len(self.names):
            raise ValueError(f"names: expected {len(self.sizes)} distinct names, got {self.names}")
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes: expected positive sizes, got {self.sizes}")

    def __len__(self) -> int:
        return math.prod(self.sizes)

    @property
    def bases(self) -> tuple[int, ...]:
        """How far apart two neighboring values of each factor are."""
        return tuple(math.prod(self.sizes[j + 1 :]) for j in range(len(self.sizes)))

    def position(self, name: str) -> int:
        """Return the place of a factor.

        Args:
            name: The name of the factor.

        Raises:
            ValueError: If there is no such factor.
        """
        if name not in self.names:
            raise ValueError(f"factor: expected one of {', '.join(self.names)}, got {name!r}")
        return self.names.index(name)

    def encode(self, digits: ArrayLike) -> Indices:
        """Number combinations of values.

        Args:
            digits: Which value of each factor, from 0, of shape ``(*batch, factors)``.

        Returns:
            The indices, of shape ``(*batch,)``.

        Raises:
            ValueError: If the last size of the shape is not the number of factors, or a digit is out of range.
        """
        array = np.asarray(digits, np.int64)
        if array.ndim == 0 or array.shape[-1] != len(self.sizes):
            raise ValueError(f"digits: expected shape (*batch, {len(self.sizes)}), got {array.shape}")
        outside = (array < 0) | (array >= np.asarray(self.sizes))
        if outside.any():
            factor = int(outside.reshape(-1, len(self.sizes)).any(0).argmax())
            raise ValueError(
                f"digits: expected {self.names[factor]} from 0 to {self.sizes[factor] - 1}, got "
                f"{int(array[..., factor][outside[..., factor]].flat[0])}"
            )
        indices: Indices = array @ np.asarray(self.bases, np.int64)
        return indices

    def decode(self, indices: ArrayLike) -> Indices:
        """Return the combination of values of an index.

        Args:
            indices: Indices, of shape ``(*batch,)``.

        Returns:
            The digits, of shape ``(*batch, factors)``.

        Raises:
            ValueError: If an index is out of range.
        """
        array = self.checked(indices)
        return array[..., None] // np.asarray(self.bases, np.int64) % np.asarray(self.sizes, np.int64)

    def clear(self, indices: ArrayLike, factor: str) -> Indices:
        """Set one factor to its first value and leave the others.

        Args:
            indices: Indices, of shape ``(*batch,)``.
            factor: The name of the factor.

        Returns:
            Indices, of shape ``(*batch,)``.

        Raises:
            ValueError: If an index is out of range or there is no such factor.
        """
        j, array = self.position(factor), self.checked(indices)
        base = self.bases[j]
        return array - array // base % self.sizes[j] * base

    def line(self, indices: ArrayLike, factor: str, digits: Sequence[int]) -> Indices:
        """Run one factor through given values, with all others as they are.

        Args:
            indices: Where to start, of shape ``(*batch,)``; the factor's own value there does not matter.
            factor: The name of the factor.
            digits: Its values along the line.

        Returns:
            Indices, of shape ``(*batch, len(digits))``.

        Raises:
            ValueError: If an index or a digit is out of range or there is no such factor.
        """
        j = self.position(factor)
        outside = [digit for digit in digits if not 0 <= digit < self.sizes[j]]
        if outside:
            raise ValueError(f"digits: expected {factor} from 0 to {self.sizes[j] - 1}, got {outside[0]}")
        return self.clear(indices, factor)[..., None] + np.asarray(digits, np.int64) * self.bases[j]

    def checked(self, indices: ArrayLike) -> Indices:
        """Refuse indices that are out of range, above all negative ones, which would count from the end.

        Args:
            indices: Indices, of shape ``(*batch,)``.

        Returns:
            The indices.

        Raises:
            ValueError: If there is one.
        """
        array = np.asarray(indices, np.int64)
        outside = array[(array < 0) | (array >= len(self))]
        if outside.size:
            raise ValueError(f"indices: expected values from 0 to {len(self) - 1}, got {int(outside.flat[0])}")
        return array


def pick(kept: Sequence[Sequence[int]], digits: Indices) -> Indices:
    """Return the values of a whole family that the digits of a part of it stand for.

    Args:
        kept: The values of each factor that the part has.
        digits: Digits in the grid of the part, of shape ``(*batch, factors)``.

    Returns:
        Digits in the grid of the whole family, of shape ``(*batch, factors)``.

    Example:
        >>> assert pick(((0, 4, 8), (1,)), np.array([[2, 0], [1, 0]])).tolist() == [[8, 1], [4, 1]]
    """
    return np.stack([np.asarray(values)[digits[..., j]] for j, values in enumerate(kept)], -1)


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
