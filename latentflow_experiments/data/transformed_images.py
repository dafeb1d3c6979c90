"""Grey images with the sequences that transformations make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from latentflow_experiments.data.composed import as_composed_kinds, as_states, moving
from latentflow_experiments.data.grid import FactorGrid
from latentflow_experiments.data.images import LabelledImages
from latentflow_experiments.data.sequence_dataset import as_kinds
from latentflow_experiments.data.sequences import TransformationSequences

__all__ = ["TransformedImages"]

SHOWN = (2, 3, 4, 5, 7)  # the digits of the examples


@dataclass(frozen=True, eq=False)
class TransformedImages:
    """Sequences made of a split of grey images by scaling, rotation and colouring.

    With a canonical start, an index is the number of an image, and the transformations that do not change stay in their
    first state: upright, unscaled and red. With a random start, an index also numbers the states of the
    transformations, the last one running fastest, so that a batch of random indices starts in random states.

    Args:
        images: The images.
        transformations: How they are transformed.
        names: The transformations in use, in the order of ``k``; all by default.
        start: In which state the transformations that do not change are.
        device: Where the frames are made.

    Raises:
        ValueError: If a name is not that of a transformation, or comes twice.

    Example:
        >>> pixels = torch.full((2, 28, 28), 255, dtype=torch.uint8)
        >>> data = TransformedImages(LabelledImages(pixels, torch.tensor([0, 1]), "white", "train"), start="random")
        >>> assert len(data.starts(0)) == 2 * 9 * 9
        >>> frames = data.sequence(data.starts(0)[[6]], 0)  # colouring in its state 6: green
        >>> assert frames[0, 0, :, 14, 14].tolist() == [0.0, 1.0, 0.0]
    """

    images: LabelledImages
    transformations: TransformationSequences = field(default_factory=TransformationSequences)
    names: tuple[str, ...] = ()
    start: Literal["canonical", "random"] = "canonical"
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        known = self.transformations.names
        if not self.names:
            object.__setattr__(self, "names", known)
        if len(set(self.names)) != len(self.names) or not set(self.names) <= set(known):
            raise ValueError(f"names: expected distinct ones of {', '.join(known)}, got {self.names}")

    @property
    def name(self) -> str:
        """The data set."""
        return self.images.name

    @property
    def split(self) -> str:
        """The split."""
        return self.images.split

    @property
    def steps(self) -> int:
        """The number of steps ``T``."""
        return self.transformations.steps

    @property
    def fractional(self) -> bool:
        """That :meth:`composed` takes states between two others."""
        return True

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a frame, ``(channels, height, width)``."""
        height, width = self.images.images.shape[1:]
        return 3, height, width

    @property
    def grid(self) -> FactorGrid:
        """What an index counts: the image and, with a random start, the states of the transformations in use."""
        count = len(self.images)
        if self.start == "canonical":
            return FactorGrid(("image",), (count,))
        return FactorGrid(("image", *self.names), (count, *[self.steps + 1] * len(self.names)))

    def starts(self, k: int) -> Tensor:
        """List the sequences of one transformation: all images, in all states of the others if they are random."""
        grid = self.grid
        every = torch.arange(len(grid))
        if self.start == "canonical":
            return every
        return self._first_states(every, k)

    def composed_starts(self, kinds: Sequence[int]) -> Tensor:
        """List all images, with a random start in the first state of these transformations and all of the others."""
        first, *others = as_composed_kinds(kinds, len(self.names))
        indices = self.starts(first)
        if self.start == "random":
            for k in others:
                indices = self._first_states(indices, k)
        return indices

    def examples(self, k: int, count: int) -> Tensor:
        """Choose the first images of a few digits, of other images some at equal distances, in fixed random states."""
        labels = self.images.labels
        first = torch.cat([(labels == label).nonzero().flatten()[:1] for label in SHOWN])
        spread = torch.linspace(0, len(labels) - 1, min(count, len(labels))).long()
        chosen = first[:count] if len(first) == len(SHOWN) else spread
        if self.start == "canonical":
            return chosen
        states = torch.randint(
            self.steps + 1, (len(chosen), len(self.names)), generator=torch.Generator().manual_seed(0)
        )
        states[:, k] = 0
        return torch.from_numpy(self.grid.encode(torch.cat([chosen[:, None], states], 1).numpy()))

    def sequence(self, indices: Tensor, k: Tensor | int) -> Tensor:
        """Make sequences.

        Args:
            indices: Which images, and with a random start which states, shape ``(b,)``, int64.
            k: The transformation of each, shape ``(b,)``, int64, or one for all.

        Returns:
            Frames in [0, 1], shape ``(b, T + 1, 3, height, width)``, float32.

        Raises:
            ValueError: If ``indices`` or ``k`` has another shape or dtype, or is out of range.
        """
        kinds = as_kinds(k, len(indices), len(self.names)).to(self.device)
        grey, start = self._decode(indices)
        return self.transformations(grey, self._places[kinds], start)

    def composed(self, indices: Tensor, states: Tensor) -> Tensor:
        """Make sequences in which several transformations act at once, each on the image itself.

        Scale, angle and hue between two states are interpolated linearly. A transformation that is in state 0 in all
        frames stays in its first state, or with a random start in the state that the index says.

        Args:
            indices: Which images, and with a random start which states, shape ``(b,)``, int64.
            states: State of each transformation in use in each frame, shape ``(frames, K)``, int64 or floating point
                from 0 to ``T``.

        Returns:
            Frames in [0, 1], shape ``(b, frames, 3, height, width)``, float32.

        Raises:
            ValueError: If ``indices`` or ``states`` has another shape or dtype, or is out of range.

        Example:
            >>> pixels = torch.full((1, 28, 28), 255, dtype=torch.uint8)
            >>> data = TransformedImages(LabelledImages(pixels, torch.tensor([0]), "white", "test"))
            >>> frames = data.composed(torch.tensor([0]), torch.tensor([[0.0, 0.0, 0.0], [8.0, 2.5, 6.0]]))
            >>> assert frames[0, :, :, 14, 14].tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]  # red, then green
        """
        states = as_states(states, len(self.names), self.steps)
        grey, start = self._decode(indices)
        every = start[:, None].repeat(1, len(states), 1).to(states.dtype)
        for k in moving(states):
            every[..., self._places[k]] = states[:, k].to(every.device)
        return self.transformations.composed(grey, every)

    def to(self, device: torch.device | str) -> Self:
        """Give the same data set with its images and frames on a device."""
        images = replace(self.images, images=self.images.images.to(device))
        return replace(self, images=images, device=device)

    def identity(self) -> dict[str, Any]:
        """Name the data for the record of a run: name, split and SHA-256 of the untransformed images."""
        return dict(self.images.identity())

    @property
    def _places(self) -> Tensor:
        """The place of each transformation in use among all."""
        return torch.tensor([self.transformations.names.index(name) for name in self.names], device=self.device)

    def _decode(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Look up images, and the states ``(b, 3)`` of all transformations in them."""
        digits = torch.from_numpy(self.grid.decode(indices.cpu().numpy())).to(self.device)
        start = digits.new_zeros(len(digits), len(self.transformations.names))
        if self.start == "random":
            start[:, self._places] = digits[:, 1:]
        return self.images.images[digits[:, 0]], start

    def _first_states(self, indices: Tensor, k: int) -> Tensor:
        """Keep the indices that are in the first state of a transformation, where they number states."""
        j = 1 + k
        return indices[indices // self.grid.bases[j] % self.grid.sizes[j] == 0]
