"""Sprites in the frame of MNIST, for models that were trained on digits."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from latentflow_experiments.data.family import Family
from latentflow_experiments.data.frames import FrameStore
from latentflow_experiments.data.images import LabelledImages

__all__ = ["sprites_as_digits"]

FIRST = {"posX": 0.5, "posY": 0.5}  # where along the range of a factor, of those that do not vary


def sprites_as_digits(frames: FrameStore, family: Family) -> LabelledImages:
    """Reduce sprites to grey images of 28 x 28 pixels.

    Sprites of every shape, scale and orientation that is there, in the middle of the frame, are averaged over the area
    of each pixel. The label is the number of the shape.

    Args:
        frames: The sprites.
        family: Their family.

    Returns:
        The images, with the name of the data set and what became of it.
    """
    grid = frames.grid
    ranges = [
        [round(FIRST[name] * (size - 1))] if name in FIRST else list(range(size))
        for name, size in zip(grid.names, grid.sizes, strict=True)
    ]
    digits = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, len(ranges))
    pixels = torch.from_numpy(frames.read(grid.encode(digits))).float()
    small = F.interpolate(pixels.permute(0, 3, 1, 2), size=(28, 28), mode="area")[:, 0]
    shape = np.asarray(frames.digits[grid.position("shape")])[digits[:, grid.position("shape")]]
    synthetic = "" if frames.synthetic is None else "synthetic, "
    return LabelledImages(
        small.round().to(torch.uint8), torch.from_numpy(shape), f"{family.name} ({synthetic}28 x 28, red)", "all"
    )
