"""What training and evaluation need of the data: sequences of images in which one thing changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor

__all__ = ["SequenceDataset", "as_kinds", "subsample"]


class SequenceDataset(Protocol):
    """Sequences of images, each of one transformation.

    An index names a first image; :meth:`starts` lists those of this split. What ``k`` runs over is :attr:`names`.
    """

    @property
    def name(self) -> str:
        """The data set, with the word synthetic where it is a stand-in."""

    @property
    def split(self) -> str:
        """The split."""

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each transformation, in the order of ``k``."""

    @property
    def steps(self) -> int:
        """The number of steps ``T``, one less than that of the frames of a sequence."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a frame, ``(channels, height, width)``."""

    @property
    def fractional(self) -> bool:
        """Whether :meth:`composed` takes states that lie between two frames of a sequence."""

    def starts(self, k: int) -> Tensor:
        """List the sequences of one transformation in this split.

        Args:
            k: The transformation.

        Returns:
            The indices of their first images, shape ``(n,)``, int64, on the CPU.
        """

    def examples(self, k: int, count: int) -> Tensor:
        """Choose a few of them to look at, always the same.

        Args:
            k: The transformation.
            count: How many, at most.

        Returns:
            Indices, shape ``(n,)`` with ``n <= count``, int64.
        """

    def sequence(self, indices: Tensor, k: Tensor | int) -> Tensor:
        """Give sequences.

        Args:
            indices: Indices of images, shape ``(b,)``, int64; the value of transformation ``k`` there does not matter.
            k: The transformation of each, shape ``(b,)``, int64, or one for all.

        Returns:
            Frames in [0, 1], shape ``(b, T + 1, channels, height, width)``, float32, on the data set's device.

        Raises:
            ValueError: If ``indices`` or ``k`` has another shape or dtype, or is out of range.
            DataError: If an image cannot be read.
        """

    def composed_starts(self, kinds: Sequence[int]) -> Tensor:
        """List the distinct first images of sequences in which several transformations take part.

        Args:
            kinds: The transformations; their order does not matter.

        Returns:
            Indices of images in state 0 of all of them, shape ``(n,)``, int64, on the CPU.

        Raises:
            ValueError: If there are none, or they are out of range or not distinct.
        """

    def composed(self, indices: Tensor, states: Tensor) -> Tensor:
        """Give sequences in which several transformations take part.

        A transformation that is in state 0 in all frames takes no part: it stays as the index has it, as in
        :meth:`sequence`. Of the others, what the index has does not matter. So ``sequence(indices, k)`` is this with
        the states 0 to ``T`` of ``k`` and 0 of the others, and a frame in state 0 of all is the image of the index.

        Args:
            indices: Indices of images, shape ``(b,)``, int64.
            states: The state of each transformation in each frame, the same for all, shape ``(frames, K)``, int64 or
                floating point from 0 to ``T``; integers unless :attr:`fractional`.

        Returns:
            Frames in [0, 1], shape ``(b, frames, channels, height, width)``, float32, on the data set's device.

        Raises:
            ValueError: If ``indices`` or ``states`` has another shape or dtype, or is out of range.
            DataError: If an image cannot be read.
        """

    def to(self, device: torch.device | str) -> Self:
        """Give the same data set with its frames on a device."""

    def identity(self) -> dict[str, Any]:
        """Describe the data for the record of a run: name, split, SHA-256, whether it is synthetic."""


def as_kinds(k: Tensor | int, count: int, kinds: int) -> Tensor:
    """Check which transformation each sequence has.

    Args:
        k: The transformation of each, shape ``(count,)``, int64, or one for all.
        count: The number of sequences.
        kinds: The number of transformations.

    Returns:
        The transformation of each, shape ``(count,)``, int64.

    Raises:
        ValueError: If ``k`` has another shape or dtype, or is out of range.

    Example:
        >>> assert as_kinds(2, 3, kinds=4).tolist() == [2, 2, 2]
    """
    if isinstance(k, int):
        k = torch.full((count,), k)
    if k.shape != (count,):
        raise ValueError(f"k: expected an int or shape ({count},), got shape {tuple(k.shape)}")
    if k.dtype != torch.int64:
        raise ValueError(f"k: expected dtype torch.int64, got {k.dtype}")
    outside = k[(k < 0) | (k >= kinds)]
    if len(outside):
        raise ValueError(f"k: expected values from 0 to {kinds - 1}, got {int(outside[0])}")
    return k


def subsample(starts: Tensor, count: int) -> Tensor:
    """Choose some sequences, always the same ones.

    Args:
        starts: Indices, shape ``(n,)``.
        count: How many, at most.

    Returns:
        All of them, or ``count`` drawn without replacement from a fixed seed, in their order.

    Example:
        >>> assert subsample(torch.arange(5), 9).tolist() == [0, 1, 2, 3, 4]
        >>> assert len(subsample(torch.arange(5), 3).unique()) == 3
    """
    if len(starts) <= count:
        return starts
    chosen = torch.randperm(len(starts), generator=torch.Generator().manual_seed(0))[:count]
    return starts[chosen.sort().values]
