"""Grey images with the sequences that transformations make of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from latentflow.experiments.data.grid import FactorGrid
from latentflow.experiments.data.images import LabelledImages
from latentflow.experiments.data.sequence_dataset import as_kinds
from latentflow.experiments.data.sequences import TransformationSequences

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
        j = 1 + k
        return every[every // grid.bases[j] % grid.sizes[j] == 0]

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
        places = torch.tensor([self.transformations.names.index(name) for name in self.names], device=self.device)
        digits = torch.from_numpy(self.grid.decode(indices.cpu().numpy())).to(self.device)
        start = digits.new_zeros(len(digits), len(self.transformations.names))
        if self.start == "random":
            start[:, places] = digits[:, 1:]
        return self.transformations(self.images.images[digits[:, 0]], places[kinds], start)

    def to(self, device: torch.device | str) -> Self:
        """Give the same data set with its images and frames on a device."""
        images = replace(self.images, images=self.images.images.to(device))
        return replace(self, images=images, device=device)

    def identity(self) -> dict[str, Any]:
        """Name the data for the record of a run: name, split and SHA-256 of the untransformed images."""
        return dict(self.images.identity())
