"""Sequences along one factor of numbered images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentflow_experiments.data.composed import as_composed_kinds, as_states, moving, whole_states
from latentflow_experiments.data.family import Family
from latentflow_experiments.data.frames import FrameStore
from latentflow_experiments.data.grid import FactorGrid, Indices, pick
from latentflow_experiments.data.sequence_dataset import as_kinds, subsample
from latentflow_experiments.data.splits import SPLITS, Split, draw_split

__all__ = ["FactorSequences"]


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
        """What an index counts."""
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
        """Give the values that the factor of a transformation runs through, in the grid that is there."""
        return self._digits(self.names[k])

    def starts(self, k: int) -> Tensor:
        """List the sequences of one transformation in this split, by their first images."""
        return self._starts[k]

    def examples(self, k: int, count: int) -> Tensor:
        """Choose a few sequences that are spread over the split."""
        return subsample(self.starts(k), count)

    def lines(self, indices: Indices, kinds: Indices) -> Indices:
        """Give the indices of the frames of sequences.

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
        """Give the same data set with its frames on a device."""
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
        """Give the values that a factor runs through; one that is no transformation here may have fewer of them."""
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
