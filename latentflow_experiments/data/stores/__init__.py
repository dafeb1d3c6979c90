"""Images on the disk, in the formats of their publishers."""

from __future__ import annotations

from pathlib import Path

from latentflow_experiments.data.factors import Family
from latentflow_experiments.data.frames import FrameStore
from latentflow_experiments.data.stores.h5 import H5Frames
from latentflow_experiments.data.stores.npz import NpzFrames
from latentflow_experiments.data.stores.png import PngFrames

__all__ = ["open_frames"]


def open_frames(family: Family, folder: Path) -> FrameStore:
    """Open the images of a family.

    Args:
        family: The family.
        folder: The folder that holds its file, or its folder of PNG files.

    Returns:
        The images, which are read when they are asked for.

    Raises:
        DataError: If the files are missing or damaged, or are not what they should be.
    """
    path = folder / family.file
    match path.suffix:
        case ".npz":
            return NpzFrames(path, family)
        case ".h5":
            return H5Frames(path, family)
        case _:
            return PngFrames(path, family)
