"""3D Shapes read from end to end."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from latentflow_experiments.data.family import Family
from latentflow_experiments.data.grid import Indices
from latentflow_experiments.data.originals import ORIGINALS
from latentflow_experiments.data.stores.files import published_faults
from latentflow_experiments.data.stores.h5 import open_h5, read_h5_layout, read_h5_mark, read_rows
from latentflow_experiments.data.stores.products import mark_faults
from latentflow_experiments.data.stores.report import Report
from latentflow_experiments.errors import DataError

__all__ = ["check_h5"]

_BLOCK = 256  # images read at once


def check_h5(path: Path, family: Family) -> Report:
    """Read every image of an HDF5 file and name each fault.

    Args:
        path: The file.
        family: What it should hold.

    Returns:
        The report.
    """
    (published,) = ORIGINALS[family.name]
    try:
        opened = open_h5(path)
    except DataError as error:
        return Report(path, family.title, 0, False, (str(error), *published_faults(path, published)))
    with opened as file:
        layout = read_h5_layout(file, family)
        faults = [f"{path}: {fault}" for fault in layout.faults]
        mark: dict[str, object] | None = None
        try:
            mark = read_h5_mark(file, path)
        except DataError as error:
            faults.append(str(error))
        if mark is None:
            faults += published_faults(path, published)
        else:
            faults += [f"{path}: {fault}" for fault in mark_faults(mark, layout.digits)]
        read = 0
        if layout.readable:
            count = len(file["images"])
            with tqdm(total=count, unit="image", desc="checking", disable=None) as bar:
                for first in range(0, count, _BLOCK):
                    rows = np.arange(first, min(first + _BLOCK, count))
                    unread = _unreadable(file, path, rows)
                    read += len(rows) - len(unread)
                    faults += unread
                    bar.update(len(rows))
    return Report(path, family.title, read, mark is not None, tuple(faults))


def _unreadable(file: h5py.File, path: Path, rows: Indices) -> list[str]:
    """Read images together and, if that fails, one by one; name those that cannot be read."""
    try:
        read_rows(file, path, rows)
    except DataError as error:
        if len(rows) == 1:
            return [str(error)]
        return [fault for row in rows for fault in _unreadable(file, path, row[None])]
    return []
