"""dSprites: two-dimensional shapes that grow, turn and move."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from latentflow_experiments.data.dataset import FactorSet
from latentflow_experiments.data.factors import Factor, Family, PublicFile
from latentflow_experiments.data.frames import FrameStore
from latentflow_experiments.data.render.sprites import draw_sprites, own_renderer
from latentflow_experiments.data.transformed import LabelledImages

DSPRITES = Family(
    name="dsprites",
    title="dSprites",
    factors=(
        Factor("color", 1, transforms=False),
        Factor("shape", 3, transforms=False, shown=2),
        Factor("scale", 6, shown=5),
        Factor("orientation", 40),
        Factor("posX", 32, whole=True, shown=15),
        Factor("posY", 32, whole=True, shown=15),
    ),
    shape=(1, 64, 64),
    file="dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
    address="https://github.com/google-deepmind/dsprites-dataset",
    licence="Apache-2.0",
    render=draw_sprites,
    renderer=own_renderer,
    piece=4096,
)


VERSIONS = (
    f"{DSPRITES.address}/raw/fa310c66517cfc1939d77fe17c725154efc97127/",
    f"{DSPRITES.address}/raw/master/",
)
FIRST = {"posX": 0.5, "posY": 0.5}  # where along the range of a factor, of those that do not vary


def as_digits(frames: FrameStore, family: Family) -> LabelledImages:
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


DATASET = FactorSet(
    DSPRITES,
    originals=(
        PublicFile(
            DSPRITES.file,
            tuple(version + DSPRITES.file for version in VERSIONS),
            "857dc001287e8efa226e0025fac6b29e5745c621b380b0d3363e4e33f4e28fa2",
        ),
    ),
    as_digits=as_digits,
)
