"""A data set read from end to end, with every fault by its name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from latentflow.experiments.data.family import FALCOR3D, FAMILIES, ISAAC3D, Family
from latentflow.experiments.data.frames import FrameStore
from latentflow.experiments.data.grid import Indices
from latentflow.experiments.data.mnist import load_mnist
from latentflow.experiments.data.originals import ORIGINALS
from latentflow.experiments.data.stores.files import file_sha256, read_mark
from latentflow.experiments.data.stores.h5 import H5Frames
from latentflow.experiments.data.stores.npz import NpzFrames
from latentflow.experiments.data.stores.png import MARK, numbers_of, read_png
from latentflow.experiments.errors import DataError

__all__ = ["Report", "check_folder"]

SHOWN = 20
BLOCK = 256  # images read at once


@dataclass(frozen=True)
class Report:
    """What was found in a data set.

    Attributes:
        path: Where it is.
        name: What it is of.
        images: The number of images that could be read.
        synthetic: Whether it says that it is a synthetic stand-in.
        faults: What is wrong with it, one line each.
    """

    path: Path
    name: str
    images: int
    synthetic: bool
    faults: tuple[str, ...]

    def text(self) -> str:
        """Say it in a few lines, with the first faults."""
        kind = "synthetic stand-in" if self.synthetic else "original files"
        verdict = "no fault" if not self.faults else f"{len(self.faults)} fault{'s' * (len(self.faults) > 1)}"
        lines = [f"{self.path}: {self.name} ({kind}), {self.images:,} images read, {verdict}"]
        lines += [f"  {fault}" for fault in self.faults[:SHOWN]]
        if len(self.faults) > SHOWN:
            lines.append(f"  ... and {len(self.faults) - SHOWN} more")
        return "\n".join(lines)


def check_folder(path: Path) -> Report:
    """Read every image of a data set and name what is wrong with it.

    Args:
        path: Its folder, or its file.

    Returns:
        The report. Published files are known by their SHA-256; a file with another one is at fault, unless it says
        that it is a synthetic stand-in.

    Raises:
        DataError: If there is nothing at the path, or nothing that is known.
    """
    if not path.exists():
        raise DataError(f"{path}: expected a data set, got no such file or folder")
    folder = path.parent if path.is_file() else path
    for name in ("sprites", "shapes3d"):
        file = folder / FAMILIES[name].file
        if file.is_file() and path in (file, folder):
            return _check_file(file, FAMILIES[name])
    images = folder / "images" if (folder / "images").is_dir() else folder
    if path.is_dir() and len(numbers_of(images)):
        return _check_images(images)
    if any(folder.glob("*-ubyte*")):
        return _check_mnist(folder)
    known = ", ".join([*(file.file for file in FAMILIES.values()), "train-images-idx3-ubyte.gz"])
    raise DataError(f"{path}: expected a data set with one of {known}, got none")


def _check_file(path: Path, family: Family) -> Report:
    """Check the file of sprites or of 3D Shapes."""
    try:
        frames = NpzFrames(path, family) if family.name == "sprites" else H5Frames(path, family)
    except DataError as error:
        return Report(path, family.title, 0, synthetic=False, faults=(str(error),))
    faults: list[str] = []
    if frames.synthetic is None:
        (published,) = ORIGINALS[family.name]
        found = file_sha256(path)
        if found != published.sha256:
            faults.append(f"{path}: expected the published file with SHA-256 {published.sha256}, got {found}")
    read = 0
    with tqdm(total=len(frames.grid), unit="image", desc="checking", disable=None) as bar:
        for first in range(0, len(frames.grid), BLOCK):
            indices = np.arange(first, min(first + BLOCK, len(frames.grid)))
            unread = _unreadable(frames, indices)
            faults += unread
            if unread and isinstance(frames, NpzFrames):
                break  # behind a fault in a compressed stream there is nothing to read
            read += len(indices) - len(unread)
            bar.update(len(indices))
    return Report(path, family.title, read, frames.synthetic is not None, tuple(faults))


def _unreadable(frames: FrameStore, indices: Indices) -> list[str]:
    """Read images together and, if that fails, one by one; give what is wrong with each that cannot be read."""
    try:
        frames.read(indices)
    except DataError as error:
        if len(indices) == 1 or isinstance(frames, NpzFrames):
            return [str(error)]
        return [fault for index in indices for fault in _unreadable(frames, np.array([index]))]
    return []


def _check_images(folder: Path) -> Report:
    """Check a folder of PNG files, of whichever family its numbers fit."""
    faults: list[str] = []
    mark = folder.parent / MARK
    made: dict[str, object] = {}
    if mark.is_file():
        try:
            made = read_mark(mark.read_text(encoding="utf-8"), mark)
        except (DataError, OSError) as error:
            faults.append(str(error))
    numbers = numbers_of(folder)
    family = _family_of(made, folder, int(numbers[-1]))
    faults += [f"{entry}: expected no file but {{000000}}.png and so on" for entry in _strays(folder)]
    kept = made.get("digits")
    expected = _product(family, [list(range(factor.size)) for factor in family.factors] if kept is None else kept)
    faults += [f"{folder / f'{number:06d}.png'}: missing" for number in np.setdiff1d(expected, numbers)]
    faults += [f"{folder / f'{number:06d}.png'}: not one of the set" for number in np.setdiff1d(numbers, expected)]
    read = 0
    for number in tqdm(numbers, unit="image", desc="checking", disable=None):
        try:
            read_png(folder / f"{number:06d}.png", (family.shape[1], family.shape[2]))
            read += 1
        except DataError as error:
            faults.append(str(error))
    return Report(folder, family.title, read, mark.is_file(), tuple(faults))


def _family_of(made: dict[str, object], folder: Path, last: int) -> Family:
    """Tell Falcor3D from Isaac3D: by the mark of a stand-in, the name of the folder, the largest number."""
    for family in (FALCOR3D, ISAAC3D):
        if made.get("family") == family.name or family.name in str(folder).lower():
            return family
    return ISAAC3D if last >= len(FALCOR3D.grid) else FALCOR3D


def _product(family: Family, digits: object) -> np.ndarray:
    """Give the numbers of all combinations of some digits."""
    meshes = np.meshgrid(*np.array(digits, dtype=object), indexing="ij")
    return family.grid.encode(np.stack([mesh.astype(np.int64).ravel() for mesh in meshes], -1))


def _strays(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if not (entry.suffix == ".png" and entry.stem.isdecimal() and len(entry.stem) == 6):
            yield entry


def _check_mnist(folder: Path) -> Report:
    """Check the four files of MNIST."""
    faults, read = [], 0
    for published in ORIGINALS["mnist"]:
        path = folder / published.name
        if path.is_file():
            found = file_sha256(path)
            if found != published.sha256:
                faults.append(f"{path}: expected the published file with SHA-256 {published.sha256}, got {found}")
        elif not path.with_suffix("").is_file():
            faults.append(f"{path}: missing")
    for split in ("train", "test"):
        try:
            read += len(load_mnist(split, folder))
        except DataError as error:
            faults.append(str(error))
    return Report(folder, "MNIST", read, synthetic=False, faults=tuple(faults))
