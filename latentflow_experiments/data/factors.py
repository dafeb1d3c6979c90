"""Families of images that are numbered by factors, and the sequences along one factor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentflow_experiments.data.frames import FactorGrid, FrameStore, Indices, Pixels, pick
from latentflow_experiments.data.sequences import (
    as_composed_kinds,
    as_kinds,
    as_states,
    moving,
    subsample,
    whole_states,
)


@dataclass(frozen=True)
class Factor:
    """One factor of variation.

    Attributes:
        name: Its name.
        size: The number of its values.
        transforms: Whether it is one of the transformations of the family.
        whole: Whether its sequences go through the whole range in even strides instead of value by value from the
            first.
        shown: The value that contact sheets show while another factor varies.
    """

    name: str
    size: int
    transforms: bool = True
    whole: bool = False
    shown: int = 0


@dataclass(frozen=True)
class Family:
    """A family of images.

    Attributes:
        name: Its name on the command line.
        title: The name of the published data set.
        factors: The factors, in the order of the files; the last runs fastest.
        shape: Shape of an image, ``(channels, height, width)``.
        file: The file, or the folder of PNG files, that holds the images.
        address: Where the original is to be had.
        licence: The licence of the original.
        render: Renders the images of a synthetic stand-in, uint8 of shape ``(n, height, width, channels)``, from the
            digits of their factors, of shape ``(n, factors)``; None if there is no stand-in.
        renderer: Names what renders, with its version; None if there is no stand-in.
        piece: The number of images that are rendered in about a second.
    """

    name: str
    title: str
    factors: tuple[Factor, ...]
    shape: tuple[int, int, int]
    file: str
    address: str
    licence: str
    render: Callable[[Indices], Pixels] | None = None
    renderer: Callable[[], str] | None = None
    piece: int = 48

    @property
    def grid(self) -> FactorGrid:
        """The grid of the whole family."""
        return FactorGrid(tuple(factor.name for factor in self.factors), tuple(factor.size for factor in self.factors))

    @property
    def transformations(self) -> tuple[str, ...]:
        """The names of the factors that are transformations."""
        return tuple(factor.name for factor in self.factors if factor.transforms)

    def subset(self, size: int) -> tuple[tuple[int, ...], ...]:
        """Choose at most so many images, evenly over the family.

        Values are left out in even strides: first of factors that are no transformation, while they have more than
        three, then of the transformations, always of the factor with most values left (of several such, the last).

        Args:
            size: The largest number of images.

        Returns:
            The digits of each factor that are kept; their product is the subset.

        Raises:
            ValueError: If ``size`` is smaller than two values of every transformation need.

        Example:
            >>> from latentflow_experiments.data.sets.shapes3d import SHAPES3D
            >>> assert [len(digits) for digits in SHAPES3D.subset(48_000)] == [10, 10, 10, 8, 2, 3]
            >>> assert SHAPES3D.subset(48_000)[5] == (0, 5, 10)
        """
        strides = [1] * len(self.factors)
        counts = [factor.size for factor in self.factors]
        while math.prod(counts) > size:
            still = [j for j, f in enumerate(self.factors) if not f.transforms and counts[j] > 3]
            varied = still or [j for j, f in enumerate(self.factors) if f.transforms and counts[j] > 2]
            if not varied:
                raise ValueError(f"size: expected at least {math.prod(counts)} images for {self.name}, got {size}")
            j = max(varied, key=lambda i: (counts[i], i))
            fewer = counts[j]
            while counts[j] == fewer:
                strides[j] += 1
                counts[j] = -(-self.factors[j].size // strides[j])
        return tuple(tuple(range(0, f.size, stride)) for f, stride in zip(self.factors, strides, strict=True))


@dataclass(frozen=True)
class PublicFile:
    """A published file.

    Attributes:
        name: Its name.
        addresses: Where it is to be had, the first choice first; all of them have the same bytes.
        sha256: Its SHA-256, in hexadecimal digits.
        size: Its size in bytes; None if it is not known.
    """

    name: str
    addresses: tuple[str, ...]
    sha256: str
    size: int | None = None


Split = Literal["train", "validation", "test"]


SPLITS: tuple[Split, ...] = get_args(Split)


HELD_OUT = {"test": 0, "validation": 1}  # of a hundred


def draw_split(indices: Indices, split: Split) -> NDArray[np.bool_]:
    """Return which sequences are drawn for a split, by their first images: 1 % test, 1 % validation, the others train.

    An index is hashed by the finalizer of SplitMix64, so that the draw is the same everywhere and for all time, and
    neighbors in the grid fall apart.

    Args:
        indices: Indices in the grid of the whole family, shape ``(n,)``.
        split: The split.

    Returns:
        Whether each is drawn for it, shape ``(n,)``.

    Raises:
        ValueError: If there is no such split.

    References:
        G. L. Steele, D. Lea and C. H. Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.

    Example:
        >>> shares = [draw_split(np.arange(480_000), split).mean() for split in SPLITS]
        >>> assert np.allclose(shares, [0.98, 0.01, 0.01], atol=0.001)
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    mixed = indices.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    hundredth = (mixed % np.uint64(100)).astype(np.int64)
    drawn: NDArray[np.bool_] = hundredth > 1 if split == "train" else hundredth == HELD_OUT[split]
    return drawn


@dataclass(frozen=True, eq=False)
class FactorSequences:
    r"""Sequences in which one factor runs through its first values and all others stay as they are.

    Of a start with digits :math:`d`, frame :math:`t` of transformation :math:`k` is the image with
    :math:`d_k = t s_k` and the other digits unchanged; :math:`s_k` is 1, or, for a factor that goes through its whole
    range, the largest stride for which all frames exist. A sequence never runs over the end of its factor.

    No image is in sequences of two splits. Of every transformation, 1 % of the sequences are drawn for test by their
    first images, and 1 % for validation. Validation gives up those that share an image with a test sequence, of any
    transformation, and train those that share one with a sequence drawn for test or validation: 60 to 95 % of all are
    left to it. Shares of 80, 10 and 10 % would leave nothing: every image is in a sequence of each transformation, and
    hardly any sequence is free of the images in a fifth of the others.

    Args:
        frames: The images.
        family: What they are of.
        split: The split.
        names: The factors that are transformations, in the order of ``k``; those of the family by default.
        states: The number of frames of a sequence; by default as many as the smallest of these factors has values.
        device: Where the frames go.

    Raises:
        ValueError: If a name is not that of a factor or comes twice, there are less than two ``states`` or more than a
            factor has values, or there is no such split.
    """

    frames: FrameStore
    family: Family
    split: Split = "train"
    names: tuple[str, ...] = ()
    states: int = 0
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        if not self.names:
            object.__setattr__(self, "names", self.family.transformations)
        known = self.family.grid.names
        if len(set(self.names)) != len(self.names) or not set(self.names) <= set(known):
            raise ValueError(f"names: expected distinct ones of {', '.join(known)}, got {self.names}")
        sizes = {name: self.frames.grid.sizes[self.frames.grid.position(name)] for name in self.names}
        if not self.states:
            object.__setattr__(self, "states", min(sizes.values()))
        short = min(sizes, key=lambda name: sizes[name])
        if not 2 <= self.states <= sizes[short]:
            raise ValueError(f"states: expected from 2 to {sizes[short]}, the values of {short}, got {self.states}")
        draw_split(np.zeros(1, np.int64), self.split)

    @property
    def name(self) -> str:
        """The data set, with the word synthetic where it is a stand-in."""
        return self.family.name if self.frames.synthetic is None else f"{self.family.name} (synthetic)"

    @property
    def grid(self) -> FactorGrid:
        """The meaning of an index."""
        return self.frames.grid

    @property
    def steps(self) -> int:
        """The number of steps ``T``."""
        return self.states - 1

    @property
    def fractional(self) -> bool:
        """That :meth:`composed` takes whole states only."""
        return False

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a frame, ``(channels, height, width)``."""
        return self.frames.shape

    def digits(self, k: int) -> tuple[int, ...]:
        """Return the values that the factor of a transformation runs through, in the grid that is there."""
        return self._digits(self.names[k])

    def starts(self, k: int) -> Tensor:
        """List the sequences of one transformation in this split, by their first images."""
        return self._starts[k]

    def examples(self, k: int, count: int) -> Tensor:
        """Choose a few sequences that are spread over the split."""
        return subsample(self.starts(k), count)

    def lines(self, indices: Indices, kinds: Indices) -> Indices:
        """Return the indices of the frames of sequences.

        Args:
            indices: Indices of images, shape ``(b,)``.
            kinds: The transformation of each, shape ``(b,)``.

        Returns:
            Indices, shape ``(b, T + 1)``.
        """
        lines = np.empty((len(indices), self.states), np.int64)
        for k in np.unique(kinds):
            lines[kinds == k] = self.grid.line(indices[kinds == k], self.names[k], self.digits(k))
        return lines

    def sequence(self, indices: Tensor, k: Tensor | int) -> Tensor:
        """Read sequences.

        Args:
            indices: Indices of images, shape ``(b,)``, int64; the value of factor ``k`` there does not matter.
            k: The transformation of each, shape ``(b,)``, int64, or one for all.

        Returns:
            Frames in [0, 1], shape ``(b, T + 1, channels, height, width)``, float32.

        Raises:
            ValueError: If ``indices`` or ``k`` has another shape or dtype, or is out of range.
            DataError: If an image cannot be read.
        """
        _check_indices(indices)
        kinds = as_kinds(k, len(indices), len(self.names))
        return self._read(self.lines(indices.cpu().numpy(), kinds.cpu().numpy()))

    def composed_starts(self, kinds: Sequence[int]) -> Tensor:
        """List the starts of the sequences of each of these transformations, taken back to the first values of all.

        An image that sets two factors back can be one of another split, see :meth:`composed`.
        """
        kinds = as_composed_kinds(kinds, len(self.names))
        indices = torch.cat([self.starts(k) for k in kinds]).numpy()
        for k in kinds:
            indices = self.grid.clear(indices, self.names[k])
        return torch.from_numpy(np.unique(indices))

    def composed(self, indices: Tensor, states: Tensor) -> Tensor:
        """Read sequences in which several factors run: that of ``k`` has the value ``digits(k)[states[frame, k]]``.

        Factors of which no transformation is made, and those in state 0 in all frames, keep the value of the index.

        Splits keep apart sequences of one factor each. The images of a composed sequence, its first one included, may
        occur in sequences of other splits, so that a composition in test can show images of train; what no model has
        been trained on is that they follow one another.

        Args:
            indices: Indices of images, shape ``(b,)``, int64.
            states: State of each transformation in each frame, shape ``(frames, K)``, integers from 0 to ``T``, as
                int64 or floating point: there are no images between two states.

        Returns:
            Frames in [0, 1], shape ``(b, frames, channels, height, width)``, float32.

        Raises:
            ValueError: If ``indices`` or ``states`` has another shape or dtype or is out of range, or a state is not an
                integer.
            DataError: If an image cannot be read.
        """
        _check_indices(indices)
        whole = whole_states(as_states(states, len(self.names), self.steps)).numpy()
        values = self.grid.decode(indices.cpu().numpy())[:, None].repeat(len(whole), 1)  # (b, frames, factors)
        for k in moving(torch.from_numpy(whole)):
            values[..., self.grid.position(self.names[k])] = np.asarray(self.digits(k))[whole[:, k]]
        return self._read(self.grid.encode(values))

    def _read(self, lines: Indices) -> Tensor:
        """Read the frames of sequences ``(b, frames)`` of indices."""
        pixels = torch.from_numpy(self.frames.read(lines.ravel())).to(self.device)
        frames = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        return frames.view(*lines.shape, *self.shape)

    def to(self, device: torch.device | str) -> Self:
        """Return the same data set with its frames on a device."""
        same = torch.device(device) == torch.device(self.device)
        return self if same else replace(self, device=device)

    def identity(self) -> dict[str, Any]:
        """Describe the data for the record of a run."""
        return {
            "name": self.name,
            "split": self.split,
            "sha256": self.frames.sha256(),
            "images": len(self.grid),
            "synthetic": self.frames.synthetic,
        }

    def _digits(self, name: str) -> tuple[int, ...]:
        """Return the values that a factor runs through; one that is no transformation here may have fewer of them."""
        factor = self.family.factors[self.family.grid.position(name)]
        size = self.grid.sizes[self.grid.position(name)]
        states = min(self.states, size)
        stride = (size - 1) // (states - 1) if factor.whole and states > 1 else 1
        return tuple(range(0, stride * states, stride))

    def _drawn(self, name: str, split: Split) -> Indices:
        """List the sequences of one factor that are drawn for a split, by their first images."""
        every = np.arange(len(self.grid)).reshape(self.grid.sizes)
        first = every.take(0, axis=self.grid.position(name)).ravel()
        return first[draw_split(self._whole(first), split)]

    @cached_property
    def _starts(self) -> tuple[Tensor, ...]:
        """List the sequences of every transformation that share no image with those of the splits before this one."""
        result = []
        for name in self.names:
            first = self._drawn(name, self.split)
            free = ~self._held_out[self.grid.line(first, name, self._digits(name))].any(1)
            result.append(torch.from_numpy(first[free]))
        return tuple(result)

    @cached_property
    def _held_out(self) -> NDArray[np.bool_]:
        """Mark the images of sequences, of any transformation, that are drawn for splits which come before this one."""
        marked = np.zeros(len(self.grid), bool)
        for split in SPLITS[SPLITS.index(self.split) + 1 :]:
            for name in dict.fromkeys((*self.family.transformations, *self.names)):
                marked[self.grid.line(self._drawn(name, split), name, self._digits(name))] = True
        return marked

    def _whole(self, indices: Indices) -> Indices:
        """Number images as the whole family does, so that a split is the same for a subset."""
        return self.family.grid.encode(pick(self.frames.digits, self.grid.decode(indices)))


def _check_indices(indices: Tensor) -> None:
    if indices.ndim != 1 or indices.dtype != torch.int64:
        raise ValueError(f"indices: expected shape (b,) of int64, got {tuple(indices.shape)} of {indices.dtype}")
