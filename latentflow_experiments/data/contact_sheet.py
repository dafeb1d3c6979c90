"""Pictures that show every factor of a data set in one row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from latentflow.calculus.files import replacing
from latentflow_experiments.data.factors import Family
from latentflow_experiments.data.frames import FrameStore
from latentflow_experiments.data.sequences import SequenceDataset
from latentflow_experiments.errors import DataError

__all__ = ["Row", "draw_contact_sheet", "factor_rows", "sequence_rows"]

COLUMNS = 10
GAP = 2  # pixels between two images


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a contact sheet.

    Attributes:
        title: What varies along it.
        images: The images, shape ``(n, channels, height, width)``, in [0, 1].
    """

    title: str
    images: Tensor


def factor_rows(frames: FrameStore, family: Family) -> list[Row]:
    """Read a row for each factor of a family, with the others at the values that the family names for it.

    Args:
        frames: The images; of a subset, the nearest values that are there are taken.
        family: Their family.

    Returns:
        A row for each factor with more than one value, of at most ten values, evenly over those that are there.
    """
    rows = []
    shown = [
        int(np.abs(np.asarray(there) - factor.shown).argmin())
        for there, factor in zip(frames.digits, family.factors, strict=True)
    ]
    start = frames.grid.encode(shown)
    for name, size, there in zip(frames.grid.names, frames.grid.sizes, frames.digits, strict=True):
        if size > 1:
            digits = np.linspace(0, size - 1, min(size, COLUMNS)).round().astype(int).tolist()
            pixels = torch.from_numpy(frames.read(frames.grid.line(start, name, digits)))
            values = ", ".join(str(there[digit]) for digit in digits)
            rows.append(Row(f"{name}: values {values}", pixels.permute(0, 3, 1, 2) / 255))
    return rows


def sequence_rows(data: SequenceDataset, count: int = 2) -> list[Row]:
    """Make rows of a few sequences of each transformation.

    Args:
        data: The sequences.
        count: How many of each transformation.

    Returns:
        The rows.
    """
    return [
        Row(f"{name}: states 0 to {data.steps}", frames)
        for k, name in enumerate(data.names)
        for frames in data.sequence(data.examples(k, count), k)
    ]


def draw_contact_sheet(rows: list[Row], title: str, path: Path, width: int = 64) -> None:
    """Draw rows of images with what varies above each.

    Args:
        rows: The rows.
        title: What the sheet shows; of a stand-in it says that it is synthetic.
        path: The PNG file.
        width: The width of an image on the sheet, in pixels.

    Raises:
        DataError: If the file cannot be written.
    """
    columns = max(len(row.images) for row in rows)
    height = round(width * rows[0].images.shape[2] / rows[0].images.shape[3])
    dpi, label, heading = 100, 18, 26
    size = (columns * (width + GAP), heading + len(rows) * (height + label))
    figure = Figure(figsize=(size[0] / dpi, size[1] / dpi), dpi=dpi)
    figure.text(0.004, 1 - 5 / size[1], title, fontsize=9, va="top", weight="bold")
    for i, row in enumerate(rows):
        top = heading + i * (height + label) + label
        strip = torch.nn.functional.pad(row.images, (0, GAP), value=1.0).permute(2, 0, 3, 1).flatten(1, 2)
        share = len(row.images) / columns
        axes = figure.add_axes((0, 1 - (top + height) / size[1], share, height / size[1]))
        axes.imshow(strip.expand(-1, -1, 3).numpy(), interpolation="antialiased", aspect="auto")
        axes.set_axis_off()
        figure.text(0.004, 1 - (top - 3) / size[1], row.title, fontsize=7, va="bottom")
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary)
    except OSError as error:
        raise DataError(f"{path}: expected a file that can be written, got {error}") from error
