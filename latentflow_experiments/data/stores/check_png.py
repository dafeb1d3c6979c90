"""A folder of PNG files read from end to end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from latentflow_experiments.data.family import FALCOR3D, ISAAC3D, Family
from latentflow_experiments.data.grid import FactorGrid, Indices, pick
from latentflow_experiments.data.stores.png import MARK, list_folder, read_png, read_png_mark
from latentflow_experiments.data.stores.products import digits_of_rows, mark_digits
from latentflow_experiments.data.stores.report import Report
from latentflow_experiments.errors import DataError

__all__ = ["check_pngs"]


def check_pngs(folder: Path) -> Report:
    """Read every image of a folder and name each fault.

    The family is that of the mark of a stand-in, else that of the name of the folder or of the one around it, else
    Isaac3D if a number is too large for Falcor3D.

    Args:
        folder: The folder of the images.

    Returns:
        The report.

    Raises:
        DataError: If the folder cannot be read.
    """
    numbers, others = list_folder(folder)
    faults = [f"{folder / name}: expected no file but 000000.png and so on" for name in others]
    mark: dict[str, object] | None = None
    try:
        mark = read_png_mark(folder)
    except DataError as error:
        faults.append(str(error))
    family = _family_of(mark, folder, numbers)
    try:
        expected = _expected(family, mark, numbers)
    except ValueError as error:
        faults.append(f"{folder.parent / MARK if mark else folder}: {error}")
        expected = numbers[numbers < len(family.grid)]
    faults += _runs(folder, np.setdiff1d(expected, numbers), "missing")
    faults += _runs(folder, np.setdiff1d(numbers, expected), "not one of the set")
    right = 0
    for number in tqdm(numbers.tolist(), unit="image", desc="checking", disable=None):
        wrong = _image_faults(folder / f"{number:06d}.png", (family.shape[1], family.shape[2]))
        faults += wrong
        right += not wrong
    return Report(folder, family.title, right, mark is not None, tuple(faults))


def _family_of(mark: dict[str, object] | None, folder: Path, numbers: Indices) -> Family:
    marked = None if mark is None else mark.get("family")
    for family in (FALCOR3D, ISAAC3D):
        if marked == family.name:
            return family
    for name in (folder.resolve().name.lower(), folder.resolve().parent.name.lower()):
        for family in (FALCOR3D, ISAAC3D):
            if family.name in name:
                return family
    return ISAAC3D if len(numbers) and numbers[-1] >= len(FALCOR3D.grid) else FALCOR3D


def _expected(family: Family, mark: dict[str, object] | None, numbers: Indices) -> Indices:
    """Give the numbers that should be there; all of the family if no mark says which."""
    every = np.arange(len(family.grid))
    if mark is not None:
        kept = mark_digits(mark, family)
        if kept is None:
            return every
        part = FactorGrid(family.grid.names, tuple(map(len, kept)))
        return family.grid.encode(pick(kept, part.decode(np.arange(len(part)))))
    if len(numbers) and numbers[-1] < len(every) and len(numbers) < len(every):
        try:
            digits_of_rows(family.grid.decode(numbers), family)
        except ValueError:
            return every
        raise ValueError(f"not the published set: expected {len(every)} images, got a part of them, {len(numbers)}")
    return every


def _runs(folder: Path, numbers: Indices, what: str) -> Iterator[str]:
    """Say something of images, in one line for neighbours."""
    starts = np.flatnonzero(np.diff(numbers, prepend=-2) != 1)
    for run in np.split(numbers, starts[1:]) if len(numbers) else []:
        last = f" to {run[-1]:06d}.png" if len(run) > 1 else ""
        yield f"{folder / f'{run[0]:06d}.png'}{last}: {what}"


def _image_faults(path: Path, size: tuple[int, int]) -> list[str]:
    """Decode an image, and check the parts of the file that decoding passes over."""
    try:
        read_png(path, size)
        with Image.open(path, formats=("PNG",)) as image:
            mode = image.mode
            image.verify()
    except DataError as error:
        return [str(error)]
    except (OSError, SyntaxError) as error:
        return [f"{path}: expected a complete PNG image, got {error}"]
    return [] if mode == "RGB" else [f"{path}: expected an image of mode RGB, got {mode}"]
